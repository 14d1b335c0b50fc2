"""The work of forces around small closed loops: zero for the gradient of an energy, and otherwise a bound that no conservative potential can pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mlipfm_interfaces import metrics
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.structure import Structure

__all__ = ["force_floor", "loop_work"]

Array = np.ndarray
#: Å, side of a square for an atom on average, and forces that are asked along each side.
SIDE, SEGMENTS = 0.05, 4


def loop_work(forces: Callable[[Sequence[Structure]], Sequence[Array]], start: Structure, first: Array, second: Array) -> float:
    """Return the work W in eV of forces along a square of `SIDE` Å from `start` along `first`, `second` and back.

    Each side is cut into `SEGMENTS` parts, with the force in the middle of each.

    Args:
        forces: structures -> [N, 3] eV/Å of each. first, second: [N, 3], orthogonal to each other, of length sqrt(N).
    """
    corners = [np.zeros_like(first), first, first + second, second]
    middles = (np.arange(SEGMENTS) + 0.5) / SEGMENTS
    sides = [(a, b - a) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    places = [start.positions + SIDE * (a + t * along) for a, along in sides for t in middles]
    found = forces([start.replace(positions=x, labels={}, label_std={}) for x in places])
    steps = [SIDE / SEGMENTS * along for _, along in sides for _ in middles]
    return float(sum((f * step).sum() for f, step in zip(found, steps, strict=True)))


def force_floor(
    forces: Callable[[Sequence[Structure]], Sequence[Array]], starts: Sequence[Structure], *, loops: int = 4, seed: int = 0
) -> Metric:
    """Return a lower bound of the force error of every conservative potential on small loops around `starts`, meV/Å.

    The work of a gradient around a loop is zero. So the error of its forces, the root of the mean square over atoms, is on average over a loop at
    least |W| / (4 SIDE N). A loop shows a small part of the curl only, about 1 / sqrt(3 N): compare systems of equal size.

    Args:
        loops: of random orientation at each start.
    """
    values = []
    for k, s in enumerate(starts):
        rng = np.random.default_rng([seed, k])
        for _ in range(loops):
            first, second = _orthogonal(rng, s.positions.shape)
            values.append(1000 * abs(loop_work(forces, s, first, second)) / (4 * SIDE * len(s)))
    groups = np.repeat(np.arange(len(starts)), loops).tolist()
    return metrics.mean(values, groups, name="lower bound of the force error", unit="meV/Å")


def _orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Two random directions of all atoms, of length sqrt(N)."""
    axes, _ = np.linalg.qr(rng.normal(size=(int(np.prod(shape)), 2)))
    return tuple(axes.T.reshape(2, *shape) * np.sqrt(shape[0]))
