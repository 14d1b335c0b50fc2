"""Decides whether two structures are the same within a tolerance: molecules, crystals, slabs and chains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.lattice import reduced
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

from .fingerprints import bucket, neighbor_vectors
from .superimpose import OUTLIER, Floats, Match, Undecided, judged, kabsch, match_molecules, rotations

# Are two periodic structures the same crystal (or slab, or chain) up to a rigid motion, the choice of cell, supercells, and noise?
#
# 1. The lattices must be commensurate without strain: the vectors of the larger cell are multiples of 1/q (q to 8) of those of the smaller, with
#    lengths and angles right within `STRAIN`. Noise of atoms does not touch cells, so that 0.5 % of strain is distinguished from noise.
# 2. Three atoms of the larger cell (one and two of its neighbours) fix a motion; every triple of the smaller that fits by elements and distances is
#    tried. A motion is good if it takes the whole neighbourhood, and then every atom of the larger cell, onto atoms of the same element.
# 3. Each atom of the smaller cell is then met equally often: nothing is missing and nothing too much.

#: Relative deviation of lengths and angles of lattices that are called equal.
STRAIN = 2e-3
#: Å, neighbourhoods compared; grown up to `FARTHEST` until they span space.
REACH, FARTHEST = 5.0, 60.0
#: Å, how far an atom may be from its partner before the motion is refined.
LOOSE = 0.4
#: Neighbours of each element whose distances are compared before any motion is tried.
NEAREST = 14
#: Pairs of atoms compared for one atom's triples (a second of work), and atoms, that are tried at most.
MOST, MOST_ATOMS = 100_000_000, 200
#: Motions of the neighbourhood that are tried on the whole cell at most.
MOST_MOTIONS = 500


@dataclass(frozen=True)
class _Surroundings:
    """Neighbours of every atom: pairs sorted by i; rows [N, elements x NEAREST] of distances."""

    first: NDArray[np.int64]
    vectors: Floats
    numbers: NDArray[np.int64]
    rows: Floats

    def of(self, atom: int) -> tuple[Floats, NDArray[np.int64]]:
        """Vectors to the neighbours of an atom, itself first, and their atomic numbers without its own (0)."""
        part = slice(self.first[atom], self.first[atom + 1])
        return np.vstack([np.zeros((1, 3)), self.vectors[part]]), np.concatenate([[0], self.numbers[part]])


class _Tried:
    """What was tried on one pair of structures: rotations and whether they strain the lattice, and the number of motions."""

    def __init__(self) -> None:
        self._strained: dict[bytes, bool] = {}
        self._motions = 0

    def strained(self, rotation: Floats, vectors: Floats, lb: Floats) -> bool:
        name = np.round(rotation * 50).astype(np.int8).tobytes()
        if name not in self._strained:
            self._strained[name] = _strain(vectors @ rotation, lb) > STRAIN
        return self._strained[name]

    def count(self) -> None:
        self._motions += 1
        if self._motions > MOST_MOTIONS:
            raise Undecided


def _match_crystals(a: Structure, b: Structure, tolerance: float) -> Match | None:
    """Return the match of two structures that are periodic in as many directions, None if they differ.

    Args:
        tolerance: Å, see `superimpose`.

    Raises:
        Undecided: more than `MOST` triples fit. OverlapError, DensityError: from the neighbour lists.
    """
    found = match_in_order(a, b, tolerance)
    if found is not None:
        return found
    a, b = (a, b) if len(a) >= len(b) else (b, a)
    la, lb = reduced(a.cell[a.pbc])[0], reduced(b.cell[b.pbc])[0]
    if not _commensurate(la, lb):
        return None
    reach = _spanning_reach(a)
    if reach is None:  # atoms without neighbours: a molecule in a box
        return match_molecules(a.atomic_numbers, a.positions, b.atomic_numbers, b.positions, tolerance) if len(a) == len(b) else None
    near_a, near_b = _surroundings(a, reach), _surroundings(b, reach)
    fits, off = _fitting(near_a.rows, near_b.rows, 2 * OUTLIER * tolerance)
    fits &= a.atomic_numbers[:, None] == b.atomic_numbers[None, :]
    if not (fits.any(axis=0).all() and fits.any(axis=1).all()):
        return None
    # A distance changes by the difference of two displacements along it; its mean square is at most 12 times that of one coordinate.
    if np.where(fits, off, np.inf).min(axis=1).mean() > 12 * tolerance**2:
        return None
    anchor = int(fits.sum(axis=1).argmin())
    tried = _Tried()
    for sign in (1.0, -1.0):
        for other in np.flatnonzero(fits[anchor])[:MOST_ATOMS]:
            found = _try(a, b, lb, anchor, int(other), near_a, near_b, reach, sign, tolerance, tried)
            if found is not None:
                return found
    if fits[anchor].sum() > MOST_ATOMS:
        raise Undecided
    return None


def match_in_order(a: Structure, b: Structure, tolerance: float) -> Match | None:
    """Return the match of frames of one trajectory: same atoms in the same order, same cell, shifted at most."""
    if not (np.array_equal(a.atomic_numbers, b.atomic_numbers) and np.array_equal(a.pbc, b.pbc)):
        return None
    vectors, change = a.cell[a.pbc], b.cell[b.pbc] - a.cell[a.pbc]
    if np.linalg.norm(np.linalg.pinv(vectors) @ change, 2) > STRAIN:
        return None
    return judged(_wrapped(b.positions - a.positions, vectors), tolerance, False)


def _wrapped(d: Floats, vectors: Floats) -> Floats:
    """Differences of positions without whole lattice vectors and without their mean (that of the first atom taken out before)."""
    d = d - d[0]
    d = d - np.round(d @ np.linalg.pinv(vectors)) @ vectors
    return d - d.mean(axis=0)


def _commensurate(la: Floats, lb: Floats) -> bool:
    """Return whether the lattice la is, up to a rotation, a lattice of multiples of 1/q of lb; see the module. Without a rotation known, the metric
    alone is compared: the vectors of la must have lengths and angles that such multiples have."""
    if len(la) != len(lb):
        return False
    ga, gb = la @ la.T, lb @ lb.T
    sizes = np.sqrt(np.diag(ga))
    ratio = np.sqrt(np.linalg.det(ga) / np.linalg.det(gb))
    for q in range(1, 9):  # volumes: |det M| = n / q^p
        n = ratio * q ** len(la)
        if round(n) >= 1 and abs(round(n) / n - 1) <= len(la) * STRAIN:
            return bool((sizes > 0).all())
    return False


def _strain(turned: Floats, lb: Floats) -> float:
    """Largest principal strain from `turned` [p, 3] (vectors of the larger cell, rotated) to the nearest multiples of 1/q of `lb`, least over q."""
    metric, best = np.linalg.inv(turned @ turned.T), np.inf
    multiples = turned @ np.linalg.pinv(lb)
    for q in range(1, 9):
        near = np.round(q * multiples) / q @ lb
        if np.abs(turned - near).max() <= 0.05 * np.abs(turned).max():
            best = min(best, float(np.abs(np.sqrt(np.abs(np.linalg.eigvals(metric @ (near @ near.T)))) - 1).max()))
            if best <= STRAIN:
                break
    return best


@lru_cache(512)
def _neighbors(s: Structure, reach: float) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Kept for a while: a structure is compared with several, and finding its neighbours is most of the work."""
    return neighbor_vectors(s, reach)


def _spanning_reach(s: Structure) -> float | None:
    """Å within which every atom has neighbours in a plane at least, None if there are none up to `FARTHEST`."""
    reach = REACH
    while reach <= FARTHEST:
        i, vectors, _ = _neighbors(s, reach)
        inner = np.einsum("pa,pa->p", vectors, vectors) <= (reach - LOOSE) ** 2
        spans = np.zeros((len(s), 3, 3))
        np.add.at(spans, i[inner], vectors[inner, :, None] * vectors[inner, None, :])
        if np.linalg.eigvalsh(spans)[:, 1].min() > 1.0:
            return reach
        reach *= 1.5
    return None


@lru_cache(512)
def _surroundings(s: Structure, reach: float) -> _Surroundings:
    elements = np.unique(s.atomic_numbers)
    i, vectors, j = _neighbors(s, reach)
    first = np.searchsorted(i, np.arange(len(s) + 1))
    distances, numbers = np.linalg.norm(vectors, axis=1), s.atomic_numbers[j]
    rows = np.full((len(s), len(elements), NEAREST), reach)
    for k, z in enumerate(elements):
        own = numbers == z
        order = np.lexsort((distances[own], i[own]))
        atom, d = i[own][order], distances[own][order]
        counts = np.bincount(atom, minlength=len(s))
        slot = np.arange(len(atom)) - np.repeat(np.cumsum(counts) - counts, counts)
        keep = slot < NEAREST
        rows[atom[keep], k, slot[keep]] = d[keep]
    return _Surroundings(first, vectors, numbers, rows.reshape(len(s), -1))


def _fitting(a: Floats, b: Floats, reach: float) -> tuple[NDArray[np.bool_], Floats]:
    """[N, M] whether no entry of two rows differs by more than `reach`, and the mean square of their differences."""
    fits, squares = np.ones((len(a), len(b)), dtype=bool), np.zeros((len(a), len(b)))
    for k in range(a.shape[1]):
        d = a[:, k, None] - b[None, :, k]
        fits &= np.abs(d) <= reach
        squares += d * d
    return fits, squares / a.shape[1]


def _try(
    a: Structure,
    b: Structure,
    lb: Floats,
    anchor: int,
    other: int,
    near_a: _Surroundings,
    near_b: _Surroundings,
    reach: float,
    sign: float,
    tolerance: float,
    tried: _Tried,
) -> Match | None:
    """Return the first motion that takes atom `anchor` of a to atom `other` of b and all else along."""
    (va, na), (vb, nb) = near_a.of(anchor), near_b.of(other)
    p, q = _axes(va, na, reach - LOOSE)
    triples = _pairs(va[p], va[q], na[p], na[q], vb, nb, 2 * OUTLIER * tolerance)
    if len(triples) > MOST:
        raise Undecided
    inner = np.linalg.norm(va, axis=1) <= reach - LOOSE
    va, na = va[inner], na[inner]
    unlike = np.where(na[:, None] == nb[None, :], 0.0, 1e6)
    block = max(1, 1_000_000 // unlike.size)
    axes = near_a.of(anchor)[0][[p, q]]
    for start in range(0, len(triples), block):
        some = triples[start : start + block]
        turned = va @ rotations(axes[0], axes[1], vb[some[:, 0]], vb[some[:, 1]], sign)
        partners, good = _assigned(turned, vb, unlike)
        if not good.any():
            continue
        rotation, residuals = kabsch(np.broadcast_to(va, turned.shape)[good], vb[partners[good]], sign)
        # Noise of the tolerance on each coordinate gives 3 tolerance^2 an atom at most; twice that leaves room for noise without bounds.
        close = np.einsum("tna,tna->t", residuals, residuals) <= len(va) * 6 * tolerance**2
        for one in rotation[close]:
            if tried.strained(one, a.cell[a.pbc], lb):
                continue
            tried.count()
            found = _whole(a, b, anchor, other, one, lb, sign, tolerance)
            if found is not None:
                return found
    return None


def _axes(vectors: Floats, numbers: NDArray[np.int64], reach: float) -> tuple[int, int]:
    """Two neighbours within `reach`, not in a line with the atom, of which there are few alike."""
    lengths = np.linalg.norm(vectors, axis=1)
    alike = (np.abs(lengths[:, None] - lengths[None, :]) < 0.1) & (numbers[:, None] == numbers[None, :])
    cost = alike.sum(axis=1) + np.where((lengths > 0.1) & (lengths <= reach), 0.0, np.inf)
    p = int(np.lexsort((-lengths, cost))[0])
    off = np.where(np.isfinite(cost), np.linalg.norm(np.cross(vectors, vectors[p] / lengths[p]), axis=1), 0.0)
    cost = cost + np.where(off >= 0.5 * off.max(), 0.0, np.inf)
    return p, int(np.lexsort((-off, cost))[0])


def _pairs(
    first: Floats, second: Floats, z_first: int, z_second: int, vectors: Floats, numbers: NDArray[np.int64], reach: float
) -> NDArray[np.int64]:
    """[T, 2] neighbours whose lengths and distance are those of the vectors `first` and `second`."""
    lengths = np.linalg.norm(vectors, axis=1)
    p = np.flatnonzero((numbers == z_first) & (np.abs(lengths - np.linalg.norm(first)) <= reach))
    q = np.flatnonzero((numbers == z_second) & (np.abs(lengths - np.linalg.norm(second)) <= reach))
    between = np.linalg.norm(vectors[p][:, None] - vectors[q][None, :], axis=-1)
    near = np.abs(between - np.linalg.norm(first - second)) <= reach
    near &= np.linalg.norm(np.cross(vectors[p][:, None], vectors[q][None, :]), axis=-1) > 1e-3
    i, j = np.nonzero(near)
    return np.column_stack([p[i], q[j]])


def _assigned(turned: Floats, vb: Floats, unlike: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    squares = (turned**2).sum(-1)[..., None] + (vb**2).sum(-1) - 2 * turned @ vb.T + unlike
    partners = squares.argmin(axis=2)
    return partners, np.take_along_axis(squares, partners[..., None], 2)[..., 0].max(axis=1) <= LOOSE**2


def _whole(
    a: Structure, b: Structure, anchor: int, other: int, rotation: Floats, lb: Floats, sign: float, tolerance: float
) -> Match | None:
    """Return whether the motion takes every atom of a onto an atom of b."""
    vectors = a.cell[a.pbc]
    x = a.positions - a.positions[anchor]
    x = x - np.round(x @ np.linalg.pinv(vectors)) @ vectors
    shift, inverse = b.positions[other], np.linalg.pinv(lb)
    unlike = np.where(a.atomic_numbers[:, None] == b.atomic_numbers[None, :], 0.0, 1e6)
    before = np.full(len(a), -1)
    for _ in range(4):
        d = (x @ rotation + shift)[:, None] - b.positions[None]
        d -= np.round(d @ inverse) @ lb
        squares = np.einsum("ijk,ijk->ij", d, d) + unlike
        partners = squares.argmin(axis=1)
        off = d[np.arange(len(a)), partners]
        if squares[np.arange(len(a)), partners].max() > (2 * LOOSE) ** 2 or np.array_equal(partners, before):
            return None
        before = partners
        y = x @ rotation + shift - off
        better, residuals = kabsch(x, y, sign)
        found = judged(residuals, tolerance, sign < 0)
        if found is not None:
            return found if _all_met(partners, len(a), len(b)) else None
        if len(a) < 3 or np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[1] < 0.5:
            return None
        rotation, shift = better, y.mean(axis=0) - x.mean(axis=0) @ better
    return None


def _all_met(partners: NDArray[np.int64], large: int, small: int) -> bool:
    """Return whether each atom of the smaller cell is the partner of as many."""
    met = np.bincount(partners, minlength=small)
    return bool((met == met[0]).all()) if large % small == 0 else bool((met > 0).all() and met.max() - met.min() <= 1)


#: Å: noise on each coordinate below which two structures are the same.
TOLERANCE = 0.01


def check_tolerance(tolerance: float) -> None:
    """Raises `MlipfmError` for a tolerance, in Å, that is not above 0 and at most 0.1."""
    if not 0 < tolerance <= 0.1:
        raise MlipfmError(
            f"the tolerance must be above 0 and at most 0.1 Angstrom, got {tolerance}", hint="the noise of a copy is below 0.01"
        )


def match(a: Structure, b: Structure, tolerance: float = TOLERANCE) -> Match | None:
    """Return the rigid motion that takes one structure onto the other, or None.

    Order of equal atoms, origin, choice of cell and supercells do not count; charge, spin, labels and level are not looked at. What is returned was
    superimposed atom by atom: `rms` of the coordinates is at most `tolerance`, and no atom is off by more than four times it. If such a motion
    exists for a proper rotation it is found; otherwise mirror images are looked for and marked.

    Raises:
        Undecided: too symmetric and too large to try all motions. OverlapError, DensityError: atoms on top of each other.
    """
    if bucket(a) != bucket(b):
        return None
    if a.pbc.any():
        return _match_crystals(a, b, tolerance)
    return match_molecules(a.atomic_numbers, a.positions, b.atomic_numbers, b.positions, tolerance)


__all__ = ["TOLERANCE", "Match", "Undecided", "check_tolerance", "match"]
