"""The rotation that superimposes two sets of vectors best (Kabsch, Acta Cryst. A32, 922 (1976))."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def best_rotation(a: Floats, b: Floats, sign: float = 1.0) -> Floats:
    """Return the matrices R [..., 3, 3] of determinant `sign` with the least sum of |a @ R - b|^2; a and b are [..., n, 3], partners in order.

    Positions are to be taken from their centre first; forces are not.
    """
    u, _, v = np.linalg.svd(np.swapaxes(a, -1, -2) @ b)
    flip = np.ones(u.shape[:-1])
    flip[..., 2] = np.where(np.linalg.det(u @ v) * sign < 0, -1.0, 1.0)
    return np.asarray((u * flip[..., None, :]) @ v, dtype=np.float64)
