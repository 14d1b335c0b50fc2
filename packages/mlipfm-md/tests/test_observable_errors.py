"""Error bars of correlated series: an AR(1) process has a known mean and a known correlation time."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import ObservableError
from mlipfm_md.observables import Estimate, block_average, block_estimate, over_runs


def autoregressive(frames: int, phi: float, runs: int, seed: int = 0) -> np.ndarray:
    """[runs, frames] of x_t = phi x_(t-1) + noise in its stationary state: mean 0, variance 1, correlation time 1/2 + phi / (1 - phi)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((frames, runs))
    for t in range(1, frames):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * x[t]
    return x.T


def covered(estimates: list[Estimate], truth: float) -> float:
    hits = [e.ci95[0] <= truth <= e.ci95[1] for e in estimates if e.ci95 is not None]
    return float(np.mean(hits))


@pytest.mark.parametrize("phi", [0.0, 0.95])
def test_intervals_of_a_mean_cover_it_in_95_percent_of_correlated_series(phi):
    """300 series: the standard error of the coverage is 1.3 %."""
    estimates = [block_average("x", "1", series) for series in autoregressive(1000, phi, 300)]
    assert covered(estimates, 0.0) == pytest.approx(0.95, abs=0.035)


def test_errors_of_independent_frames_would_cover_a_third():
    """The wrong version, s / sqrt(n), is told from the right one by the same test."""
    hits = [abs(x.mean()) <= 1.96 * x.std(ddof=1) / np.sqrt(len(x)) for x in autoregressive(2000, 0.95, 300)]
    assert np.mean(hits) < 0.5


def test_intervals_of_a_variance_cover_it():
    estimates = [
        block_estimate("v", "1", lambda keep, x=x: float(x[keep].var()), np.stack([x, x**2], axis=1))
        for x in autoregressive(1000, 0.8, 300, 1)
    ]
    assert covered(estimates, 1.0) == pytest.approx(0.95, abs=0.04)


def test_correlation_time_is_that_of_the_process():
    times = [block_average("x", "1", series, interval=2.0).correlation_time for series in autoregressive(20000, 0.9, 10)]
    assert np.mean(times) == pytest.approx(2.0 * (0.5 + 0.9 / 0.1), rel=0.05)


def test_a_short_trajectory_has_no_error_and_says_so():
    estimate = block_average("x", "1", autoregressive(60, 0.95, 1)[0])
    assert estimate.error is None
    assert "no error" in estimate.note


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ObservableError, match="finite"):
        block_average("x", "1", np.array([1.0, np.nan]))


def test_error_over_runs_covers_the_mean():
    runs = autoregressive(50, 0.99, 4 * 300).reshape(300, 4, 50)
    estimates = [over_runs([Estimate("x", "1", float(run.mean()), None, None, 50) for run in four]) for four in runs]
    assert covered(estimates, 0.0) == pytest.approx(0.95, abs=0.035)
