"""Batches: displacements against explicit images, leaves, labels with masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.errors import CapacityExceeded, InvalidStructureError, OverlapError, PropertyNotAvailableError
from mlipfm_interfaces.structure import Structure

PAIRS, DENSE = GraphSpec(3.0), GraphSpec(3.0, "dense")
CELL = np.array([[3.0, 0, 0], [1.0, 4.0, 0], [-1.0, 1.0, -3.5]])


def random_structure(seed, n=5, pbc=(True, False, True), **changes):
    rng = np.random.default_rng(seed)
    while True:
        positions = rng.uniform(-1, 2, (n, 3)) @ CELL
        distances = np.linalg.norm(positions[None] - positions[:, None], axis=-1) + 9 * np.eye(n)
        if distances.min() > 0.6:
            return Structure(rng.integers(1, 20, n), positions, CELL, pbc, **changes)


def all_vectors(s, cutoff):
    """Sorted rows (i, j, x, y, z) of every image within the cutoff."""
    rows = []
    for steps in itertools.product(*(range(-6, 7) if p else (0,) for p in s.pbc)):
        r = s.positions[None] - s.positions[:, None] + np.array(steps) @ s.cell
        near = np.linalg.norm(r, axis=-1) < cutoff
        if not any(steps):
            np.fill_diagonal(near, False)
        rows += [(i, j, *rounded(r[i, j])) for i, j in np.argwhere(near).tolist()]
    return sorted(rows)


def rounded(vectors):
    return (np.round(np.asarray(vectors), 7) + 0.0).tolist()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.booleans()] * 3))
def test_displacements_equal_the_vectors_of_all_images_in_both_layouts(seed, pbc):
    structures = [random_structure(seed, pbc=pbc), random_structure(seed + 1, n=2, pbc=pbc)]
    try:
        batch = collate(structures, [PAIRS, DENSE], torch.float64)
    except InvalidStructureError:
        return
    wanted = all_vectors(structures[0], 3.0) + [(i + 5, j + 5, *r) for i, j, *r in all_vectors(structures[1], 3.0)]
    view = batch.views[PAIRS]
    assert sorted(zip(view.i.tolist(), view.j.tolist(), *np.reshape(rounded(batch.displacements(PAIRS)), (-1, 3)).T, strict=True)) == wanted
    mask = batch.views[DENSE].mask
    np.testing.assert_array_equal(batch.displacements(DENSE)[mask], batch.displacements(PAIRS))


def test_the_vector_of_the_reverse_slot_is_the_negative():
    batch = collate([random_structure(0), random_structure(1)], [DENSE], torch.float64)
    view, vectors = batch.views[DENSE], batch.displacements(DENSE)
    reverse = vectors.reshape(-1, 3)[view.reverse]
    np.testing.assert_array_equal(reverse[view.mask], -vectors[view.mask])


@pytest.mark.parametrize("spec", [GraphSpec(3.0, "pairs", 700), GraphSpec(3.0, "dense", 50)])
def test_padding_lies_beyond_the_cutoff_and_has_no_gradient(spec):
    batch = collate([random_structure(0), random_structure(1, pbc=False)], [spec], torch.float64).with_leaves(strain=True)
    vectors, mask = batch.displacements(spec), batch.views[spec].mask
    assert (vectors[~mask] == torch.tensor([6.0, 0, 0])).all()
    vectors[~mask].sum().backward()
    assert not batch.positions.grad.any()
    assert not batch.strain.grad.any()


def test_capacity_too_small_says_what_is_needed():
    with pytest.raises(CapacityExceeded, match="capacity of 3") as info:
        collate([random_structure(0)], [GraphSpec(3.0, "pairs", 3)])
    assert collate([random_structure(0)], [GraphSpec(3.0, "pairs", info.value.needed)]).n_systems == 1


def test_vectors_are_computed_in_double_and_cast_once():
    far = random_structure(0).replace(positions=random_structure(0).positions + 1e6)
    near, moved = (collate([s], [PAIRS], torch.float32).displacements(PAIRS) for s in (random_structure(0), far))
    assert near.dtype == torch.float32
    np.testing.assert_allclose(near, moved, rtol=0, atol=1e-6)


def test_strain_deforms_vectors_like_a_deformed_crystal():
    s = random_structure(3, pbc=True)
    epsilon = 0.01 * np.array([[1.0, 0.4, 0.0], [-0.2, -1.0, 0.3], [0.5, 0.1, 0.7]])
    symmetric = (epsilon + epsilon.T) / 2
    batch = collate([s], [PAIRS], torch.float64).with_leaves(strain=True)
    with torch.no_grad():
        batch.strain.copy_(torch.tensor(epsilon)[None])
    wanted = all_vectors(s, 3.0)
    deformed = np.array([r[2:] for r in wanted]) @ (np.eye(3) + symmetric)
    view = batch.views[PAIRS]
    found = zip(view.i.tolist(), view.j.tolist(), rounded(batch.displacements(PAIRS).detach()), strict=True)
    pairs = ((i, j, r) for (i, j, *_), r in zip(wanted, rounded(deformed), strict=True))
    np.testing.assert_allclose([[i, j, *r] for i, j, r in sorted(found)], [[i, j, *r] for i, j, r in sorted(pairs)], atol=2e-6)


def test_each_system_is_deformed_by_its_own_strain():
    batch = collate([random_structure(3, pbc=True), random_structure(4, pbc=True)], [DENSE], torch.float64).with_leaves(strain=True)
    batch.displacements(DENSE)[batch.system == 1].square().sum().backward()
    assert not batch.strain.grad[0].any()
    assert batch.strain.grad[1].any()


def test_systems_stand_end_to_end_with_their_state():
    a = random_structure(0, level="pbe", external_field=[0, 0, 0.1])
    b = random_structure(1, n=2, total_charge=0, spin_multiplicity=None)
    batch = collate([a, b], [])
    assert batch.system.tolist() == [0] * 5 + [1] * 2
    assert batch.n_atoms.tolist() == [5, 2]
    assert (batch.n_systems, batch.levels, batch.keys) == (2, ("pbe", None), (a.key, b.key))
    assert (batch.total_charge.tolist(), batch.charge_stated.tolist(), batch.spin_multiplicity.tolist()) == ([0, 0], [False, True], [0, 0])
    assert batch.external_field.tolist() == [[0, 0, 0.1], [0, 0, 0]]
    np.testing.assert_array_equal(batch.positions, np.concatenate([a.positions, b.positions]))


def test_missing_labels_are_zero_and_masked():
    forces = np.ones((2, 3))
    a, b = random_structure(0, labels={"energy": -3.0}), random_structure(1, n=2, labels={"forces": forces, "stress": np.eye(3)})
    batch = collate([a, b], [])
    assert batch.labels["energy"].tolist() == [-3.0, 0.0]
    assert batch.labels["forces"].tolist() == [[0.0] * 3] * 5 + [[1.0] * 3] * 2
    assert {key: mask.tolist() for key, mask in batch.label_mask.items()} == {
        "energy": [True, False],
        "forces": [False, True],
        "stress": [False, True],
    }


def test_hessian_rows_of_different_numbers_share_blocks():
    a = random_structure(0, labels={"hessian_rows": np.full((2, 5, 3), 2.0), "hessian_rows_index": [[4, 2], [0, 1]]})
    b = random_structure(1, n=2, labels={"hessian_rows": np.full((1, 2, 3), 3.0), "hessian_rows_index": [[1, 0]]})
    batch = collate([a, random_structure(2), b], [])
    assert batch.labels["hessian_rows"].shape == (2, 12, 3)
    assert batch.label_mask["hessian_rows"].tolist() == [[True, False, True], [True, False, False]]
    index = batch.labels["hessian_rows_index"]
    assert index[0, [0, 2]].tolist() == [[4, 2], [11, 0]]
    assert index[1, 0].tolist() == [0, 1]
    assert batch.labels["hessian_rows"][:, :, 0].tolist() == [[2.0] * 5 + [0.0] * 5 + [3.0] * 2, [2.0] * 5 + [0.0] * 7]
    assert (batch.system[index[..., 0]] == torch.arange(3)).all()


def test_probes_travel_with_their_products():
    probe = np.random.default_rng(0).normal(size=(1, 2, 3))
    batch = collate([random_structure(0), random_structure(1, n=2, labels={"hvp": 2 * probe, "hvp_probe": probe})], [])
    assert not batch.labels["hvp_probe"][:, :5].any()
    np.testing.assert_array_equal(batch.labels["hvp"][:, 5:], 2 * batch.labels["hvp_probe"][:, 5:])


def test_sums_per_system_are_made_in_double():
    batch = collate([random_structure(0), random_structure(1, n=2)], [])
    values = torch.full((7,), 1e8, dtype=torch.float32) + torch.tensor([8.0] * 7)
    assert batch.sum_per_system(values).tolist() == [5 * 100000008.0, 2 * 100000008.0]
    assert batch.sum_per_system(torch.ones(7, 3)).tolist() == [[5.0] * 3, [2.0] * 3]


def test_volume_of_a_left_handed_cell_is_positive_and_a_slab_has_none():
    periodic, slab = random_structure(0, pbc=True), random_structure(0)
    assert collate([periodic], []).volume.tolist() == pytest.approx([42.0])
    with pytest.raises(PropertyNotAvailableError, match="system 1: volume and stress need three periodic directions"):
        _ = collate([periodic, slab], []).volume


def test_reciprocal_vectors_come_where_they_are_asked():
    spec = GraphSpec(3.0, kspace=2.0)
    batch = collate([random_structure(0, pbc=True), random_structure(1)], [PAIRS, spec])
    assert list(batch.kspace) == [spec]
    assert set(batch.kspace[spec].system.tolist()) == {0}


def test_empty_lists_and_overlaps_are_refused():
    with pytest.raises(InvalidStructureError, match="at least one structure"):
        collate([], [])
    with pytest.raises(OverlapError, match="structure 1, atoms 0 and 1"):
        collate([random_structure(0), Structure([1, 1], np.zeros((2, 3)))], [PAIRS])
