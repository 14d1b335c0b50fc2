"""Ensembles as steps: velocity Verlet (NVE) and Langevin dynamics (NVT, BAOAB splitting).

Both work on arrays of many systems end to end. Random numbers come from streams keyed by (seed, replica, step), never from a generator's history,
so a restarted run draws the same noise.

Degrees of freedom. Each axis of each atom that may move counts one. Where the dynamics keep the momentum of the centre of mass (constant energy, an
axis along which no atom is fixed, more than one atom), its motion is no heat: that axis counts one less, and its kinetic energy is left out of the
temperature. Langevin dynamics heat the centre of mass like everything else, so nothing is taken off. Rotation is heat and counts always; a linear
molecule needs no other rule, because its atoms are points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.units import ACCELERATION, KB

__all__ = ["NVE", "Ensemble", "Langevin", "State", "maxwell_boltzmann"]

Array = np.ndarray
Forces = Callable[[Array], tuple[Array, Array]]

#: K; hotter atoms are an explosion or a wrong unit.
MAX_TEMPERATURE = 20_000.0


@dataclass
class State:
    """Many systems end to end at one instant.

    Attributes:
        positions: [atoms, 3] Å, never wrapped. velocities: [atoms, 3] Å/fs. forces: [atoms, 3] eV/Å, at `positions`.
        energies: [systems] eV, potential. masses: [atoms] amu. first: [systems + 1] index of the first atom of each system.
        step: number of steps taken.
        movable: [atoms, 3] bool, axes along which an atom may move; all by default.
        centre: [systems, 3] bool, axes along which the motion of the centre of mass is no heat; none by default.
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

    def __post_init__(self) -> None:
        if not len(self.movable):
            self.movable = np.ones((len(self.masses), 3), dtype=bool)
        if not len(self.centre):
            self.centre = np.zeros((len(self.first) - 1, 3), dtype=bool)

    def kinetic(self) -> Array:
        """Return the kinetic energy of each system, eV, with that of the centre of mass."""
        return kinetic_energy(self.velocities, self.masses, self.first)

    def degrees_of_freedom(self) -> Array:
        """Return the degrees of freedom [systems], see the head of this module."""
        return np.add.reduceat(self.movable.sum(axis=1), self.first[:-1]) - self.centre.sum(axis=1)

    def temperature(self) -> Array:
        """Return 2 E / (n k_B) of each system, K: n degrees of freedom, E the kinetic energy without that of a centre of mass that does not count."""
        momentum = np.add.reduceat(self.masses[:, None] * self.velocities, self.first[:-1])
        total = np.add.reduceat(self.masses, self.first[:-1])
        drift = 0.5 / ACCELERATION * (self.centre * momentum**2).sum(axis=1) / total
        return 2 * (self.kinetic() - drift) / (self.degrees_of_freedom() * KB)


class Ensemble(Protocol):
    """One step of dynamics, in place. `keeps_momentum`: whether the centre of mass of free atoms keeps its momentum."""

    keeps_momentum: ClassVar[bool]

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place, with random numbers of `seed` and the step."""


@dataclass(frozen=True)
class NVE:
    """Velocity Verlet: symplectic, time reversible, energy error of second order in dt (Swope et al. 1982, J. Chem. Phys. 76, 637)."""

    keeps_momentum: ClassVar[bool] = True

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place: velocity Verlet; `seed` is not used."""
        _kick(state, dt / 2)
        state.positions += dt * state.velocities
        state.energies, state.forces = forces(state.positions)
        _kick(state, dt / 2)
        state.step += 1


@dataclass(frozen=True)
class Langevin:
    """Langevin dynamics with the BAOAB splitting (Leimkuhler and Matthews 2013, doi:10.1063/1.4802990).

    Attributes:
        temperature: K, at most 20,000. friction: 1/fs, at most 10; 0.01 relaxes velocities in 100 fs.
    """

    keeps_momentum: ClassVar[bool] = False
    temperature: float
    friction: float = 0.01

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 < self.friction <= 10:
            raise SimulationError(
                f"friction must be positive and at most 10 (1/fs), got {self.friction}",
                hint="0.001 to 0.1 is usual (1/ps is 0.001 here); for no friction use NVE",
            )

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place; the noise is a function of `seed` and the step."""
        keep = np.exp(-self.friction * dt)
        width = np.sqrt((1 - keep**2) * KB * self.temperature * ACCELERATION / state.masses)[:, None]
        _kick(state, dt / 2)
        state.positions += dt / 2 * state.velocities
        state.velocities *= keep
        state.velocities += state.movable * width * noise(state, seed)
        state.positions += dt / 2 * state.velocities
        state.energies, state.forces = forces(state.positions)
        _kick(state, dt / 2)
        state.step += 1


def kinetic_energy(velocities: Array, masses: Array, first: Array) -> Array:
    """Return the kinetic energy of each system, eV; arguments as in `State`."""
    return np.add.reduceat(0.5 / ACCELERATION * masses * (velocities**2).sum(axis=1), first[:-1])


def noise(state: State, seed: int) -> Array:
    """Standard normal numbers [atoms, 3] of the step that follows `state`: a function of (seed, replica, step) alone."""
    parts = []
    for replica, (start, end) in enumerate(zip(state.first[:-1], state.first[1:], strict=True)):
        parts.append(stream(seed, "md", replica, state.step).standard_normal((int(end - start), 3)))
    return np.concatenate(parts)


def maxwell_boltzmann(
    masses: Array, temperature: float, rng: np.random.Generator, movable: Array | None = None, centre: Array | None = None
) -> Array:
    """Draw velocities [N, 3] Å/fs of one system at `temperature` K: normal, so that the mean kinetic energy is k_B T / 2 per degree of freedom.

    Args:
        movable: [N, 3] bool, axes that get a velocity; all by default.
        centre: [3] bool, axes along which the motion of the centre of mass is taken out; by default all, if there is more than one atom.
    """
    velocities = rng.standard_normal((len(masses), 3)) * np.sqrt(KB * temperature * ACCELERATION / masses)[:, None]
    if movable is not None:
        velocities = np.where(movable, velocities, 0.0)
    taken_out = np.full(3, len(masses) > 1) if centre is None else centre
    velocities -= taken_out * ((masses[:, None] * velocities).sum(axis=0) / masses.sum())
    return velocities


def centre_of_mass_axes(movable: Array, ensemble: Ensemble) -> Array:
    """[3] bool: axes along which the dynamics keep the momentum of the centre of mass of a system with `movable` [N, 3]."""
    return np.asarray(movable.all(axis=0) & (len(movable) > 1) & ensemble.keeps_momentum)


def check_temperature(kelvin: float) -> None:
    """Raises `SimulationError` for a temperature that no simulation of atoms has."""
    if not 0 <= kelvin <= MAX_TEMPERATURE:
        raise SimulationError(f"the temperature must be 0 to {MAX_TEMPERATURE:,.0f} K, got {kelvin:g}", hint="give kelvin")


def _kick(state: State, dt: float) -> None:
    state.velocities += state.movable * (dt * ACCELERATION * state.forces / state.masses[:, None])
