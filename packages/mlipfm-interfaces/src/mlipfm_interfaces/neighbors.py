"""Neighbours of every atom within a cutoff, periodic images included: integer shifts only, in one canonical order.

A pair (i, j, S) stands for the vector r_ij = r_j - r_i + S @ cell of the positions as they are given, wrapped or not. Each pair appears in
both directions, (j, i, -S) too. The search itself is done by vesin; before it empty space is taken out, because its cost must follow the
atoms and not the volume (and because vesin 0.6.2 ends the process with SIGFPE on atoms 1e6 Å apart).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vesin import NeighborList  # type: ignore[import-untyped]  # the package has no type information

from .elements import symbol
from .errors import CapacityExceeded, DensityError, InvalidStructureError, MlipfmError, OverlapError
from .lattice import adjugate, reduced
from .structure import Structure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pairs = tuple[Ints, Ints, Ints]


class Geometry(NamedTuple):
    """What a neighbour list is made of, as in `Structure`: a Structure will do too."""

    atomic_numbers: Ints
    positions: Floats
    cell: Floats
    pbc: NDArray[np.bool_]


#: Å. Atoms closer than this are refused: no bond is shorter than 0.7 Å, no collision in matter comes nearer.
MIN_DISTANCE = 0.1
#: Atoms/Å^3. Hydrogen reaches 1 at 500 GPa; diamond has 0.18.
MAX_DENSITY = 2.0
#: Neighbours per atom (estimated before the list is built): 15 Å in diamond has 2500. Keeps the memory below about 0.5 MB per atom.
MAX_NEIGHBORS = 5000
#: No atom of any matter has CROWD others within CROWD_RADIUS (Å); molecules whose nanometres were read as Angstrom do.
CROWD, CROWD_RADIUS = 3, 0.5
#: Å. Beyond it float64 resolves less than 1e-4 Å.
MAX_COORDINATE = 1e12
#: Molecules up to this size are searched by comparing all pairs: faster than setting up cells.
BRUTE_FORCE_ATOMS = 100

UNIT_HINT = "positions and cell are in Angstrom; were they given in nm or bohr?"
SPHERE = 4 * np.pi / 3


@dataclass(frozen=True)
class PairView:
    """Pairs of a batch, sorted by i, then j, then shift.

    Attributes:
        i, j: [pairs] int64, atoms of the batch. shift: [pairs, 3] int64.
        mask: [pairs] bool, False for padding (i = j = the last atom, shift 0).
    """

    i: Tensor
    j: Tensor
    shift: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> PairView:
        """Return the same pairs on another device."""
        return PairView(*(getattr(self, item.name).to(device) for item in fields(self)))

    def pairs(self) -> Pairs:
        """Return i [pairs], j [pairs] and shift [pairs, 3], without padding."""
        return tuple(part[self.mask].numpy(force=True) for part in (self.i, self.j, self.shift))  # type: ignore[return-value]  # three


@dataclass(frozen=True)
class DenseView:
    """Neighbours of a batch in one row per atom.

    Attributes:
        index: [atoms, K] int64, the neighbour; the atom itself in padding. shift: [atoms, K, 3] int64, 0 in padding. mask: [atoms, K] bool.
        reverse: [atoms, K] int64, flat slot (atom * K + k) of the reverse pair (j, i, -shift); the own slot in padding.
    """

    index: Tensor
    shift: Tensor
    mask: Tensor
    reverse: Tensor

    def to(self, device: torch.device | str) -> DenseView:
        """Return the same neighbours on another device."""
        return DenseView(*(getattr(self, item.name).to(device) for item in fields(self)))

    def pairs(self) -> Pairs:
        """Return i [pairs], j [pairs] and shift [pairs, 3], without padding."""
        atoms = self.mask.nonzero()[:, 0]
        return atoms.numpy(force=True), self.index[self.mask].numpy(force=True), self.shift[self.mask].numpy(force=True)


def pair_view(structures: Sequence[Structure | Geometry], cutoff: float, capacity: int | None = None) -> PairView:
    """Pairs of structures end to end, padded to `capacity` pairs if given.

    Raises:
        CapacityExceeded: with `needed` pairs. OverlapError, DensityError: see `neighbor_pairs`.
    """
    return pairs_from_pairs(*batch_pairs(structures, cutoff), sum(len(s.positions) for s in structures), capacity)


def dense_view(structures: Sequence[Structure | Geometry], cutoff: float, capacity: int | None = None) -> DenseView:
    """Neighbours of structures end to end in rows of `capacity` slots, or as many as the busiest atom needs.

    Raises:
        CapacityExceeded: with the `needed` neighbours per atom. OverlapError, DensityError: see `neighbor_pairs`.
    """
    i, j, shift = batch_pairs(structures, cutoff)
    return dense_from_pairs(i, j, shift, reversal(i, j, shift), sum(len(s.positions) for s in structures), capacity)


def pairs_from_pairs(i: Ints, j: Ints, shift: Ints, atoms: int, capacity: int | None = None) -> PairView:
    """Return the view of sorted pairs of `atoms` atoms; see `pair_view`."""
    pairs = len(i)
    size = pairs if capacity is None else capacity
    if pairs > size:
        raise CapacityExceeded(f"{pairs} pairs do not fit the capacity of {size}", needed=pairs, hint=f"rebuild with capacity >= {pairs}")
    if pairs < size:
        last, nothing = np.full(size - pairs, atoms - 1), np.zeros((size - pairs, 3), dtype=np.int64)
        i, j, shift = np.concatenate([i, last]), np.concatenate([j, last]), np.concatenate([shift, nothing])
    return PairView(torch.from_numpy(i), torch.from_numpy(j), torch.from_numpy(shift), torch.arange(size) < pairs)


def dense_from_pairs(i: Ints, j: Ints, shift: Ints, reverse: Ints, atoms: int, capacity: int | None = None) -> DenseView:
    """Return the view of sorted pairs of `atoms` atoms, `reverse` the place of (j, i, -shift) of each; see `dense_view`."""
    counts = np.bincount(i, minlength=atoms)
    busiest = int(counts.max())
    width = busiest if capacity is None else capacity
    if busiest > width:
        raise CapacityExceeded(
            f"atom {counts.argmax()} of the batch has {busiest} neighbours, the capacity is {width}",
            needed=busiest,
            hint=f"rebuild with capacity >= {busiest}",
        )
    mask = np.arange(width) < counts[:, None]
    slot = np.flatnonzero(mask)  # pairs are sorted by i
    index = np.repeat(np.arange(atoms), width)
    shifts = np.zeros((atoms * width, 3), dtype=np.int64)
    back = np.arange(atoms * width)
    index[slot], shifts[slot], back[slot] = j, shift, slot[reverse]
    shape = (atoms, width)
    return DenseView(*(torch.from_numpy(a.reshape(s)) for a, s in ((index, shape), (shifts, (*shape, 3)), (mask, shape), (back, shape))))


def batch_pairs(structures: Sequence[Structure | Geometry], cutoff: float) -> Pairs:
    """`neighbor_pairs` of structures end to end, with the indices of their atoms there."""
    parts, offset = [], 0
    for k, s in enumerate(structures):
        i, j, shift = _pairs(s, cutoff, f"structure {k}, " if len(structures) > 1 else "")
        parts.append((i + offset, j + offset, shift))
        offset += len(s.positions)
    if len(parts) == 1:
        return parts[0]
    i, j, shift = (np.concatenate(column) for column in zip(*parts, strict=True))
    return i, j, shift


def neighbor_pairs(structure: Structure, cutoff: float) -> Pairs:
    """Return all ordered pairs with |r_j - r_i + shift @ cell| < `cutoff` (Å): i [pairs], j [pairs], shift [pairs, 3], int64.

    Sorted by i, then j, then shift. j = i only with a shift.

    Raises:
        DensityError: more than `MAX_DENSITY` atoms/Å^3 or about `MAX_NEIGHBORS` per atom, both found before the search; or `CROWD` atoms
            within `CROWD_RADIUS` of one.
        OverlapError: two atoms, or an atom and a periodic image, closer than `MIN_DISTANCE`.
    """
    return _pairs(structure, cutoff, "")


def check_distances(structure: Structure, cutoff: float) -> None:
    """Refuse what `neighbor_pairs` refuses, without a list where none is needed: an import asks only whether atoms overlap or crowd.

    Raises:
        DensityError, OverlapError, InvalidStructureError: as `neighbor_pairs`.
    """
    if not _clearly_apart(structure):
        neighbor_pairs(structure, cutoff)


def _clearly_apart(s: Structure) -> bool:
    """Return whether a small molecule or cell is surely not refused: it is not dense, and no pair is closer than `CROWD_RADIUS` and a little more.

    In a cell whose planes are further apart than twice that, only the image with fractional differences of at most a half can be so close.
    """
    n, radius, periodic = len(s.positions), 1.01 * CROWD_RADIUS, s.pbc.tolist()
    if n > BRUTE_FORCE_ATOMS or len(set(periodic)) > 1 or max(np.abs(s.positions).max(), np.abs(s.cell).max()) > 1e4:
        return False
    columns = s.positions.T
    if periodic[0]:
        normals, volume = adjugate(s.cell)
        if any(math.hypot(*normal) * 2 * radius > abs(volume) for normal in normals) or n > MAX_DENSITY * abs(volume):
            return False
        columns = np.array(normals) @ columns / volume
    d = columns[:, :, None] - columns[:, None, :]
    if periodic[0]:
        d -= np.rint(d)
        d = (s.cell.T @ d.reshape(3, -1)).reshape(3, n, n)
    d *= d
    return int(np.count_nonzero(d[0] + d[1] + d[2] > radius * radius)) == n * (n - 1)  # all but each atom with itself


def _pairs(s: Structure | Geometry, cutoff: float, where: str) -> Pairs:
    if not 0 < cutoff < np.inf:
        raise MlipfmError(f"the cutoff must be positive and finite (Angstrom), got {cutoff}")
    if max(np.abs(s.positions).max(), np.abs(s.cell).max()) > MAX_COORDINATE:
        what = f"a coordinate exceeds {MAX_COORDINATE:g} Angstrom: its decimals are lost"
        raise InvalidStructureError(what, where=f"{where}geometry", hint=UNIT_HINT)
    if len(s.positions) <= BRUTE_FORCE_ATOMS and not s.pbc.any():
        i, j, distance2 = _all_pairs(s.positions, cutoff)
        shift = np.zeros((len(i), 3), dtype=np.int64)
    else:
        i, j, shift = _searched_pairs(s, cutoff, where)
        distance2 = _squared_distances(s, i, j, shift)
        keep = distance2 < cutoff * cutoff
        if not keep.all():
            i, j, shift, distance2 = i[keep], j[keep], shift[keep], distance2[keep]
    if len(i) and distance2.min() < CROWD_RADIUS**2:
        _refuse_overlaps(s, i, j, distance2, where)
    return i, j, shift


def _all_pairs(positions: Floats, cutoff: float) -> tuple[Ints, Ints, Floats]:
    x, y, z = (column[None, :] - column[:, None] for column in positions.T)
    distance2 = x * x + y * y + z * z
    np.fill_diagonal(distance2, np.inf)
    i, j = np.nonzero(distance2 < cutoff * cutoff)
    return i, j, distance2[i, j]


def _squared_distances(s: Structure | Geometry, i: Ints, j: Ints, shift: Ints) -> Floats:
    """From the positions as given. Column by column: (i, j, S) and (j, i, -S) then agree to the last bit, which BLAS does not promise."""
    total = np.zeros(len(i))
    for axis, column in enumerate(np.ascontiguousarray(s.positions.T)):
        d = column[j] - column[i]
        for vector in np.flatnonzero(s.pbc):
            d += shift[:, vector] * s.cell[vector, axis]
        total += d * d
    return total


def _refuse_overlaps(s: Structure | Geometry, i: Ints, j: Ints, distance2: Floats, where: str) -> None:
    closest = int(distance2.argmin())
    a, b, distance = int(i[closest]), int(j[closest]), float(np.sqrt(distance2[closest]))
    if distance < MIN_DISTANCE:
        names = f"{symbol(int(s.atomic_numbers[a]))} and {symbol(int(s.atomic_numbers[b]))}"
        subject = "an atom and its periodic image" if a == b else names
        what = f"{subject} are {distance:.3g} Angstrom apart, closer than {MIN_DISTANCE}"
        raise OverlapError(what, where=f"{where}atoms {a} and {b}", hint=UNIT_HINT)
    crowd = np.bincount(i[distance2 < CROWD_RADIUS**2])
    if crowd.max() >= CROWD:
        what = f"{crowd.max()} atoms are within {CROWD_RADIUS} Angstrom of this one"
        raise DensityError(what, where=f"{where}atom {crowd.argmax()}", hint=UNIT_HINT)


def _searched_pairs(s: Structure | Geometry, cutoff: float, where: str) -> Pairs:
    """Pairs within the cutoff and a little more, in canonical order, by vesin on a geometry without empty space."""
    _refuse_density(s, where)
    vectors, transform = reduced(s.cell[s.pbc])
    positions = s.positions - s.positions[0]
    wraps, periodic = _cut_at_gaps(positions, vectors, cutoff)
    points, box, into_box = _without_gaps(positions - wraps @ vectors, vectors[periodic], cutoff)
    wraps[:, periodic] += into_box
    p = int(periodic.sum())
    _refuse_many_neighbors(points, box, p, cutoff, where)
    # Rounding of far positions must not lose a pair; what is too much is dropped by the distances of the original positions.
    slack = 1e-7 * cutoff + 64 * np.finfo(float).eps * (np.abs(s.positions).max() + np.abs(s.cell).max())
    search = NeighborList(cutoff=cutoff + slack, full_list=True, sorted=False, n_threads=1)
    first, second, found = search.compute(points, box, np.arange(3) < p, "ijS")
    i, j = first.astype(np.int64), second.astype(np.int64)
    # Column by column: gathers of rows and integer matrix products cost more than the search itself.
    steps = [np.zeros(len(i), dtype=np.int64) for _ in range(len(vectors))]
    for axis, place in enumerate(np.flatnonzero(periodic)):
        steps[place] += found[:, axis]
    for step, wrap in zip(steps, np.ascontiguousarray(wraps.T), strict=True):
        if wrap.any():
            step += wrap[i] - wrap[j]
    shift = np.zeros((3, len(i)), dtype=np.int64)
    for column, weights in zip(np.flatnonzero(s.pbc), transform.T, strict=True):
        for step, weight in zip(steps, weights, strict=True):
            if weight:
                shift[column] += weight * step
    return _sorted([i, j, *shift])


def _sorted(columns: list[Ints]) -> Pairs:
    """Pairs from i, j and three columns of shifts, by i, then j, then shift."""
    packed = _packed(columns)
    if packed is None:
        order = np.lexsort(columns[::-1])
        i, j, *shift = (column[order] for column in columns)
        return i, j, np.stack(shift, axis=1)
    key, lowest, bits = packed
    key.sort()
    for k in (4, 3, 2, 1, 0):
        columns[k] = (key & ((1 << bits[k]) - 1)) + lowest[k]
        key >>= bits[k]
    return columns[0], columns[1], np.stack(columns[2:], axis=1)


def reversal(i: Ints, j: Ints, shift: Ints) -> Ints:
    """Return the place of the reverse (j, i, -S) of each pair. Pairs are sorted and closed under reversal, so sorting the reversed pairs gives it."""
    columns = [j, i, *(-shift.T)]
    packed = _packed(columns)
    return np.lexsort(columns[::-1]) if packed is None else np.argsort(packed[0])


def _packed(columns: list[Ints]) -> tuple[Ints, list[int], list[int]] | None:
    """Columns as one integer of the same order, their minima and bits; None if too long. Sorting it is ten times faster than by columns."""
    lowest = [int(c.min(initial=0)) for c in columns]
    bits = [(int(c.max(initial=0)) - low).bit_length() for c, low in zip(columns, lowest, strict=True)]
    if sum(bits) > 63:
        return None
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column, low, width in zip(columns, lowest, bits, strict=True):
        key <<= width
        key |= column - low
    return key, lowest, bits


def _cut_at_gaps(positions: Floats, vectors: Floats, cutoff: float) -> tuple[Ints, NDArray[np.bool_]]:
    """Lattice steps [atoms, p] into one cell, and which of the p axes have pairs across their boundary [p].

    Atoms of a cell with an empty layer wider than two cutoffs (along the normal of the plane of the other vectors) cannot meet across it:
    the cell is cut there and that axis needs no images.
    """
    periodic = np.ones(len(vectors), dtype=bool)
    if not len(vectors):
        return np.zeros((len(positions), 0), dtype=np.int64), periodic
    normals = np.linalg.inv(vectors) if len(vectors) == 3 else np.linalg.pinv(vectors)
    fractions = positions @ normals
    wraps = np.floor(fractions).astype(np.int64)
    for axis, height in enumerate(1 / np.linalg.norm(normals, axis=0)):
        if height <= 2 * cutoff:
            continue
        inside = fractions[:, axis] - wraps[:, axis]
        ordered = np.sort(inside)
        gaps = np.diff(ordered, append=ordered[0] + 1)
        widest = int(gaps.argmax())
        if gaps[widest] * height > 2 * cutoff:
            periodic[axis] = False
            wraps[:, axis] += inside > ordered[widest]
    return wraps, periodic


def _without_gaps(positions: Floats, vectors: Floats, cutoff: float) -> tuple[Floats, Floats, Ints]:
    """Points and box for the search, in a rotated frame whose last axes are orthogonal to the periodic `vectors`.

    Along an axis that no lattice vector touches, a gap wider than two cutoffs is as good as one of two cutoffs.

    Returns:
        (points [atoms, 3], box [3, 3] with the periodic vectors first, lattice steps [atoms, p] taken to wrap the points).
    """
    p = len(vectors)
    if p == 3:
        return positions, vectors, np.zeros((len(positions), 3), dtype=np.int64)
    steps = np.floor(positions @ np.linalg.pinv(vectors)).astype(np.int64) if p else np.zeros((len(positions), 0), dtype=np.int64)
    frame = np.linalg.qr(vectors.T, mode="complete")[0] if p else np.eye(3)
    points, box = (positions - steps @ vectors) @ frame, np.zeros((3, 3))
    box[:p] = vectors @ frame
    for axis in range(p, 3):
        order = np.argsort(points[:, axis])
        gaps = np.diff(points[order, axis])
        points[order, axis] = np.concatenate([[0.0], np.cumsum(np.minimum(gaps, 2 * cutoff))])
        box[axis, axis] = points[order[-1], axis] + 2 * cutoff
    return points, box, steps


def _refuse_density(s: Structure | Geometry, where: str) -> None:
    if s.pbc.all():
        density = len(s.positions) / abs(float(np.linalg.det(s.cell)))
        if density > MAX_DENSITY:
            raise DensityError(f"{density:.3g} atoms per Angstrom^3, more than {MAX_DENSITY:g}", where=f"{where}cell", hint=UNIT_HINT)


def _refuse_many_neighbors(points: Floats, box: Floats, p: int, cutoff: float, where: str) -> None:
    """Estimate the neighbours per atom, uniform over the filled space and then over cubes of one cutoff, before any list is built."""
    filled = float(np.sqrt(np.linalg.det(box[:p] @ box[:p].T))) * float(np.prod(np.maximum(np.diag(box)[p:] - 2 * cutoff, cutoff)))
    neighbors = SPHERE * cutoff**3 * len(points) / filled
    if len(points) * SPHERE > MAX_NEIGHBORS:
        cubes = np.floor((points - points.min(axis=0)) / cutoff).astype(np.int64)
        counts = np.unique(cubes @ [1, 1 << 21, 1 << 42], return_counts=True)[1]
        neighbors = max(neighbors, SPHERE * float((counts.astype(float) ** 2).sum()) / len(points))
    if neighbors > MAX_NEIGHBORS:
        what = f"about {neighbors:.0f} neighbours per atom within {cutoff:g} Angstrom, more than {MAX_NEIGHBORS}"
        raise DensityError(what, where=f"{where}geometry", hint=UNIT_HINT)
