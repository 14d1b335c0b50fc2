"""Weights, normal modes and rigid motions on numbers that are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_data.curation.weights import boltzmann, effective_size, weigh
from mlipfm_data.duplicates.superimpose import judged, kabsch
from mlipfm_data.normal_modes import Modes, hessian_by_differences, normal_modes, sample_modes
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import random_rotation
from mlipfm_interfaces.units import ACCELERATION, KB


def pair(energy: float, force=(0.0, 0.0, 0.0), **more) -> Structure:
    forces = np.array([force, [-f for f in force]])
    return Structure([1, 1], [[0, 0, 0], [0.8, 0, 0]], **{"level": "x", "labels": {"energy": energy, "forces": forces}} | more)


def test_boltzmann_weights_by_size_to_the_power_gamma():
    """0.6 eV in four atoms: per atom 0.15, per root of atoms 0.3, per system 0.6."""
    for gamma, excess in ((1.0, 0.15), (0.5, 0.3), (0.0, 0.6)):
        found = boltzmann(np.array([0.0, 0.6]), np.array([4, 4]), 0.2, gamma=gamma, floor=0.0)
        assert found.tolist() == [1.0, pytest.approx(np.exp(-excess / 0.2))]
    assert boltzmann(np.array([50.0]), np.array([1]), 0.2, floor=0.05).tolist() == [0.05]


def test_the_lowest_energy_is_that_of_the_same_level_and_charge():
    """Energies of other levels and charges have other zeros: nothing is above the lowest of its own kind here."""
    same = weigh([pair(-30.0), pair(-900.0, level="y"), pair(-10.0, total_charge=1)], kT=0.1, force_cap=None)
    assert same.values.tolist() == [1.0, 1.0, 1.0]


def test_the_cap_is_on_the_length_of_a_force():
    """(36, 36, 0) is 50.9 eV/Å long though no component is above 36."""
    found = weigh([pair(-30.0), pair(-30.0, (36.0, 36.0, 0.0)), pair(-30.0, (49.0, 0.0, 0.0))], kT=None, force_cap=50.0)
    assert found.values.tolist() == [1.0, 0.0, 1.0]
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)


def test_soft_modes_are_as_wide_as_the_floor_says_and_others_as_their_own_frequency():
    """Classical width of q: sqrt(kT / lambda); 200 1/cm is lambda = 0.1471 eV/(Å² amu), so that 300 K gives 0.419 Å amu^1/2."""
    directions = np.zeros((3, 1, 3))
    directions[np.arange(3), 0, np.arange(3)] = 1.0
    modes = Modes(np.array([-50.0, 10.0, 1000.0]), np.array([-0.01, 0.001, 4.0]), directions)
    drawn = sample_modes(Structure([1], [[0.0, 0, 0]]), modes, 300.0, 4000, np.random.default_rng(0), floor=200.0)
    widths = np.std([s.positions[0] for s in drawn], axis=0)
    assert widths == pytest.approx([0.4192, 0.4192, np.sqrt(KB * 300 / 4.0)], rel=0.05)


def test_modes_of_a_spring_between_two_masses():
    """omega² = k (1/m1 + 1/m2), k = 30 eV/Å²: five rigid motions are taken out; the lighter atom moves m2/m1 times as far."""
    s = Structure([1, 8], [[0.0, 0, 0], [0.0, 0, 1.0]])
    m1, m2 = 1.008, 15.999

    def forces(structure: Structure) -> np.ndarray:
        d = structure.positions[1] - structure.positions[0]
        pull = 30.0 * (np.linalg.norm(d) - 1.0) * d / np.linalg.norm(d)
        return np.array([pull, -pull])

    hessian = hessian_by_differences(s, forces, step=1e-3)
    np.testing.assert_allclose(hessian[2::3, 2::3], [[30.0, -30.0], [-30.0, 30.0]], rtol=1e-6)
    found = normal_modes(s, hessian)
    assert len(found.eigenvalues) == 1
    assert found.eigenvalues[0] == pytest.approx(30.0 * (1 / m1 + 1 / m2), rel=1e-4)
    omega = np.sqrt(30.0 * (1 / m1 + 1 / m2) * ACCELERATION)  # 1/fs
    assert found.wavenumbers[0] == pytest.approx(omega / (2 * np.pi * 2.99792458e-5), rel=1e-4)
    assert found.directions[0, 0, 2] / found.directions[0, 1, 2] == pytest.approx(-m2 / m1, rel=1e-4)
    assert (np.array([m1, m2])[:, None] * found.directions[0] ** 2).sum() == pytest.approx(1.0)


def test_the_best_motion_is_found_and_is_a_rotation_unless_a_mirror_is_asked():
    x = np.random.default_rng(1).normal(size=(6, 3))
    turn, mirror = random_rotation(3), random_rotation(3, improper=True)
    rotation, residuals = kabsch(x, x @ turn.T + 5.0)
    np.testing.assert_allclose(rotation, turn.T, atol=1e-12)
    assert np.abs(residuals).max() < 1e-12
    assert np.linalg.det(kabsch(x, x @ mirror.T)[0]) == pytest.approx(1.0)
    assert np.abs(kabsch(x, x @ mirror.T)[1]).max() > 0.1
    assert np.abs(kabsch(x, x @ mirror.T, -1.0)[1]).max() < 1e-12


def test_the_tolerance_is_on_coordinates_and_four_times_it_on_one_atom():
    """Three atoms off by (0.1, 0.1, 0.1): the root mean square of a coordinate is 0.1 and the largest distance 0.173."""
    off = np.full((3, 3), 0.1)
    found = judged(off, 0.1000001, False)
    assert found is not None
    assert (found.rms, found.largest) == (pytest.approx(0.1), pytest.approx(0.1 * 3**0.5))
    assert judged(off, 0.0999, False) is None
    lone = np.zeros((100, 3))
    lone[0, 0] = 0.41
    assert judged(lone, 0.1, False) is None
    lone[0, 0] = 0.39
    assert judged(lone, 0.1, False) is not None
