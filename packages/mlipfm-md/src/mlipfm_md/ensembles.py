"""Ensembles as steps: NVE (velocity Verlet), and NVT by Langevin dynamics, stochastic velocity rescaling or Nosé-Hoover chains.

An ensemble is its parameters and a `step`; what changes lies in the `State`, variables of thermostats in `State.extended`. All work on arrays of many
systems end to end, each with a temperature of its own if a tuple is given. Random numbers are functions of (seed, replica, step), never of a
generator's history, so a restarted run draws the same. Constant pressure is in `barostat`, what counts as a degree of freedom in `state`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.units import ACCELERATION, KB

from .noise import normals
from .state import State, kinetic_energy

__all__ = ["NVE", "Bussi", "Ensemble", "Forces", "Langevin", "NoseHoover", "State", "kinetic_energy", "maxwell_boltzmann"]

Array = np.ndarray

#: One value for all systems, or one for each.
Values = float | tuple[float, ...]

#: K; hotter atoms are an explosion or a wrong unit.
MAX_TEMPERATURE = 20_000.0


class Forces(Protocol):
    """Energies and forces of all systems at new positions; `forces.PotentialForces` and `forces.TeacherForces` are such."""

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """Energies [systems] eV and forces [atoms, 3] eV/Å at `positions` [atoms, 3] Å, in the cells of the last call with cells."""

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """Compute the same in `cells` [systems, 3, 3] Å, and the stress [systems, 3, 3] eV/Å³, negative when compressed."""


class Ensemble(Protocol):
    """One step of dynamics, in place.

    Attributes:
        keeps_momentum: whether the centre of mass of free atoms keeps its momentum. changes_cell: whether the cell changes.
    """

    keeps_momentum: ClassVar[bool]
    changes_cell: ClassVar[bool] = False

    def begin(self, state: State) -> None:
        """Check that `state` fits, before the first step, and set `state.extended`.

        Raises:
            SimulationError: it does not.
        """
        return None

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place, with random numbers of `seed` and the step."""

    def conserved(self, state: State) -> Array:
        """Return the energy [systems], eV, that exact dynamics conserve; NaN where there is none."""
        return np.full(state.n_systems, np.nan)


@dataclass(frozen=True)
class NVE(Ensemble):
    """Velocity Verlet: symplectic, time reversible, energy error of second order in dt (Swope et al. 1982, J. Chem. Phys. 76, 637)."""

    keeps_momentum: ClassVar[bool] = True

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place: velocity Verlet; `seed` is not used."""
        kick(state, dt / 2)
        drift(state, dt)
        state.energies, state.forces = forces(state.positions)
        kick(state, dt / 2)
        state.step += 1

    def conserved(self, state: State) -> Array:
        """Return the total energy [systems], eV."""
        return state.energies + state.kinetic()


@dataclass(frozen=True)
class Langevin(Ensemble):
    """Langevin dynamics with the BAOAB splitting (Leimkuhler and Matthews 2013, doi:10.1063/1.4802990).

    Attributes:
        temperature: K, at most 20,000. friction: 1/fs, at most 10; 0.01 relaxes velocities in 100 fs.
    """

    keeps_momentum: ClassVar[bool] = False
    temperature: Values
    friction: float = 0.01

    def __post_init__(self) -> None:
        check_temperatures(self.temperature)
        check_friction(self.friction)

    def begin(self, state: State) -> None:
        """Check the number of temperatures."""
        for_systems(self.temperature, state, "temperatures")

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place; the noise is a function of `seed` and the step."""
        kick(state, dt / 2)
        drift(state, dt / 2)
        friction_and_noise(state, self.friction * dt, self.temperature, seed)
        drift(state, dt / 2)
        state.energies, state.forces = forces(state.positions)
        kick(state, dt / 2)
        state.step += 1


@dataclass(frozen=True)
class Bussi(Ensemble):
    """Stochastic velocity rescaling: all velocities of a system are scaled so that its kinetic energy relaxes to, and fluctuates in, the canonical
    distribution (Bussi, Donadio, Parrinello 2007, doi:10.1063/1.2408420, equation A7). The direction of motion is kept, so diffusion hardly changes.

    Attributes:
        temperature: K. relaxation_time: fs.
    """

    keeps_momentum: ClassVar[bool] = True
    temperature: Values
    relaxation_time: float = 100.0

    def __post_init__(self) -> None:
        check_temperatures(self.temperature)
        check_time(self.relaxation_time, "thermostat")

    def begin(self, state: State) -> None:
        """Set `heat`, the energy [systems] that the thermostat has given, eV."""
        _check_moving(state, self.temperature)
        state.extended["heat"] = np.zeros(state.n_systems)

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place: velocity Verlet, then the thermostat."""
        NVE().step(state, forces, dt, seed)
        before = state.thermal()
        after = self._drawn(before, state, dt, seed)
        state.scale_thermal(np.sqrt(after / before))
        state.extended["heat"] = state.extended["heat"] + after - before

    def conserved(self, state: State) -> Array:
        """Return the total energy less the heat that the thermostat has given, [systems] eV (equation 15 of the paper)."""
        return state.energies + state.kinetic() - state.extended["heat"]

    def _drawn(self, kinetic: Array, state: State, dt: float, seed: int) -> Array:
        """Return the thermal kinetic energies [systems] after a step, eV."""
        free = state.degrees_of_freedom()
        keep = np.exp(-dt / self.relaxation_time)
        unit = KB * for_systems(self.temperature, state, "temperatures") / 2 * (1 - keep)  # eV per squared normal number
        drawn = normals(seed, "bussi", state.step, free)
        first = np.concatenate([[0], np.cumsum(free)[:-1]])
        others = np.add.reduceat(drawn**2, first) - drawn[first] ** 2
        return np.asarray((np.sqrt(keep * kinetic) + np.sqrt(unit) * drawn[first]) ** 2 + unit * others)


@dataclass(frozen=True)
class NoseHoover(Ensemble):
    """Nosé-Hoover chains, deterministic and time reversible (Martyna, Klein, Tuckerman 1992, doi:10.1063/1.463940; integrated as in Martyna et al.
    1996, doi:10.1080/00268979600100761, with a Suzuki-Yoshida splitting of fourth order).

    Attributes:
        temperature: K. relaxation_time: fs; the masses are n k T time² for the first thermostat and k T time² for the others. chain: thermostats.
    """

    keeps_momentum: ClassVar[bool] = True
    temperature: Values
    relaxation_time: float = 100.0
    chain: int = 3

    def __post_init__(self) -> None:
        check_temperatures(self.temperature, least=1e-3)
        check_time(self.relaxation_time, "thermostat")
        if not 1 <= self.chain <= 20:
            raise SimulationError(f"a chain has 1 to 20 thermostats, got {self.chain}", hint="3 is usual")

    def begin(self, state: State) -> None:
        """Set `chain_position` (no unit) and `chain_velocity` (1/fs), [systems, chain], to zero."""
        _check_moving(state, self.temperature)
        state.extended["chain_position"] = np.zeros((state.n_systems, self.chain))
        state.extended["chain_velocity"] = np.zeros((state.n_systems, self.chain))

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place: half a step of the chain, velocity Verlet, half a step of the chain; `seed` is not used."""
        self._thermostat(state, dt / 2)
        NVE().step(state, forces, dt, seed)
        self._thermostat(state, dt / 2)

    def conserved(self, state: State) -> Array:
        """Return the total energy with that of the chain, [systems] eV."""
        kt, mass, free = self._parameters(state)
        position, velocity = state.extended["chain_position"], state.extended["chain_velocity"]
        chain = (mass * velocity**2).sum(axis=1) / 2 + kt * (free * position[:, 0] + position[:, 1:].sum(axis=1))
        return np.asarray(state.energies + state.kinetic() + chain)

    def _parameters(self, state: State) -> tuple[Array, Array, Array]:
        """k T [systems] eV, masses [systems, chain] eV fs², degrees of freedom [systems]."""
        kt = KB * for_systems(self.temperature, state, "temperatures")
        free = state.degrees_of_freedom()
        mass = np.repeat(kt[:, None] * self.relaxation_time**2, self.chain, axis=1)
        mass[:, 0] *= free
        return kt, mass, free

    def _thermostat(self, state: State, dt: float) -> None:
        kt, mass, free = self._parameters(state)
        position, velocity = state.extended["chain_position"].copy(), state.extended["chain_velocity"].copy()
        kinetic, scale, last = state.thermal(), np.ones(state.n_systems), self.chain - 1
        outer = 1 / (2 - 2 ** (1 / 3))
        for weight in (outer, 1 - 2 * outer, outer):
            h = weight * dt
            for k in (*range(last, -1, -1), None, *range(self.chain)):
                if k is None:  # the middle: the chain moves, the velocities of the atoms shrink
                    factor = np.exp(-velocity[:, 0] * h)
                    scale, kinetic, position = scale * factor, kinetic * factor**2, position + h * velocity
                    continue
                drive = 2 * kinetic - free * kt if k == 0 else mass[:, k - 1] * velocity[:, k - 1] ** 2 - kt
                damp = np.exp(-velocity[:, k + 1] * h / 4) if k < last else 1.0
                velocity[:, k] = (velocity[:, k] * damp + h / 2 * drive / mass[:, k]) * damp
        state.scale_thermal(scale)
        state.extended["chain_position"], state.extended["chain_velocity"] = position, velocity


def kick(state: State, dt: float) -> None:
    """Change velocities by the forces, for `dt` fs."""
    state.velocities += state.movable * (dt * ACCELERATION * state.forces / state.masses[:, None])
    if state.bonds is not None:
        state.bonds.project(state)


def drift(state: State, dt: float) -> None:
    """Move the atoms along their velocities, for `dt` fs."""
    if state.bonds is None:
        state.positions += dt * state.velocities
    else:
        state.bonds.drift(state, dt)


def friction_and_noise(state: State, exponent: float, temperature: Values, seed: int) -> None:
    """Relax velocities by exp(-exponent) towards the canonical distribution, exactly (an Ornstein-Uhlenbeck process)."""
    keep = np.exp(-exponent)
    kelvin = state.per_atom(np.array(temperature)) if isinstance(temperature, tuple) else temperature
    width = np.sqrt((1 - keep**2) * KB * kelvin * ACCELERATION / state.masses)[:, None]
    state.velocities *= keep
    state.velocities += state.movable * width * noise(state, seed)
    if state.bonds is not None:
        state.bonds.project(state)


def noise(state: State, seed: int) -> Array:
    """Standard normal numbers [atoms, 3] of the step that follows `state`: a function of (seed, replica, step) alone."""
    return normals(seed, "md", state.step, 3 * state.n_atoms).reshape(-1, 3)


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


def for_systems(values: Values, state: State, name: str) -> Array:
    """Return one value for each system [systems].

    Raises:
        SimulationError: another number of values was given.
    """
    if isinstance(values, tuple) and len(values) != state.n_systems:
        raise SimulationError(f"{len(values)} {name} were given for {state.n_systems} systems", hint="give one for each, or one for all")
    return np.broadcast_to(np.array(values, dtype=np.float64), state.n_systems)


def check_temperature(kelvin: float, least: float = 0.0) -> None:
    """Raises `SimulationError` for a temperature that no simulation of atoms has."""
    if not least <= kelvin <= MAX_TEMPERATURE:
        raise SimulationError(
            f"the temperature must be {'0' if least == 0 else 'above 0'} to {MAX_TEMPERATURE:,.0f} K, got {kelvin:g}", hint="give kelvin"
        )


def check_temperatures(kelvin: Values, least: float = 0.0) -> None:
    """Raises `SimulationError` if one of the temperatures is one that no simulation of atoms has."""
    for value in kelvin if isinstance(kelvin, tuple) else (kelvin,):
        check_temperature(value, least)


def check_friction(friction: float) -> None:
    """Raises `SimulationError` for a friction that is not positive, or above 10/fs."""
    if not 0 < friction <= 10:
        raise SimulationError(
            f"friction must be positive and at most 10 (1/fs), got {friction}",
            hint="0.001 to 0.1 is usual (1/ps is 0.001 here); for no friction use NVE",
        )


def check_time(fs: float, name: str) -> None:
    """Raises `SimulationError` for a relaxation time of the thermostat or barostat that is not positive, or above 1 microsecond."""
    if not 0 < fs <= 1e9:
        what = f"the relaxation time of the {name} must be above 0 and at most 1e9 fs (1 microsecond), got {fs:g}"
        raise SimulationError(what, hint="100 fs and 1000 fs are usual")


def _check_moving(state: State, temperature: Values) -> None:
    """Velocities that are all zero cannot be scaled to anything else."""
    for_systems(temperature, state, "temperatures")
    still = np.flatnonzero(state.thermal() <= 0)
    if len(still):
        raise SimulationError(
            f"the atoms of system {still[0]} are at rest: scaling their velocities changes nothing",
            hint="draw velocities at a temperature above 0 K, or use Langevin dynamics",
        )
