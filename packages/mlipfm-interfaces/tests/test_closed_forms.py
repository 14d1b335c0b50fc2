"""Closed-form potentials against their closed forms, and the structures of the testing kit against geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing import structures as kit
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, HarmonicPairs, Morse, noble_gas, switch


def dimer(distance: float, z: int = 18) -> Structure:
    return Structure([z, z], [[0, 0, 0], [0, 0, distance]])


def test_the_lennard_jones_minimum_is_minus_epsilon_at_the_sixth_root_of_two_sigma():
    epsilon, sigma = 0.0104, 3.40
    answer = evaluate(noble_gas(epsilon, sigma), [dimer(2 ** (1 / 6) * sigma)])[0]
    assert answer["energy"] == pytest.approx(-epsilon, rel=1e-12)
    assert np.abs(answer["forces"]).max() < 1e-14
    assert evaluate(noble_gas(epsilon, sigma), [dimer(sigma)])[0]["energy"] == pytest.approx(0.0, abs=1e-15)


def test_fcc_argon_has_the_lattice_sums_of_the_textbook():
    epsilon, sigma = 0.0104, 3.40
    crystal = kit.argon()
    nearest = crystal.cell[0, 0] / np.sqrt(2)
    wanted = 2 * epsilon * (12.13188 * (sigma / nearest) ** 12 - 14.45392 * (sigma / nearest) ** 6)  # Kittel, fcc lattice sums
    energy = evaluate(noble_gas(epsilon, sigma, cutoff=24.0), [crystal], ("energy",))[0]["energy"] / 4
    assert energy == pytest.approx(wanted, rel=6e-3)  # the tail beyond 20 Å is 0.4 %


def test_compressed_argon_has_negative_stress_and_stretched_argon_positive():
    crystal = kit.argon()
    squeezed, stretched = (crystal.replace(positions=f * crystal.positions, cell=f * crystal.cell) for f in (0.95, 1.05))
    low, high = evaluate(noble_gas(), [squeezed, stretched], ("stress",))
    assert np.trace(low["stress"]) < 0 < np.trace(high["stress"])


def test_the_curvature_of_a_morse_bond_is_two_depths_times_width_squared():
    model = Morse(ClosedFormConfig(elements=(18,)))
    probe = np.array([[[0, 0, -1.0], [0, 0, 1.0]]]) / np.sqrt(2)
    s = dimer(2 * COVALENT_RADII[18]).replace(labels={"hvp": np.zeros((1, 2, 3)), "hvp_probe": probe})
    curvature = (evaluate(model, [s], ("hvp",))[0]["hvp"] * probe).sum()
    depth = model.table.depth[0].item()
    assert curvature == pytest.approx(2 * (2 * depth * 1.5**2), rel=1e-10)  # the stretch direction has 2 k in Cartesian coordinates


def test_springs_push_with_their_constant_times_the_elongation():
    model = HarmonicPairs(ClosedFormConfig(elements=(18,)))
    stretch = 0.3
    force = evaluate(model, [dimer(2 * COVALENT_RADII[18] + stretch)])[0]["forces"]
    assert force[0, 2] == pytest.approx(20 * model.table.depth[0].item() * stretch, rel=1e-12)


def test_the_switch_ends_with_zero_value_slope_and_curvature():
    for edge, value in ((3.0, 1.0), (5.0, 0.0)):
        r = torch.tensor(edge, dtype=torch.float64, requires_grad=True)
        s = switch(r, 3.0, 5.0)
        (slope,) = torch.autograd.grad(s, r, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, r)
        assert (float(s.detach()), float(slope.detach()), float(curvature)) == pytest.approx((value, 0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "formula", "shortest"),
    [("water", "H2O", 0.9572), ("methane", "CH4", 1.087), ("acetylene", "C2H2", 1.06), ("benzene", "C6H6", 1.084), ("ethanol", "C2H6O", 0.9714),
     ("copper", "Cu4", 3.615 / 2**0.5), ("argon", "Ar4", 5.26 / 2**0.5), ("silicon", "Si2", 5.431 * 3**0.5 / 4), ("rock_salt", "Cl4Na4", 2.82)],
)  # fmt: skip
def test_named_geometries_have_their_shortest_distance(name, formula, shortest):
    s = kit.NAMED[name]()
    i, j, shift = neighbor_pairs(s, 4.5)
    assert s.formula == formula
    assert np.linalg.norm(s.positions[j] - s.positions[i] + shift @ s.cell, axis=1).min() == pytest.approx(shortest, abs=1e-4)


def test_water_has_its_angle_and_acetylene_is_straight():
    (a, b) = kit.water().positions[1:] / 0.9572
    assert np.rad2deg(np.arccos(a @ b)) == pytest.approx(104.52)
    assert np.abs(kit.acetylene().positions[:, :2]).max() == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(kit.structures())
def test_random_structures_keep_their_distances_in_every_image(s):
    i, j, shift = neighbor_pairs(s, 3.0)
    distance = np.linalg.norm(s.positions[j] - s.positions[i] + shift @ s.cell, axis=1)
    radii = COVALENT_RADII[s.atomic_numbers]
    assert (distance >= 0.85 * (radii[i] + radii[j]) - 1e-9).all()


def test_random_structures_cover_what_they_promise():
    left = kit.random_structure(1, 4, pbc=(True, True, False), left_handed=True, skew=3.0)
    assert np.linalg.det(left.cell) < 0
    faces = kit.random_structure(2, 6, pbc=(True,) * 3, on_faces=True)
    fractions = np.linalg.solve(faces.cell.T, faces.positions.T).T
    assert np.isclose(np.abs(fractions - np.round(fractions)), 0, atol=1e-12).any()
    lonely = kit.random_structure(3, 2, spread=10.0)
    assert len(neighbor_pairs(lonely, 3.0)[0]) == 0
    assert kit.random_structure(7, 5).key == kit.random_structure(7, 5).key


@settings(max_examples=20, deadline=None, derandomize=True)
@given(kit.rotations())
def test_rotations_are_orthogonal(turn):
    assert turn @ turn.T == pytest.approx(np.eye(3), abs=1e-12)


def test_a_supercell_has_the_density_of_its_cell():
    cell = kit.rock_salt()
    large = kit.supercell(cell, (2, 1, 3))
    assert len(large) == 6 * len(cell)
    assert np.linalg.det(large.cell) == pytest.approx(6 * np.linalg.det(cell.cell))
