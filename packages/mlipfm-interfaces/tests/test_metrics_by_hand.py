"""Every figure on a few numbers, worked out by hand: cases of different sizes, so that means of means are told from means."""

from __future__ import annotations

from math import log, pi, sqrt

import numpy as np
import pytest
from mlipfm_interfaces import calibration, metrics

#: One case of one component and one of three.
FIRST = [np.array([3.0]), np.array([1.0, -1.0, 2.0])]
ZERO = [np.zeros(1), np.zeros(3)]
NAMED = {"name": "x", "unit": "eV"}


def test_errors_are_over_all_components_and_not_means_of_cases():
    assert metrics.mae(FIRST, ZERO, **NAMED).value == pytest.approx((3 + 1 + 1 + 2) / 4)
    assert metrics.rmse(FIRST, ZERO, **NAMED).value == pytest.approx(sqrt((9 + 1 + 1 + 4) / 4))
    assert metrics.percentile(FIRST, ZERO, 50, **NAMED).value == pytest.approx(1.5)
    assert metrics.mean([1.0, 2.0, np.nan, 6.0], **NAMED).value == pytest.approx(3.0)


def test_intervals_draw_groups_and_not_their_frames():
    """Two groups, means 0 and 1, of very different sizes: the interval is from one to the other whichever the sizes."""
    values, groups = [0.0] * 50 + [1.0] * 2, ["a"] * 50 + ["b"] * 2
    low, high = metrics.mean(values, groups, **NAMED).ci95
    assert (low, high) == (0.0, 1.0)


def test_comparisons_are_ratios_and_differences_of_errors_on_the_same_cases():
    other = [np.array([6.0]), np.array([2.0, 2.0, 4.0])]
    assert metrics.compare(FIRST, other, ZERO, **NAMED).value == pytest.approx(0.5)
    assert metrics.compare(other, FIRST, ZERO, error="rmse", **NAMED).value == pytest.approx(2.0)
    assert metrics.compare(FIRST, other, ZERO, how="difference", **NAMED).value == pytest.approx((7 - 14) / 4)
    many = [np.full(2, 1.0 + k) for k in range(9)]
    ratio = metrics.compare(many, [3 * a for a in many], [np.zeros(2)] * 9, **NAMED)
    assert ratio.ci95 == (pytest.approx(1 / 3), pytest.approx(1 / 3))  # what is common to both cancels in every draw


def test_a_rotation_error_is_the_mean_gap_over_the_mean_force():
    """Gaps of 1 and 0 for a force of 5, and of 2 for one of 10, two orientations and one."""
    turned = [np.array([[[3.0, 4.0, 1.0]], [[3.0, 4.0, 0.0]]]), np.array([[[6.0, 8.0, 2.0]]])]
    upright = [np.array([[3.0, 4.0, 0.0]]), np.array([[6.0, 8.0, 0.0]])]
    assert metrics.rotation_error(turned, upright).value == pytest.approx((1 + 0 + 2) / (5 + 5 + 10))


def test_errors_of_an_element_are_over_its_atoms():
    predicted, numbers = [np.array([[1.0, 0, 0], [0, 4.0, 0]]), np.array([[2.0, 0, 0]])], [[1, 8], [1]]
    found = metrics.per_element(predicted, [np.zeros((2, 3)), np.zeros((1, 3))], numbers, unit="eV")
    assert {name: m.value for name, m in found.items()} == {"H": pytest.approx(3 / 6), "O": pytest.approx(4 / 3)}


def test_drift_is_a_least_squares_slope():
    """0, 2, 1 meV at 0, 10 and 20 fs: slope 0.05 meV/fs."""
    assert metrics.drift([0.0, 10.0, 20.0], [0.0, 2e-3, 1e-3], resamples=2).value == pytest.approx(50.0)


def test_figures_of_calibration_of_four_cases():
    errors, sigma = [1.0, -2.0, 3.0, 0.5], [1.0, 1.0, 2.0, 2.0]
    assert calibration.z_variance(errors, sigma) == pytest.approx((1 + 4 + 2.25 + 0.0625) / 4)
    logs = 2 * log(2 * pi) + log(2 * pi * 4) * 2
    assert calibration.nll(errors, sigma) == pytest.approx((logs + 1 + 4 + 2.25 + 0.0625) / 8)
    first, second = sqrt((1 + 4) / 2), sqrt((9 + 0.25) / 2)
    assert calibration.ence(errors, sigma, 2) == pytest.approx((abs(1 - first) / 1 + abs(2 - second) / 2) / 2)
    mixed = [1.0, 3.0]
    assert calibration.ence([0.0, 0.0], mixed, 1) == pytest.approx(1.0)
    assert calibration.ence([2.0, 2.0], mixed, 1) == pytest.approx(abs(sqrt(5) - 2) / sqrt(5))  # root of the mean variance, not mean sigma
    assert calibration.coverage(errors, sigma, 0.9) == 0.75  # |z| = 1, 2, 1.5, 0.25; the interval ends at 1.645
    assert calibration.coverage(errors, sigma, 0.5) == 0.25


def test_ranks_of_ties_are_their_mean():
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4."""
    assert calibration.spearman([1.0, 5.0, 5.0, 9.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(4.5 / sqrt(4.5 * 5))


def test_efwt_wants_the_energy_and_every_component():
    """Within both; energy off; one component off; both off."""
    energies = (np.array([0.01, 0.03, 0.01, 0.03]), np.zeros(4))
    off = np.array([[0.04, 0.0, 0.0], [0.0, 0.0, 0.0]])
    forces = ([np.full((2, 3), 0.02), np.zeros((2, 3)), off, off], [np.zeros((2, 3))] * 4)
    assert metrics.efwt(energies, forces).value == pytest.approx(25.0)
