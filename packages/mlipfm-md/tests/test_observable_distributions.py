"""g(r) and angles on closed forms: an ideal gas, crystals, a molecule."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import ObservableError
from mlipfm_md.observables import TrajectoryData, angular_distribution, radial_distribution

TRICLINIC = np.array([[12.0, 0, 0], [5.0, 11.0, 0], [-4.0, 3.0, 10.0]])


def ideal_gas(cell: np.ndarray, numbers: list[int], frames: int = 150, seed: int = 0) -> TrajectoryData:
    rng = np.random.default_rng(seed)
    positions = rng.random((frames, len(numbers), 3)) @ cell
    return TrajectoryData(np.arange(frames) * 1.0, np.array(numbers), positions, cell, np.ones(3, dtype=bool))


def deviation(g) -> float:
    """chi² per bin of g - 1 in units of the error; bins without any pair are left out."""
    assert g.error is not None
    known = g.error > 0
    return float((((g.values - 1)[known] / g.error[known]) ** 2).mean())


@pytest.mark.parametrize("cell", [np.eye(3) * 10, TRICLINIC], ids=["cubic", "triclinic"])
@pytest.mark.parametrize(("first", "second"), [("H", "H"), ("H", "O"), ("O", "H")])
def test_g_of_an_ideal_gas_is_1(cell, first, second):
    g = radial_distribution(ideal_gas(cell, [1] * 30 + [8] * 20), first, second, bins=25)
    assert np.average(g.values, weights=g.x**2) == pytest.approx(1.0, abs=0.01)
    assert deviation(g) < 2.0


def test_wrong_versions_are_told_from_1():
    """Like pairs counted twice, and the volume of the box around a triclinic cell instead of its own."""
    g = radial_distribution(ideal_gas(TRICLINIC, [1] * 50), "H", "H", bins=25)
    box = np.prod(np.abs(TRICLINIC).sum(axis=0)) / np.linalg.det(TRICLINIC)
    for wrong in (2.0, box, 49 / 50):  # the last: N² / 2 pairs instead of N (N - 1) / 2
        assert abs(np.average(g.values * wrong, weights=g.x**2) - 1) > 0.015


def test_radius_beyond_half_the_shortest_lattice_vector_is_refused():
    gas = ideal_gas(TRICLINIC, [1] * 5, 12)
    assert gas.longest_radius() == pytest.approx(np.sqrt(125) / 2)  # |c| = sqrt(16 + 9 + 100) is the shortest
    with pytest.raises(ObservableError, match="half the shortest lattice vector, 5.59"):
        radial_distribution(gas, "H", "H", r_max=6.0)


def test_half_the_shortest_vector_is_found_in_a_skewed_cell():
    """The same lattice by long vectors."""
    skewed = np.array([[10.0, 0, 0], [20.0, 10, 0], [0, 30, 10]])
    assert ideal_gas(skewed, [1], 2).longest_radius() == pytest.approx(5.0)


def test_neighbours_in_a_crystal_of_copper_are_12_6_24():
    a = 3.6
    base = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + base).reshape(-1, 3) * a)[None]
    g = radial_distribution(
        TrajectoryData(np.zeros(1), np.full(108, 29), positions, np.eye(3) * 3 * a, np.ones(3, dtype=bool)), "Cu", "Cu", bins=540
    )
    around = {r: float(np.interp(r, g.x, g.coordination)) for r in (3.0, 4.0, 4.8)}
    assert around == pytest.approx({3.0: 12, 4.0: 18, 4.8: 42})
    assert g.peak()[0] == pytest.approx(a / np.sqrt(2), abs=0.02)
    assert g.error is None


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [1, 2, 0]], ids=["OHH", "HOH", "HHO"])
@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, True), (True, True, False)])
def test_angle_of_water_is_104_5_degrees(pbc, order):
    angle = np.radians(104.52)
    water = 0.96 * np.array([[0, 0, 0], [1, 0, 0], [np.cos(angle), np.sin(angle), 0]]) + [0.1, 0.1, 0.1]
    data = TrajectoryData(
        np.zeros(1), np.array([8, 1, 1])[order], water[order][None], np.eye(3) * 12.0 * np.array(pbc)[:, None], np.array(pbc)
    )
    angles = angular_distribution(data, "H", "O", "H", cutoff=1.2)
    assert angles.peak()[0] == pytest.approx(104.5)
    assert angles.values.sum() * 1.0 == pytest.approx(1.0)


def test_angles_of_random_directions_are_a_sine():
    rng = np.random.default_rng(0)
    ends = rng.standard_normal((400, 20, 3))
    ends /= np.linalg.norm(ends, axis=2, keepdims=True)
    positions = np.concatenate([np.zeros((400, 1, 3)), ends], axis=1)
    angles = angular_distribution(TrajectoryData(np.arange(400.0), np.array([8] + [1] * 20), positions), "H", "O", "H", 1.1, bins=18)
    expected = (np.cos(np.radians(angles.x - 5)) - np.cos(np.radians(angles.x + 5))) / 2 / 10
    assert np.abs(angles.values / expected - 1)[2:-2].max() < 0.03


def test_g_of_a_molecule_is_refused():
    with pytest.raises(ObservableError, match="periodic along three axes"):
        radial_distribution(TrajectoryData(np.zeros(1), np.array([8, 1]), np.eye(3)[None, :2]), "O", "H")
