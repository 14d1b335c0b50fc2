"""The Hessian-row objective against harmonic closed forms (METHODS of energy-Hessian distillation)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_distill.hessian_rows import HessianRows
from mlipfm_interfaces import derivatives
from mlipfm_interfaces.batch import collate
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


def predicted(structures: list[Structure], seeds: list[int]):
    """Rows of E = x K x / 2 of every system, by autograd from its forces."""
    batch = collate(structures, [], torch.float64).with_leaves()
    energies, start = [], 0
    for s, seed in zip(structures, seeds, strict=True):
        x = batch.positions[start : start + len(s)].reshape(-1)
        energies.append(x @ torch.from_numpy(spring_matrix(len(s), seed)) @ x / 2)
        start += len(s)
    forces = derivatives.forces(torch.stack(energies), batch, create_graph=True)
    rows = derivatives.hessian_rows(forces, batch.positions, batch.labels["hessian_rows_index"])
    return Prediction({"hessian_rows": rows}, "conservative"), batch


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
