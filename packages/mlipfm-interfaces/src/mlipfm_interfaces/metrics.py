"""Errors and drift with intervals: one set of definitions for training, distillation and evaluation. Needs numpy only.

A `case` is one structure or trajectory. A case whose prediction is not finite has failed: it is counted in `n_total`, not in `n_ok`, and never
dropped silently. Intervals come from a bootstrap over *groups* (molecules, trajectories): frames of one group are not independent, and
duplicating them changes nothing. Inputs are in internal units; `unit` and `name` are only carried along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .display import html_table
from .elements import symbol
from .errors import MissingLabelsError, ShapeError
from .lazy import lazy_imports
from .resampling import RESAMPLES, Groups, Indices, autocorrelation_time, bootstrap
from .structure import Structure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One measured figure.

    Attributes:
        name, unit: what it is.
        value: over the cases that did not fail; NaN if all did.
        ci95: 95 % interval, None if there are too few groups for one.
        n_ok, n_total: cases that gave a finite prediction, and all cases.
    """

    name: str
    unit: str
    value: float
    ci95: tuple[float, float] | None
    n_ok: int
    n_total: int

    @property
    def failed(self) -> int:
        """Number of cases without a finite prediction."""
        return self.n_total - self.n_ok

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data; a value that is not finite becomes None."""
        value = self.value if np.isfinite(self.value) else None
        ci95 = list(self.ci95) if self.ci95 is not None else None
        return {"name": self.name, "unit": self.unit, "value": value, "ci95": ci95, "n_ok": self.n_ok, "n_total": self.n_total}

    def _repr_html_(self) -> str:
        interval = None if self.ci95 is None else f"{self.ci95[0]:.4g} to {self.ci95[1]:.4g}"
        return html_table(
            {self.name: f"{self.value:.4g} {self.unit}", "95 % interval": interval, "cases": f"{self.n_ok} of {self.n_total}"}
        )

    def __repr__(self) -> str:
        return f"Metric({self})"

    def __str__(self) -> str:
        interval = f" [{self.ci95[0]:.4g}, {self.ci95[1]:.4g}]" if self.ci95 is not None else ""
        failures = f", {self.failed} of {self.n_total} failed" if self.failed else ""
        return f"{self.name} {self.value:.4g}{interval} {self.unit}{failures}"


# Intervals


def group_of(structure: Structure) -> str:
    """Return what an interval resamples as a whole: the molecule or trajectory that the data name, else all structures of this formula."""
    return structure.provenance.group or structure.formula


def measure(
    name: str,
    unit: str,
    statistic: Callable[[Indices], float],
    ok: ArrayLike,
    groups: Groups | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Metric:
    """Return the Metric of any statistic of cases, with its interval over groups.

    Args:
        statistic: figure of the cases at the given indices (an index may occur several times).
        ok: [cases] bool, False where a case failed.
        groups: group of each case; None makes every case its own group.
    """
    good = np.asarray(ok, dtype=bool)
    members = np.flatnonzero(good)
    if not len(members):
        return Metric(name, unit, float("nan"), None, 0, len(good))
    names = list(groups) if groups is not None else list(range(len(good)))
    if len(names) != len(good):
        raise ShapeError(f"`groups` must have one entry per case, got {len(names)} for {len(good)}")
    interval = bootstrap(statistic, [names[k] for k in members], members, seed=seed, resamples=resamples)
    return Metric(name, unit, float(statistic(members)), interval, len(members), len(good))


# Errors


def mae(
    predicted: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    groups: Groups | None = None,
    *,
    name: str,
    unit: str,
    weights: Sequence[ArrayLike] | None = None,
    seed: int = 0,
) -> Metric:
    """Return the mean absolute error over all components of all cases.

    Args:
        weights: of each case, one number or one for each row of its arrays: the mean is weighted, and what has weight 0 may be anything.
    """
    sums, counts, ok = _sums(*_without_weightless(predicted, reference, weights), np.abs, weights)
    return measure(name, unit, lambda k: float(sums[k].sum() / counts[k].sum()), ok, groups, seed=seed)


def rmse(
    predicted: Sequence[ArrayLike], reference: Sequence[ArrayLike], groups: Groups | None = None, *, name: str, unit: str, seed: int = 0
) -> Metric:
    """Return the root of the mean square over all components of all cases: a true RMSE, not a mean of norms or of roots."""
    sums, counts, ok = _sums(predicted, reference, np.square)
    return measure(name, unit, lambda k: float(np.sqrt(sums[k].sum() / counts[k].sum())), ok, groups, seed=seed)


def mean(values: ArrayLike, groups: Groups | None = None, *, name: str, unit: str, seed: int = 0) -> Metric:
    """Return the mean of one figure per case (drifts of trajectories, success as 0 or 1); NaN is a failed case."""
    figures = np.asarray(values, dtype=np.float64)
    return measure(name, unit, lambda k: float(figures[k].mean()), np.isfinite(figures), groups, seed=seed)


def percentile(
    predicted: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    q: float,
    groups: Groups | None = None,
    *,
    name: str,
    unit: str,
    seed: int = 0,
) -> Metric:
    """Return the `q`-th percentile (0..100) of the absolute component errors; q = 100 is the largest."""
    pairs, ok = _pairs(predicted, reference)
    errors = [np.abs(a - b).ravel() for a, b in pairs]
    return measure(
        name,
        unit,
        lambda k: float(np.percentile(np.concatenate([errors[i] for i in k]), q)),
        ok,
        groups,
        seed=seed,
        resamples=RESAMPLES // 5,
    )


def force_cosine(
    predicted: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    groups: Groups | None = None,
    *,
    name: str = "force cosine",
    seed: int = 0,
) -> Metric:
    """Return the mean cosine of predicted and reference force over atoms; 1 is best.

    A reference force of zero has no direction and is not counted; a predicted force of zero counts as 0.
    """
    pairs, ok = _pairs(predicted, reference)
    sums, counts = np.zeros(len(pairs)), np.zeros(len(pairs))
    for k, (a, b) in enumerate(pairs):
        size = np.linalg.norm(b, axis=-1)
        norms = np.linalg.norm(a, axis=-1) * size
        cosine = np.divide((a * b).sum(axis=-1), norms, out=np.zeros_like(norms), where=norms > 0)
        sums[k], counts[k] = cosine[size > 0].sum(), np.count_nonzero(size)
    return measure(name, "1", lambda k: float(sums[k].sum() / max(counts[k].sum(), 1)), ok, groups, seed=seed)


def rotation_error(
    turned_back: Sequence[ArrayLike],
    upright: Sequence[ArrayLike],
    groups: Groups | None = None,
    *,
    name: str = "rotation error",
    seed: int = 0,
) -> Metric:
    """Return how far forces are from turning with the system: mean |Q^-1 f(Q R) - f(R)| / mean |f(R)| over atoms and orientations Q; 0 is best.

    Args:
        turned_back: of each structure, forces in several orientations rotated back to the first, [orientations, atoms, 3].
        upright: of each structure, forces as it stands, [atoms, 3].
    """
    wanted = [np.broadcast_to(np.asarray(b, dtype=np.float64), np.shape(a)) for a, b in zip(turned_back, upright, strict=True)]
    pairs, ok = _pairs(turned_back, wanted)
    gaps = np.array([np.linalg.norm(a - b, axis=-1).sum() for a, b in pairs])
    sizes = np.array([np.linalg.norm(b, axis=-1).sum() for _, b in pairs])
    return measure(name, "1", lambda k: float(gaps[k].sum() / max(sizes[k].sum(), 1e-300)), ok, groups, seed=seed)


def per_element(
    predicted: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    atomic_numbers: Sequence[ArrayLike],
    groups: Groups | None = None,
    *,
    unit: str,
) -> dict[str, Metric]:
    """Return the mean absolute error of an atom quantity for every element, by symbol; cases are the structures that contain it."""
    numbers = [np.asarray(z) for z in atomic_numbers]
    result = {}
    for z in sorted({int(z) for case in numbers for z in np.unique(case)}):
        rows = [k for k, case in enumerate(numbers) if (case == z).any()]
        pick_a = [np.asarray(predicted[k])[numbers[k] == z] for k in rows]
        pick_b = [np.asarray(reference[k])[numbers[k] == z] for k in rows]
        result[symbol(z)] = mae(pick_a, pick_b, None if groups is None else [groups[k] for k in rows], name=f"MAE {symbol(z)}", unit=unit)
    return result


def efwt(
    energies: tuple[ArrayLike, ArrayLike],
    forces: tuple[Sequence[ArrayLike], Sequence[ArrayLike]],
    groups: Groups | None = None,
    *,
    energy_threshold: float = 0.02,
    force_threshold: float = 0.03,
    seed: int = 0,
) -> Metric:
    """Return the energy and forces within threshold, percent of systems: |dE| < 0.02 eV and every |dF| component < 0.03 eV/Å (OC20).

    Args:
        energies: predicted and reference, [cases] eV per system. forces: predicted and reference, each a list of [atoms, 3].

    A failed case is not within the threshold: it stays in the denominator and is visible in `n_ok`.
    """
    predicted, reference = (np.asarray(e, dtype=np.float64) for e in energies)
    pairs, ok = _pairs(*forces)
    ok = ok & np.isfinite(predicted)
    largest = np.array([np.abs(a - b).max(initial=0.0) for a, b in pairs])
    hit = ok & (np.abs(predicted - reference) < energy_threshold) & (largest < force_threshold)
    figure = measure("EFwT", "%", lambda k: 100 * float(hit[k].mean()), np.ones(len(hit), dtype=bool), groups, seed=seed)
    return Metric(figure.name, figure.unit, figure.value, figure.ci95, int(ok.sum()), len(ok))


def compare(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    groups: Groups | None = None,
    *,
    error: Literal["mae", "rmse"] = "mae",
    how: Literal["ratio", "difference"] = "ratio",
    name: str,
    unit: str = "1",
    seed: int = 0,
) -> Metric:
    """Return the error of `first` over (or minus) the error of `second` on the same cases, with a paired interval.

    The same groups are drawn for both, so what is common to them cancels: an interval of the ratio below 1 says that `first` is better. A case
    counts only if both gave a finite prediction.
    """
    power = np.abs if error == "mae" else np.square
    sums_a, counts, ok_a = _sums(first, reference, power)
    sums_b, _, ok_b = _sums(second, reference, power)

    def statistic(k: Indices) -> float:
        total = counts[k].sum()
        a, b = sums_a[k].sum() / total, sums_b[k].sum() / total
        if error == "rmse":
            a, b = np.sqrt(a), np.sqrt(b)
        if how == "difference":
            return float(a - b)
        return float(a / b) if b > 0 else float("nan")

    return measure(name, unit, statistic, ok_a & ok_b, groups, seed=seed)


# Time series


def drift(
    times: ArrayLike, energies_per_atom: ArrayLike, *, name: str = "energy drift", seed: int = 0, resamples: int = RESAMPLES
) -> Metric:
    """Return the slope of the total energy per atom in meV/atom/ps: least squares, with a moving-block bootstrap of the residuals.

    Args:
        times: [frames] fs, evenly spaced. energies_per_atom: [frames] eV.

    Blocks are at least two integrated autocorrelation times long. A trajectory with a value that is not finite is one failed case (value NaN),
    never a drift of zero.
    """
    t = np.asarray(times, dtype=np.float64) / 1000.0
    y = np.asarray(energies_per_atom, dtype=np.float64) * 1000.0
    if t.shape != y.shape or t.ndim != 1 or len(t) < 3:
        raise ShapeError(f"a drift needs at least three times and as many energies, got {list(t.shape)} and {list(y.shape)}")
    if not (np.isfinite(t).all() and np.isfinite(y).all()):
        return Metric(name, "meV/atom/ps", float("nan"), None, 0, 1)
    centred = t - t.mean()
    weights = centred / (centred**2).sum()
    slope = float(weights @ (y - y[0]))
    residual = y - y.mean() - slope * centred
    block = min(max(1, int(np.ceil(4 * autocorrelation_time(residual)))), len(t) // 2)
    starts = np.random.default_rng(seed).integers(len(t) - block + 1, size=(resamples, -(-len(t) // block)))
    index = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, : len(t)]
    low, high = np.quantile(slope + residual[index] @ weights, [0.025, 0.975])
    return Metric(name, "meV/atom/ps", slope, (float(low), float(high)), 1, 1)


def _pairs(predicted: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> tuple[list[tuple[Floats, Floats]], NDArray[np.bool_]]:
    if len(predicted) != len(reference):
        raise ShapeError(f"{len(predicted)} predictions for {len(reference)} references")
    pairs = [(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)) for a, b in zip(predicted, reference, strict=True)]
    for k, (a, b) in enumerate(pairs):
        if a.shape != b.shape:
            raise ShapeError(f"prediction has shape {list(a.shape)}, reference {list(b.shape)}", where=f"case {k}")
        if not np.isfinite(b).all():
            raise MissingLabelsError("the reference is not finite", where=f"case {k}", hint="drop the case before comparing")
    return pairs, np.array([np.isfinite(a).all() for a, _ in pairs], dtype=bool)


def _without_weightless(
    predicted: Sequence[ArrayLike], reference: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None
) -> tuple[Sequence[ArrayLike], Sequence[ArrayLike]]:
    """Both with zeros where the weight is zero."""
    if weights is None:
        return predicted, reference
    both = [[np.where(_spread(w, np.shape(a)) > 0, a, 0.0) for a, w in zip(part, weights, strict=True)] for part in (predicted, reference)]
    return both[0], both[1]


def _spread(weight: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Return a number, or one for each row, as an array of `shape`."""
    array = np.asarray(weight, dtype=np.float64)
    return np.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape)


def _sums(
    predicted: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    power: Callable[[Floats], Any],
    weights: Sequence[ArrayLike] | None = None,
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of each case: the weighted sum of errors, the sum of weights (the number of components without any), and whether it is finite."""
    pairs, ok = _pairs(predicted, reference)
    sizes = [_spread(1.0 if weights is None else weights[k], a.shape) for k, (a, _) in enumerate(pairs)]
    sums = np.array([np.sum(w * power(a - b)) if good else 0.0 for (a, b), w, good in zip(pairs, sizes, ok, strict=True)])
    return sums, np.array([float(w.sum()) for w in sizes]), ok


_MOVED = {
    name: ("..calibration", f"mlipfm_interfaces.calibration.{name}")
    for name in ("coverage", "miscalibration_area", "z_variance", "ence", "nll", "spearman")
}
_MOVED |= {name: ("..resampling", f"mlipfm_interfaces.resampling.{name}") for name in ("student_t_quantile", "time_blocks")}
__getattr__, __dir__, _ = lazy_imports(__name__, _MOVED)
