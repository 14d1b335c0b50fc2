"""Calibration of predicted standard deviations, and intervals with guaranteed coverage (split conformal prediction).

`errors` are prediction minus reference, `sigma` their predicted standard deviations, in one unit. Needs numpy only.
"""

from __future__ import annotations

from math import ceil, isqrt, log, pi, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import MissingLabelsError, ShapeError

Floats = NDArray[np.float64]

_NORMAL = NormalDist()
_cdf = np.vectorize(_NORMAL.cdf, otypes=[np.float64])

#: Errors drawn for each sigma in `_ideal_spearman`.
DRAWS = 20


def smallest_calibration_set(level: float) -> int:
    """Cases without which no finite interval of this coverage can be guaranteed: the smallest n with ceil((n+1) level) <= n."""
    _check_level(level)
    return max(1, ceil(round(level / (1 - level), 9)))


def conformal_quantile(scores: ArrayLike, level: float) -> float:
    """Return the ceil((n+1) level)-th smallest of n scores |error|/sigma, one of each exchangeable case.

    A new case then has a score up to this with a probability of at least `level`, and at most level + 1/(n+1) if no scores tie
    (split conformal prediction, arXiv:1604.04173, theorem 2). Atoms of one structure are not exchangeable with those of another: give one score
    for each structure, for instance the largest of its atoms.

    Raises:
        MissingLabelsError: too few scores for this level. ShapeError: scores that are not finite, or a level not between 0 and 1.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not np.isfinite(ordered).all():
        raise ShapeError("scores of calibration must be finite")
    needed = smallest_calibration_set(level)
    if len(ordered) < needed:
        raise MissingLabelsError(
            f"{len(ordered)} structures cannot guarantee a coverage of {level:.0%}", hint=f"calibrate with {needed} or more, better 1,000"
        )
    return float(ordered[ceil(round((len(ordered) + 1) * level, 9)) - 1])


def nll_optimal_scale(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Return the factor on sigma with the lowest negative log likelihood of these errors, sqrt(mean (error/sigma)^2)."""
    return sqrt(z_variance(errors, sigma))


def signed_miscalibration(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Integral over p of p - observed coverage of the central p-interval: positive over-confident, negative under-confident, which the
    miscalibration area cannot tell. Normal errors give +0.2048 for sigma halved and -0.2048 for sigma doubled."""
    return float(np.mean(2 * _cdf(np.abs(_z(errors, sigma))) - 1)) - 0.5


def sharpness(sigma: ArrayLike) -> float:
    """Root mean square of sigma."""
    return float(np.sqrt(np.mean(np.square(np.asarray(sigma, dtype=np.float64)))))


def dispersion(sigma: ArrayLike) -> float:
    """Coefficient of variation of sigma: 0 says the same of everything."""
    scale = np.asarray(sigma, dtype=np.float64)
    return float(scale.std() / scale.mean())


def crps(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Mean continuous ranked probability score of normal predictions, in the unit of sigma; lower is better
    (Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), equation 21)."""
    _, scale = _calibration_arrays(errors, sigma)
    z = _z(errors, sigma)
    density = np.exp(-(z**2) / 2) / sqrt(2 * pi)
    return float(np.mean(scale * (z * (2 * _cdf(z) - 1) + 2 * density - 1 / sqrt(pi))))


def _ideal_spearman(sigma: ArrayLike, seed: int = 0) -> float:
    """Rank correlation of sigma and |error| if errors were normal with exactly these sigma: what `spearman` can at best be expected to be."""
    scale = np.tile(np.asarray(sigma, dtype=np.float64).ravel(), DRAWS)
    return spearman(scale, np.abs(np.random.default_rng(seed).normal(size=len(scale)) * scale))


def auroc(errors: ArrayLike, sigma: ArrayLike, threshold: float) -> float:
    """Probability that a case with |error| > threshold has a larger sigma than one without; 1/2 is a guess. NaN without both kinds."""
    error, scale = _calibration_arrays(errors, sigma)
    bad = np.abs(error) > threshold
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if not n_bad or not n_good:
        return float("nan")
    ordered = np.sort(scale[~bad])
    below = np.searchsorted(ordered, scale[bad], side="left") + np.searchsorted(ordered, scale[bad], side="right")
    return float(below.sum() / 2 / n_bad / n_good)


def retention_curve(errors: ArrayLike, sigma: ArrayLike) -> Floats:
    """[n]: mean |error| of the 1, 2, ..., n cases of smallest sigma, in the unit of the errors."""
    error, scale = _calibration_arrays(errors, sigma)
    kept = np.abs(error)[np.argsort(scale, kind="stable")]
    return np.asarray(np.cumsum(kept) / np.arange(1, len(kept) + 1), dtype=np.float64)


def retention_gain(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Area between the retention curve and a random order, over that of the perfect order, by |error|: 1 perfect, 0 random."""
    flat = float(np.mean(np.abs(np.asarray(errors, dtype=np.float64))))
    oracle = flat - float(retention_curve(errors, np.abs(np.asarray(errors, dtype=np.float64)) + 1e-300).mean())
    return (flat - float(retention_curve(errors, sigma).mean())) / oracle if oracle > 0 else float("nan")


def nll_penalty(scale: float) -> float:
    """Return what the NLL of normal errors gains when sigma is multiplied by `scale`: ln s + (1/s^2 - 1)/2, nats."""
    return log(scale) + (1 / scale**2 - 1) / 2


def calibration_figures(errors: ArrayLike, sigma: ArrayLike) -> dict[str, float]:
    """All figures by name. `auroc` is for errors above their 90th percentile; bins of `ence` grow with the root of the number of cases, up to 20."""
    error, scale = _calibration_arrays(errors, sigma)
    return {
        "nll": nll(error, scale),
        "miscalibration_area": miscalibration_area(error, scale),
        "signed_miscalibration": signed_miscalibration(error, scale),
        "z_variance": z_variance(error, scale),
        "normal_coverage_90": coverage(error, scale, 0.9),
        "ence": ence(error, scale, min(20, max(1, isqrt(len(error)) // 2))),
        "sharpness": sharpness(scale),
        "dispersion": dispersion(scale),
        "spearman": spearman(scale, np.abs(error)),
        "spearman_ideal": _ideal_spearman(scale),
        "crps": crps(error, scale),
        "auroc": auroc(error, scale, float(np.quantile(np.abs(error), 0.9))),
        "retention_gain": retention_gain(error, scale),
    }


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ShapeError(f"a coverage must be between 0 and 1, got {level}")


def coverage(errors: ArrayLike, sigma: ArrayLike, level: float = 0.9) -> float:
    """Fraction of errors inside the central normal interval of probability `level`; ideal: `level`."""
    return float(np.mean(np.abs(_z(errors, sigma)) <= _NORMAL.inv_cdf(0.5 + level / 2)))


def miscalibration_area(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Integral over p of |observed coverage of the central p-interval - p|, exact for the sample; 0 is ideal.

    It cannot tell over- from under-confidence (normal errors give 0.2048 for sigma scaled by 2 and by 1/2): see `z_variance`.
    """
    levels = np.sort(2 * _cdf(np.abs(_z(errors, sigma))) - 1)
    edges = np.arange(len(levels) + 1) / len(levels)
    before, after = levels - edges[:-1], levels - edges[1:]
    return float((before * np.abs(before) - after * np.abs(after)).sum() / 2)


def z_variance(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Mean of (error/sigma)^2: above 1 over-confident, below 1 under-confident."""
    return float(np.mean(_z(errors, sigma) ** 2))


def ence(errors: ArrayLike, sigma: ArrayLike, bins: int = 10) -> float:
    """Expected normalised calibration error: mean over equal-count bins sorted by sigma of |RMV - RMSE| / RMV."""
    error, scale = _calibration_arrays(errors, sigma)
    parts = np.array_split(np.argsort(scale, kind="stable"), bins)
    rmv = np.array([np.sqrt(np.mean(scale[part] ** 2)) for part in parts if len(part)])
    rms = np.array([np.sqrt(np.mean(error[part] ** 2)) for part in parts if len(part)])
    return float(np.mean(np.abs(rmv - rms) / rmv))


def nll(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Mean negative log likelihood under normal errors, in nats (sigma and errors in the same unit)."""
    _, scale = _calibration_arrays(errors, sigma)
    return float(np.mean(np.log(2 * np.pi * scale**2) + _z(errors, sigma) ** 2) / 2)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation with average ranks for ties; NaN if one of them is constant."""
    a, b = (_ranks(np.asarray(x, dtype=np.float64)) for x in (first, second))
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm > 0 else float("nan")


def _ranks(x: Floats) -> Floats:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def _z(errors: ArrayLike, sigma: ArrayLike) -> Floats:
    error, scale = _calibration_arrays(errors, sigma)
    return error / scale


def _calibration_arrays(errors: ArrayLike, sigma: ArrayLike) -> tuple[Floats, Floats]:
    error, scale = np.asarray(errors, dtype=np.float64).ravel(), np.asarray(sigma, dtype=np.float64).ravel()
    if error.shape != scale.shape:
        raise ShapeError(f"`sigma` must have as many entries as `errors`, got {len(scale)} for {len(error)}")
    if not (np.isfinite(error).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise ShapeError("`errors` must be finite and `sigma` finite and positive", hint="count failed predictions first, see `measure`")
    return error, scale
