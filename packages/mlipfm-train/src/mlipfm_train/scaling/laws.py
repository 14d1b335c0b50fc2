"""Scaling laws and their least-squares fits: L = E + A N^-alpha + B D^-beta, and the forms of one axis, L = E + A X^-alpha.

N is the number of parameters, D the number of atoms seen in training, L an error on held-out structures (arXiv:2203.15556, approach 3; for
interatomic potentials arXiv:2510.09768). `fit_law` is variable projection: for given exponents the law is linear in E, A and B, which are solved for
under E, A, B >= 0, so that only the exponents are searched. `fit_log_sum_exp` is the fit of arXiv:2203.15556 as a cross-check. `isoflop` is its
approach 2, parabolas through runs of equal compute: biased where alpha and beta differ, and here only to show by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Exponents are searched between these. Published ones lie between 0.05 and 1.
SMALLEST, LARGEST = 0.005, 4.0
#: Values of each exponent that the search starts from.
STARTS = np.geomspace(0.02, 2.0, 16)
#: Of log L, where the cross-check turns from square to linear (arXiv:2203.15556).
HUBER = 1e-3
#: Runs whose FLOPs differ by less than this share have equal compute.
EQUAL = 0.05


class ScalingError(MlipfmError):
    """A sweep or its points do not allow what is asked."""

    code = "scaling"


@dataclass(frozen=True)
class Law:
    """L(x) = floor + sum_k coefficients[k] x_k^-exponents[k].

    Attributes:
        axes: names of the x_k, such as `parameters` and `atoms`.
        floor: E, in the unit of the loss. coefficients: A, B: the losses at x_k = 1. exponents: alpha, beta.
    """

    axes: tuple[str, ...]
    floor: float
    coefficients: tuple[float, ...]
    exponents: tuple[float, ...]

    def __call__(self, x: Floats) -> Floats:
        """Return the losses [n] of runs `x` [n, axes]."""
        terms = np.asarray(self.coefficients) * np.asarray(x, np.float64) ** -np.asarray(self.exponents)
        return np.asarray(self.floor + terms.sum(axis=-1))


@dataclass(frozen=True)
class Allocation:
    """How compute C = kappa N D is best spent by a law of N and D: N = G (C / kappa)^a parameters and D = (C / kappa)^b / G atoms (arXiv:2203.15556).

    Attributes:
        gamma: exponent of the loss along this frontier, L = E + F C^-gamma, alpha beta / (alpha + beta).
    """

    a: float
    b: float
    factor: float
    gamma: float


def allocation(law: Law) -> Allocation:
    """Return the compute-optimal allocation of a law of two axes (N, D).

    Raises:
        ScalingError: one of the terms is zero, so that there is no optimum.
    """
    (big_a, big_b), (alpha, beta) = law.coefficients, law.exponents
    if not big_a > 0 or not big_b > 0:
        idle = law.axes[0] if not big_a > 0 else law.axes[1]
        raise ScalingError(f"the loss does not depend on {idle}: there is no best ratio", hint="sweep this axis further")
    total = alpha + beta
    return Allocation(beta / total, alpha / total, float((alpha * big_a / (beta * big_b)) ** (1 / total)), alpha * beta / total)


def fit_law(x: Floats, loss: Floats, axes: Sequence[str], floor: float | None = None, start: Law | None = None) -> Law:
    """Return the law that fits best in relative least squares: errors are weighted by 1 / loss.

    Args:
        x: [n, axes], above 0. loss: [n], above 0. floor: E where it is known, such as the noise of the labels; None fits it.
        start: law whose exponents the search starts from, to fewer digits; None searches a grid of `STARTS` first.

    Raises:
        ScalingError: the floor is not below all losses.
    """
    if floor is not None and floor >= loss.min():
        raise ScalingError(f"the floor {floor:g} is not below the smallest loss, {loss.min():.4g}", hint="give a smaller one, or none")
    from scipy.optimize import minimize

    centre = np.exp(np.log(x).mean(axis=0))
    scaled, target = x / centre, (loss - (floor or 0.0)) / loss

    def residual(logs: Any) -> float:
        return _linear(scaled, loss, target, np.exp(np.clip(logs, np.log(SMALLEST), np.log(LARGEST))), floor)[1]

    grid = product(STARTS, repeat=x.shape[1]) if start is None else [start.exponents]
    first = min((np.log(point) for point in grid), key=residual)
    options = {"xatol": 1e-7, "fatol": 1e-14, "maxiter": 600} if start is None else {"xatol": 1e-4, "fatol": 1e-8}
    found = minimize(residual, first, method="Nelder-Mead", options=options)
    exponents = np.exp(np.clip(found.x, np.log(SMALLEST), np.log(LARGEST)))
    solved, _ = _linear(scaled, loss, target, exponents, floor)
    constant, terms = (solved[0], solved[1:]) if floor is None else (floor, solved)
    return Law(tuple(axes), float(constant), tuple((terms * centre**exponents).tolist()), tuple(exponents.tolist()))


def _linear(x: Floats, loss: Floats, target: Floats, exponents: Floats, floor: float | None) -> tuple[Floats, float]:
    """Non-negative E, A, B of given exponents (A, B only where the floor is given), and the norm of the relative residuals."""
    from scipy.optimize import nnls

    columns = x**-exponents
    design = (columns if floor is not None else np.column_stack([np.ones(len(x)), columns])) / loss[:, None]
    solved, norm = nnls(design, target)
    return solved, float(norm)


def fit_log_sum_exp(x: Floats, loss: Floats, axes: Sequence[str], best: int = 12) -> Law:
    """Return the law that minimises the Huber loss of log L - log(exp(e) + sum_k exp(a_k - alpha_k log x_k)): arXiv:2203.15556, equation 3.

    The objective is evaluated at a grid of 500 starts and more, L-BFGS goes on from the `best` of them.
    """
    from scipy.optimize import minimize

    centre = np.log(x).mean(axis=0)
    logs, target, n = np.log(x) - centre, np.log(loss), x.shape[1]
    levels = np.log(loss.mean()) + np.array([-4.0, -2.0, -1.0, 0.0])
    slopes = np.array([0.05, 0.15, 0.3, 0.6, 1.0, 1.6])
    starts = [np.array([e, *a, *s]) for e in levels for a in product(levels, repeat=n) for s in product(slopes, repeat=n)]
    starts = sorted(starts, key=lambda p: _huber(p, logs, target)[0])[:best]
    found = min(
        (minimize(_huber, p, (logs, target), jac=True, method="L-BFGS-B", options={"ftol": 1e-15}) for p in starts), key=lambda r: r.fun
    )
    e, a, slope = found.x[0], found.x[1 : 1 + n], found.x[1 + n :]
    with np.errstate(over="ignore"):  # of a term that the data do not have
        return Law(tuple(axes), float(np.exp(e)), tuple(np.exp(a + slope * centre).tolist()), tuple(slope.tolist()))


def at_edge(exponent: float) -> bool:
    """Return whether an exponent is where the search ends: the data do not determine it."""
    return not SMALLEST * 1.01 < exponent < LARGEST * 0.99


def _huber(p: Floats, logs: Floats, target: Floats) -> tuple[float, Floats]:
    """Sum of Huber losses and its gradient by (e, a_k, alpha_k)."""
    n = logs.shape[1]
    terms = np.column_stack([np.full(len(logs), p[0]), p[1 : 1 + n] - p[1 + n :] * logs])
    top = terms.max(axis=1, keepdims=True)
    shares = np.exp(terms - top)
    total = shares.sum(axis=1, keepdims=True)
    error = (top + np.log(total))[:, 0] - target
    slope = np.clip(error, -HUBER, HUBER)
    value = np.where(np.abs(error) <= HUBER, error**2 / 2, HUBER * (np.abs(error) - HUBER / 2)).sum()
    by_term = slope[:, None] * shares / total
    return float(value), np.concatenate([by_term.sum(axis=0), -(by_term[:, 1:] * logs).sum(axis=0)])


def isoflop(parameters: Floats, flops: Floats, loss: Floats) -> float:
    """Return the exponent a of N = const C^a from parabolas of log L in log N at each compute: arXiv:2203.15556, approach 2. Biased: a control.

    Raises:
        ScalingError: fewer than two computes with a minimum of three runs or more.
    """
    order, best = np.argsort(flops, kind="stable"), []
    for group in np.split(order, np.flatnonzero(np.diff(np.log(flops[order])) > EQUAL) + 1):
        log_n = np.log(parameters[group])
        if len(set(parameters[group])) < 3:
            continue
        curve = np.polyfit(log_n - log_n.mean(), np.log(loss[group]), 2)
        if curve[0] > 0:
            best.append((np.log(flops[group]).mean(), log_n.mean() - curve[1] / (2 * curve[0])))
    if len(best) < 2:
        raise ScalingError("fewer than two computes have three runs or more around a minimum", hint="sweep sizes at equal compute")
    compute, optimum = np.array(best).T
    return float(np.polyfit(compute, optimum, 1)[0])
