"""The cost of a step on many processes: closed forms, and a number of processes that was not used to calibrate."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_train.recipe import make_recipe
from mlipfm_train.scaling.processes import BACKWARD, Calibration, Machine, calibrate, measure, predicted

#: A tenth of a second with batches of equal cost, and gradients of 8 MB.
HERE = Calibration(compute=0.1, spread=0.0, exchange=1e-9, gradients=8_000_000)


def test_a_ring_sends_each_gradient_nearly_twice():
    """2 (P - 1)/P: once the bytes for two processes, twice for very many (Patarasuk and Yuan 2009)."""
    machine = Machine(faster=1, bandwidth=1e9, latency=0)
    exchange = [line["exchange_s"] for line in predicted(HERE, machine, [1, 2, 4, 100_000])]
    assert exchange == pytest.approx([0, 0.008, 0.012, 0.016], rel=1e-4)
    assert HERE.processor_seconds(2) == pytest.approx(0.1 + 0.008)


def test_an_exchange_shorter_than_the_backward_pass_is_hidden_behind_it():
    fast, slow = (Machine(1, bandwidth, 0).step(HERE, 2) for bandwidth in (1e9, 1e8))
    assert (fast["step_s"], fast["step_without_overlap_s"]) == pytest.approx((0.1, 0.108))
    assert slow["exchange_s"] > BACKWARD * 0.1
    assert slow["step_s"] == pytest.approx(0.1 + 0.08 - BACKWARD * 0.1)
    assert slow["efficiency"] == pytest.approx(0.1 / slow["step_s"])


@pytest.mark.parametrize("processes", [8, 64, 4096])
def test_the_wait_for_the_slowest_is_that_of_the_largest_of_normal_numbers(processes):
    """sqrt(2 ln P) bounds the mean of the largest of P normal numbers and comes near to it from 64 on."""
    uneven = Calibration(0.1, 0.01, 1e-9, 8_000_000)
    wait = Machine(10, 1e12, 0).step(uneven, processes)["wait_s"]
    largest = 0.001 * np.random.default_rng(0).normal(size=(400, processes)).max(axis=1).mean()
    assert largest < wait < (1.5 if processes < 64 else 1.25) * largest


@pytest.mark.full
def test_three_processes_take_what_one_and_two_predict(tiny):
    """Within 15 %, in processor time: three share the two cores of this machine with other programs."""
    recipe = make_recipe({**tiny, "potential": {"name": "painn", "backbone": {"channels": 128, "layers": 2, "cutoff": 3.0}}})
    found = float(measure(recipe, 3, 20)["seconds"].mean())
    assert calibrate(recipe, 20).processor_seconds(3) == pytest.approx(found, rel=0.15)
