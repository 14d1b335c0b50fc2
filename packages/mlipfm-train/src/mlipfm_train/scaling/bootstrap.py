"""Intervals of a fitted law, and the prediction of a run that has not been made: bootstrap over runs and, within a run, over its seeds.

A resample draws runs (points of equal size and data) with replacement and, for each, as many of its seeds as it has. Intervals are percentiles.
The interval of a prediction holds one further run: the law of a resample times one relative residual of the fit, drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .laws import Floats, Law, ScalingError, allocation, fit_law

#: Resamples of a fit. Percentiles of 95 % intervals rest on 2.5 % of them.
RESAMPLES = 400
#: Decades that runs must span for a free floor, by axis; half of it where the floor is given (`docs`, guide "scaling laws").
DECADES = {"parameters": 1.5, "atoms": 2.0, "flops": 2.0}


@dataclass(frozen=True)
class Fit:
    """A law with what a bootstrap says of it.

    Attributes:
        law: of all runs. laws: of the resamples. residuals: [n] relative, observed / fitted - 1.
    """

    law: Law
    laws: tuple[Law, ...]
    residuals: Floats

    def interval(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the 95 % interval of values, one for each resample."""
        low, high = np.quantile(np.asarray(values, np.float64), [0.025, 0.975])
        return float(low), float(high)

    def exponents(self) -> list[tuple[float, float]]:
        """Return the interval of each exponent."""
        return [self.interval([law.exponents[k] for law in self.laws]) for k in range(len(self.law.axes))]

    def allocations(self) -> dict[str, tuple[float, float]]:
        """Return the intervals of a, b and gamma of the compute-optimal allocation. Raises `ScalingError` as `allocation`."""
        found = [allocation(law) for law in self.laws if min(law.coefficients) > 0]
        if len(found) < len(self.laws) / 2:
            raise ScalingError("in most resamples the loss depends on one axis only: there is no best ratio")
        return {key: self.interval([getattr(a, key) for a in found]) for key in ("a", "b", "gamma")}

    def predict(self, x: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
        """Return the loss of one further run `x` [axes] and its 95 % interval."""
        rng = np.random.default_rng(seed)
        point, n = np.asarray([x], np.float64), len(self.residuals)
        free = 1 + 2 * len(self.law.axes)
        widened = self.residuals * np.sqrt(n / max(n - free, 1))
        drawn = [float(law(point)[0]) * (1 + float(rng.choice(widened))) for law in self.laws]
        return float(self.law(point)[0]), self.interval(drawn)


def fit_with_intervals(
    x: Floats, loss: Floats, axes: Sequence[str], floor: float | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Fit:
    """Fit a law and bootstrap it; see the module.

    Args:
        x: [n, axes]; equal rows are seeds of one run. loss: [n]. floor: as `fit_law`.

    Raises:
        ScalingError: runs span too few decades of an axis (named), or are fewer than the numbers that are fitted.
    """
    x, loss = np.asarray(x, np.float64), np.asarray(loss, np.float64)
    check_span(x, axes, floor)
    law = fit_law(x, loss, axes, floor)
    _, cell = np.unique(x, axis=0, return_inverse=True)
    members = [np.flatnonzero(cell.ravel() == k) for k in range(int(cell.max()) + 1)]
    rng = np.random.default_rng(seed)
    laws: list[Law] = []
    while len(laws) < resamples:
        drawn = [members[k] for k in rng.integers(len(members), size=len(members))]
        rows = np.concatenate([rng.choice(seeds, len(seeds)) for seeds in drawn])
        if all(len(set(x[rows, k])) >= 3 for k in range(len(axes))):  # a law cannot be seen in two values
            laws.append(fit_law(x[rows], loss[rows], axes, floor, start=law))
    return Fit(law, tuple(laws), loss / law(x) - 1.0)


def check_span(x: Floats, axes: Sequence[str], floor: float | None) -> None:
    """Raise `ScalingError` unless runs can determine a law: enough of them, three values and enough decades of each axis."""
    needed = 1 + 2 * len(axes) - (floor is not None)
    runs = len(np.unique(x, axis=0))
    if runs <= needed:
        spans = [
            f"{axis!r} has {len(v)} over {np.log10(v[-1] / v[0]):.2f} decades" for axis, v in zip(axes, map(np.unique, x.T), strict=True)
        ]
        raise ScalingError(
            f"{runs} runs of different size or data cannot determine {needed} numbers: of values, the axis {', the axis '.join(spans)}",
            hint="add values to the axes of the sweep",
        )
    for k, axis in enumerate(axes):
        values = np.unique(x[:, k])
        span, wanted = float(np.log10(values[-1] / values[0])), DECADES.get(axis, 1.5) / (1 if floor is None else 2)
        if len(values) < 3 or span < wanted:
            known = (
                ""
                if floor is not None or span < wanted / 2
                else "; or give the floor of the loss, such as the noise of the labels, by --floor"
            )
            raise ScalingError(
                f"the axis {axis!r} has {len(values)} values over {span:.2f} decades, a fit needs 3 or more over {wanted:g}",
                hint=f"widen this axis of the sweep{known}",
            )


@dataclass(frozen=True)
class GammaDifference:
    """gamma of `first` minus gamma of `second`: whose error falls faster with compute, both spent best (L - E ~ C^-gamma).

    Attributes:
        interval: 95 %, of the differences of resamples. sign: `+` or `-` where the interval leaves no other, else `undetermined`.
    """

    first: str
    second: str
    value: float
    interval: tuple[float, float]

    @property
    def sign(self) -> str:
        low, high = self.interval
        return "+" if low > 0 else "-" if high < 0 else "undetermined"


def gamma_differences(fits: Mapping[str, Fit], pairs: Sequence[tuple[str, str]], seed: int = 0) -> list[GammaDifference]:
    """Return the difference of each pair of names in `fits`; those without a frontier (a term of the law is zero) are left out.

    The order of a pair is given before anything is fitted: sorted by what came out, every difference would be above zero.
    """
    rng = np.random.default_rng(seed)
    found = []
    for first, second in pairs:
        laws = [[law for law in fits[name].laws if min(law.coefficients) > 0] for name in (first, second)]
        if min(map(len, laws)) < len(fits[first].laws) / 2 or min(*fits[first].law.coefficients, *fits[second].law.coefficients) <= 0:
            continue
        n = min(map(len, laws))
        one, two = ([allocation(own[k]).gamma for k in rng.permutation(len(own))[:n]] for own in laws)  # runs of two models are independent
        low, high = np.quantile(np.subtract(one, two), [0.025, 0.975])
        value = allocation(fits[first].law).gamma - allocation(fits[second].law).gamma
        found.append(GammaDifference(first, second, value, (float(low), float(high))))
    return found
