"""Radial and angular distribution functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.console import counter
from mlipfm_interfaces.errors import ObservableError

from .estimates import Blocks, jackknife_error, time_blocks_of
from .trajectory_data import TrajectoryData

__all__ = ["Distribution", "angular_distribution", "radial_distribution"]

Array = np.ndarray

#: Frames that are used at most, evenly spread: neighbouring ones say the same.
MOST_FRAMES = 2000


@dataclass(frozen=True, eq=False)
class Distribution:
    """A function on bins with its error.

    Attributes:
        name: `O-O` or `H-O-H`. unit: of `values`; x_unit: of `x`. x: [bins] middles of the bins. values: [bins].
        error: [bins] standard error, None for fewer than five blocks. n: frames. correlation_time: fs, None without an error. blocks: their number.
        coordination: [bins] of a radial distribution: mean number of second atoms within the outer edge of the bin around a first one.
    """

    name: str
    x: Array
    x_unit: str
    values: Array
    unit: str
    error: Array | None
    n: int
    correlation_time: float | None
    blocks: int
    coordination: Array | None = None

    def peak(self) -> tuple[float, float]:
        """Return (x, value) of the highest bin."""
        k = int(self.values.argmax())
        return float(self.x[k]), float(self.values[k])


def radial_distribution(
    data: TrajectoryData, first: str, second: str, r_max: float | None = None, bins: int = 200, weights: Array | None = None
) -> Distribution:
    """Return g(r) of the atoms of element `second` around those of `first`; 1 without correlation.

    Each bin is divided by the number of pairs, N_a N_b or N (N - 1) / 2 among like atoms, times the volume of its shell over that of the cell in
    the same frame (the convention of LAMMPS and VMD). All periodic images are counted, in any cell.

    Args:
        r_max: Å; half the shortest lattice vector or 10 Å by default, and at most the former.
        weights: [F] of the frames, for averages of another ensemble than that of the trajectory; equal by default.

    Raises:
        ObservableError: no volume, an element that is not there, too few atoms, r_max beyond half the shortest lattice vector, weights that
            cannot be.
    """
    volumes = data.volumes
    if volumes is None:
        raise ObservableError("g(r) needs a system that is periodic along three axes", where=data.source)
    a, b = data.atoms_of(first), data.atoms_of(second)
    like = first == second
    if like and len(a) < 2:
        raise ObservableError(f"one atom of {first} has no distances to others of its kind", where=data.source)
    edges = np.linspace(0, _radius(data, r_max), bins + 1)
    kind = np.zeros(len(data.atomic_numbers), dtype=np.int8)
    kind[a] += 1
    kind[b] += 2
    pairs = len(a) * (len(a) - 1) / 2 if like else len(a) * len(b)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    counts, kept = [], _kept(data)
    for k, (i, j, vectors) in zip(kept, _pairs(data, kept, edges[-1], f"g(r) {first}-{second}"), strict=True):
        chosen = (kind[i] & 1) & (kind[j] >> 1) if like else ((kind[i] & 1) & (kind[j] >> 1)) | ((kind[j] & 1) & (kind[i] >> 1))
        r = np.linalg.norm(vectors[chosen.astype(bool)], axis=1)
        counts.append(np.histogram(r, edges)[0] * (volumes[k] / (pairs * shells)))
    g = np.array(counts)
    counted = np.ones(len(g)) if weights is None else _weights(weights, data)[kept]
    values, error, blocks = _mean_and_error(g, counted)
    density = np.average((len(b) - like) / volumes[kept], weights=counted)
    time = None if blocks is None else blocks.correlation_time * data.interval * _stride(data)
    around = np.cumsum(values * shells) * density
    middles = (edges[1:] + edges[:-1]) / 2
    return Distribution(
        f"{first}-{second}", middles, "Angstrom", values, "1", error, len(g), time, 0 if blocks is None else len(blocks), around
    )


def angular_distribution(data: TrajectoryData, first: str, centre: str, last: str, cutoff: float, bins: int = 180) -> Distribution:
    """Return the distribution of the angles first-centre-last in degrees, of which the integral is 1; not divided by sin(angle).

    Args:
        cutoff: Å, both atoms are nearer than this to the one in the middle.

    Raises:
        ObservableError: an element that is not there, an absurd cutoff, no such angle.
    """
    wanted = [set(data.atoms_of(element).tolist()) for element in (first, centre, last)]
    if not 0 < cutoff <= 10:
        raise ObservableError(f"the cutoff of an angle must be above 0 and at most 10 Angstrom, got {cutoff}")
    is_first, is_centre, is_last = (np.isin(np.arange(len(data.atomic_numbers)), list(chosen)) for chosen in wanted)
    edges, rows, kept = np.linspace(0, 180, bins + 1), [], _kept(data)
    for i, j, vectors in _pairs(data, kept, cutoff, f"angles {first}-{centre}-{last}"):
        middle, other = np.concatenate([i, j]), np.concatenate([j, i])
        bonds = np.concatenate([vectors, -vectors])
        chosen = is_centre[middle] & (is_first | is_last)[other]
        middle, other, bonds = middle[chosen], other[chosen], bonds[chosen]
        p, q = _bonds_of_one_atom(middle)
        right = is_first[other[p]] & is_last[other[q]] | is_last[other[p]] & is_first[other[q]]
        p, q = p[right], q[right]
        cosines = (bonds[p] * bonds[q]).sum(axis=1) / (np.linalg.norm(bonds[p], axis=1) * np.linalg.norm(bonds[q], axis=1))
        rows.append(np.histogram(np.degrees(np.arccos(np.clip(cosines, -1, 1))), edges)[0])
    counts = np.array(rows, dtype=np.float64)
    if not counts.sum():
        raise ObservableError(
            f"there is no angle {first}-{centre}-{last} within {cutoff} Angstrom", where=data.source, hint="a larger cutoff"
        )
    values, error, blocks = _mean_and_error(counts / (counts.sum(axis=1).mean() * (edges[1] - edges[0])), np.ones(len(counts)))
    time = None if blocks is None else blocks.correlation_time * data.interval * _stride(data)
    middles = (edges[1:] + edges[:-1]) / 2
    name = f"{first}-{centre}-{last}"
    return Distribution(name, middles, "degree", values, "1/degree", error, len(counts), time, 0 if blocks is None else len(blocks))


def _radius(data: TrajectoryData, r_max: float | None) -> float:
    longest = data.longest_radius()
    if r_max is None:
        return min(10.0, longest)
    if not 0 < r_max <= longest * (1 + 1e-9):
        raise ObservableError(
            f"g(r) ends at half the shortest lattice vector, {longest:.4g} Angstrom, and {r_max:g} were asked",
            where=data.source,
            hint="beyond it atoms meet their own images; run a larger cell",
        )
    return r_max


def _stride(data: TrajectoryData) -> int:
    return max(1, -(-len(data) // MOST_FRAMES))


def _kept(data: TrajectoryData) -> Array:
    return np.arange(0, len(data), _stride(data))


def _pairs(data: TrajectoryData, kept: Array, cutoff: float, what: str) -> Iterator[tuple[Array, Array, Array]]:
    """Of each kept frame: i, j [pairs] and r_j - r_i [pairs, 3] of the pairs within the cutoff, each pair and image once."""
    from vesin import NeighborList  # type: ignore[import-untyped]  # the package has no type information

    search = NeighborList(cutoff=float(cutoff), full_list=False, sorted=False, n_threads=1)
    with counter(what, len(kept)) as show:
        for k in kept:
            box = _box(data, int(k), cutoff)
            fractions = data.positions[k] @ np.linalg.inv(box)
            positions = data.positions[k] - np.where(data.pbc, np.floor(fractions), 0) @ box  # vesin wants them in the cell
            yield search.compute(np.ascontiguousarray(positions), box, data.pbc, "ijD")
            show(1)


def _box(data: TrajectoryData, k: int, cutoff: float) -> Array:
    """Cell [3, 3] of a frame, with vectors that no atom reaches in place of those that are not periodic."""
    box = np.where(data.pbc[:, None], data.cells[k], 0.0)
    if not data.pbc.all():
        room = float(np.ptp(data.positions[k], axis=0).sum()) + 2 * cutoff
        box[~data.pbc] = room * np.linalg.svd(box)[2][int(data.pbc.sum()) :]  # orthogonal to the others
    return box


def _bonds_of_one_atom(middle: Array) -> tuple[Array, Array]:
    """Indices p < q of all pairs of bonds with the same middle atom."""
    order = np.argsort(middle, kind="stable")
    starts = np.flatnonzero(np.diff(middle[order], prepend=-1))
    counts = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, counts)  # how many bonds of the same atom stand before
    p = np.repeat(np.repeat(starts, counts), rank) + _ramps(rank)
    q = np.repeat(np.arange(len(order)), rank)
    return order[p], order[q]


def _ramps(lengths: Array) -> Array:
    """0, 1, ... lengths[0] - 1, 0, 1, ... lengths[1] - 1, ..."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _mean_and_error(rows: Array, weights: Array) -> tuple[Array, Array | None, Blocks | None]:
    """Mean over frames [bins], its standard error, and the blocks it comes from: two correlation times of the slowest of ten coarse bins."""
    blocks = time_blocks_of(np.stack([part.sum(axis=1) for part in np.array_split(rows, 10, axis=1)], axis=1))
    weighted = weights[:, None] * rows
    values = weighted.sum(axis=0) / weights.sum()
    if blocks is None:
        return values, None, None
    sizes = blocks.sizes[:, None]
    rest = weights.sum() - blocks.means(weights)[:, None] * sizes  # of the frames outside of each block
    if not (rest > 0).all():
        return values, None, None
    left_out = (weighted.sum(axis=0) - blocks.means(weighted) * sizes) / rest
    return values, jackknife_error(left_out) * blocks.widening, blocks


def _weights(weights: Array, data: TrajectoryData) -> Array:
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != (len(data),) or not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
        raise ObservableError(
            f"weights are one number for each of {len(data)} frames, none negative and not all zero; got shape {list(found.shape)}"
        )
    return found
