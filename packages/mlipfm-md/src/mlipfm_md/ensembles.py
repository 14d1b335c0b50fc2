"""Ensembles as steps: velocity Verlet (NVE) and Langevin dynamics (NVT, BAOAB splitting).

Both work on arrays of many systems end to end. Random numbers come from streams keyed by (seed, replica, step), never from a generator's history,
so a restarted run draws the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.units import ACCELERATION, KB

Array = np.ndarray
Forces = Callable[[Array], tuple[Array, Array]]


@dataclass
class State:
    """Many systems end to end at one instant.

    Attributes:
        positions: [atoms, 3] Å, never wrapped. velocities: [atoms, 3] Å/fs. forces: [atoms, 3] eV/Å, at `positions`.
        energies: [systems] eV, potential. masses: [atoms] amu. first: [systems + 1] index of the first atom of each system.
        step: number of steps taken.
    """

    positions: Array
    velocities: Array
    forces: Array
    energies: Array
    masses: Array
    first: Array
    step: int = 0

    def kinetic(self) -> Array:
        """Kinetic energy of each system, eV."""
        return kinetic_energy(self.velocities, self.masses, self.first)

    def temperature(self) -> Array:
        """2 E_kin / (3 N k_B) of each system, K."""
        return 2 * self.kinetic() / (3 * np.diff(self.first) * KB)


class Ensemble(Protocol):
    """One step of dynamics, in place."""

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None: ...


@dataclass(frozen=True)
class NVE:
    """Velocity Verlet: symplectic, time reversible, energy error of second order in dt (Swope et al. 1982, J. Chem. Phys. 76, 637)."""

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        _kick(state, dt / 2)
        state.positions += dt * state.velocities
        state.energies, state.forces = forces(state.positions)
        _kick(state, dt / 2)
        state.step += 1


@dataclass(frozen=True)
class Langevin:
    """Langevin dynamics with the BAOAB splitting (Leimkuhler and Matthews 2013, doi:10.1063/1.4802990).

    Attributes:
        temperature: K. friction: 1/fs; 0.01 relaxes velocities in 100 fs.
    """

    temperature: float
    friction: float = 0.01

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise SimulationError(f"temperature must be 0 K or more, got {self.temperature}")
        if not self.friction > 0:
            raise SimulationError(f"friction must be positive (1/fs), got {self.friction}", mend="for no friction use NVE")

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        keep = np.exp(-self.friction * dt)
        width = np.sqrt((1 - keep**2) * KB * self.temperature * ACCELERATION / state.masses)[:, None]
        _kick(state, dt / 2)
        state.positions += dt / 2 * state.velocities
        state.velocities *= keep
        state.velocities += width * noise(state, seed)
        state.positions += dt / 2 * state.velocities
        state.energies, state.forces = forces(state.positions)
        _kick(state, dt / 2)
        state.step += 1


def kinetic_energy(velocities: Array, masses: Array, first: Array) -> Array:
    """Kinetic energy of each system, eV; arguments as in `State`."""
    return np.add.reduceat(0.5 / ACCELERATION * masses * (velocities**2).sum(axis=1), first[:-1])


def noise(state: State, seed: int) -> Array:
    """Standard normal numbers [atoms, 3] of the step that follows `state`: a function of (seed, replica, step) alone."""
    parts = []
    for replica, (start, end) in enumerate(zip(state.first[:-1], state.first[1:], strict=True)):
        parts.append(stream(seed, "md", replica, state.step).standard_normal((int(end - start), 3)))
    return np.concatenate(parts)


def maxwell_boltzmann(masses: Array, temperature: float, rng: np.random.Generator) -> Array:
    """Velocities [N, 3] Å/fs of one system at `temperature` K, without motion of the centre of mass."""
    velocities = rng.standard_normal((len(masses), 3)) * np.sqrt(KB * temperature * ACCELERATION / masses)[:, None]
    if len(masses) > 1:
        velocities -= (masses[:, None] * velocities).sum(axis=0) / masses.sum()
    return velocities


def _kick(state: State, dt: float) -> None:
    state.velocities += dt * ACCELERATION * state.forces / state.masses[:, None]
