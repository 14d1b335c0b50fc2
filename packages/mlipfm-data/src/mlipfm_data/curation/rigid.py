"""Rigid motions between sets of points: the best one (Kabsch), and all that a triple of points admits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Of `tolerance`: how far one atom may be off when the mean is small enough.
OUTLIER = 4.0


@dataclass(frozen=True)
class Match:
    """Two structures that are the same within the tolerance.

    Attributes:
        rms: Å, root mean square of the differences of the coordinates after the best rigid motion. largest: Å, of one atom.
        mirror: only the mirror image fits.
    """

    rms: float
    largest: float
    mirror: bool = False


class Undecided(Exception):
    """Too many motions would have to be tried."""


def kabsch(a: Floats, b: Floats, sign: float = 1.0) -> tuple[Floats, Floats]:
    """Rotation [..., 3, 3] and residuals [..., n, 3] of the best x -> (x - mean a) @ R + mean b with determinant `sign`; Acta Cryst. A32 (1976) 922.

    Args:
        a: [..., n, 3]. b: [..., n, 3], the partners of a.
    """
    x, y = a - a.mean(axis=-2, keepdims=True), b - b.mean(axis=-2, keepdims=True)
    u, _, v = np.linalg.svd(np.swapaxes(x, -1, -2) @ y)
    flip = np.ones(u.shape[:-1])
    flip[..., 2] = np.where(np.linalg.det(u @ v) * sign < 0, -1.0, 1.0)
    rotation = (u * flip[..., None, :]) @ v
    return rotation, y - x @ rotation


def judged(residuals: Floats, tolerance: float, mirror: bool) -> Match | None:
    """A Match if the residuals [n, 3] are small enough: rms of the coordinates within `tolerance`, no atom beyond `OUTLIER` times it."""
    squares = np.einsum("na,na->n", residuals, residuals)
    rms, largest = float(np.sqrt(squares.mean() / 3)), float(np.sqrt(squares.max()))
    return Match(rms, largest, mirror) if rms <= tolerance and largest <= OUTLIER * tolerance else None


def frames(first: Floats, second: Floats) -> Floats:
    """[..., 3, 3] right-handed orthonormal rows: along `first`, in the plane of both, normal to it."""
    x = first / np.linalg.norm(first, axis=-1, keepdims=True)
    z = np.cross(first, second)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=-2)


def rotations(first: Floats, second: Floats, firsts: Floats, seconds: Floats, sign: float) -> Floats:
    """[T, 3, 3]: x @ R takes the frame of (first, second) to that of each (firsts[t], seconds[t]); with `sign` -1 through the mirror of its plane."""
    return frames(first, second).T @ (frames(firsts, seconds) * np.array([1.0, 1.0, sign])[:, None])
