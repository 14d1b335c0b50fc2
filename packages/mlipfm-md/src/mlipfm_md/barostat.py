"""`NPT`: constant temperature and pressure, the cell breathing (isotropic) or changing all its lengths and angles.

The equations of motion are those of Martyna, Tobias and Klein (1994, doi:10.1063/1.467468) with Langevin thermostats on atoms and cell, as in Quigley
and Probert (2004, doi:10.1063/1.1755657). With v the velocity of the cell (d cell/dt = cell v, symmetric, so that the crystal does not turn):

    dr/dt = p/m + v r      dp/dt = F - v p - tr(v)/n p      W dv/dt = K2 - V stress - V P + sum(p²/m)/n

where K2 = sum p p^T/m, n = 3 N and W = (n + 3) k T time²/3. The last term makes the distribution V^(1-3) exp(-(U + P V)/kT) of cells, for which the
volume of N free atoms has the density V^N exp(-P V/kT). A step is the palindrome cell - momenta - positions - baths - positions - momenta - cell
of exact solutions, so the error is of second order in dt and the forces are computed once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.units import ACCELERATION, GPA, KB, to_internal

from .ensembles import Ensemble, Forces, Values, check_friction, check_temperatures, check_time, for_systems, friction_and_noise
from .noise import normals
from .state import State

__all__ = ["NPT"]

Array = np.ndarray

#: GPa; beyond it there is no chemistry, but there are kbar and Pa taken for GPa.
MAX_PRESSURE = 1e4


@dataclass(frozen=True)
class NPT(Ensemble):
    """Constant temperature and pressure.

    Attributes:
        temperature: K. pressure: eV/Å³, `units.to_internal(1, "bar", "stress")`; positive compresses.
        friction: 1/fs, of the atoms. relaxation_time: fs, of the cell. full: lengths and angles of the cell change, not only its size.
    """

    keeps_momentum: ClassVar[bool] = False
    changes_cell: ClassVar[bool] = True
    temperature: Values
    pressure: Values = 0.0
    friction: float = 0.01
    relaxation_time: float = 1000.0
    full: bool = False

    def __post_init__(self) -> None:
        check_temperatures(self.temperature, least=1e-3)
        check_friction(self.friction)
        check_time(self.relaxation_time, "barostat")
        for value in self.pressure if isinstance(self.pressure, tuple) else (self.pressure,):
            _checked(value)

    def begin(self, state: State) -> None:
        """Set `cell_velocity` [systems, 3, 3] 1/fs and `heat` [systems] eV to zero.

        Raises:
            SimulationError: a system without a cell, fixed atoms, or bonds of fixed length.
        """
        for_systems(self.temperature, state, "temperatures")
        for_systems(self.pressure, state, "pressures")
        if not state.movable.all() or state.bonds is not None:
            raise SimulationError(
                "atoms or bonds that are fixed do not follow the cell at constant pressure",
                hint="let them move (--ignore-constraints), or keep the volume",
            )
        if not (state.volume() > 0).all():
            raise SimulationError("constant pressure needs a cell in three directions", hint="keep the volume, or give the file a cell")
        state.extended["cell_velocity"] = np.zeros((state.n_systems, 3, 3))
        state.extended["heat"] = np.zeros(state.n_systems)

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place; random numbers are functions of `seed` and the step."""
        self._kick_cell(state, dt / 2)
        self._kick(state, dt / 2)
        self._drift(state, dt / 2)
        self._baths(state, dt, seed)
        self._drift(state, dt / 2)
        state.energies, state.forces, state.stress = forces.with_stress(state.positions, state.cells)
        self._kick(state, dt / 2)
        self._kick_cell(state, dt / 2)
        state.step += 1

    def conserved(self, state: State) -> Array:
        """Return the enthalpy with the energy of the cell's motion, less the heat that the baths have given, [systems] eV."""
        pressure = for_systems(self.pressure, state, "pressures")
        enthalpy = state.energies + state.kinetic() + pressure * state.volume()
        return np.asarray(enthalpy + self._cell_energy(state) - state.extended["heat"])

    def _mass(self, state: State) -> Array:
        """W of each system, eV fs²."""
        kt = KB * for_systems(self.temperature, state, "temperatures")
        return np.asarray((3 * state.n_atoms + 3) * kt * self.relaxation_time**2 / 3)

    def _cell_energy(self, state: State) -> Array:
        return np.asarray(self._mass(state) * (state.extended["cell_velocity"] ** 2).sum(axis=(1, 2)) / 2)

    def _allowed(self, matrices: Array) -> Array:
        """Return the symmetric part of matrices [systems, 3, 3]; of isotropic cells the part that is a multiple of the unit matrix."""
        if self.full:
            return np.asarray((matrices + matrices.transpose(0, 2, 1)) / 2)
        return np.asarray(np.trace(matrices, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3))

    def _kick_cell(self, state: State, dt: float) -> None:
        momenta = state.masses[:, None] * state.velocities / ACCELERATION
        kinetic = state.per_system(momenta[:, :, None] * state.velocities[:, None, :])
        pressure = for_systems(self.pressure, state, "pressures")
        volume = state.volume()
        share = np.trace(kinetic, axis1=1, axis2=2) / (3 * state.n_atoms) - pressure * volume
        drive = kinetic - volume[:, None, None] * state.stress + share[:, None, None] * np.eye(3)
        change = dt / self._mass(state)[:, None, None] * self._allowed(drive)
        state.extended["cell_velocity"] = state.extended["cell_velocity"] + change

    def _kick(self, state: State, dt: float) -> None:
        """Momenta: the exact solution at constant forces and cell velocity."""
        rate = state.extended["cell_velocity"]
        trace = np.trace(rate, axis1=1, axis2=2) / (3 * state.n_atoms)
        decay, impulse = _exponentials(-rate - trace[:, None, None] * np.eye(3), dt)
        acceleration = ACCELERATION * state.forces / state.masses[:, None]
        state.velocities = _rows(state, state.velocities, decay) + _rows(state, acceleration, impulse)

    def _drift(self, state: State, dt: float) -> None:
        """Positions and cell: the exact solution at constant momenta and cell velocity."""
        growth, path = _exponentials(state.extended["cell_velocity"], dt)
        state.positions = _rows(state, state.positions, growth) + _rows(state, state.velocities, path)
        state.cells = state.cells @ growth

    def _baths(self, state: State, dt: float, seed: int) -> None:
        before = state.kinetic() + self._cell_energy(state)
        friction_and_noise(state, self.friction * dt, self.temperature, seed)
        keep = np.exp(-dt / self.relaxation_time)
        drawn = normals(seed, "cell", state.step, np.full(state.n_systems, 9)).reshape(-1, 3, 3)
        kt = KB * for_systems(self.temperature, state, "temperatures")
        width = np.sqrt((1 - keep**2) * kt / self._mass(state))[:, None, None]
        state.extended["cell_velocity"] = keep * state.extended["cell_velocity"] + width * self._allowed(drawn)
        state.extended["heat"] = state.extended["heat"] + state.kinetic() + self._cell_energy(state) - before


def _exponentials(matrices: Array, dt: float) -> tuple[Array, Array]:
    """exp(A dt) and its integral from 0 to dt of symmetric matrices A [systems, 3, 3]."""
    values, vectors = np.linalg.eigh(matrices)
    x = values * dt
    small = np.abs(x) < 1e-12
    integral = dt * np.where(small, 1.0, np.expm1(x) / np.where(small, 1.0, x))
    back = vectors.transpose(0, 2, 1)
    return (vectors * np.exp(x)[:, None, :]) @ back, (vectors * integral[:, None, :]) @ back


def _rows(state: State, rows: Array, matrices: Array) -> Array:
    """rows [atoms, 3], each times the matrix of its system."""
    if len(matrices) == 1:
        return np.asarray(rows @ matrices[0])
    return np.einsum("ia,iab->ib", rows, state.per_atom(matrices))


def pressure_with_unit(text: str, bare: str | None = None) -> float:
    """Return eV/Å³ of `1bar`, `0.5 GPa`, `-2 kbar`, `1atm`, `101325 Pa` or `0.001 eV/Angstrom^3`.

    A number without a unit is in the unit `bare`, if that is given.

    Raises:
        SimulationError: no unit, no number, or more than `MAX_PRESSURE`. UnitError: a unit that is not known.
    """
    found = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z][\w/^]*)?\s*", text)
    unit = None if found is None else found[2] or bare
    if found is None or unit is None:
        hint = "write it as 1bar, 0.5GPa, 2kbar, 1atm or 101325Pa"
        raise SimulationError(f"{text!r} is no pressure" + ("" if bare else " with a unit"), where="--pressure", hint=hint)
    return _checked(to_internal(float(found[1]), unit, "stress"), "--pressure")


def _checked(value: float, where: str | None = None) -> float:
    gpa = value / GPA
    if not abs(gpa) <= MAX_PRESSURE:
        raise SimulationError(
            f"the pressure must be within {MAX_PRESSURE:,.0f} GPa, got {gpa:,.6g} GPa", where=where, hint="name its unit: 1bar"
        )
    return value
