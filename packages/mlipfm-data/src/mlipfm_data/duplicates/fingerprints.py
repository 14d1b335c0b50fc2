"""Fingerprints that no rigid motion, order of atoms, choice of cell or supercell changes, and the pairs of structures whose fingerprints are near."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import PluginError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

# Fingerprints: numbers that a rigid motion, an order of atoms, a choice of cell or a supercell cannot change, and that noise changes little.
#
# Every atom has its sorted distances to its neighbours; a fingerprint holds, for each element and some ranks k, the distribution over the atoms of
# that element of the distance to the k-th neighbour, as means over equal shares of the sorted values. This is the pointwise distance distribution
# of Widdowson and Kurlin (NeurIPS 2022), compressed. If no atom moves by more than e, no distance changes by more than 2e, neither do the k-th
# smallest one, the sorted list over atoms (sorting brings lists closer, never farther), nor its means: **no number changes by more than 2e**.
# Mirror images have equal fingerprints.

Floats = NDArray[np.float64]

#: Å, neighbours of periodic structures; farther ones count as being here, which keeps the bound.
CUTOFF = 6.0
#: Which neighbours enter, counted from the nearest.
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
#: Equal shares of the atoms of one element whose means are kept: the smallest and the largest values tell frames of large systems apart.
SHARES = 4


@dataclass(frozen=True)
class Fingerprint:
    """Of one structure.

    Attributes:
        bucket: what must be equal for two structures to be the same: composition (of a crystal: reduced) and number of periodic directions.
        vector: [elements x shares x ranks] float32, Å; of one length within a bucket.
    """

    bucket: str
    vector: NDArray[np.float32]


def fingerprint(structure: Structure) -> Fingerprint:
    """See the module.

    Raises:
        OverlapError, DensityError: from the neighbour list of a periodic structure.
    """
    rows = _neighbor_distances(structure) if structure.pbc.any() else _molecule_distances(structure.positions)
    ranks = RANKS if not structure.pbc.any() else RANKS[:11]
    columns = np.zeros((len(structure), len(ranks)))
    for k, rank in enumerate(ranks):
        if rank <= rows.shape[1]:
            columns[:, k] = rows[:, rank - 1]
        elif structure.pbc.any():
            columns[:, k] = CUTOFF
    parts = [
        _shares(int(chosen.sum())) @ np.sort(columns[chosen], axis=0)
        for chosen in (structure.atomic_numbers == z for z in np.unique(structure.atomic_numbers))
    ]
    return Fingerprint(bucket(structure), np.concatenate([part.ravel() for part in parts]).astype(np.float32))


def bucket(structure: Structure) -> str:
    """`C2H6O` of a molecule, `p3:CuO` of a crystal: what no duplicate can differ in."""
    numbers, counts = np.unique(structure.atomic_numbers, return_counts=True)
    periodic = int(structure.pbc.sum())
    divisor = gcd(*counts.tolist()) if periodic else 1
    parts = (symbol(int(z)) + (str(n // divisor) if n > divisor else "") for z, n in zip(numbers, counts.tolist(), strict=True))
    return (f"p{periodic}:" if periodic else "") + "".join(parts)


def _molecule_distances(positions: Floats) -> Floats:
    """[N, N - 1] distances of each atom to the others, ascending, Å."""
    return np.sort(distance_matrix(positions), axis=1)[:, 1:]


def distance_matrix(positions: Floats) -> Floats:
    """[N, N], Å."""
    x, y, z = (column[:, None] - column[None, :] for column in positions.T)
    return np.sqrt(x * x + y * y + z * z)


def _neighbor_distances(structure: Structure) -> Floats:
    """[N, most] distances to neighbours within `CUTOFF`, ascending; `CUTOFF` where an atom has fewer than others."""
    i, vectors, _ = neighbor_vectors(structure, CUTOFF)
    counts = np.bincount(i, minlength=len(structure))
    rows = np.full((len(structure), max(1, int(counts.max()))), CUTOFF)
    slots = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows[i, slots] = np.sqrt(np.einsum("pa,pa->p", vectors, vectors))
    rows.sort(axis=1)
    return rows


def neighbor_vectors(structure: Structure, cutoff: float) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """(i [pairs] ascending, vectors from i to its neighbour [pairs, 3], j [pairs]) within `cutoff` Å."""
    i, j, shift = neighbor_pairs(structure, cutoff)
    vectors = structure.positions[j] - structure.positions[i]
    if structure.pbc.any():
        vectors += shift @ np.where(structure.pbc[:, None], structure.cell, 0.0)
    return i, vectors, j


@lru_cache(4096)
def _shares(n: int) -> Floats:
    """[SHARES, n] matrix of means over equal shares of n sorted values; a repeated list (a supercell) gives the same means."""
    edges, steps = np.linspace(0.0, 1.0, SHARES + 1), np.linspace(0.0, 1.0, n + 1)
    overlap = np.minimum(edges[1:, None], steps[None, 1:]) - np.maximum(edges[:-1, None], steps[None, :-1])
    return np.clip(overlap, 0.0, None) * SHARES


#: Numbers in the tree. More would not prune more: a bucket varies in a few directions.
TREE_NUMBERS = 10
#: Buckets up to this size are compared pair by pair.
SMALL = 48
#: Points asked of the tree at once, pairs compared in full at once: bounds on memory.
BLOCK, PAIR_BLOCK = 512, 16_384

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def near_pairs(vectors: NDArray[np.float32], radius: float) -> Iterator[Pairs]:
    """Yield all pairs i < j of one bucket with no number differing by more than `radius`, in blocks: i, j and the largest difference.

    Args:
        vectors: [structures, numbers], Å. radius: Å.
    """
    n = len(vectors)
    if n <= SMALL:
        i, j = np.triu_indices(n, 1)
        yield from _in_full(vectors, i, j, radius)
        return
    some = np.ascontiguousarray(vectors[:, _distinguishing(vectors)], dtype=np.float64)
    tree = _tree(some)
    for start in range(0, n, BLOCK):
        found = tree.query_ball_point(some[start : start + BLOCK], radius + 1e-6, p=np.inf, return_sorted=False)
        counts = np.fromiter(map(len, found), np.int64, len(found))
        i = np.repeat(np.arange(start, start + len(found)), counts)
        j = np.concatenate([np.asarray(one, dtype=np.int64) for one in found])
        yield from _in_full(vectors, i[j > i], j[j > i], radius)


def _distinguishing(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Columns that tell most: each the one of largest spread after what the earlier ones explain (pivoted Gram-Schmidt)."""
    sample = vectors[:: max(1, len(vectors) // 1000)].astype(np.float64)
    rest = sample - sample.mean(axis=0)
    chosen: list[int] = []
    for _ in range(min(TREE_NUMBERS, rest.shape[1])):
        spread = np.einsum("nd,nd->d", rest, rest)
        best = int(spread.argmax())
        if spread[best] <= 1e-12:
            break
        chosen.append(best)
        column = rest[:, best] / np.sqrt(spread[best])
        rest = rest - np.outer(column, column @ rest)
    return np.array(chosen or [0], dtype=np.int64)


def nearest_only(i: NDArray[np.int64], j: NDArray[np.int64], distance: NDArray[np.float32], most: int) -> NDArray[np.bool_]:
    """Return which pairs are among the `most` nearest of one of their two structures."""
    both, far = np.concatenate([i, j]), np.concatenate([distance, distance])
    order = np.lexsort((np.concatenate([j, i]), far, both))
    first = np.searchsorted(both[order], both[order])
    rank = np.empty(len(both), dtype=np.int64)
    rank[order] = np.arange(len(both)) - first
    result: NDArray[np.bool_] = np.minimum(rank[: len(i)], rank[len(i) :]) < most
    return result


def _in_full(vectors: NDArray[np.float32], i: NDArray[np.int64], j: NDArray[np.int64], radius: float) -> Iterator[Pairs]:
    for start in range(0, len(i), PAIR_BLOCK):
        a, b = i[start : start + PAIR_BLOCK], j[start : start + PAIR_BLOCK]
        largest = np.abs(vectors[a] - vectors[b]).max(axis=1)
        near = largest <= radius + 1e-5
        if near.any():
            yield a[near], b[near], largest[near]


def _tree(points: NDArray[np.float64]) -> Any:
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        raise PluginError("searching for duplicates needs scipy", hint="pip install 'mlipfm-data[scipy]'") from None
    return cKDTree(points)
