"""Pressure, density and heat capacity on closed forms: ideal gas, harmonic crystal in both ensembles."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.units import ACCELERATION, GPA, KB
from mlipfm_md.observables import TrajectoryData, density, heat_capacity, pressure, temperature
from mlipfm_md.observables.trajectory_data import _ensemble

R = 8.31446261815324


def gas(atoms: int = 50, kelvin: float = 300.0, frames: int = 4000, **more) -> TrajectoryData:
    rng = np.random.default_rng(0)
    v = rng.standard_normal((frames, atoms, 3)) * np.sqrt(KB * kelvin * ACCELERATION / 39.95)
    return TrajectoryData(
        np.arange(frames) * 1.0,
        np.full(atoms, 18),
        np.zeros((frames, atoms, 3)),
        np.eye(3) * 20.0,
        np.ones(3, dtype=bool),
        masses=np.full(atoms, 39.95),
        velocities=v,
        **more,
    )


def test_pressure_of_an_ideal_gas_is_n_k_t_over_v():
    found = pressure(gas(stress=np.zeros((4000, 3, 3))))
    expected = 50 * KB * 300 / 8000 / GPA
    assert found.value == pytest.approx(expected, rel=0.005)
    assert found.ci95[0] <= expected <= found.ci95[1]


def test_compressive_stress_adds_to_the_pressure():
    """Stress is negative under compression, pressure is positive."""
    squeezed = np.broadcast_to(-np.eye(3) * 0.5 * GPA, (4000, 3, 3))
    assert pressure(gas(stress=squeezed)).value - pressure(gas(stress=np.zeros((4000, 3, 3)))).value == pytest.approx(0.5)


def test_density_of_50_argon_atoms_in_8_nm3():
    """50 * 39.95 amu / 8e-21 cm³ = 0.4146 g/cm³."""
    assert density(gas(frames=20)).value == pytest.approx(50 * 39.95 * 1.66053907e-24 / 8e-21, rel=1e-6)


def test_temperature_of_drawn_velocities():
    found = temperature(gas())
    assert found.ci95[0] <= 300 <= found.ci95[1]


def crystal(ensemble: str, frames: int = 20000, n: int = 60, seed: int = 1) -> TrajectoryData:
    """n classical harmonic oscillators: kinetic and potential energy in equilibrium at 300 K, or of constant sum."""
    rng = np.random.default_rng(seed)
    p, q = rng.standard_normal((2, frames, n))
    if ensemble == "nve":  # a point on the sphere of constant energy
        p, q = np.array([p, q]) * np.sqrt(2 * n / (p**2 + q**2).sum(axis=1))[:, None]
    v = p.reshape(frames, n // 3, 3) * np.sqrt(KB * 300 * ACCELERATION / 39.95)
    energies = 0.5 * KB * 300 * (q**2).sum(axis=1)
    return TrajectoryData(
        np.arange(frames) * 1.0, np.full(n // 3, 18), np.zeros((frames, n // 3, 3)), np.eye(3) * 10.0, np.ones(3, dtype=bool),
        masses=np.full(n // 3, 39.95), velocities=v, energies=energies, ensemble=ensemble,
    )  # fmt: skip


@pytest.mark.parametrize("ensemble", ["nvt", "nve"])
def test_heat_capacity_of_60_harmonic_oscillators_is_60_r(ensemble):
    found = heat_capacity(crystal(ensemble))
    assert found.ci95[0] <= 60 * R <= found.ci95[1]
    assert found.error < 0.03 * 60 * R


@pytest.mark.parametrize(
    ("recorded", "ensemble"),
    [
        (["NVE", {}], ("nve", None)),
        (["Respa", {"ensemble": ["NVE", {}], "inner_steps": 4}], ("nve", None)),
        (["Respa", {"ensemble": ["Langevin", {"temperature": 300.0}], "inner_steps": 4}], ("nvt", None)),
        (["IsotropicNPT", {"pressure": [0.0, 0.5], "temperature": 300.0}], ("npt", 0.5)),
    ],
)
def test_multiple_time_steps_sample_the_ensemble_that_they_wrap(recorded, ensemble):
    """Heat capacity and degrees of freedom are those of constant energy if the inner steps are."""
    assert _ensemble({"ensemble": recorded}, 1) == ensemble


def test_formula_of_the_wrong_ensemble_is_noticed():
    """At constant energy the total energy does not fluctuate; at constant temperature the temperature fluctuates more than at constant energy."""
    swapped = TrajectoryData(**{**vars(crystal("nve")), "ensemble": "nvt"})
    assert heat_capacity(swapped).value < R
    with pytest.raises(ObservableError, match="more than at constant energy"):
        heat_capacity(TrajectoryData(**{**vars(crystal("nvt", seed=2)), "ensemble": "nve"}))


@pytest.mark.parametrize(
    ("missing", "said"),
    [({"ensemble": None}, "depends on the ensemble"), ({"velocities": None}, "velocities"), ({"energies": None}, "energies")],
)
def test_what_is_missing_is_named(missing, said):
    with pytest.raises(ObservableError, match=said):
        heat_capacity(TrajectoryData(**{**vars(crystal("nvt", 20)), **missing}))


def test_pressure_without_stress_is_refused():
    with pytest.raises(ObservableError, match="no stress.*--model"):
        pressure(gas(frames=20))
