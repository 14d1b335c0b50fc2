"""When a teacher is sure enough: of its energy and of the force on every atom."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from mlipfm_distill.hessian_objectives import HessianRows
from mlipfm_distill.teacher_uncertainty import Limits, certain, limits_like
from mlipfm_interfaces.structure import Structure


def answer(energy: float, *atoms: float) -> SimpleNamespace:
    return SimpleNamespace(energy_sigma=energy, atom_sigma=np.array(atoms))


@pytest.mark.parametrize(
    ("energy", "atoms", "sure"),
    [(0.9, (0.1, 0.9), True), (1.1, (0.1, 0.9), False), (0.9, (0.1, 1.1), False), (1.0, (1.0,), True)],
)
def test_energy_and_every_force_must_be_within_the_limits(energy: float, atoms: tuple[float, ...], sure: bool) -> None:
    assert Limits(1.0, 1.0).accept(answer(energy, *atoms)) is sure  # type: ignore[arg-type]
    assert Limits(1.0, None).accept(answer(energy, *atoms)) is (energy <= 1.0)  # type: ignore[arg-type]


def test_limits_are_quantiles_of_structures_and_of_their_worst_atoms() -> None:
    answers = [answer(0.1 * k, 0.01, 0.2 * k) for k in range(11)]
    model = SimpleNamespace(quantities=("energy", "forces"), predict=lambda teacher, structures: iter(answers))
    limits = limits_like(None, model, [], 0.9)  # type: ignore[arg-type]
    assert (limits.energy, limits.forces) == (pytest.approx(0.9), pytest.approx(1.8))
    assert certain(None, model, [], limits) == [True] * 10 + [False]  # type: ignore[arg-type]


def test_a_drawn_row_keeps_its_atom_and_axis() -> None:
    index = np.array([[atom, axis] for atom in range(4) for axis in range(3)], dtype=float)
    rows = np.arange(12.0)[:, None, None] * np.ones((12, 4, 3))
    s = Structure([1] * 4, 3.0 * np.eye(4, 3), labels={"hessian_rows": rows, "hessian_rows_index": index})
    rng = np.random.default_rng(0)
    for _ in range(5):
        (view,) = HessianRows(rows=3).views(s, rng)
        drawn = view.labels["hessian_rows"][:, 0, 0]
        assert view.labels["hessian_rows_index"] == pytest.approx(index[drawn.astype(int)])
