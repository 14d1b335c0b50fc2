"""`State`: many systems end to end at one instant, and the sums over the atoms of each system.

Degrees of freedom. Each axis of each atom that may move counts one, and each bond of fixed length one less. Where the dynamics keep the momentum of
the centre of mass (an axis along which no atom is fixed, more than one atom), its motion is no heat: that axis counts one less, and its kinetic
energy is left out of the temperature. Langevin dynamics heat the centre of mass like everything else, so nothing is taken off. Rotation is heat and
counts always; a linear molecule needs no other rule, because its atoms are points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from mlipfm_interfaces.units import ACCELERATION, KB

from .constraints import Bonds

__all__ = ["State"]

Array = np.ndarray


@dataclass
class State:
    """Many systems end to end at one instant.

    Attributes:
        positions: [atoms, 3] Å, never wrapped. velocities: [atoms, 3] Å/fs. forces: [atoms, 3] eV/Å, at `positions`.
        energies: [systems] eV, potential. masses: [atoms] amu. first: [systems + 1] index of the first atom of each system.
        step: number of steps taken.
        movable: [atoms, 3] bool, axes along which an atom may move; all by default.
        centre: [systems, 3] bool, axes along which the motion of the centre of mass is no heat; none by default.
        cells: [systems, 3, 3] Å, lattice vectors as rows; zero where there is none.
        stress: [systems, 3, 3] eV/Å³, negative when compressed; empty in dynamics that keep the cell.
        extended: variables of thermostat, barostat or exchange by name, each [systems, ...].
        bonds: bonds of fixed length; None if there are none.
    """

    positions: Array
    velocities: Array
    forces: Array
    energies: Array
    masses: Array
    first: Array
    step: int = 0
    movable: Array = field(default_factory=lambda: np.zeros(0))
    centre: Array = field(default_factory=lambda: np.zeros(0))
    cells: Array = field(default_factory=lambda: np.zeros(0))
    stress: Array = field(default_factory=lambda: np.zeros(0))
    extended: dict[str, Array] = field(default_factory=dict)
    bonds: Bonds | None = None

    def __post_init__(self) -> None:
        if not len(self.movable):
            self.movable = np.ones((len(self.masses), 3), dtype=bool)
        if not len(self.centre):
            self.centre = np.zeros((self.n_systems, 3), dtype=bool)
        if not len(self.cells):
            self.cells = np.zeros((self.n_systems, 3, 3))

    @property
    def n_systems(self) -> int:
        return len(self.first) - 1

    @property
    def n_atoms(self) -> Array:
        """[systems]."""
        return np.diff(self.first)

    def copy(self) -> State:
        """Return a copy that the steps of the dynamics leave alone. Masses, constraints and `first` are shared."""
        return replace(
            self,
            positions=self.positions.copy(),
            velocities=self.velocities.copy(),
            cells=self.cells.copy(),
            extended={name: values.copy() for name, values in self.extended.items()},
        )

    def restore(self, earlier: State) -> None:
        """Be what `earlier`, a copy of this state, was."""
        vars(self).update(vars(earlier.copy()))

    def per_atom(self, values: Array) -> Array:
        """Return values [systems, ...] repeated for the atoms of each system [atoms, ...]."""
        return np.repeat(values, self.n_atoms, axis=0)

    def per_system(self, values: Array) -> Array:
        """Return the sums of values [atoms, ...] over the atoms of each system [systems, ...]."""
        return np.add.reduceat(values, self.first[:-1])

    def kinetic(self) -> Array:
        """Return the kinetic energy of each system, eV, with that of the centre of mass."""
        return kinetic_energy(self.velocities, self.masses, self.first)

    def thermal(self) -> Array:
        """Return the kinetic energy of each system, eV, without that of a centre of mass that does not count."""
        if not self.centre.any():
            return self.kinetic()
        momentum = self.per_system(self.masses[:, None] * self.velocities)
        drift = 0.5 / ACCELERATION * (self.centre * momentum**2).sum(axis=1) / self.per_system(self.masses)
        return self.kinetic() - drift

    def degrees_of_freedom(self) -> Array:
        """Return the degrees of freedom [systems], see the head of this module."""
        free: Array = self.per_system(self.movable.sum(axis=1)) - self.centre.sum(axis=1)
        return free if self.bonds is None else free - self.bonds.count

    def temperature(self) -> Array:
        """Return 2 E / (n k_B) of each system, K: n degrees of freedom, E the thermal kinetic energy."""
        return 2 * self.thermal() / (self.degrees_of_freedom() * KB)

    def volume(self) -> Array:
        """Return the volume of each cell [systems], Å³; zero where there is none."""
        return np.abs(np.linalg.det(self.cells))

    def pressure(self) -> Array:
        """Return the pressure of each system, eV/Å³, positive when compressed: kinetic part and virial. NaN without a stress."""
        if not len(self.stress):
            return np.full(self.n_systems, np.nan)
        volume = self.volume()
        return np.asarray((2 * self.kinetic() / volume - np.trace(self.stress, axis1=1, axis2=2)) / 3)

    def scale_thermal(self, factor: Array) -> None:
        """Multiply the velocities of each system by factor [systems], but those of a centre of mass that is no heat."""
        if not self.centre.any():
            self.velocities *= self.per_atom(factor)[:, None]
            return
        momentum = self.per_system(self.masses[:, None] * self.velocities)
        drift = self.centre * momentum / self.per_system(self.masses)[:, None]
        self.velocities *= self.per_atom(factor)[:, None]
        self.velocities += self.per_atom((1 - factor)[:, None] * drift)


def kinetic_energy(velocities: Array, masses: Array, first: Array) -> Array:
    """Return the kinetic energy of each system, eV; arguments as in `State`."""
    return np.add.reduceat(0.5 / ACCELERATION * masses * (velocities**2).sum(axis=1), first[:-1])
