"""`InitialState`: what a simulation starts from: a Structure with the velocities, masses and fixed axes that are given for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import MASSES, symbol
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.lattice import reduced
from mlipfm_interfaces.structure import Structure

from .constraints import Bonds, check_independent
from .ensembles import Ensemble, centre_of_mass_axes
from .state import State

__all__ = ["InitialState", "as_initial_states", "temperature_of"]

Array = np.ndarray


@dataclass(frozen=True)
class InitialState:
    """One system before its first step.

    Attributes:
        structure: where the atoms are. Its label `fixed` (1 for atoms that are fixed) counts where `fixed` is not given.
        velocities: [N, 3] Å/fs; None draws them. Those of fixed axes are set to zero.
        masses: [N] amu; None takes those of the elements.
        fixed: [N, 3] bool, axes along which an atom does not move.
        bonds: [M, 2] pairs of atoms whose distance is kept. bond_lengths: [M] Å; None keeps the distances that are there.

    Raises:
        SimulationError: for shapes that do not fit, values that are not finite, masses that are not positive, and if no atom may move.
    """

    structure: Structure
    velocities: Array | None = None
    masses: Array | None = None
    fixed: Array | None = None
    bonds: Array | None = None
    bond_lengths: Array | None = None

    def __post_init__(self) -> None:
        n = len(self.structure)
        fixed, masses = self.fixed, self.masses
        if fixed is None:
            held = self.structure.labels.get("fixed", np.zeros(n)) > 0
            fixed = np.repeat(held[:, None], 3, axis=1)
        masses = MASSES[self.structure.atomic_numbers] if masses is None else np.asarray(masses, dtype=np.float64)
        fixed = np.asarray(fixed, dtype=bool)
        if fixed.shape != (n, 3) or masses.shape != (n,):
            raise SimulationError(f"{n} atoms need fixed axes [{n}, 3] and masses [{n}], got {list(fixed.shape)} and {list(masses.shape)}")
        _check_masses(masses, self.structure)
        if fixed.all():
            raise SimulationError("every atom is fixed: nothing can move", hint="free some atoms")
        object.__setattr__(self, "fixed", fixed)
        object.__setattr__(self, "masses", masses)
        if self.velocities is not None:
            velocities = np.asarray(self.velocities, dtype=np.float64)
            if velocities.shape != (n, 3) or not np.isfinite(velocities).all():
                raise SimulationError(f"the velocities must be {n} times 3 finite numbers, got shape {list(velocities.shape)}")
            object.__setattr__(self, "velocities", np.where(fixed, 0.0, velocities))
        if self.bonds is not None:
            self._set_bonds(np.asarray(self.bonds, dtype=np.int64).reshape(-1, 2))

    def _set_bonds(self, pairs: Array) -> None:
        """Bonds between atoms that cannot move at all are dropped: they keep their lengths."""
        n = len(self.structure)
        if (pairs < 0).any() or (pairs >= n).any() or (pairs[:, 0] == pairs[:, 1]).any():
            raise SimulationError(f"bonds of fixed length must join two of the {n} atoms, got {pairs.tolist()[:4]}")
        present = np.linalg.norm(bond_vectors(self.structure, pairs)[0], axis=1)
        lengths = present if self.bond_lengths is None else np.asarray(self.bond_lengths, dtype=np.float64)
        if lengths.shape != present.shape or not ((lengths > 0.1) & (np.abs(lengths - present) < 0.2 * lengths)).all():
            raise SimulationError(
                f"the fixed bond lengths {lengths.tolist()[:4]} Angstrom are not those of the structure, {present.tolist()[:4]}",
                hint="relax the structure with these bond lengths first",
            )
        kept = ~self.axes_fixed[pairs].all(axis=(1, 2))
        object.__setattr__(self, "bonds", pairs[kept] if kept.any() else None)
        object.__setattr__(self, "bond_lengths", lengths[kept] if kept.any() else None)

    @property
    def movable(self) -> Array:
        """[N, 3] bool: axes along which an atom may move."""
        return ~self.axes_fixed

    @property
    def axes_fixed(self) -> Array:
        """[N, 3] bool, given or not."""
        assert self.fixed is not None
        return self.fixed

    @property
    def amu(self) -> Array:
        """[N] masses, given or those of the elements."""
        assert self.masses is not None
        return self.masses

    def motion(self) -> dict[str, Any] | None:
        """Return what is given beyond the structure, ready for JSON; None if nothing is. Fixed atoms by axis, masses and velocities as digests."""
        said: dict[str, Any] = {}
        if self.axes_fixed.any():
            said["fixed"] = {axis: np.flatnonzero(self.axes_fixed[:, k]).tolist() for k, axis in enumerate("xyz")}
        if not np.array_equal(self.amu, MASSES[self.structure.atomic_numbers]):
            said["masses"] = _digest(self.amu)
        if self.bonds is not None:
            assert self.bond_lengths is not None
            said["bonds"], said["bond_lengths"] = self.bonds.tolist(), _digest(self.bond_lengths)
        if self.velocities is not None:
            said["velocities"] = _digest(self.velocities)
        return said or None


def as_initial_states(structures: Sequence[Structure | InitialState]) -> list[InitialState]:
    """Return structures as starts of which nothing else is given."""
    return [s if isinstance(s, InitialState) else InitialState(s) for s in structures]


def bond_vectors(structure: Structure, pairs: Array) -> tuple[Array, Array]:
    """Vectors [M, 3] Å from the first atom of each pair to the nearest image of the second, and the lattice vectors [M, 3] to that image."""
    plain = structure.positions[pairs[:, 1]] - structure.positions[pairs[:, 0]]
    basis, _ = reduced(structure.cell[structure.pbc])
    if not len(basis):
        return plain, np.zeros_like(plain)
    wrapped = plain - np.rint(plain @ np.linalg.pinv(basis)) @ basis
    around = np.array(list(product((-1, 0, 1), repeat=len(basis)))) @ basis
    images = wrapped[:, None] + around
    nearest = images[np.arange(len(plain)), np.square(images).sum(axis=2).argmin(axis=1)]
    return nearest, nearest - plain


def joined_bonds(starts: Sequence[InitialState]) -> Bonds | None:
    """Return the bonds of fixed length of systems end to end; None if there are none.

    Raises:
        SimulationError: their lengths depend on each other.
    """
    first = np.concatenate([[0], np.cumsum([len(s.structure) for s in starts])])
    counts = np.array([0 if s.bonds is None else len(s.bonds) for s in starts])
    if not counts.any():
        return None
    parts = [(s, a) for s, a in zip(starts, first[:-1], strict=True) if s.bonds is not None]
    found = Bonds(
        pairs=np.concatenate([np.asarray(s.bonds) + a for s, a in parts]),
        lengths=np.concatenate([np.asarray(s.bond_lengths) for s, _ in parts]),
        shifts=np.concatenate([bond_vectors(s.structure, np.asarray(s.bonds))[1] for s, _ in parts]),
        inverse_masses=np.concatenate([s.movable / s.amu[:, None] for s in starts]),
        count=counts,
    )
    check_independent(found, np.concatenate([s.structure.positions for s in starts]))
    return found


def fixed_axes(motion: dict[str, Any] | None, n: int) -> Array:
    """[n, 3] bool of what `InitialState.motion` said."""
    fixed = np.zeros((n, 3), dtype=bool)
    for axis, atoms in ((motion or {}).get("fixed") or {}).items():
        fixed[atoms, "xyz".index(axis)] = True
    return fixed


def temperature_of(start: InitialState, ensemble: Ensemble) -> float:
    """Return the temperature in K of the velocities that are given; 0 if none are."""
    n, nothing = len(start.structure), np.zeros((len(start.structure), 3))
    velocities = nothing if start.velocities is None else start.velocities
    centre = centre_of_mass_axes(start.movable, ensemble)[None]
    state = State(
        start.structure.positions, velocities, nothing, np.zeros(1), start.amu, np.array([0, n]), movable=start.movable, centre=centre,
        bonds=joined_bonds([start]),
    )  # fmt: skip
    return float(state.temperature()[0])


def unlabelled(structure: Structure) -> Structure:
    """Return the structure without its labels, but with what says which atoms are fixed."""
    return structure.replace(labels={key: value for key, value in structure.labels.items() if key == "fixed"}, label_std={})


def _check_masses(masses: Array, structure: Structure) -> None:
    """Masses far from those of the elements are in another unit (QUIP writes 103.6 times the amu)."""
    ratio = masses / MASSES[structure.atomic_numbers]
    bad = np.flatnonzero(~((ratio > 0.1) & (ratio < 10)))
    if len(bad):
        k = int(bad[0])
        raise SimulationError(
            f"atom {k} ({symbol(int(structure.atomic_numbers[k]))}) cannot have the mass {masses[k]:g}", hint="give masses in amu"
        )


def _digest(values: Array) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values, dtype="<f8").tobytes(), digest_size=16).hexdigest()
