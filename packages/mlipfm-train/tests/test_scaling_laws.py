"""Fits of scaling laws on surfaces whose law is known: the reference parameters of arXiv:2203.15556 with one per cent of noise."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import DamagedFileError
from mlipfm_train.scaling.bootstrap import fit_with_intervals, gamma_differences
from mlipfm_train.scaling.laws import Law, ScalingError, allocation, at_edge, fit_law, fit_log_sum_exp, isoflop
from mlipfm_train.scaling.points import Point, check_distinct, line_of, read_points, table

AXES = ("parameters", "atoms")
#: arXiv:2203.15556, approach 3.
REFERENCE = Law(AXES, 1.69, (406.4, 410.7), (0.34, 0.28))


def surface(noise=0.01, seeds=2, seed=0, sizes=(6, 9.5), data=(7.5, 11.5), n=8, law=REFERENCE):
    """Runs [n * n * seeds, 2] on a grid of sizes and data, powers of ten, and their losses with relative noise."""
    rng = np.random.default_rng(seed)
    x = np.array([(p, d) for p in np.logspace(*sizes, n) for d in np.logspace(*data, n) for _ in range(seeds)])
    return x, law(x) * np.exp(noise * rng.normal(size=len(x)))


def test_variable_projection_recovers_an_exact_law_to_nine_digits():
    found = fit_law(*surface(noise=0.0, seeds=1), AXES)
    assert np.allclose(found.exponents, REFERENCE.exponents, rtol=1e-9, atol=0)
    assert np.allclose([found.floor, *found.coefficients], [1.69, 406.4, 410.7], rtol=1e-7, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_exponents_of_the_reference_surface_come_back_within_0_02_of_both_fits(seed):
    x, loss = surface(seed=seed)
    for fit in (fit_law, fit_log_sum_exp):
        assert np.abs(np.subtract(fit(x, loss, AXES).exponents, REFERENCE.exponents)).max() < 0.02


@pytest.mark.parametrize(("axes", "exponent"), [(("parameters",), 0.34), (("atoms",), 0.28), (("flops",), 0.15)])
def test_a_law_of_one_axis_comes_back(axes, exponent):
    law = Law(axes, 20.0, (900.0,), (exponent,))
    x = np.logspace(3, 9, 12)[:, None]
    found = fit_law(x, law(x), axes)
    assert found.exponents[0] == pytest.approx(exponent, rel=1e-6)
    assert found.floor == pytest.approx(20.0, rel=1e-5)


def test_the_optimum_of_the_reference_law_is_where_calculus_puts_it():
    # N^* minimises A N^-alpha + B (C / kappa / N)^-beta: a golden-section search agrees with the closed form G (C / kappa)^a
    from scipy.optimize import minimize_scalar

    best = allocation(REFERENCE)
    assert (best.a, best.b, best.factor) == pytest.approx((0.4516, 0.5484, 1.3447), abs=5e-5)
    spent = 1e21 / 6
    found = minimize_scalar(lambda log_n: float(REFERENCE(np.array([[np.exp(log_n), spent / np.exp(log_n)]]))[0]), bracket=(15.0, 25.0))
    assert np.exp(found.x) == pytest.approx(best.factor * spent**best.a, rel=1e-4)
    at = [float(REFERENCE(np.array([[best.factor * c**best.a, c**best.b / best.factor]]))[0]) - 1.69 for c in (1e20, 1e22)]
    assert np.log(at[0] / at[1]) / np.log(100) == pytest.approx(best.gamma, rel=1e-9)


def test_parabolas_through_equal_compute_are_biased_where_variable_projection_is_exact():
    flops = np.repeat(np.logspace(18, 22, 5), 9)
    parameters = np.tile(np.logspace(7.5, 10.5, 9), 5)
    x = np.column_stack([parameters, flops / 6 / parameters])
    exact = allocation(REFERENCE).a
    assert allocation(fit_law(x, REFERENCE(x), AXES)).a == pytest.approx(exact, abs=1e-6)
    assert abs(isoflop(parameters, flops, REFERENCE(x)) - exact) > 0.01


@pytest.mark.ci
def test_intervals_hold_the_truth_and_the_largest_run_that_was_left_out():
    x, loss = surface(seed=1, n=7)
    held_out = (x == x.max(axis=0)).all(axis=1)
    fit = fit_with_intervals(x[~held_out], loss[~held_out], AXES, resamples=60)
    for (low, high), truth in zip(fit.exponents(), REFERENCE.exponents, strict=True):
        assert low < truth < high
        assert high - low < 0.05
    low, high = fit.allocations()["a"]
    assert low < 0.4516 < high
    predicted, (low, high) = fit.predict(x[held_out][0])
    assert low < loss[held_out].mean() < high
    assert predicted == pytest.approx(loss[held_out].mean(), rel=0.02)


@pytest.mark.ci
def test_the_sign_of_a_difference_of_gamma_is_that_of_the_laws_and_open_where_they_are_equal():
    flat = Law(AXES, 1.69, (406.4, 410.7), (0.24, 0.2))
    laws = {"equivariant": REFERENCE, "unconstrained": flat, "again": REFERENCE}
    fits = {
        name: fit_with_intervals(*surface(seed=k, n=6, law=law), AXES, resamples=40, seed=k) for k, (name, law) in enumerate(laws.items())
    }
    pairs = [("equivariant", "unconstrained"), ("unconstrained", "equivariant"), ("equivariant", "again")]
    more, less, equal = gamma_differences(fits, pairs)
    assert (more.sign, less.sign, equal.sign) == ("+", "-", "undetermined")
    assert more.value == -less.value == pytest.approx(allocation(REFERENCE).gamma - allocation(flat).gamma, abs=0.02)
    assert 0 < more.interval[0] < more.value < more.interval[1]
    assert equal.interval[0] < 0 < equal.interval[1]


@pytest.mark.parametrize(("sizes", "data", "axis"), [((6, 7), (7.5, 11.5), "parameters"), ((6, 9), (8, 9.5), "atoms")])
def test_too_few_decades_are_refused_and_the_axis_is_named(sizes, data, axis):
    with pytest.raises(ScalingError, match=f"axis '{axis}' has 8 values over .* decades"):
        fit_with_intervals(*surface(sizes=sizes, data=data), AXES, resamples=5)


def test_a_given_floor_needs_half_the_decades():
    x, loss = surface(sizes=(6, 7), data=(8, 9.5))
    law = fit_with_intervals(x, loss, AXES, floor=1.69, resamples=5).law
    assert np.abs(np.subtract(law.exponents, REFERENCE.exponents)).max() < 0.02


def test_fewer_runs_than_numbers_are_refused():
    with pytest.raises(ScalingError, match="4 runs of different size or data cannot determine 5 numbers: .*parameters. has 2 over 3.50"):
        fit_with_intervals(*surface(n=2), AXES, resamples=5)


def point(run="a", seed=0, parameters=1000, **more):
    return Point(run, "painn", seed, parameters, 5000, 1e9, losses={"force MAE (meV/A)": 30.0}, **more)


def test_equal_points_are_refused_by_name_and_seeds_are_not_equal_points():
    check_distinct([point("a"), point("b", seed=1), point("c", parameters=2000)])
    with pytest.raises(ScalingError, match="'b' and 'a' are the same point"):
        check_distinct([point("a"), point("b")])


def test_points_come_back_from_their_lines_and_a_line_cut_off_is_left_out(tmp_path):
    file = tmp_path / "points.jsonl"
    points = [point("a"), Point("b", "painn", 1, 1000, 5000, 1e9, failed="training has diverged")]
    text = "".join(f"{line_of(p)}\n" for p in points)
    file.write_text(text + line_of(point("c"))[:40])
    assert read_points(file) == points
    file.write_text("{}\n" + text)
    with pytest.raises(DamagedFileError, match=r"points.jsonl, line 1"):
        read_points(file)


def test_a_loss_that_no_point_has_is_refused_with_those_that_are_known():
    x, loss = table([point("a"), Point("b", "painn", 1, 1000, 5000, 1e9, failed="diverged")], "force MAE (meV/A)", AXES)
    assert x.tolist() == [[1000.0, 5000.0]]
    assert loss.tolist() == [30.0]
    with pytest.raises(ScalingError, match="known: force MAE"):
        table([point()], "energy MAE", AXES)


def test_an_exponent_at_the_end_of_the_search_is_not_determined() -> None:
    """A loss that does not fall with the second axis: its exponent ends where the search does."""
    x = np.array([[n, d] for n in (1e3, 1e4, 1e5, 1e6) for d in (1e3, 1e4, 1e5, 1e6)])
    law = fit_law(x, 3.0 * x[:, 0] ** -0.3, ("parameters", "atoms"), floor=0.0)
    assert not at_edge(law.exponents[0])
    assert law.exponents[0] == pytest.approx(0.3, abs=1e-4)
    assert at_edge(0.005)
    assert at_edge(4.0)
