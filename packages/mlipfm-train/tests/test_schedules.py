"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math

import pytest
from mlipfm_train.recipe import make_recipe
from mlipfm_train.schedules import learning_rate


def rates(**schedule):
    recipe = make_recipe({"potential": {"name": "painn"}, "steps": 100, "optimizer": {"lr": 2.0}, "schedule": schedule})
    return [learning_rate(recipe, k) for k in range(100)]


def test_cosine_falls_from_the_peak_to_its_final_share():
    lr = rates(name="cosine", warmup=10, final=0.1)
    assert lr[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert lr[10] == 2.0
    assert lr[55] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half-way
    assert lr[99] == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * 89 / 90)) / 2))


def test_wsd_is_flat_and_then_linear():
    lr = rates(name="wsd", warmup=5, decay=0.2)
    assert lr[5:81] == [2.0] * 76
    assert lr[90] == pytest.approx(1.0)
    assert lr[99] == pytest.approx(0.1)


def test_constant_stays():
    assert rates(name="constant") == [2.0] * 100
