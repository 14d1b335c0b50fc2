"""Rules of the contract of potentials: symmetry, cells, sizes and batches. Everything is asked in float64.

A potential that declares `invariant=False` learns symmetry approximately: the rules on rotations then measure it, and do not fail.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlipfm_interfaces.batch import GraphSpec, View, collate
from mlipfm_interfaces.neighbors import PairView, dense_view, pair_view
from mlipfm_interfaces.potential import Potential, split
from mlipfm_interfaces.structure import Structure

from .probes import Answer, Floats, ask, crystal_of, cutoff, energy_tolerance, force_tolerance, molecule_of, moved, offered
from .rules import Rule, RuleResult, broken, deviation, require, rule
from .structures import random_rotation, supercell

RULES: list[Rule[Potential]] = []

_CRYSTAL_OUTPUTS = ("energy", "forces", "stress")
_MOLECULE_OUTPUTS = ("energy", "forces")


def _answers(potential: Potential, structures: list[Structure]) -> list[Answer]:
    """Energy and forces, and the stress of crystals, of each structure by itself in a batch of its kind."""
    answers = []
    for s in structures:
        outputs = offered(potential, *(_CRYSTAL_OUTPUTS if s.pbc.all() else _MOLECULE_OUTPUTS))
        answers += ask(potential, [s], outputs)
    return answers


def _compare(what: str, got: Answer, want: Answer, *, strict: bool = True, loosen: float = 1.0) -> RuleResult | None:
    """Raise if two predictions differ beyond rounding (times `loosen`); if not strict, say by how much instead."""
    remarks = []
    for key, value in want.items():
        n_atoms = max(len(want.get("forces", ())), 1)
        tolerance = energy_tolerance(float(value), n_atoms) if key == "energy" else force_tolerance(value)
        gap = deviation(got[key], value)
        remarks.append(f"{key} {gap:.2g}")
        if strict and not gap <= loosen * tolerance:
            raise broken(f"{key} differ by {gap:.3g} {what}, allowed {loosen * tolerance:.3g}")
    return None if strict else RuleResult("measured", ", ".join(remarks))


def _rotated(potential: Potential, improper: bool) -> RuleResult | None:
    turn = random_rotation(11, improper=improper)
    verdict = None
    for s in (molecule_of(potential), crystal_of(potential)):
        before, after = _answers(potential, [s, moved(s, s.positions @ turn.T, s.cell @ turn.T)])
        want = {key: _turned(key, value, turn) for key, value in before.items()}
        what = f"after a {'reflection' if improper else 'rotation'} of {s.formula}"
        verdict = _compare(what, after, want, strict=potential.spec.invariant) or verdict
    return verdict


def _turned(key: str, value: NDArray[np.float64], turn: Floats) -> NDArray[np.float64]:
    if key == "stress":
        return turn @ value @ turn.T
    return value @ turn.T if key == "forces" else value


@rule(RULES, "rotation", "Rotating a system leaves its energy as it is and turns forces and stress with it.")
def _rotation(potential: Potential) -> RuleResult | None:
    return _rotated(potential, improper=False)


@rule(RULES, "reflection", "A system and its mirror image have the same energy and mirrored forces and stress.")
def _reflection(potential: Potential) -> RuleResult | None:
    return _rotated(potential, improper=True)


@rule(RULES, "translation", "Moving a system as a whole changes nothing.")
def _translation(potential: Potential) -> None:
    for s in (molecule_of(potential), crystal_of(potential)):
        before, after = _answers(potential, [s, moved(s, s.positions + [9.7, -3.1, 6.4])])
        _compare("after a translation", after, before)


@rule(
    RULES,
    "huge-origin",
    "A system a million Ångström from the origin has the predictions it has at the origin, up to the rounding of its positions.",
)
def _huge_origin(potential: Potential) -> None:
    for s in (molecule_of(potential), crystal_of(potential)):
        far = moved(s, s.positions + [1e6, -1e6, 1e6])
        near = moved(far, far.positions - [1e6, -1e6, 1e6])
        before, after = _answers(potential, [near, far])
        _compare("at a distance of 1e6 Å", after, before, loosen=10)


@rule(RULES, "unwrapped-atoms", "Atoms may be given in any periodic image, thousands of cells away.")
def _unwrapped(potential: Potential) -> None:
    s = crystal_of(potential)
    images = np.random.default_rng(0).integers(-1000, 1001, (len(s), 3))
    before, after = _answers(potential, [s, moved(s, s.positions + images @ s.cell)])
    _compare("for atoms given in other cells", after, before, loosen=100)


@rule(RULES, "permutation", "Numbering the atoms differently changes nothing but the order of the forces.")
def _permutation(potential: Potential) -> None:
    for s in (molecule_of(potential), crystal_of(potential)):
        order = np.random.default_rng(1).permutation(len(s))
        before, after = _answers(potential, [s, s.replace(atomic_numbers=s.atomic_numbers[order], positions=s.positions[order])])
        want = {key: value[order] if key == "forces" else value for key, value in before.items()}
        _compare("after renumbering", after, want)


@rule(RULES, "left-handed-cell", "The same crystal in a left-handed cell has the same predictions.")
def _left_handed(potential: Potential) -> None:
    s = crystal_of(potential)
    before, after = _answers(potential, [s, moved(s, s.positions, s.cell[[1, 0, 2]])])
    _compare("in a left-handed cell", after, before)


@rule(RULES, "skewed-cell", "The same crystal in a strongly skewed cell has the same predictions.")
def _skewed(potential: Potential) -> None:
    s = crystal_of(potential)
    cell = s.cell.copy()
    cell[1] += 3 * cell[0]
    cell[2] -= 2 * cell[1]
    before, after = _answers(potential, [s, moved(s, s.positions, cell)])
    _compare("in a skewed cell", after, before, loosen=10)


@rule(RULES, "extensivity", "A 2 x 2 x 2 supercell has eight times the energy, the forces of the cell in every copy, and its stress.")
def _extensivity(potential: Potential) -> None:
    s = crystal_of(potential, 3)
    state = {"total_charge": 0} if "total_charge" in potential.spec.conditions else {}
    for changes in ({}, state):
        small = s.replace(**changes)
        before, after = _answers(potential, [small, supercell(small, (2, 2, 2))])
        want = {
            key: {"energy": 8 * value, "forces": np.tile(value, (8, 1))}.get(key, value) if key != "stress" else value
            for key, value in before.items()
        }
        _compare("between 8 cells and their supercell", after, want)


@rule(
    RULES, "size-consistency", "Two fragments beyond the interaction range have the sum of their energies and the forces they have alone."
)
def _size_consistency(potential: Potential) -> RuleResult | None:
    reach = potential.spec.interaction_range
    if reach is None:
        return RuleResult("skipped", "the potential gives no interaction range")
    a, b = molecule_of(potential, 4, seed=21), molecule_of(potential, 3, seed=22)
    gap = np.array([np.ptp(a.positions, axis=0).max() + np.ptp(b.positions, axis=0).max() + reach + 1.0, 0.0, 0.0])
    b = moved(b, b.positions - b.positions.mean(axis=0) + a.positions.mean(axis=0) + gap)
    both = a.replace(
        atomic_numbers=np.concatenate([a.atomic_numbers, b.atomic_numbers]), positions=np.concatenate([a.positions, b.positions])
    )
    alone_a, alone_b, together = _answers(potential, [a, b, both])
    want: Answer = {}
    if "energy" in together:
        want["energy"] = alone_a["energy"] + alone_b["energy"]
    if "forces" in together:
        want["forces"] = np.concatenate([alone_a["forces"], alone_b["forces"]])
    _compare(f"for fragments {reach:g} Å apart", together, want)
    return None


@rule(RULES, "batch-equals-singles", "Systems of different size, state and periodicity in one batch have the predictions they have alone.")
def _batch(potential: Potential) -> None:
    systems = [molecule_of(potential, n, seed=30 + n) for n in (1, 5, 2)] + [crystal_of(potential, 3)]
    if "total_charge" in potential.spec.conditions:
        systems = [s.replace(total_charge=q) for s, q in zip(systems, (None, 1, -1, 0), strict=True)]
    if "spin_multiplicity" in potential.spec.conditions:
        systems = [s.replace(total_charge=None, spin_multiplicity=m) for s, m in zip(systems, (2, None, 3, 1), strict=True)] + systems
    outputs = offered(potential, *_MOLECULE_OUTPUTS)
    together = ask(potential, systems, outputs)
    for k, s in enumerate(systems):
        _compare(f"between system {k} in a batch and alone", together[k], ask(potential, [s], outputs)[0])


@rule(RULES, "capacity-independence", "Empty slots of a padded neighbour layout contribute exactly nothing.")
def _capacity(potential: Potential) -> None:
    s = [molecule_of(potential), crystal_of(potential), molecule_of(potential, 1)]
    s = [item.replace(level=potential.spec.levels[-1]) for item in s]
    batch = collate(s, potential.spec.graphs, potential.spec.torch_dtype)
    padded = replace(batch, views={graph: _padded(s, graph, batch.views[graph]) for graph in potential.spec.graphs})
    outputs = offered(potential, *_MOLECULE_OUTPUTS)
    potential.eval()
    tight, wide = (split(potential(b, outputs), b, outputs) for b in (batch, padded))
    for k in range(len(s)):
        _compare(f"of system {k} with a larger capacity", wide[k], tight[k])


def _padded(structures: list[Structure], graph: GraphSpec, view: View) -> View:
    if isinstance(view, PairView):
        return pair_view(structures, graph.cutoff, len(view.i) + 17)
    return dense_view(structures, graph.cutoff, view.index.shape[1] + 5)


@rule(
    RULES,
    "beyond-cutoff",
    "Pairs that a neighbour list holds beyond the cutoff contribute exactly nothing, so lists may be built with a skin.",
)
def _beyond(potential: Potential) -> None:
    s = [molecule_of(potential, 8).replace(level=potential.spec.levels[-1]), crystal_of(potential).replace(level=potential.spec.levels[-1])]
    batch = collate(s, potential.spec.graphs, potential.spec.torch_dtype)
    views = {g: (pair_view if g.layout == "pairs" else dense_view)(s, g.cutoff + 1.0, None) for g in potential.spec.graphs}
    outputs = offered(potential, *_MOLECULE_OUTPUTS)
    potential.eval()
    tight, wide = (split(potential(b, outputs), b, outputs) for b in (batch, replace(batch, views=views)))
    require(cutoff(potential) > 0, "a cutoff must be positive")
    for k in range(len(s)):
        _compare(f"of system {k} with a skin of 1 Å", wide[k], tight[k])
