"""Conformal intervals and figures of calibration against closed forms and reference values."""

from math import ceil, log

import numpy as np
import pytest
from mlipfm_interfaces import calibration as cal
from mlipfm_interfaces.calibration import ence, miscalibration_area, nll
from mlipfm_interfaces.errors import MissingLabelsError, ShapeError

#: Quantiles of the standard normal distribution: a sample without noise.
N = 20_000


def normal_sample():
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf((k + 0.5) / N) for k in range(N)])


NORMAL = normal_sample()


@pytest.mark.parametrize(("scale", "sign"), [(0.5, 1), (2.0, -1)])
def test_sigma_off_by_two_either_way_has_the_same_area_and_opposite_signs(scale, sign):
    sigma = np.full(N, scale)
    assert miscalibration_area(NORMAL, sigma) == pytest.approx(0.2048, abs=2e-4)
    assert cal.signed_miscalibration(NORMAL, sigma) == pytest.approx(sign * 0.2048, abs=2e-4)
    assert nll(NORMAL, sigma) - nll(NORMAL, np.ones(N)) == pytest.approx(cal.nll_penalty(scale), abs=2e-3)
    assert cal.nll_penalty(scale) == pytest.approx(log(scale) + 0.5 * (1 / scale**2 - 1))
    assert ence(NORMAL[np.random.default_rng(0).permutation(N)], sigma) == pytest.approx(abs(scale - 1) / scale, abs=0.03)


def test_true_sigma_is_calibrated():
    sigma = np.random.default_rng(0).uniform(0.5, 2.0, N)
    errors = sigma * NORMAL[np.random.default_rng(1).permutation(N)]
    figures = cal.calibration_figures(errors, sigma)
    assert figures["miscalibration_area"] < 1e-3
    assert abs(figures["signed_miscalibration"]) < 1e-3
    assert figures["z_variance"] == pytest.approx(1, abs=2e-3)
    assert figures["spearman"] == pytest.approx(figures["spearman_ideal"], abs=0.02)
    assert 0.6 < figures["auroc"] < 0.95
    assert 0 < figures["retention_gain"] < 1
    assert cal.nll_optimal_scale(errors, sigma / 3) == pytest.approx(3, abs=0.01)


def test_crps_is_the_integral_over_the_squared_difference_of_distributions():
    from statistics import NormalDist

    x = np.linspace(-30, 30, 120_001)
    for error, sigma in ((0.0, 1.0), (1.3, 0.7), (-4.0, 2.0)):
        predicted = np.array([NormalDist(error, sigma).cdf(v) for v in x[::10]])
        integral = np.trapezoid((predicted - (x[::10] >= 0)) ** 2, x[::10])
        assert cal.crps([error], [sigma]) == pytest.approx(integral, abs=5e-3)
    assert cal.crps([0.0], [1.0]) == pytest.approx((2**0.5 - 1) / np.pi**0.5)


def test_auroc_and_retention_of_an_oracle_a_guess_and_the_contrary():
    errors = np.arange(1.0, 101.0)
    assert cal.auroc(errors, errors, 80) == 1
    assert cal.auroc(errors, 1 / errors, 80) == 0
    assert cal.auroc(errors, np.ones(100), 80) == 0.5
    assert np.isnan(cal.auroc(errors, errors, 1000))
    assert cal.retention_curve([3.0, -1.0, 2.0], [3.0, 1.0, 2.0]) == pytest.approx([1.0, 1.5, 2.0])
    assert cal.retention_gain(errors, errors) == pytest.approx(1)
    assert cal.retention_gain(errors, 1 / errors) == pytest.approx(-1)


def test_sharpness_and_dispersion():
    assert cal.sharpness([3.0, 4.0]) == pytest.approx(12.5**0.5)
    assert cal.dispersion([3.0, 3.0]) == 0
    assert np.isnan(cal.calibration_figures(NORMAL, np.ones(N))["spearman"])


@pytest.mark.parametrize("n", [9, 50, 199])
def test_conformal_coverage_over_2000_resamples_is_what_the_theorem_says(n):
    """One new case after n: P(covered) = ceil((n+1) 0.9) / (n+1), whatever the distribution; within 3.3 standard errors of the binomial."""
    rng, trials = np.random.default_rng(n), 2000
    draws = np.exp(rng.normal(size=(trials, n + 1)) * 1.5)  # far from normal
    hits = np.mean([row[-1] <= cal.conformal_quantile(row[:-1], 0.9) for row in draws])
    exact = ceil((n + 1) * 0.9 - 1e-9) / (n + 1)
    assert 0.9 <= exact <= 0.9 + 1 / (n + 1)
    assert abs(hits - exact) < 3.3 * (exact * (1 - exact) / trials) ** 0.5


def test_conformal_quantile_is_an_order_statistic():
    assert cal.conformal_quantile(np.arange(1, 20)[::-1], 0.9) == 18
    assert cal.conformal_quantile(np.arange(1, 10), 0.9) == 9
    assert cal.conformal_quantile([1.0, 2.0, 3.0], 0.5) == 2


def test_too_few_scores_or_no_coverage_are_refused():
    assert [cal.smallest_calibration_set(level) for level in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]
    with pytest.raises(MissingLabelsError, match="8 structures cannot guarantee a coverage of 90%.*calibrate with 9 or more"):
        cal.conformal_quantile(np.ones(8), 0.9)
    with pytest.raises(ShapeError, match="between 0 and 1"):
        cal.conformal_quantile(np.ones(8), 1.0)
    with pytest.raises(ShapeError, match="must be finite"):
        cal.conformal_quantile([1.0, np.nan], 0.5)
