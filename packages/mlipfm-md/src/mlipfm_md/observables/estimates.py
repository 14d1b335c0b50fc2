"""Averages of a trajectory with error bars: frames are correlated, so errors come from blocks of time that are longer than their correlation.

Blocks are at least two correlation times long (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461, 1989). The error of any statistic, linear or not,
is that of the delete-one-block jackknife (Efron and Stein, Ann. Stat. 9, 586, 1981), and its 95 % interval that of Student's t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import ObservableError
from mlipfm_interfaces.resampling import FEWEST_BLOCKS, autocorrelation_time, student_t_quantile

__all__ = ["Blocks", "Estimate", "block_average", "block_estimate", "over_runs", "time_blocks_of"]

Array = np.ndarray

#: More blocks say little more: with 20, Student's t is 2.09 instead of 1.96, and blocks of a long trajectory are almost independent.
MOST_BLOCKS = 20


@dataclass(frozen=True)
class Blocks:
    """How a trajectory is cut.

    Attributes:
        edges: [blocks + 1] first frame of each block, and the end. correlation_time: integrated, in frames (1/2 for white noise).
    """

    edges: Array
    correlation_time: float

    def __len__(self) -> int:
        return len(self.edges) - 1

    def means(self, series: Array) -> Array:
        """Mean [blocks, ...] of `series` [frames, ...] in each block."""
        return np.add.reduceat(series, self.edges[:-1], axis=0) / self.sizes.reshape(-1, *[1] * (np.ndim(series) - 1))

    @property
    def sizes(self) -> Array:
        """[blocks] frames of each."""
        return np.diff(self.edges)

    @property
    def widening(self) -> float:
        """Factor on errors for the correlation of neighbouring blocks that is left: 1 for long blocks, 1.15 for blocks of two correlation times.

        The variance of the mean of a block of L frames is smaller than 2 tau / L times that of a frame by the factor 1 - tau / L for an exponential
        correlation; the variance of the mean of the whole trajectory is not.
        """
        return float(1 / np.sqrt(1 - min(0.5, self.correlation_time / self.sizes.mean())))


@dataclass(frozen=True)
class Estimate:
    """One measured number.

    Attributes:
        name, unit: what it is. value: over all frames.
        error: standard error; None where the trajectory is too short to tell (fewer than five blocks), see `note`.
        ci95: 95 % interval, None without an error. n: frames, or runs.
        correlation_time: integrated autocorrelation time, fs; None if it was not measured.
        blocks: number of blocks (or runs) that the error comes from. note: what the user should know about it.
    """

    name: str
    unit: str
    value: float
    error: float | None
    ci95: tuple[float, float] | None
    n: int
    correlation_time: float | None = None
    blocks: int = 0
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        spread = "" if self.error is None else f" ± {self.error:.2g}"
        return f"{self.name} {self.value:.5g}{spread} {self.unit}"


def time_blocks_of(series: Array) -> Blocks | None:
    """Cut the frames of `series` [frames] or [frames, k] into at most 20 blocks of at least two correlation times, of the slowest of the k.

    Returns:
        None for fewer than five such blocks: the trajectory is too short for an error.
    """
    columns = np.asarray(series, dtype=np.float64).reshape(len(series), -1).T
    frames = len(series)
    if frames < 2 * FEWEST_BLOCKS:
        return None
    tau = max(autocorrelation_time(column) for column in columns)
    count = min(MOST_BLOCKS, int(frames // max(2, np.ceil(4 * tau))))
    if count < FEWEST_BLOCKS:
        return None
    return Blocks(np.arange(count + 1) * frames // count, tau)


def block_average(name: str, unit: str, series: Array, interval: float = 1.0, note: str = "") -> Estimate:
    """Return the mean of `series` [frames] with its error.

    Args:
        interval: fs between frames, for the correlation time.
    """
    values = np.asarray(series, dtype=np.float64)
    if len(values) > 1 and np.ptp(values) <= 1e-12 * np.abs(values).max():
        value = float(values[0])
        return Estimate(name, unit, value, 0.0, (value, value), len(values), note="; ".join(part for part in (note, "constant") if part))
    return block_estimate(name, unit, lambda keep: float(values[keep].mean()), values, interval, note)


def block_estimate(
    name: str, unit: str, statistic: Callable[[Array], float], series: Array, interval: float = 1.0, note: str = ""
) -> Estimate:
    """Return a statistic of frames with the error of the delete-one-block jackknife.

    Args:
        statistic: number of the frames whose indices are given.
        series: [frames] or [frames, k] whose correlation sets the blocks.
        interval: fs between frames.

    Raises:
        ObservableError: no frames, or values that are not finite.
    """
    values = np.asarray(series, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ObservableError(f"{name} needs frames with finite values, got {len(values)} frames", hint="look at the energies of the run")
    frames = np.arange(len(values))
    value, blocks = statistic(frames), time_blocks_of(values)
    if blocks is None:
        short = f"no error: {len(values)} frames are fewer than {FEWEST_BLOCKS} blocks of two correlation times"
        return Estimate(name, unit, value, None, None, len(values), note="; ".join(part for part in (note, short) if part))
    left_out = [statistic(np.delete(frames, np.arange(a, b))) for a, b in zip(blocks.edges[:-1], blocks.edges[1:], strict=True)]
    error = jackknife_error(np.array(left_out)) * blocks.widening
    half = student_t_quantile(0.975, len(blocks) - 1) * error
    time = blocks.correlation_time * interval
    return Estimate(name, unit, value, float(error), (value - half, value + half), len(values), time, len(blocks), note)


def jackknife_error(left_out: Array) -> Any:
    """Standard error from the statistic [blocks, ...] without each block in turn."""
    k = len(left_out)
    return np.sqrt((k - 1) / k * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))


def over_runs(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of one quantity over independent runs (seeds), with the error of their spread.

    Raises:
        ObservableError: fewer than two runs, or different quantities.
    """
    if len(estimates) < 2 or len({(e.name, e.unit) for e in estimates}) > 1:
        raise ObservableError("an error over runs needs one quantity of two or more runs", hint="run the same system with another --seed")
    values = np.array([e.value for e in estimates])
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    half = student_t_quantile(0.975, len(values) - 1) * error
    mean, first = float(values.mean()), estimates[0]
    return Estimate(first.name, first.unit, mean, error, (mean - half, mean + half), len(values), None, len(values), "error over runs")
