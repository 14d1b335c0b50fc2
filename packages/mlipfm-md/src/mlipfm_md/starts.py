"""`Start`: what a simulation starts from: a Structure with the velocities, masses and fixed axes that are stated for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import MASSES, symbol
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.structure import Structure

from .ensembles import Ensemble, State, centre_of_mass_axes

__all__ = ["Start", "as_starts", "temperature_of"]

Array = np.ndarray


@dataclass(frozen=True)
class Start:
    """One system before its first step.

    Attributes:
        structure: where the atoms are. Its label `fixed` (1 for atoms that are held) counts where `fixed` is not given.
        velocities: [N, 3] Å/fs; None draws them. Those of fixed axes are set to zero.
        masses: [N] amu; None takes those of the elements.
        fixed: [N, 3] bool, axes along which an atom does not move.

    Raises:
        SimulationError: for shapes that do not fit, values that are not finite, masses that are not positive, and if no atom may move.
    """

    structure: Structure
    velocities: Array | None = None
    masses: Array | None = None
    fixed: Array | None = None

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

    @property
    def movable(self) -> Array:
        """[N, 3] bool: axes along which an atom may move."""
        return ~self.axes_fixed

    @property
    def axes_fixed(self) -> Array:
        """[N, 3] bool, stated or not."""
        assert self.fixed is not None
        return self.fixed

    @property
    def amu(self) -> Array:
        """[N] masses, stated or those of the elements."""
        assert self.masses is not None
        return self.masses

    def motion(self) -> dict[str, Any] | None:
        """Return what is stated beyond the structure, ready for JSON; None if nothing is. Fixed atoms by axis, masses and velocities as digests."""
        said: dict[str, Any] = {}
        if self.axes_fixed.any():
            said["fixed"] = {axis: np.flatnonzero(self.axes_fixed[:, k]).tolist() for k, axis in enumerate("xyz")}
        if not np.array_equal(self.amu, MASSES[self.structure.atomic_numbers]):
            said["masses"] = _digest(self.amu)
        if self.velocities is not None:
            said["velocities"] = _digest(self.velocities)
        return said or None


def as_starts(structures: Sequence[Structure | Start]) -> list[Start]:
    """Return structures as starts of which nothing else is stated."""
    return [s if isinstance(s, Start) else Start(s) for s in structures]


def fixed_axes(motion: dict[str, Any] | None, n: int) -> Array:
    """[n, 3] bool of what `Start.motion` said."""
    fixed = np.zeros((n, 3), dtype=bool)
    for axis, atoms in ((motion or {}).get("fixed") or {}).items():
        fixed[atoms, "xyz".index(axis)] = True
    return fixed


def temperature_of(start: Start, ensemble: Ensemble) -> float:
    """Return the temperature in K of the velocities that are stated; 0 if none are."""
    n, nothing = len(start.structure), np.zeros((len(start.structure), 3))
    velocities = nothing if start.velocities is None else start.velocities
    centre = centre_of_mass_axes(start.movable, ensemble)[None]
    state = State(
        start.structure.positions, velocities, nothing, np.zeros(1), start.amu, np.array([0, n]), movable=start.movable, centre=centre
    )
    return float(state.temperature()[0])


def unlabelled(structure: Structure) -> Structure:
    """The structure without its labels, but with what says which atoms are held."""
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
