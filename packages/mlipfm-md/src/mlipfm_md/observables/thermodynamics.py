"""Averages of energies and cells: temperature, density, pressure, heat capacity."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.units import AMU, AVOGADRO, ELEMENTARY_CHARGE, GPA, KB

from .estimates import Estimate, block_average, block_estimate
from .trajectory_data import TrajectoryData

__all__ = ["density", "heat_capacity", "pressure", "pressures", "temperature"]

Array = np.ndarray

#: g/cm³ in one amu/Å³.
_DENSITY = AMU * 1e3 / 1e-24
#: J/mol/K in one eV/K.
_MOLAR = ELEMENTARY_CHARGE * AVOGADRO


def temperature(data: TrajectoryData) -> Estimate:
    """Return the mean kinetic temperature, K.

    Raises:
        ObservableError: without velocities.
    """
    kelvin = data.temperatures
    if kelvin is None:
        raise ObservableError("the trajectory has no velocities", where=data.source, hint="write momenta")
    return block_average("temperature", "K", kelvin, data.interval)


def density(data: TrajectoryData) -> Estimate:
    """Return the mean mass density, g/cm³.

    Raises:
        ObservableError: the system is not periodic along three axes.
    """
    return block_average("density", "g/cm^3", data.masses.sum() / _volumes(data) * _DENSITY, data.interval)


def pressures(data: TrajectoryData) -> Array:
    """Return the pressure of each frame [F], eV/Å³: 2 K / (3 V) - tr(stress) / 3, kinetic and virial part (Allen and Tildesley, section 2.4).

    Raises:
        ObservableError: without three periodic axes, velocities or stress.
    """
    volumes, kinetic = _volumes(data), data.kinetic
    if data.stress is None:
        raise ObservableError("the trajectory has no stress", where=data.source, hint="--model computes it")
    if kinetic is None:
        raise ObservableError("the kinetic part of the pressure needs velocities", where=data.source, hint="write momenta")
    return 2 * kinetic / (3 * volumes) - np.trace(data.stress, axis1=1, axis2=2) / 3


def pressure(data: TrajectoryData) -> Estimate:
    """Return the mean pressure, GPa. Raises `ObservableError` as `pressures` does."""
    return block_average("pressure", "GPa", pressures(data) / GPA, data.interval)


def heat_capacity(data: TrajectoryData) -> Estimate:
    """Return the heat capacity from fluctuations, J/mol/K, where a mole is one of the whole system.

    Constant temperature: var(E) / (k_B T²), E the total energy; constant pressure: the same of the enthalpy E + P V, which is C_P. Constant energy:
    from the fluctuation of the temperature, var(T) / T² = 2/n (1 - n k_B / (2 C_V)) with n degrees of freedom (Lebowitz, Percus and Verlet,
    Phys. Rev. 153, 250, 1967). Classical: vibrations above k_B T / h count k_B, which no quantum system shows.

    Raises:
        ObservableError: without velocities, energies or a known ensemble, or if constant-energy fluctuations are larger than any C_V gives.
    """
    kelvin, kinetic = data.temperatures, data.kinetic
    if kelvin is None or kinetic is None or data.energies is None:
        raise ObservableError("a heat capacity needs energies and velocities", where=data.source, hint="write both")
    if data.ensemble is None:
        raise ObservableError("a heat capacity depends on the ensemble", where=data.source, hint="--ensemble nve, nvt or npt")
    note = "per mole of whole systems; classical: stiff vibrations count in full"
    if data.ensemble == "nve":
        if not data.pbc.any():
            raise ObservableError(
                "at constant energy an isolated molecule keeps its angular momentum, and its few modes hardly exchange energy",
                where=data.source,
                hint="run it with --ensemble langevin",
            )
        return _constant_energy(data, kelvin, note)
    total, name = kinetic + data.energies, "heat capacity C_V"
    if data.ensemble == "npt":
        if data.pressure is None:
            raise ObservableError("C_P needs the pressure of the barostat", where=data.source, hint="--pressure, in GPa")
        total, name = total + data.pressure * _volumes(data), "heat capacity C_P"
    mean = float(kelvin.mean())
    return block_estimate(
        name, "J/mol/K", lambda keep: float(total[keep].var() / (KB * mean**2)) * _MOLAR, _with_square(total), data.interval, note
    )


def _constant_energy(data: TrajectoryData, kelvin: Array, note: str) -> Estimate:
    n = data.degrees_of_freedom

    def capacity(keep: Array) -> float:
        rest = 1 - n / 2 * float(kelvin[keep].var() / kelvin[keep].mean() ** 2)
        if rest <= 0:
            raise ObservableError(
                "the temperature fluctuates more than at constant energy", where=data.source, hint="is it in equilibrium, long enough, NVE?"
            )
        return n * KB / 2 / rest * _MOLAR

    return block_estimate("heat capacity C_V", "J/mol/K", capacity, _with_square(kelvin), data.interval, note)


def _with_square(series: Array) -> Array:
    """[F, 2]: a series and the square of its fluctuation, whose correlation a variance feels too."""
    return np.stack([series, (series - series.mean()) ** 2], axis=1)


def _volumes(data: TrajectoryData) -> Array:
    volumes = data.volumes
    if volumes is None:
        raise ObservableError("the system has no volume: it is not periodic along three axes", where=data.source)
    return volumes
