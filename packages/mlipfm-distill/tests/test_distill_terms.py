"""Terms of the objective `distill` by hand: weights of different quantities are not alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_distill.distill_objective import Distill
from mlipfm_distill.hessian_objectives import HessianRows
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure


def row_of(structure: Structure, rows: int) -> Structure:
    index = np.array([[k % len(structure), k % 3] for k in range(rows)], dtype=float)
    labels = {**structure.labels, "hessian_rows": np.zeros((rows, len(structure), 3)), "hessian_rows_index": index}
    return structure.replace(labels=labels)


def batch_of_two():
    """Two atoms with two rows, one atom with one."""
    pair = Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels={"energy": 0.0, "forces": np.zeros((2, 3))})
    one = Structure([1], [[0, 0, 0]], level="x", labels={"energy": 0.0, "forces": np.zeros((1, 3))})
    return collate([row_of(pair, 2), row_of(one, 1)], [])


def test_energies_forces_and_rows_have_their_own_weights():
    """Energies per atom 3 and 5; force errors 5, 0 and 2; rows: lengths 3 and 4 on atom 0 in two rows, 6 on atom 2 in one."""
    rows = torch.zeros(2, 3, 3, dtype=torch.float64)
    rows[0, 0, 0], rows[1, 0, 1], rows[0, 2, 2] = 3.0, -4.0, 6.0
    forces = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    predicted = {"energy": torch.tensor([6.0, -5.0], dtype=torch.float64), "forces": forces, "hessian_rows": rows}
    terms = Distill(2.0, 3.0, 5.0).terms(Prediction(predicted, "conservative"), batch_of_two())
    found = {key: (float(value), float(count)) for key, (value, count) in terms.items()}
    assert found["energy"] == (pytest.approx(2.0 * (3 + 5)), 2.0)
    assert found["forces"] == (pytest.approx(3.0 * (5 + 2)), 3.0)
    assert found["hessian_rows"] == (pytest.approx(5.0 * ((3 + 4) / 2 + 6)), 3.0)


def test_rows_and_products_of_one_structure_have_terms_of_their_own():
    (s,) = [row_of(Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels={"energy": 0.0, "forces": np.zeros((2, 3))}), 1)]
    s = s.replace(labels={**s.labels, "hvp": np.zeros((1, 2, 3)), "hvp_probe": np.ones((1, 2, 3))})
    objective = Distill(2.0, 3.0, 5.0, products_weight=7.0)
    assert objective.outputs == ("energy", "forces", "hessian_rows", "hvp")
    errors = torch.zeros(1, 2, 3, dtype=torch.float64)
    errors[0, 1] = torch.tensor([3.0, 0.0, 4.0])
    predicted = {"energy": torch.zeros(1), "forces": torch.zeros(2, 3), "hessian_rows": 2 * errors, "hvp": errors}
    terms = objective.terms(Prediction(predicted, "conservative"), collate(objective.views(s, np.random.default_rng(0)), []))
    found = {key: (float(value), float(count)) for key, (value, count) in terms.items()}
    assert found["hessian_rows"] == (pytest.approx(5.0 * 10), 2.0)
    assert found["hvp"] == (pytest.approx(7.0 * 5), 2.0)


def test_drawn_rows_are_the_stored_ones_with_their_index_and_differ_from_epoch_to_epoch():
    s = Structure([8, 1, 1], np.eye(3), level="x")
    index = np.array([[k // 3, k % 3] for k in range(9)], dtype=float)
    s = s.replace(labels={"hessian_rows": np.arange(9.0)[:, None, None] * np.ones((9, 3, 3)), "hessian_rows_index": index})
    seen = set()
    for epoch in range(30):
        (view,) = HessianRows(rows=2).views(s, np.random.default_rng(epoch))
        values, where = view.labels["hessian_rows"][:, 0, 0], view.labels["hessian_rows_index"]
        assert len(set(values)) == 2
        assert (3 * where[:, 0] + where[:, 1] == values).all()
        seen |= set(values)
    assert seen == set(range(9))
