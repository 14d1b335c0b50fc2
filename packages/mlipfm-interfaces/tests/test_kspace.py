"""Reciprocal vectors: counts known from the volume, and a plain search for skewed cells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from mlipfm_interfaces.errors import InvalidStructureError
from mlipfm_interfaces.kspace import half_space, kspace_view
from mlipfm_interfaces.structure import Structure


def brute_force(cell, resolution):
    """All triples of a box that certainly holds the sphere: |n| <= |k| / (smallest singular value of 2 pi inv(cell).T)."""
    inverse = np.linalg.inv(cell).T
    top = int(np.ceil(1 / resolution / np.linalg.svd(inverse, compute_uv=False)[-1])) + 1
    triples = np.stack(np.meshgrid(*[np.arange(-top, top + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    inside = triples[np.linalg.norm(triples @ inverse, axis=1) <= 1 / resolution]
    return {n for n in map(tuple, inside.tolist()) if n > (0, 0, 0)}


SKEWED = np.array([[3.0, 0, 0], [8.0, 2.0, 0], [-7.0, 9.0, -2.5]])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.3, 2.0]))
@example(0, 0.9)
def test_half_space_equals_a_plain_search_for_skewed_cells(seed, resolution):
    cell = SKEWED + np.random.default_rng(seed).normal(size=(3, 3)) * 0.3
    found = list(map(tuple, half_space(cell, resolution).tolist()))
    assert found == sorted(brute_force(cell, resolution))


def test_vectors_exactly_on_the_sphere_are_included():
    assert set(map(tuple, half_space(6.0 * np.eye(3), 2.0).tolist())) >= {(3, 0, 0), (0, 3, 0), (0, 0, 3), (2, 2, 1), (1, -2, 2)}


@pytest.mark.parametrize("cell", [25.0 * np.eye(3), 25.0 * np.array([[0, 0.8, 0.8], [0.8, 0, 0.8], [0.8, 0.8, 0]]), 8.0 * SKEWED])
def test_number_of_vectors_is_the_volume_of_half_a_sphere(cell):
    k_max = 2 * np.pi / 2.0
    assert len(half_space(cell, 2.0)) == pytest.approx(abs(np.linalg.det(cell)) * k_max**3 / (12 * np.pi**2), rel=0.05)


def test_no_vector_has_its_opposite_in_the_list():
    triples = set(map(tuple, half_space(SKEWED, 1.0).tolist()))
    assert (0, 0, 0) not in triples
    assert not triples & {tuple(-x for x in n) for n in triples}


def test_a_supercell_contains_the_vectors_of_its_cell():
    one, two = (set(map(tuple, half_space(c, 1.5).tolist())) for c in (SKEWED, 2 * SKEWED))
    assert {tuple(2 * x for x in n) for n in one} == {n for n in two if all(x % 2 == 0 for x in n)}


def test_only_systems_periodic_in_three_directions_have_vectors():
    cells = [(np.zeros((3, 3)), False), (5.0 * np.eye(3), True), (5.0 * np.eye(3), (True, True, False)), (SKEWED, True)]
    view = kspace_view([Structure([18], [[0, 0, 0]], c, pbc) for c, pbc in cells], 2.0)
    assert sorted(set(view.system.tolist())) == [1, 3]
    assert view.index[view.system == 3].tolist() == half_space(SKEWED, 2.0).tolist()
    assert view.to("cpu").index.equal(view.index)
    assert kspace_view([Structure([18], [[0, 0, 0]])], 2.0).index.shape == (0, 3)


def test_madelung_constant_of_rock_salt_by_ewald_sums():
    """-1.747564594633 (per ion pair and nearest distance), from the vectors of the view and a real-space sum; k-space carries half of it."""
    sites = np.array(list(itertools.product([0, 1], repeat=3)), dtype=float)
    charges = np.where(sites.sum(axis=1) % 2 == 0, 1.0, -1.0)
    cell, eta = 2.0 * np.eye(3), 1.2
    k = 2 * np.pi * half_space(cell, 0.35) @ np.linalg.inv(cell).T
    structure_factor = np.exp(1j * k @ sites.T) @ charges
    k2 = (k**2).sum(axis=1)
    energy = 2 * 2 * np.pi / 8.0 * (np.exp(-k2 / (4 * eta**2)) / k2 * np.abs(structure_factor) ** 2).sum() - eta / np.sqrt(np.pi) * 8
    from scipy.special import erfc

    for image in itertools.product(range(-3, 4), repeat=3):
        r = np.linalg.norm(sites[None] - sites[:, None] + np.array(image) @ cell, axis=-1)
        near = r > 0
        energy += 0.5 * (np.outer(charges, charges)[near] * erfc(eta * r[near]) / r[near]).sum()
    assert energy / 4 == pytest.approx(-1.747564594633, abs=1e-6)


def test_impossible_requests_are_refused():
    with pytest.raises(InvalidStructureError, match="resolution must be positive"):
        kspace_view([Structure([18], [[0, 0, 0]], 5.0 * np.eye(3), True)], 0.0)
    with pytest.raises(InvalidStructureError, match=r"1\.0e\+09 Angstrom\^3.*shrink the empty part"):
        kspace_view([Structure([18], [[0, 0, 0]], 1000.0 * np.eye(3), True)], 1.0)
