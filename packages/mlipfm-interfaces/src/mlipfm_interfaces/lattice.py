"""Lattice reduction: another basis of the same lattice with short, nearly orthogonal vectors."""

from __future__ import annotations

from itertools import permutations
from operator import mul

import numpy as np
from numpy.typing import NDArray


def adjugate(cell: NDArray[np.float64]) -> tuple[list[tuple[float, float, float]], float]:
    """Return the cross products b x c, c x a and a x b of three vectors, and a . (b x c): inverse and determinant without a call of LAPACK."""
    a, b, c = cell.tolist()
    normals = [(y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2) for (x1, y1, z1), (x2, y2, z2) in ((b, c), (c, a), (a, b))]
    return normals, sum(map(mul, a, normals[0]))


def reduced(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Shorten lattice vectors against each other until none gets shorter (pairwise Gauss reduction).

    Args:
        vectors: [p, 3] rows, p = 0..3, linearly independent.

    Returns:
        (basis [p, 3], transform [p, p] int64 with determinant +-1): basis = transform @ vectors spans the same lattice.
    """
    basis, transform = vectors.copy(), np.eye(len(vectors), dtype=np.int64)
    # A handful of sweeps is enough; the bound only ends a cycle of rounding errors, and any basis on the way is a right one.
    for _ in range(100):
        before = transform.copy()
        for a, b in permutations(range(len(basis)), 2):
            # Ties (half a vector too long) stay as they are: they would be moved back and forth for ever.
            ratio = float(basis[a] @ basis[b]) / float(basis[b] @ basis[b])
            if abs(ratio) > 0.5 + 1e-9:
                transform[a] -= round(ratio) * transform[b]
                basis[a] = transform[a] @ vectors
        if (transform == before).all():
            break
    return basis, transform


def in_one_piece(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move atoms by lattice vectors so that along each periodic axis they begin after the widest layer without atoms.

    Returns:
        (positions [N, 3], widths [3] Å of these layers, infinite along axes that are open).
    """
    widths = np.full(3, np.inf)
    if not len(positions) or not pbc.any():
        return positions.copy(), widths
    full, flat = cell.copy(), ~cell.any(axis=1)
    if flat.any():  # a slab may have no lattice vector along its open axis: any that is normal to the others will do
        full[flat] = np.linalg.svd(full[~flat])[2][(~flat).sum() :]
    inverse = np.linalg.inv(full)
    fractional = positions @ inverse
    for axis in np.flatnonzero(pbc):
        wrapped = fractional[:, axis] % 1.0
        ordered = np.sort(wrapped)
        gaps = np.diff(ordered, append=ordered[0] + 1.0)
        widest = int(gaps.argmax())
        widths[axis] = gaps[widest] / np.linalg.norm(inverse[:, axis])
        first = ordered[(widest + 1) % len(ordered)]
        fractional[:, axis] = first + (wrapped - first) % 1.0
    return fractional @ full, widths
