"""Work around small loops: a swirl does 2 c side² for each atom, a gradient none."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_eval import closed_loops, force_floor, loop_work
from mlipfm_eval.closed_loops import SIDE
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas

ARGON = Structure([18] * 4, [[0, 0, 0], [3.7, 0.2, 0], [0.3, 3.9, 0.4], [3.5, 3.6, 0.1]])
C = 0.7  # eV/Å²


def swirl(structures: list[Structure]) -> list[np.ndarray]:
    """F = c (-y, x, 0) on every atom, whose curl is 2 c."""
    return [C * np.stack([-s.positions[:, 1], s.positions[:, 0], 0 * s.positions[:, 2]], axis=1) for s in structures]


def test_a_swirl_does_twice_its_strength_times_the_area_for_each_atom() -> None:
    x, y = (np.tile(axis, (4, 1)).astype(float) for axis in np.eye(3)[:2])
    assert loop_work(swirl, ARGON, x, y) == pytest.approx(4 * 2 * C * SIDE**2)
    assert loop_work(swirl, ARGON, y, x) == pytest.approx(-4 * 2 * C * SIDE**2)


def test_the_bound_is_below_the_error_of_the_best_conservative_forces() -> None:
    """The nearest gradient to a swirl on a small loop is its value in the middle: the error is that of the curl times the distance from there."""
    found = force_floor(swirl, [ARGON], loops=50)
    assert 0 < found.value < 1000 * C * SIDE
    assert found.unit == "meV/Å"
    doubled = force_floor(lambda structures: [2 * f for f in swirl(structures)], [ARGON], loops=50)
    assert doubled.value == pytest.approx(2 * found.value)


def test_the_bound_is_the_work_of_an_atom_over_the_length_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (np.tile(axis, (4, 1)).astype(float) for axis in np.eye(3)[:2])
    monkeypatch.setattr(closed_loops, "_orthogonal", lambda rng, shape: (x, y))
    assert force_floor(swirl, [ARGON], loops=1).value == pytest.approx(1000 * 2 * C * SIDE**2 / (4 * SIDE))


def test_the_gradient_of_an_energy_does_no_work() -> None:
    potential = noble_gas()
    found = force_floor(lambda some: [p["forces"] for p in evaluate(potential, list(some), ("forces",))], [ARGON], loops=4)
    assert found.value < 1e-3  # the midpoint rule
