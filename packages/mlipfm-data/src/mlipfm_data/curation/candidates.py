"""Pairs whose fingerprints are near: within every bucket, by a k-d tree on the few numbers that differ most, then by all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import PluginError
from numpy.typing import NDArray

#: Numbers in the tree. More would not prune more: a bucket varies in a few directions.
TREE_NUMBERS = 10
#: Buckets up to this size are compared pair by pair.
SMALL = 48
#: Points asked of the tree at once, pairs compared in full at once: bounds on memory.
BLOCK, PAIR_BLOCK = 512, 16_384

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def near_pairs(vectors: NDArray[np.float32], radius: float) -> Iterator[Pairs]:
    """All pairs i < j of one bucket with no number differing by more than `radius`, in blocks: i, j and the largest difference.

    Args:
        vectors: [structures, numbers], Å. radius: Å.
    """
    n = len(vectors)
    if n <= SMALL:
        i, j = np.triu_indices(n, 1)
        yield from _in_full(vectors, i, j, radius)
        return
    some = np.ascontiguousarray(vectors[:, telling(vectors)], dtype=np.float64)
    tree = _tree(some)
    for start in range(0, n, BLOCK):
        found = tree.query_ball_point(some[start : start + BLOCK], radius + 1e-6, p=np.inf, return_sorted=False)
        counts = np.fromiter(map(len, found), np.int64, len(found))
        i = np.repeat(np.arange(start, start + len(found)), counts)
        j = np.concatenate([np.asarray(one, dtype=np.int64) for one in found])
        yield from _in_full(vectors, i[j > i], j[j > i], radius)


def telling(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
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
    """Which pairs are among the `most` nearest of one of their two structures."""
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
        raise PluginError("searching for duplicates needs scipy", mend="pip install 'mlipfm-data[scipy]'") from None
    return cKDTree(points)
