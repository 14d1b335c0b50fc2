"""Objectives of rows and products of the Hessian against harmonic closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_distill.hessian_objectives import HessianProducts, HessianRows
from mlipfm_interfaces import derivatives
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure


def spring_matrix(n: int, seed: int) -> np.ndarray:
    half = np.random.default_rng(seed).normal(size=(3 * n, 3 * n))
    return half @ half.T


def with_rows(n: int, seed: int, rows: list[tuple[int, int]], factor: float = 1.0) -> Structure:
    hessian = factor * spring_matrix(n, seed).reshape(n, 3, n, 3)
    positions = np.random.default_rng(seed + 9).normal(size=(n, 3)) * 3
    labels = {"hessian_rows": np.stack([hessian[a, x] for a, x in rows]), "hessian_rows_index": np.array(rows, dtype=float)}
    return Structure([6] * n, positions, labels=labels)


def with_products(n: int, seed: int, probes: np.ndarray, factor: float = 1.0) -> Structure:
    products = factor * (probes.reshape(len(probes), -1) @ spring_matrix(n, seed)).reshape(probes.shape)
    return Structure([6] * n, np.random.default_rng(seed + 9).normal(size=(n, 3)) * 3, labels={"hvp": products, "hvp_probe": probes})


def predicted(structures: list[Structure], seeds: list[int]):
    """Rows and products of E = x K x / 2 of every system, by autograd from its forces."""
    batch = collate(structures, [], torch.float64).with_leaves()
    energies, start = [], 0
    for s, seed in zip(structures, seeds, strict=True):
        x = batch.positions[start : start + len(s)].reshape(-1)
        energies.append(x @ torch.from_numpy(spring_matrix(len(s), seed)) @ x / 2)
        start += len(s)
    forces = derivatives.forces(torch.stack(energies), batch, create_graph=True)
    found = {}
    if "hessian_rows" in batch.labels:
        found["hessian_rows"] = derivatives.hessian_rows(forces, batch.positions, batch.labels["hessian_rows_index"])
    if "hvp" in batch.labels:
        found["hvp"] = derivatives.hvp(forces, batch.positions, batch.labels["hvp_probe"])
    return Prediction(found, "conservative"), batch


def test_row_of_a_harmonic_teacher_is_the_row_of_its_matrix_and_the_loss_is_zero():
    structures = [with_rows(3, 0, [(0, 1), (2, 2)]), with_rows(4, 1, [(3, 0)])]
    total, count = HessianRows().terms(*predicted(structures, [0, 1]))["hessian_rows"]
    assert float(total) == pytest.approx(0.0, abs=1e-9)
    assert float(count) == 7


def test_mean_over_all_rows_of_the_sampled_loss_is_the_full_loss():
    n = 3
    every_row = [(a, x) for a in range(n) for x in range(3)]
    teacher = with_rows(n, 0, every_row, factor=1.3)
    full = float(HessianRows(rows=9).terms(*predicted([teacher], [0]))["hessian_rows"][0])
    singles = [float(HessianRows().terms(*predicted([with_rows(n, 0, [row], 1.3)], [0]))["hessian_rows"][0]) for row in every_row]
    assert np.mean(singles) == pytest.approx(full, rel=1e-9)
    hessian = spring_matrix(n, 0).reshape(n, 3, n, 3)
    assert full == pytest.approx(0.3 * np.linalg.norm(hessian, axis=-1).sum(axis=-1).mean(), rel=1e-9)


def test_a_view_takes_the_asked_number_of_rows_with_their_index():
    teacher = with_rows(3, 0, [(a, x) for a in range(3) for x in range(3)])
    (view,) = HessianRows(rows=2).views(teacher, np.random.default_rng(0))
    assert view.labels["hessian_rows"].shape == (2, 3, 3)
    hessian = spring_matrix(3, 0).reshape(3, 3, 3, 3)
    for row, (a, x) in zip(view.labels["hessian_rows"], view.labels["hessian_rows_index"].astype(int), strict=True):
        assert np.array_equal(row, hessian[a, x])


def test_outlier_rows_of_the_teacher_hardly_count():
    wild = with_rows(3, 0, [(0, 0)], factor=1e6)
    total, _ = HessianRows().terms(*predicted([wild], [0]))["hessian_rows"]
    full, _ = HessianRows(outlier=1e12).terms(*predicted([wild], [0]))["hessian_rows"]
    assert float(total) == pytest.approx(1e-8 * float(full), rel=1e-9)


def test_structures_without_rows_do_not_count():
    structures = [with_rows(3, 0, [(0, 0)], factor=2.0), Structure([6, 6], [[0, 0, 0], [0, 0, 3.0]])]
    batch_prediction = predicted(structures, [0, 5])
    assert float(HessianRows().terms(*batch_prediction)["hessian_rows"][1]) == 3


def random_probes(number: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], (number, n, 3))


def test_products_of_a_harmonic_teacher_are_those_of_its_matrix_and_the_loss_is_zero():
    structures = [with_products(3, 0, random_probes(2, 3)), with_products(4, 1, random_probes(1, 4))]
    total, count = HessianProducts().terms(*predicted(structures, [0, 1]))["hvp"]
    assert float(total) == pytest.approx(0.0, abs=1e-9)
    assert float(count) == 7


def test_the_square_of_products_with_random_signs_is_that_of_all_rows_on_average():
    """E|D v|^2 = |D|^2 for v of +1 and -1 (Hutchinson), which is why one product says something of every row."""
    n, probes = 3, np.stack(np.meshgrid(*[[-1.0, 1.0]] * 9, indexing="ij"), axis=-1).reshape(-1, 3, 3)  # all 512
    teacher = with_products(n, 0, probes, factor=1.3)
    prediction, batch = predicted([teacher], [0])
    error = prediction["hvp"].detach().numpy() - batch.labels["hvp"].numpy()
    assert np.mean(np.sum(error**2, axis=(1, 2))) == pytest.approx(0.09 * np.sum(spring_matrix(n, 0) ** 2), rel=1e-9)
    total, _ = HessianProducts(weight=2.0, products=512).terms(prediction, batch)["hvp"]
    assert float(total) == pytest.approx(2.0 * np.linalg.norm(error, axis=2).sum(axis=1).mean(), rel=1e-9)


def test_a_view_takes_products_with_their_vectors_and_outliers_hardly_count():
    teacher = with_products(3, 0, random_probes(5, 3))
    (view,) = HessianProducts(products=2).views(teacher, np.random.default_rng(0))
    assert view.labels["hvp"].shape == (2, 3, 3)
    flat = view.labels["hvp_probe"].reshape(2, -1) @ spring_matrix(3, 0)
    assert np.allclose(view.labels["hvp"].reshape(2, -1), flat, atol=1e-12)
    wild = with_products(3, 0, random_probes(1, 3), factor=1e6)
    total, _ = HessianProducts().terms(*predicted([wild], [0]))["hvp"]
    full, _ = HessianProducts(outlier=1e12).terms(*predicted([wild], [0]))["hvp"]
    assert float(total) == pytest.approx(1e-8 * float(full), rel=1e-9)


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"products": 0}, {"outlier": 0.0}])
def test_weights_and_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(RecipeError, match="cannot be"):
        HessianProducts(**wrong)
