"""Errors, intervals, drift and calibration against closed forms and published values."""

import numpy as np
import pytest
from mlipfm_interfaces import calibration, metrics, resampling
from mlipfm_interfaces.errors import MissingLabelsError, ShapeError


def cases(rng, groups=12, frames=4, spread=1.0):
    """Errors with a part that all frames of a group share, as frames of one trajectory have."""
    shared = rng.normal(0.0, spread, (groups, 1, 3))
    errors = (shared + rng.normal(0.0, 0.1, (groups, frames, 3))).reshape(-1, 3)
    return list(errors), [np.zeros(3)] * len(errors), list(np.repeat(np.arange(groups), frames))


def test_rmse_is_the_root_of_the_mean_square_of_components_and_not_a_mean_of_norms():
    figure = metrics.rmse([np.array([[3.0, 4.0, 0.0]])], [np.zeros((1, 3))], name="force RMSE", unit="eV/Angstrom")
    assert figure.value == pytest.approx(np.sqrt(25 / 3))
    assert metrics.mae([np.array([[3.0, 4.0, 0.0]])], [np.zeros((1, 3))], name="force MAE", unit="eV/Angstrom").value == pytest.approx(
        7 / 3
    )


def test_duplicating_frames_does_not_shrink_the_interval():
    rng = np.random.default_rng(0)
    predicted, reference, groups = cases(rng)
    once = metrics.mae(predicted, reference, groups, name="MAE", unit="eV")
    often = metrics.mae(predicted * 9, reference * 9, groups * 9, name="MAE", unit="eV")
    assert often.ci95 == pytest.approx(once.ci95)
    naive = metrics.mae(predicted * 9, reference * 9, name="MAE", unit="eV")
    assert naive.ci95[1] - naive.ci95[0] < 0.5 * (once.ci95[1] - once.ci95[0])


@pytest.mark.parametrize("groups", [5, 20])
def test_the_interval_over_groups_covers_the_truth_as_often_as_it_says(groups):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        sample = rng.normal(size=groups)
        low, high = resampling.bootstrap(lambda k, x=sample: float(x[k].mean()), range(groups), np.arange(groups), resamples=300)
        hits += low <= 0.0 <= high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_student_t_has_its_tabulated_quantiles(degrees, quantile):
    assert resampling.student_t_quantile(0.975, degrees) == pytest.approx(quantile, abs=2e-3)


def test_a_failed_case_is_counted_and_not_averaged():
    figure = metrics.mae([np.ones(3), np.full(3, np.nan), np.ones(3)], [np.zeros(3)] * 3, name="MAE", unit="eV")
    assert (figure.value, figure.n_ok, figure.n_total, figure.failed) == (1.0, 2, 3, 1)
    assert "1 of 3 failed" in str(figure)
    nothing = metrics.mae([np.full(3, np.inf)], [np.zeros(3)], name="MAE", unit="eV")
    assert np.isnan(nothing.value)
    assert nothing.as_dict() == {"name": "MAE", "unit": "eV", "value": None, "ci95": None, "n_ok": 0, "n_total": 1}


def test_a_reference_that_is_not_finite_is_refused():
    with pytest.raises(MissingLabelsError, match="case 1: the reference is not finite"):
        metrics.mae([np.ones(1)] * 2, [np.ones(1), np.array([np.nan])], name="MAE", unit="eV")


def test_efwt_counts_systems_whose_energy_and_every_force_component_are_within_threshold():
    reference = [np.zeros((2, 3))] * 5
    forces = [np.full((2, 3), 0.01), np.full((2, 3), 0.01), np.array([[0.04, 0, 0], [0, 0, 0]]), np.zeros((2, 3)), np.full((2, 3), np.nan)]
    figure = metrics.efwt((np.array([0.01, 0.03, 0.0, 0.019, 0.0]), np.zeros(5)), (forces, reference))
    assert (figure.value, figure.n_ok, figure.n_total) == (40.0, 4, 5)


def test_force_cosine_of_rotated_scaled_and_missing_forces():
    reference = [np.array([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 0], [0, 0, 1.0]])]
    predicted = [np.array([[5.0, 0, 0], [2.0, 0, 0], [1.0, 0, 0], [0, 0, 0]])]
    assert metrics.force_cosine(predicted, reference).value == pytest.approx(1 / 3)


def test_errors_per_element_add_up_to_the_error_of_all_atoms():
    rng = np.random.default_rng(2)
    numbers = [np.array([8, 1, 1]), np.array([6, 1, 1, 1, 1])]
    errors = [rng.normal(size=(3, 3)), rng.normal(size=(5, 3))]
    zeros = [np.zeros((3, 3)), np.zeros((5, 3))]
    parts = metrics.per_element(errors, zeros, numbers, unit="eV/Angstrom")
    assert list(parts) == ["H", "C", "O"]
    assert (6 * parts["H"].value + parts["C"].value + parts["O"].value) / 8 == pytest.approx(
        metrics.mae(errors, zeros, name="", unit="eV/Angstrom").value
    )


def test_the_hundredth_percentile_is_the_largest_error():
    predicted, reference, groups = cases(np.random.default_rng(3))
    assert metrics.percentile(predicted, reference, 100, groups, name="max", unit="eV").value == np.abs(predicted).max()


def test_a_paired_ratio_is_sharper_than_two_intervals_and_finds_the_better_model():
    predicted, reference, groups = cases(np.random.default_rng(4))
    better = [0.8 * error for error in predicted]
    ratio = metrics.compare(better, predicted, reference, groups, error="rmse", name="ratio")
    assert ratio.value == pytest.approx(0.8)
    assert ratio.ci95 == pytest.approx((0.8, 0.8))
    difference = metrics.compare(better, predicted, reference, groups, how="difference", name="difference", unit="eV")
    assert difference.ci95[1] < 0


def test_a_drift_of_one_milli_electronvolt_per_atom_and_picosecond_is_reported_as_one():
    times = np.arange(5000.0)  # fs
    figure = metrics.drift(times, -1000.0 + 1e-3 * times / 1000.0)
    assert figure.unit == "meV/atom/ps"
    assert figure.value == pytest.approx(1.0, abs=1e-9)
    assert figure.ci95 == pytest.approx((1.0, 1.0), abs=1e-6)


def test_a_trajectory_with_nan_is_a_failure_and_not_a_drift_of_zero():
    energies = np.zeros(100)
    energies[60:] = np.nan
    figure = metrics.drift(np.arange(100.0), energies)
    assert np.isnan(figure.value)
    assert (figure.n_ok, figure.n_total, figure.ci95) == (0, 1, None)


def test_the_autocorrelation_time_of_an_autoregressive_series_is_its_closed_form():
    rng = np.random.default_rng(5)
    series = np.zeros(200_000)
    noise = rng.normal(size=len(series))
    for k in range(1, len(series)):
        series[k] = 0.9 * series[k - 1] + noise[k]
    assert resampling.autocorrelation_time(series) == pytest.approx(0.5 * 1.9 / 0.1, rel=0.1)
    assert resampling.autocorrelation_time(noise) == pytest.approx(0.5, abs=0.05)


def test_the_interval_of_a_drift_covers_zero_for_correlated_noise():
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(200):
        noise = rng.normal(size=1000)
        for k in range(1, 1000):
            noise[k] += 0.9 * noise[k - 1]
        low, high = metrics.drift(np.arange(1000.0), 1e-3 * noise, resamples=200).ci95
        hits += low <= 0.0 <= high
    assert hits / 200 >= 0.85


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_miscalibration_area_of_doubled_and_halved_sigma_is_the_published_one(scale):
    errors = np.random.default_rng(7).normal(size=200_000)
    sigma = np.full_like(errors, scale)
    assert calibration.miscalibration_area(errors, sigma) == pytest.approx(0.2048, abs=1.5e-3)
    assert calibration.z_variance(errors, sigma) == pytest.approx(1 / scale**2, rel=0.01)
    penalty = calibration.nll(errors, sigma) - calibration.nll(errors, np.ones_like(errors))
    assert penalty == pytest.approx(np.log(scale) + (1 / scale**2 - 1) / 2, abs=0.02)


def test_perfect_uncertainties_are_calibrated():
    rng = np.random.default_rng(8)
    sigma = rng.uniform(0.5, 2.0, 100_000)
    errors = sigma * rng.normal(size=len(sigma))
    assert calibration.miscalibration_area(errors, sigma) < 3e-3
    assert calibration.ence(errors, sigma) < 0.02
    assert calibration.ence(errors, 2 * sigma) == pytest.approx(0.5, abs=0.02)
    assert calibration.coverage(errors, sigma, 0.9) == pytest.approx(0.9, abs=0.005)


def test_the_miscalibration_area_of_one_case_is_its_integral():
    assert calibration.miscalibration_area([0.0], [1.0]) == pytest.approx(0.5)  # covered at every level: the integral of 1 - p


def test_sigma_must_be_positive():
    with pytest.raises(ShapeError, match="`sigma` finite and positive"):
        calibration.nll([0.1], [0.0])


def test_spearman_of_monotone_reversed_tied_and_constant_series():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert calibration.spearman(x, x**3) == pytest.approx(1.0)
    assert calibration.spearman(x, -np.exp(x)) == pytest.approx(-1.0)
    assert calibration.spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)  # with average ranks
    assert np.isnan(calibration.spearman(x, np.ones(4)))
