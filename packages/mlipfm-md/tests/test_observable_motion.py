"""Diffusion and spectra on closed forms: Brownian and free Langevin particles, harmonic oscillators, an oscillating charge."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.units import ACCELERATION, KB
from mlipfm_md.observables import (
    Estimate,
    TrajectoryData,
    diffusion,
    finite_size_correction,
    infrared,
    mean_square_displacement,
    unwrapped,
    vibrational_density_of_states,
)

C = 2.99792458e-5  # cm/fs


def brownian(frames: int, atoms: int, d: float, seed: int = 0, interval: float = 10.0) -> TrajectoryData:
    """Free particles with D in Å²/fs."""
    steps = np.random.default_rng(seed).standard_normal((frames, atoms, 3)) * np.sqrt(2 * d * interval)
    return TrajectoryData(np.arange(frames) * interval, np.full(atoms, 18), np.cumsum(steps, axis=0))


def test_diffusion_of_brownian_particles_is_found_within_its_interval_in_95_percent():
    estimates = [diffusion(mean_square_displacement(brownian(400, 20, 1e-4, seed))) for seed in range(100)]
    assert np.mean([e.value for e in estimates]) == pytest.approx(1e-9, rel=0.01)  # 1e-4 Å²/fs = 1e-9 m²/s
    assert np.mean([e.ci95[0] <= 1e-9 <= e.ci95[1] for e in estimates]) == pytest.approx(0.95, abs=0.05)


def test_ballistic_motion_is_refused():
    flight = TrajectoryData(np.arange(100.0), np.array([18]), np.arange(100.0)[:, None, None] * [[[0.01, 0, 0]]])
    with pytest.raises(ObservableError, match=r"t\^2.00.*ballistic"):
        diffusion(mean_square_displacement(flight))


def test_vibration_about_sites_is_refused():
    rng = np.random.default_rng(0)
    solid = TrajectoryData(np.arange(1000.0), np.full(30, 18), rng.standard_normal((1000, 30, 3)) * 0.1)
    with pytest.raises(ObservableError, match="trapped, as in a solid"):
        diffusion(mean_square_displacement(solid))


@pytest.mark.parametrize("skew", [0.0, 5.0])
def test_paths_are_followed_through_the_boundaries_of_the_cell(skew):
    cell = np.array([[8.0, 0, 0], [skew, 8, 0], [0, skew, 8]])
    path = brownian(300, 10, 1e-3, interval=10).positions + [1.0, 2.0, 3.0]
    wrapped = path - np.floor(path @ np.linalg.inv(cell)) @ cell
    found = unwrapped(wrapped, np.broadcast_to(cell, (300, 3, 3)), np.ones(3, dtype=bool))
    assert np.allclose(found - found[0], path - path[0], atol=1e-9)
    assert not np.allclose(wrapped - wrapped[0], path - path[0], atol=1.0)  # without unwrapping the MSD is another


def test_steps_of_half_a_cell_are_refused():
    jumps = np.array([[[0.0, 0, 0]], [[3.9, 0, 0]]])
    with pytest.raises(ObservableError, match="moves by 3.9 Angstrom"):
        unwrapped(jumps, np.broadcast_to(np.eye(3) * 8, (2, 3, 3)), np.ones(3, dtype=bool))


def test_centre_of_mass_is_subtracted_if_asked():
    still = brownian(200, 5, 1e-4)
    drifting = TrajectoryData(still.times, still.atomic_numbers, still.positions + np.arange(200)[:, None, None] * 0.5)
    removed = [mean_square_displacement(data, remove_centre_of_mass=True).values for data in (still, drifting)]
    assert np.allclose(*removed)
    assert mean_square_displacement(drifting).centre_of_mass[-1] == pytest.approx(3 * (19 * 0.5) ** 2, rel=0.05)


def test_correction_of_yeh_and_hummer_for_64_molecules_of_water():
    """1.380649e-23 * 298 * 2.837297 / (6 pi 0.89e-3 12.42e-10) = 5.60e-10 m²/s."""
    found = finite_size_correction(Estimate("D", "m^2/s", 2e-9, 1e-10, (1.8e-9, 2.2e-9), 100), 298.0, 12.42, 0.89)
    assert found.value - 2e-9 == pytest.approx(5.60e-10, rel=1e-3)
    assert found.error == 1e-10


def oscillators(wavenumbers: list[float], numbers: list[int], interval: float = 2.0, frames: int = 4000) -> TrajectoryData:
    """One atom per wavenumber along a random direction, each with energy k_B T at 300 K."""
    rng = np.random.default_rng(3)
    t = np.arange(frames) * interval
    masses = MASSES[numbers]
    omega = 2 * np.pi * C * np.array(wavenumbers)
    directions = rng.standard_normal((len(numbers), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    phases = omega * t[:, None] + rng.random(len(numbers)) * 6
    amplitude = np.sqrt(2 * KB * 300 * ACCELERATION / masses) / omega
    x = (amplitude * np.sin(phases))[:, :, None] * directions
    v = (amplitude * omega * np.cos(phases))[:, :, None] * directions
    return TrajectoryData(t, np.array(numbers), x, velocities=v, degrees_of_freedom=len(numbers))


def test_peaks_of_harmonic_oscillators_are_at_their_wavenumbers_with_equal_shares():
    data = oscillators([500.0, 1650.0], [6, 1])
    vdos = vibrational_density_of_states(data, resolution=20)
    step = vdos.wavenumbers[1]
    assert vdos.values.sum() * step == pytest.approx(1.0)
    for element, place in (("C", 500.0), ("H", 1650.0)):
        part = vdos.parts[element]
        assert vdos.wavenumbers[part.argmax()] == pytest.approx(place, abs=step)
        assert part.sum() * step == pytest.approx(0.5, abs=0.01)  # equipartition, whatever the mass
    assert np.allclose(sum(vdos.parts.values()), vdos.values)


def test_width_of_a_sharp_line_is_the_resolution():
    vdos = vibrational_density_of_states(oscillators([1000.0], [6], frames=20000), resolution=30)
    above = vdos.wavenumbers[vdos.values > vdos.values.max() / 2]
    assert np.ptp(above) == pytest.approx(30, abs=2 * vdos.wavenumbers[1])
    assert vdos.peak()[0] == pytest.approx(1000.0, abs=2)


def test_steps_between_frames_give_the_same_spectrum_as_velocities():
    data = oscillators([500.0, 1650.0], [6, 1])
    still = TrajectoryData(data.times, data.atomic_numbers, data.positions)
    a, b = vibrational_density_of_states(data), vibrational_density_of_states(still)
    assert np.allclose(a.values, b.values, atol=0.02 * a.values.max())
    data = oscillators([500.0, 1650.0], [6, 1], interval=5.0)  # the faster one moves back by a fifth of its power between frames
    rare = vibrational_density_of_states(TrajectoryData(data.times, data.atomic_numbers, data.positions))
    assert rare.parts["H"].sum() == pytest.approx(rare.parts["C"].sum(), rel=0.03)


def test_vibrations_that_frames_are_too_rare_for_are_refused():
    """3500 cm⁻¹ is a period of 9.5 fs; every 8 fs it would show as 670 cm⁻¹."""
    with pytest.raises(ObservableError, match="up to 2085 cm.*vibrate faster"):
        vibrational_density_of_states(oscillators([500.0, 3500.0], [6, 1], interval=8.0))
    with pytest.raises(ObservableError, match="too short for a spectrum"):
        vibrational_density_of_states(oscillators([500.0], [6], frames=20))


@pytest.mark.parametrize("periodic", [False, True])
def test_absorption_of_an_oscillating_charge_is_the_double_harmonic_one(periodic):
    """974.88 km/mol for |dmu/dq|² = 1 e²/amu (ASE: 42.2561 km/mol per D² Å⁻² amu⁻¹), from a classical oscillator with energy k_B T; in a cell the
    dipole is folded by quanta e a, which must not show."""
    data = oscillators([800.0], [8])
    dipoles = 0.7 * data.positions[:, 0]
    cell = np.eye(3) * 10.0
    if periodic:
        dipoles = np.random.default_rng(0).integers(-3, 4, (len(dipoles), 1)) * cell[0] + dipoles
    data = TrajectoryData(
        data.times, data.atomic_numbers, data.positions, cell * periodic, np.full(3, periodic), dipoles=dipoles, velocities=data.velocities
    )
    spectrum = infrared(data, temperature=300.0)
    integral = spectrum.values.sum() * spectrum.wavenumbers[1]
    molar = 974.8801 * 0.7**2 / MASSES[8]
    volume = 1e-24 * 1000  # cm³
    expected = molar if not periodic else molar * 1e5 / 6.02214076e23 / volume
    assert integral == pytest.approx(expected, rel=0.01)
    assert spectrum.unit == ("1/cm" if periodic else "km/mol cm")
    assert spectrum.peak()[0] == pytest.approx(800, abs=3)
