"""The best rotation is the one that was applied, also where a mirror image would fit better."""

import numpy as np
import pytest
from mlipfm_interfaces.superposition import best_rotation
from mlipfm_interfaces.testing.structures import random_rotation


def test_the_rotation_that_was_applied_is_found_for_many_sets_at_once():
    rng = np.random.default_rng(0)
    vectors, rotations = rng.normal(size=(5, 7, 3)), np.stack([random_rotation(k) for k in range(5)])
    np.testing.assert_allclose(best_rotation(vectors, vectors @ rotations), rotations, atol=1e-12)


def test_a_mirror_image_is_not_fitted_by_a_reflection_unless_one_is_wanted():
    vectors = np.random.default_rng(1).normal(size=(6, 3))
    mirrored = vectors * [1.0, 1.0, -1.0]
    assert np.linalg.det(best_rotation(vectors, mirrored)) == pytest.approx(1.0)
    np.testing.assert_allclose(vectors @ best_rotation(vectors, mirrored, -1.0), mirrored, atol=1e-12)
