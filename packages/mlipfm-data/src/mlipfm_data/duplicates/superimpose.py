"""Superimposes point sets (Kabsch) and molecules: up to a rigid motion, the order of equal atoms, and noise. Complete within what it promises.

An atom can only be the image of one whose sorted distances to each element agree within twice the largest displacement. Three atoms of the first
molecule that are not in a line fix a motion; every triple of the second that fits by elements and distances is tried, so a motion that exists is
found. What is accepted was superimposed atom by atom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.superposition import best_rotation
from numpy.typing import NDArray

from .fingerprints import distance_matrix

# Rigid motions between sets of points: the best one (Kabsch), and all that a triple of points admits.

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
    """Rotation [..., 3, 3] and residuals [..., n, 3] of the best x -> (x - mean a) @ R + mean b with determinant `sign`, see `best_rotation`.

    Args:
        a: [..., n, 3]. b: [..., n, 3], the partners of a.
    """
    x, y = a - a.mean(axis=-2, keepdims=True), b - b.mean(axis=-2, keepdims=True)
    rotation = best_rotation(x, y, sign)
    return rotation, y - x @ rotation


def judged(residuals: Floats, tolerance: float, mirror: bool) -> Match | None:
    """Return a Match if the residuals [n, 3] are small enough: rms of the coordinates within `tolerance`, no atom beyond `OUTLIER` times it."""
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


#: Å, how far an atom may be from its partner before the motion is refined.
LOOSE = 0.6
#: Triples that are tried at most.
MOST = 20_000


def match_molecules(za: Ints, xa: Floats, zb: Ints, xb: Floats, tolerance: float) -> Match | None:
    """Return the match of two molecules, None if they differ.

    Args:
        za, zb: [N] atomic numbers of one composition. xa, xb: [N, 3] Å. tolerance: Å, see `superimpose`.

    Raises:
        Undecided: more than `MOST` triples fit.
    """
    if np.array_equal(za, zb):
        found = judged(kabsch(xa, xb)[1], tolerance, False)
        if found is not None:
            return found
    reach = 2 * OUTLIER * tolerance
    da, db = distance_matrix(xa), distance_matrix(xb)
    fits = _fitting(_rows(za, da), _rows(zb, db), reach) & (za[:, None] == zb[None, :])
    if not (fits.any(axis=0).all() and fits.any(axis=1).all()):
        return None
    anchors = _anchors(xa, da, fits.sum(axis=1))
    if len(anchors) < 3:
        return _match_line(za, xa, zb, xb, tolerance)
    triples = _triples(anchors, da, db, fits, reach)
    for sign in (1.0, -1.0):
        found = _try(za, xa, zb, xb, anchors, triples, sign, tolerance)
        if found is not None:
            return found
    return None


def _rows(numbers: Ints, distances: Floats) -> Floats:
    """[N, N] distances of each atom, sorted within each element."""
    shifted = distances + 1e4 * numbers[None, :]
    shifted.sort(axis=1)
    return shifted


def _fitting(a: Floats, b: Floats, reach: float) -> NDArray[np.bool_]:
    """[N, N]: no entry of two rows differs by more than `reach`."""
    fits = np.ones((len(a), len(b)), dtype=bool)
    for k in range(a.shape[1]):
        fits &= np.abs(a[:, k, None] - b[None, :, k]) <= reach
    return fits


def _anchors(x: Floats, distances: Floats, choices: NDArray[np.int64]) -> list[int]:
    """Return up to three atoms with few possible partners, far apart and not in a line."""
    if len(x) == 1:
        return [0]
    first = int(np.lexsort((-distances.max(axis=1), choices))[0])
    second = _pick(distances[first], choices)
    axis = (x[second] - x[first]) / distances[first, second]
    off = np.linalg.norm(np.cross(x - x[first], axis), axis=1)
    return [first, second] if off.max() < 0.1 else [first, second, _pick(off, choices)]


def _pick(far: Floats, choices: NDArray[np.int64]) -> int:
    """Of the atoms at least half as far as the farthest, the one with the fewest partners; of those, the farthest."""
    allowed = np.flatnonzero(far >= 0.5 * far.max())
    return int(allowed[np.lexsort((-far[allowed], choices[allowed]))[0]])


def _triples(anchors: list[int], da: Floats, db: Floats, fits: NDArray[np.bool_], reach: float) -> NDArray[np.int64]:
    """[T, 3] atoms of the second molecule whose distances are those of the anchors."""
    p, q, r = anchors
    near = np.abs(db - da[p, q]) <= reach
    pairs = np.argwhere(near & fits[p][:, None] & fits[q][None, :])
    to_r = (np.abs(db - da[p, r]) <= reach)[pairs[:, 0]] & (np.abs(db - da[q, r]) <= reach)[pairs[:, 1]] & fits[r][None, :]
    which, last = np.nonzero(to_r)
    triples = np.column_stack([pairs[which], last])
    return triples[(triples[:, 0] != triples[:, 2]) & (triples[:, 1] != triples[:, 2])]


def _try(
    za: Ints, xa: Floats, zb: Ints, xb: Floats, anchors: list[int], triples: NDArray[np.int64], sign: float, tolerance: float
) -> Match | None:
    """Return the first motion by a triple that superimposes the molecules."""
    if len(triples) > MOST:
        raise Undecided
    n = len(za)
    block = max(1, 1_000_000 // (n * n))
    other = np.where(za[:, None] == zb[None, :], 0.0, 1e6)
    p, q, r = anchors
    for start in range(0, len(triples), block):
        b = xb[triples[start : start + block]]
        normal = np.linalg.norm(np.cross(b[:, 1] - b[:, 0], b[:, 2] - b[:, 0]), axis=1) > 1e-3
        b = b[normal]
        turned = (xa - xa[p]) @ rotations(xa[q] - xa[p], xa[r] - xa[p], b[:, 1] - b[:, 0], b[:, 2] - b[:, 0], sign) + b[:, :1]
        partners, good = _assigned(turned, xb, other)
        for k in np.flatnonzero(good):
            found = _refined(xa, xb, partners[k], other, sign, tolerance)
            if found is not None:
                return found
    return None


def _assigned(turned: Floats, xb: Floats, other: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Nearest atom of the same element for each of [T, N] points, and for which t they are all near and all different."""
    squares = (turned**2).sum(-1)[..., None] + (xb**2).sum(-1) - 2 * turned @ xb.T + other
    partners = squares.argmin(axis=2)
    near = np.take_along_axis(squares, partners[..., None], 2)[..., 0].max(axis=1) <= LOOSE**2
    return partners, near & (np.sort(partners, axis=1) == np.arange(turned.shape[1])).all(axis=1)


def _refined(xa: Floats, xb: Floats, partners: Ints, other: Floats, sign: float, tolerance: float) -> Match | None:
    """Superimpose on all atoms, assign again, compare with the tolerance."""
    for _ in range(3):
        rotation, residuals = kabsch(xa, xb[partners], sign)
        found = judged(residuals, tolerance, sign < 0)
        if found is not None:
            return found
        turned = (xa - xa.mean(axis=0)) @ rotation + xb.mean(axis=0)
        again, good = _assigned(turned[None], xb, other)
        if not good[0] or np.array_equal(again[0], partners):
            return None
        partners = again[0]
    return None


def _match_line(za: Ints, xa: Floats, zb: Ints, xb: Floats, tolerance: float) -> Match | None:
    """Atoms in a line: in order along it, in both directions."""
    ia, ib = _along(xa), _along(xb)
    for order in (ib, ib[::-1]):
        if np.array_equal(za[ia], zb[order]):
            found = judged(kabsch(xa[ia], xb[order])[1], tolerance, False)
            if found is not None:
                return found
    return None


def _along(x: Floats) -> NDArray[np.int64]:
    """Atoms sorted along the axis of largest spread."""
    centred = x - x.mean(axis=0)
    return np.argsort(centred @ np.linalg.svd(centred)[2][0], kind="stable")
