"""Rules of symmetry, size and cells for any model, seen from outside: energies and forces in, one figure each out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mlipfm_interfaces.errors import ContractError, MlipfmError
from mlipfm_interfaces.metrics import rotation_error
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import moved, turned, turned_back
from mlipfm_interfaces.testing.structures import random_rotation, supercell
from mlipfm_interfaces.trained_states import DEFAULT_STATES

from . import _check_structures as made
from ._check_model_input import CheckedModel
from ._model_checks import MODEL_CHECKS, Measured, answer_gap, model_check, worst

__all__ = ["MODEL_CHECKS"]

#: Atoms of the system by which errors with size are found: errors that grow with the number of atoms are missed in small ones.
LARGE, LARGE_QUICK = 320, 64
#: To how much of the largest force, or eV per atom, a code that solves for electrons must know its lattice sums.
LATTICE_SUMS = 2e-3


# Symmetry


def _turned(subject: CheckedModel, improper: bool) -> Measured:
    found, upright, back = [], [], []
    for s in subject.all:
        (here,) = subject.ask([s])
        turns = [random_rotation(seed, improper=improper) for seed in range(3)]
        rows = subject.ask(turned(s, turns))
        for turn, row in zip(turns, rows, strict=True):
            found.append(answer_gap(subject, row, {**here, "forces": here["forces"] @ turn.T}))
        upright.append(here["forces"])
        back.append(turned_back(rows, turns))
    mean = rotation_error(back, upright).value
    most = worst(*found)
    return Measured(most.value, most.limit, most.unit, f"forces are off by {100 * mean:.2g} % on average")


@model_check("rotation", "Energies do not change and forces rotate when a system is rotated.", "invariant")
def _rotation(subject: CheckedModel) -> Measured:
    return _turned(subject, improper=False)


@model_check("reflection", "A system and its mirror image have the same energy and mirrored forces.", "invariant")
def _reflection(subject: CheckedModel) -> Measured:
    return _turned(subject, improper=True)


@model_check("translation", "Shifting all atoms, or one atom of a crystal by lattice vectors, changes nothing.")
def _translation(subject: CheckedModel) -> Measured:
    found = []
    for s in subject.all:
        shifted = [moved(s, s.positions + [7.3, -11.1, 3.7]), moved(s, s.positions + [-1234.5, 678.9, 2345.6])]
        if s.pbc.any():
            lone = s.positions.copy()
            lone[0] += np.array([1, -2, 1]) @ s.cell
            shifted.append(moved(s, lone))
        (here,) = subject.ask([s])
        found += [answer_gap(subject, row, here) for row in subject.ask(shifted)]
    return worst(*found)


@model_check("permutation", "The order of atoms does not matter.")
def _permutation(subject: CheckedModel) -> Measured:
    found = []
    for s in subject.all:
        (here,) = subject.ask([s])
        for order in (np.random.default_rng(1).permutation(len(s)), np.arange(len(s))[::-1], np.roll(np.arange(len(s)), 1)):
            other = s.replace(atomic_numbers=s.atomic_numbers[order], positions=s.positions[order], labels={}, label_std={})
            found.append(answer_gap(subject, subject.ask([other])[0], {**here, "forces": here["forces"][order]}))
    return worst(*found)


# Sizes


@model_check(
    "extensivity", "Copies of a crystal, and many molecules far apart, have the energies and forces of one, also in large systems."
)
def _extensivity(subject: CheckedModel) -> Measured:
    found = []
    large = LARGE_QUICK if subject.quick or subject.electronic else LARGE
    if subject.wide is not None:
        for repeats in ((2, 1, 1), (1, 1, 2), _repeats(subject.wide, 0.0 if subject.electronic else large)):
            found.append(_copies_gap(subject, subject.wide, supercell(subject.wide, repeats)))
    copies = int(np.ceil(large / len(subject.small)))
    found.append(_copies_gap(subject, subject.small, made.far_copies(subject.small, copies)))
    return worst(*found)


def _copies_gap(subject: CheckedModel, s: Structure, many: Structure) -> Measured:
    """Energy per atom and forces of a system that is made of copies of another."""
    copies = len(many) // len(s)
    (one,), (all_,) = subject.ask([s]), subject.ask([many])
    want = {"energy": copies * one["energy"], "forces": np.tile(one["forces"], (copies, 1))}
    return answer_gap(subject, all_, want, f"{len(many)} atoms, {copies} copies of {s.formula}")


def _repeats(s: Structure, atoms: float) -> tuple[int, int, int]:
    """Copies along the lattice vectors that make at least so many atoms, the shortest vector repeated first."""
    repeats, lengths = np.ones(3, dtype=int), np.linalg.norm(s.cell, axis=1)
    while repeats.prod() * len(s) < atoms:
        repeats[np.argmin(np.where(s.pbc, repeats * lengths, np.inf))] += 1
    return int(repeats[0]), int(repeats[1]), int(repeats[2])


@model_check("size-consistency", "Two molecules far apart have the energies and forces of each alone.")
def _size_consistency(subject: CheckedModel) -> Measured:
    first, second = subject.small, subject.molecule
    (one,), (other,) = subject.ask([first]), subject.ask([second])
    found = []
    for distance in (60.0 + subject.reach, 250.0):
        shift = [0.0, distance + float(np.ptp(first.positions, axis=0).max()), 0.0]
        both = _together(first, second.replace(positions=second.positions + shift))
        want = {"energy": one["energy"] + other["energy"], "forces": np.concatenate([one["forces"], other["forces"]])}
        found.append(answer_gap(subject, subject.ask([both])[0], want, f"{first.formula} and {second.formula} {distance:g} Å apart"))
    return worst(*found)


def _together(first: Structure, second: Structure) -> Structure:
    """Two free molecules as one system, of the sum of their charges and the lowest multiplicity of its electrons if they give any."""
    numbers = np.concatenate([first.atomic_numbers, second.atomic_numbers])
    charge = None if first.total_charge is None else first.total_charge + (second.total_charge or 0)
    unpaired = (first.spin_multiplicity or 1) + (second.spin_multiplicity or 1) - 2
    return Structure(
        numbers,
        np.concatenate([first.positions, second.positions]),
        total_charge=charge,
        spin_multiplicity=None if first.spin_multiplicity is None else 1 + unpaired,
        level=first.level,
    )


@model_check("isolated-atom", "An atom alone has a finite energy, the same anywhere, and no force.")
def _isolated(subject: CheckedModel) -> Measured | None:
    alone = [s for s in map(made.lone_atom, subject.elements) if subject.answers(s)]
    if not alone:
        return None
    here, there = subject.ask(alone), subject.ask([moved(s, s.positions + [3.3, -40.1, 8.8]) for s in alone])
    zero = np.zeros((1, 3))
    rows = zip(alone, here, there, strict=True)
    return worst(*(answer_gap(subject, b, {"energy": a["energy"], "forces": zero}, s.formula) for s, a, b in rows))


@model_check("charge-stays-home", "A molecule of charge +1 and a neutral one 30 Å apart have the energies of each alone.", "local-charge")
def _charge_stays(subject: CheckedModel) -> Measured | None:
    """No model has to pass it: a total charge says not where it is, and models share it out. The figure is how much that costs."""
    s, distance = subject.small, 30.0
    unpaired = [int(s.atomic_numbers.sum() - charge) % 2 for charge in (1, 0)]
    ion, neutral = (s.replace(total_charge=q, spin_multiplicity=1 + n) for q, n in zip((1, 0), unpaired, strict=True))
    both = _together(ion, neutral.replace(positions=s.positions + [0.0, distance, 0.0])).replace(spin_multiplicity=1 + sum(unpaired))
    try:
        together, alone, other = subject.energies([both, ion, neutral])
    except ContractError:  # it predicts, and not with numbers
        raise
    except MlipfmError:  # a model without charges may refuse them
        return None
    remark = f"{s.formula}+ and {s.formula} {distance:g} Å apart: together {together - alone - other:+.4f} eV"
    return Measured(abs(float(together - alone - other)), subject.limits.energy * len(both), "eV", remark)


@model_check(
    "unstated-state", "Where training showed only given charges and multiplicities, or none, no statement means a neutral singlet."
)
def _unstated(subject: CheckedModel) -> Measured | None:
    """Weights that no training structure has reached are random. Without a record of training, the structures in the checkpoint tell what it was."""
    model = subject.model
    conditions = [name for name in DEFAULT_STATES if isinstance(model, Potential) and name in model.spec.conditions]
    shown = {name: set(subject.states.get(name, ()) if subject.states else (getattr(s, name) for s in subject.own)) for name in conditions}
    one_kind = [name for name, seen in shown.items() if seen and (None not in seen or seen == {None})]
    if not one_kind:
        return None
    silent = subject.molecule.replace(**dict.fromkeys(one_kind))
    stated = silent.replace(**{name: DEFAULT_STATES[name][0] for name in one_kind})
    got, want = subject.ask([silent, stated])
    return answer_gap(
        subject, got, want, f"{silent.formula} without {' and '.join(one_kind)}, and as {' '.join(DEFAULT_STATES[n][1] for n in one_kind)}"
    )


# Cells


@model_check("small-cells", "A crystal whose cell is shorter than the cutoff has the energy and forces of its supercell: all images count.")
def _small_cells(subject: CheckedModel) -> Measured | None:
    s = subject.crystal
    if s is None or subject.electronic:
        return None
    span = np.linalg.norm(s.cell, axis=1)
    if (span > subject.cutoff).all() and len(s) > 8:  # a cell of its data that is large: a piece of it, alone in a small cell
        pieces = [made.cut_out(s, count) for count in range(4, 9)]
        s = made.boxed(next((piece for piece in pieces if piece.atomic_numbers.sum() % 2 == 0), pieces[0]), 2.6)  # a closed shell
        span = np.linalg.norm(s.cell, axis=1)
    most = 3 if subject.quick else 5
    wanted = np.clip(np.ceil(2.2 * subject.cutoff / span).astype(int), 2, most)
    while wanted.prod() * len(s) > 1000:
        wanted[np.argmax(wanted)] -= 1
    return _copies_gap(subject, s, supercell(s, (int(wanted[0]), int(wanted[1]), int(wanted[2]))))


@model_check("cell-choice", "The same lattice in other lattice vectors - skewed, in another order, left-handed - has the same predictions.")
def _cell_choice(subject: CheckedModel) -> Measured | None:
    s = subject.crystal
    if s is None:
        return None
    (here,) = subject.ask([s])
    skewed = s.cell.copy()
    skewed[1] += 3 * skewed[0]
    skewed[2] -= 2 * skewed[1]
    others = {"skewed": skewed, "in another order": s.cell[[1, 2, 0]], "left-handed": s.cell[[1, 0, 2]], "negative": -s.cell}
    gaps = [answer_gap(subject, subject.ask([moved(s, s.positions, cell)])[0], here, what) for what, cell in others.items()]
    return worst(*(_of_lattice_sums(subject, gap) for gap in gaps))


@model_check("open-axes", "A slab or a wire is periodic along its own axes alone: it has the energy of the same atoms with a wide vacuum.")
def _open_axes(subject: CheckedModel) -> Measured | None:
    s = subject.crystal
    if s is None:
        return None
    found = []
    vacuum = 15.0 + max(15.0, subject.reach)
    for pbc in ((True, True, False), (False, True, True), (True, False, False), (False, False, False)):
        part = s.replace(pbc=pbc, labels={}, label_std={})
        wide = s.cell.copy()
        for axis in np.flatnonzero(~np.array(pbc)):
            normal = np.linalg.inv(s.cell)[:, axis]  # across the plane of the other two vectors
            normal /= np.linalg.norm(normal)
            wide[axis] += (float(np.ptp(s.positions @ normal)) + vacuum) * normal
        if subject.answers(part):
            (got,), (want,) = subject.ask([part]), subject.ask([moved(s, s.positions, wide)])
            gap = answer_gap(subject, got, want, f"periodic along {_axes(pbc)} against a vacuum of {vacuum:g} Å")
            found.append(_of_lattice_sums(subject, gap))
            found.append(_periodic_matters(subject, s, part, got))
    return worst(*found) if found else None


def _of_lattice_sums(subject: CheckedModel, gap: Measured) -> Measured:
    """Codes that solve for electrons sum charges over the lattice to a few digits, and see their images beyond any vacuum."""
    return replace(gap, limit=max(gap.limit, LATTICE_SUMS)) if subject.electronic else gap


def _periodic_matters(subject: CheckedModel, crystal: Structure, part: Structure, got: dict[str, np.ndarray]) -> Measured:
    """A crystal in which atoms see images along an axis that is open in `part` has another energy."""
    open_axes = crystal.pbc & ~part.pbc
    seen = neighbor_pairs(crystal, min(3.0, subject.cutoff - 0.2))[2]
    if not seen[:, open_axes].any():
        return Measured(0.0, 0.0, "answers")
    (bulk,) = subject.ask([crystal])
    same = float(got["energy"] == bulk["energy"])
    return Measured(
        same, 0.0, "answers", f"{part.formula} periodic along {_axes(part.pbc)} has exactly the energy of the crystal" * bool(same)
    )


def _axes(pbc: np.ndarray | tuple[bool, ...]) -> str:
    return " and ".join("abc"[k] for k in np.flatnonzero(pbc)) or "no axis"


@model_check("elements-matter", "Another element at the same place gives another energy and other forces.")
def _elements_matter(subject: CheckedModel) -> Measured | None:
    s = subject.molecule
    z = [e for e in subject.elements if e != s.atomic_numbers[0]]
    blind = []
    for element in z[:12]:
        numbers = s.atomic_numbers.copy()
        numbers[0] = element
        other = made.with_elements(s, numbers)
        if not subject.answers(other):
            continue
        first, second = subject.ask([s]), subject.ask([other])
        if np.array_equal(first[0]["forces"], second[0]["forces"]):
            blind.append(f"{s.formula} and {other.formula} have the same forces")
    return Measured(float(len(blind)), 0.0, "answers", "; ".join(blind[:3])) if z else None
