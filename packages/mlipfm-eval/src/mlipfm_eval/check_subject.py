"""What the black-box rules of `mlipfm check` ask of a model: structures it can answer, and tolerances that suit its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from mlipfm_interfaces.errors import ContractError, MlipfmError
from mlipfm_interfaces.potential import Potential, evaluate, not_finite
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing import structures as known
from mlipfm_interfaces.testing.probes import crystal_of, molecule_of

Precision = Literal["float64", "float32", "converged"]
Answer = dict[str, np.ndarray]

_NOT_FINITE = "its answers are not finite"


@dataclass(frozen=True)
class Limits:
    """Steps and limits for one kind of arithmetic. Energies in eV per atom, forces in eV/Å, for forces up to 1 eV/Å: see `relative`.

    Attributes:
        steps: Å (or strain), of fourth-order central differences: a smaller one measures rounding or the convergence of the code, a larger one
            truncation. The step that fits best counts: forces that are no gradient are wrong with every step.
        symmetry: of energies and forces under exact symmetries. gradient: of forces. stress: eV/Å³.
        jacobian: asymmetry of the force Jacobian, relative. smooth: of finely interpolated energies and forces on a path. drift: meV/atom/ps.
    """

    steps: tuple[float, ...]
    symmetry: float
    gradient: float
    stress: float
    jacobian: float
    smooth: float
    drift: float


#: `converged`: float64, but the energy is the end of an iteration (quantum chemistry), so that its last digits depend on the path.
LIMITS: dict[Precision, Limits] = {
    "float64": Limits(steps=(1e-4, 1e-3), symmetry=1e-8, gradient=1e-6, stress=1e-7, jacobian=1e-5, smooth=2e-5, drift=5.0),
    "converged": Limits(steps=(2e-3, 1e-2), symmetry=2e-5, gradient=5e-4, stress=1e-5, jacobian=1e-3, smooth=2e-5, drift=5.0),
    "float32": Limits(steps=(3e-3, 1e-2), symmetry=2e-4, gradient=5e-3, stress=2e-5, jacobian=1e-2, smooth=1e-4, drift=10.0),
}


@dataclass
class Subject:
    """A model under test with structures that it answers.

    Attributes:
        promises: of `conservative`, `invariant`: what it claims to be; rules about the rest only measure.
        molecule: distorted. small: the smallest, for Jacobians and dynamics. crystal: dense and distorted; None if it knows none.
        wide: a crystal whose cell can be repeated without change: the crystal itself, or a molecule in a wide box for codes that sample one k-point.
    """

    model: Potential | Teacher
    precision: Precision
    promises: tuple[str, ...]
    molecule: Structure
    small: Structure
    crystal: Structure | None
    wide: Structure | None

    @property
    def limits(self) -> Limits:
        return LIMITS[self.precision]

    def ask(self, structures: Sequence[Structure], outputs: Sequence[str] = ("energy", "forces")) -> list[Answer]:
        """Answers to all structures in one call.

        Raises:
            ContractError: an answer is not finite. Comparisons of such a figure with a limit would say anything.
        """
        rows = ask(self.model, structures, outputs)
        for s, row in zip(structures, rows, strict=True):
            for key, value in row.items():
                if not np.isfinite(value).all():
                    raise ContractError(f"{key} of {s.formula} is not finite")
        return rows

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        """[structures] eV."""
        return np.array([float(row["energy"]) for row in self.ask(structures, ("energy",))])

    @property
    def all(self) -> list[Structure]:
        return [s for s in (self.molecule, self.crystal) if s is not None]


def ask(model: Potential | Teacher, structures: Sequence[Structure], outputs: Sequence[str]) -> list[Answer]:
    """Answers in chunks of 64 structures; a potential of several levels is asked at the last."""
    rows: list[Answer] = []
    for start in range(0, len(structures), 64):
        part = list(structures[start : start + 64])
        rows += (
            evaluate(model, part, outputs, level=model.spec.levels[-1]) if isinstance(model, Potential) else model.evaluate(part, outputs)
        )
    return rows


def make_subject(model: Potential | Teacher, precision: Precision | None = None) -> Subject:
    """Find out what a model answers.

    Args:
        precision: of its arithmetic; None finds out: the spec of a potential, else `float32` if all forces are float32 numbers, else `converged`.

    Raises:
        ContractError: if it answers none of the molecules and crystals that are tried.
    """
    molecules, small, dense, wide = _candidates(model)
    molecule, crystal = _first(model, molecules), _first(model, dense)
    if molecule is None:
        raise _no_answer(model, [str(_reason(model, s)) for s in molecules])
    promises: tuple[str, ...] = ("conservative", "invariant")
    if isinstance(model, Potential):
        promises = (("conservative",) if model.spec.kind == "conservative" else ()) + (("invariant",) if model.spec.invariant else ())
    return Subject(
        model, precision or _precision(model, molecule), promises, molecule, _first(model, small) or molecule, crystal, _first(model, wide)
    )


def _no_answer(model: Potential | Teacher, reasons: Sequence[str]) -> ContractError:
    """Why a model answers nothing: first that its answers are no numbers, which no other structure mends."""
    if _NOT_FINITE not in reasons:
        return ContractError(f"it answers none of the structures that are tried: {reasons[0]}", mend="check its elements")
    weights = not_finite(model)
    mend = "its training has diverged or the weights were damaged: take another checkpoint" if weights else "look at how it computes"
    return ContractError(f"{_NOT_FINITE}{': ' * bool(weights)}{weights}", mend=mend)


def _precision(model: Potential | Teacher, s: Structure) -> Precision:
    if isinstance(model, Potential):
        return model.spec.dtype
    forces = ask(model, [s], ("energy", "forces"))[0]["forces"]
    return "float32" if np.array_equal(forces, forces.astype(np.float32)) else "converged"


def _candidates(model: Potential | Teacher) -> tuple[list[Structure], ...]:
    """Molecules, small molecules, dense and wide crystals, the likeliest first."""
    water, copper = _neutral(known.water()), known.copper()
    cluster = Structure(copper.atomic_numbers, copper.positions, total_charge=0)
    molecules = [known.rattled(_neutral(known.ethanol()), 0.05), known.rattled(water, 0.05), known.rattled(cluster, 0.1)]
    small = [known.rattled(water, 0.02), known.rattled(cluster, 0.05)]
    dense = [known.rattled(s, 0.05) for s in (_boxed(water, 5.5), copper, known.silicon(), known.rock_salt(), known.argon())]
    wide = [known.rattled(s, 0.05) for s in (_boxed(water, 12.0), copper, known.silicon(), known.rock_salt(), known.argon())]
    if isinstance(model, Potential):
        molecules.append(molecule_of(model))
        small.append(molecule_of(model, 3))
        dense.append(crystal_of(model))
        wide.append(crystal_of(model))
    return tuple([_charged(s) for s in group] for group in (molecules, small, dense, wide))


def _neutral(s: Structure) -> Structure:
    return s.replace(total_charge=0)


def _charged(s: Structure) -> Structure:
    return s.replace(total_charge=0, spin_multiplicity=1 + int(s.atomic_numbers.sum()) % 2)


def _boxed(s: Structure, length: float) -> Structure:
    """A crystal of one molecule in a slightly skewed cell."""
    cell = length * (np.diag([1.0, 1.05, 1.1]) + 0.04 * np.eye(3, k=1))
    return s.replace(cell=cell, pbc=(True, True, True))


def _first(model: Potential | Teacher, candidates: Sequence[Structure]) -> Structure | None:
    return next((s for s in candidates if _reason(model, s) is None), None)


def _reason(model: Potential | Teacher, s: Structure) -> str | None:
    """Why a structure cannot be used; None if it can."""
    try:
        (row,) = ask(model, [s], ("energy", "forces"))
    except MlipfmError as error:
        return str(error)
    if not all(np.isfinite(value).all() for value in row.values()):
        return _NOT_FINITE
    return None if np.abs(row["forces"]).max() > 1e-6 else "all forces are zero"


def offers(subject: Subject, key: str) -> bool:
    """Whether the model gives a quantity."""
    known_outputs = subject.model.spec.outputs if isinstance(subject.model, Potential) else subject.model.outputs
    return key in known_outputs


def relative(forces: np.ndarray) -> float:
    """Scale of a comparison of forces: 1 eV/Å or the largest component."""
    return max(1.0, float(np.abs(forces).max(initial=0.0)))
