"""The model and the structures of a model check: those that it supports, its own arithmetic or an exact copy, and the limits that follow."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from mlipfm_interfaces.errors import ContractError, MlipfmError
from mlipfm_interfaces.potential import Potential, evaluate, not_finite
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.reference_rank import without_warning
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.probes import float64_copy, moved
from mlipfm_interfaces.theory import find_level
from mlipfm_interfaces.trained_states import States

from . import _check_structures as made

Precision = Literal["float64", "float32", "converged"]
Answer = dict[str, np.ndarray]

_NOT_FINITE = "its predictions are not finite"


@dataclass(frozen=True)
class Limits:
    """Limits for one kind of arithmetic.

    Attributes:
        energy: eV per atom, forces: relative to the largest component (1 eV/Å at least): what two equal questions may differ by.
        steps: Å, and strain, of fourth-order differences; the one that agrees best with the next is taken.
        jacobian: asymmetry of the force Jacobian, relative. smooth: eV and eV/Å, error of interpolating a path of points 0.008 Å apart.
        drift: meV/atom/ps.
    """

    energy: float
    forces: float
    steps: tuple[float, ...]
    jacobian: float
    smooth: float
    drift: float


#: `converged`: float64, but the energy is the end of an iteration (quantum chemistry), so that its last digits depend on the path.
LIMITS: dict[Precision, Limits] = {
    "float64": Limits(1e-7, 1e-6, (1e-4, 3e-4, 1e-3, 3e-3), jacobian=1e-4, smooth=2e-5, drift=5.0),
    "converged": Limits(2e-5, 1e-4, (3e-3, 1e-2, 2e-2), jacobian=1e-3, smooth=2e-5, drift=5.0),
    "float32": Limits(2e-5, 2e-4, (1e-3, 3e-3, 1e-2, 2e-2), jacobian=1e-2, smooth=1e-4, drift=5.0),
}


@dataclass
class CheckedModel:
    """A model under test with structures that it predicts.

    Attributes:
        properties: of `conservative`, `invariant`: what it declares; rules about the rest only measure.
        elements: atomic numbers that it supports, as far as they were tried. stated: those that it declares or that were requested.
        own: structures of its own data, as they are; () if none are known.
        molecule: free and distorted. small: the smallest, for Jacobians. crystal: dense and distorted; None if it supports none.
        wide: a crystal whose cell can be repeated without change: the crystal itself, or a molecule in a wide box for codes that sample one k-point.
        samples: what derivatives are tried on: together they have every element that it supports.
        electronic: whether it solves for electrons, at one k-point (`ForeignPackage.electronic`).
        quick: fewer and smaller structures, for models that need seconds for one.
        states: charges and multiplicities that its training showed, where its checkpoint says so.
    """

    model: Potential | Teacher
    precision: Precision
    properties: tuple[str, ...]
    elements: tuple[int, ...]
    stated: tuple[int, ...]
    own: tuple[Structure, ...]
    molecule: Structure
    small: Structure
    crystal: Structure | None
    wide: Structure | None
    samples: tuple[Structure, ...]
    electronic: bool = False
    quick: bool = False
    states: States | None = None

    @property
    def limits(self) -> Limits:
        return LIMITS[self.precision]

    @property
    def all(self) -> list[Structure]:
        return [s for s in (self.molecule, self.crystal) if s is not None]

    @property
    def reach(self) -> float:
        """Å beyond which atoms should not feel each other; 12 Å where the model does not say."""
        spec = self.model.spec if isinstance(self.model, Potential) else None
        return 12.0 if spec is None or spec.interaction_range is None else spec.interaction_range

    @property
    def cutoff(self) -> float:
        """Å, of its neighbour lists; 8 Å where the model does not say."""
        return max(graph.cutoff for graph in self.model.spec.graphs) if isinstance(self.model, Potential) else 8.0

    @cached_property
    def exact(self) -> CheckedModel:
        """The same with a float64 copy of a potential, so that a rule tells a broken rule from rounding; itself for anything else."""
        if not isinstance(self.model, Potential) or self.model.spec.dtype == "float64" or self.precision != "float32":
            return self
        return replace(self, model=float64_copy(self.model), precision="float64")

    def ask(self, structures: Sequence[Structure], outputs: Sequence[str] = ("energy", "forces")) -> list[Answer]:
        """Predict all structures in one call.

        Raises:
            ContractError: a prediction is not finite. Comparisons of such a figure with a limit would say anything.
        """
        rows = ask(self.model, structures, outputs)
        for s, row in zip(structures, rows, strict=True):
            for key, value in row.items():
                if not np.isfinite(value).all():
                    raise ContractError(f"{key} of {s.formula} ({len(s)} atoms) is not finite")
        return rows

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        """Predict energies [structures] in eV."""
        return np.array([float(row["energy"]) for row in self.ask(structures, ("energy",))])

    def answers(self, s: Structure) -> bool:
        """Tell whether the model predicts such a structure: some refuse slabs, charges or isolated atoms, and that is no fault."""
        try:
            ask(self.model, [s], ("energy", "forces"))
        except MlipfmError as error:
            return "NaN" in error.what  # a prediction, and a wrong one
        return True


def ask(model: Potential | Teacher, structures: Sequence[Structure], outputs: Sequence[str]) -> list[Answer]:
    """Predict in chunks of about 2,000 atoms; a potential of several levels predicts the last, unless its own structure gives one it supports."""
    rows: list[Answer] = []
    with without_warning():
        for part in _chunks(structures):
            rows += (
                evaluate(model, part, outputs, level=_level(model, part)) if isinstance(model, Potential) else model.evaluate(part, outputs)
            )
    return rows


def _level(model: Potential, structures: Sequence[Structure]) -> str | None:
    known = model.spec.levels
    return None if all(find_level(s.level, known) for s in structures) else known[-1]


def _chunks(structures: Sequence[Structure]) -> list[list[Structure]]:
    parts: list[list[Structure]] = [[]]
    for s in structures:
        if parts[-1] and (len(parts[-1]) >= 64 or sum(map(len, parts[-1])) + len(s) > 2000):
            parts.append([])
        parts[-1].append(s)
    return [part for part in parts if part]


def prepare_model(
    model: Potential | Teacher,
    precision: Precision | None = None,
    *,
    data: Sequence[Structure] = (),
    elements: Sequence[int] = (),
    quick: bool = False,
) -> CheckedModel:
    """Find out what a model predicts.

    Args:
        precision: of its arithmetic; None finds out: the spec of a potential, else `float32` if all forces are float32 numbers, else by the noise
            of its energy along a short path.
        data: structures to test it on; () takes those in its checkpoint, and what is made of its elements where it has none.
        elements: atomic numbers; () takes those of the potential, or finds out which it supports.

    Raises:
        ContractError: if it predicts none of the structures that are tried.
    """
    states = model.trained_states if isinstance(model, Potential) else None
    model = _without_record(model) if isinstance(model, Potential) else model
    own = tuple(s for s in (data or getattr(model, "examples", ())) if _reason(model, s) is None)
    if data and not own:
        raise _no_answer(model, [str(_reason(model, s)) for s in data[:1]])
    stated = tuple(elements) or _stated(model)
    electronic = bool(getattr(model, "electronic", False))
    known = stated or _answered(model, own, made.ORGANIC if electronic else made.COMMON)
    group = made.candidates(own, known, model if isinstance(model, Potential) else None)
    molecule, crystal = _first(model, group.molecules), _first(model, group.crystals)
    if molecule is None:
        raise _no_answer(model, [str(_reason(model, s)) for s in group.molecules])
    properties: tuple[str, ...] = ("conservative", "invariant")
    if isinstance(model, Potential):
        properties = (("conservative",) if model.spec.kind == "conservative" else ()) + (("invariant",) if model.spec.invariant else ())
    wide = _first(model, group.wide) if electronic or crystal is None else crystal
    small = _first(model, group.small) or molecule
    first = [s for s in (molecule, crystal) if s is not None] + [made.distorted(s) for s in own[:6]]
    samples = (molecule,) if electronic else (*_covering(model, first, known), *_in_other_states(model, molecule, crystal))
    precision = precision or ("converged" if electronic else _precision(model, molecule))
    return CheckedModel(
        model, precision, properties, known, stated, own, molecule, small, crystal, wide, samples, electronic, quick, states
    )


def _without_record(model: Potential) -> Potential:
    """The same model, which then predicts any state: what its training never showed is the question of one rule, the others ask how it computes."""
    if model.trained_states is None:
        return model
    same = copy.copy(model)
    same.trained_states = None
    return same


def _stated(model: Potential | Teacher) -> tuple[int, ...]:
    return tuple(model.spec.elements if isinstance(model, Potential) else getattr(model, "elements", ()))


def _answered(model: Potential | Teacher, own: Sequence[Structure], tried: Sequence[int]) -> tuple[int, ...]:
    """Elements of its own data, or those of `tried` that it supports."""
    if own:
        return tuple(sorted({int(z) for s in own for z in s.atomic_numbers}))
    return tuple(z for z in tried if _answers(model, made.lone_atom(z)))


def _covering(model: Potential | Teacher, first: Sequence[Structure], elements: Sequence[int]) -> tuple[Structure, ...]:
    """`first` without repetition of elements, and small clusters of the elements that none of them has."""
    seen: set[int] = set()
    picked = []
    for k, s in enumerate(first):
        here = set(s.atomic_numbers.tolist())
        if k < 2 or here - seen:
            picked.append(s)
            seen |= here
    missing = [z for z in elements if z not in seen]
    clusters = [made.cluster_of(missing[k : k + 4]) for k in range(0, len(missing), 4)]
    return (*picked, *(s for s in clusters if _answers(model, s)))


def _in_other_states(model: Potential | Teacher, molecule: Structure, crystal: Structure | None) -> list[Structure]:
    """Return the crystal as a slab, and the molecule with a charge where that changes what a potential predicts."""
    found = [] if crystal is None else [crystal.replace(pbc=(True, True, False), labels={}, label_std={})]
    if isinstance(model, Potential) and "total_charge" in model.spec.conditions:
        found.append(made.with_charge(molecule, 1))
    return [s for s in found if _answers(model, s)]


def _no_answer(model: Potential | Teacher, reasons: Sequence[str]) -> ContractError:
    """Why a model predicts nothing: first that its predictions are no numbers, which is so for every structure."""
    if not reasons:
        return ContractError("it predicts none of the common elements", hint="name its elements with --elements, or structures with --data")
    if _NOT_FINITE not in reasons:
        return ContractError(
            f"it predicts none of the structures that are tried: {reasons[0]}",
            hint="name its elements with --elements, or structures with --data",
        )
    weights = not_finite(model)
    hint = "its training has diverged or the weights were damaged: take another checkpoint" if weights else "look at how it computes"
    return ContractError(f"{_NOT_FINITE}{': ' * bool(weights)}{weights}", hint=hint)


def _precision(model: Potential | Teacher, s: Structure) -> Precision:
    if isinstance(model, Potential):
        return model.spec.dtype
    forces = ask(model, [s], ("energy", "forces"))[0]["forces"]
    if np.array_equal(forces, forces.astype(np.float32)):
        return "float32"
    return "float64" if energy_noise(model, s) < 1e-9 else "converged"


def energy_noise(model: Potential | Teacher, s: Structure) -> float:
    """Return the noise of the energy, a standard deviation in eV, from sixth differences along a path of steps of 1e-4 Å."""
    direction = ask(model, [s], ("energy", "forces"))[0]["forces"]
    direction = direction / np.abs(direction).max()
    path = [moved(s, s.positions + 1e-4 * k * direction) for k in range(-9, 10)]
    energies = np.array([float(row["energy"]) for row in ask(model, path, ("energy",))])
    sixth = np.convolve(energies - energies.mean(), [1, -6, 15, -20, 15, -6, 1], "valid")
    return float(np.sqrt(np.mean(sixth**2) / 924))  # 924: sum of the squared weights


def _answers(model: Potential | Teacher, s: Structure) -> bool:
    try:
        ask(model, [s], ("energy", "forces"))
    except Exception:  # a model may fail in any way at an element that it does not know
        return False
    return True


def _first(model: Potential | Teacher, candidates: Sequence[Structure]) -> Structure | None:
    """Return the first that it predicts with forces of a size that matter has; else the first that it predicts."""
    answered = []
    for s in candidates:
        if _reason(model, s) is None:
            if np.abs(ask(model, [s], ("energy", "forces"))[0]["forces"]).max() < made.SANE_FORCE:
                return s
            answered.append(s)
    return answered[0] if answered else None


def _reason(model: Potential | Teacher, s: Structure) -> str | None:
    """Why a structure cannot be used; None if it can."""
    try:
        (row,) = ask(model, [s], ("energy", "forces"))
    except MlipfmError as error:
        return str(error)
    if not all(np.isfinite(value).all() for value in row.values()):
        return _NOT_FINITE
    return None if np.abs(row["forces"]).max() > 1e-6 else "all forces are zero"


def offers(subject: CheckedModel, key: str) -> bool:
    """Tell whether the model predicts a quantity."""
    known_outputs = subject.model.spec.outputs if isinstance(subject.model, Potential) else subject.model.outputs
    return key in known_outputs


def relative(forces: np.ndarray) -> float:
    """Return the scale of a comparison of forces: 1 eV/Å or the largest component."""
    return max(1.0, float(np.abs(forces).max(initial=0.0)))
