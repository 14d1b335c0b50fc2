"""Mixtures of data sets: how often each is drawn in an epoch, by a temperature or by explicit ratios, so that nothing is left out.

With p_d the wanted share of set d of |D_d| structures, an epoch has n_d = p_d x max_k(|D_k| / p_k) draws of it: each structure comes at least once,
and those of the set that is wanted least often exactly once. Temperature T gives p_d proportional to |D_d|^(1/T): T = 1 leaves the sets as they
are, a high T makes them equal (JMP, arXiv:2310.16802).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mlipfm_interfaces.errors import RecipeError


def temperature_shares(sizes: Sequence[int] | np.ndarray, temperature: float) -> np.ndarray:
    """[sets] shares that sum to 1.

    Raises:
        RecipeError: a temperature below 1 (it would make large sets larger), or an empty set.
    """
    if not (np.isfinite(temperature) and temperature >= 1):
        raise RecipeError(f"the temperature of a mixture must be at least 1, got {temperature}")
    return _normal(np.asarray(sizes, dtype=np.float64) ** (1 / temperature), sizes)


def ratio_shares(sizes: Sequence[int] | np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """[sets] shares that sum to 1, proportional to `ratios`.

    Raises:
        RecipeError: not one positive ratio for each set, or an empty set.
    """
    if len(ratios) != len(sizes) or not all(np.isfinite(r) and r > 0 for r in ratios):
        raise RecipeError(
            f"{len(sizes)} sets need as many positive ratios, got {list(ratios)}",
            mend="leave a set out of the recipe instead of giving it 0",
        )
    return _normal(np.asarray(ratios, dtype=np.float64), sizes)


def draws(sizes: Sequence[int] | np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[sets] int64: how many structures of each set an epoch has; at least all of them, shares exact to half a structure."""
    counts = np.asarray(sizes, dtype=np.int64)
    return np.maximum(counts, np.rint(shares * (counts / shares).max()).astype(np.int64))


def draw_epoch(set_of: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of the structures of an epoch: each `counts[d] // |D_d|` times, and a random choice of those of set d once more.

    Args:
        set_of: [structures] number of the set of each. counts: of `draws`.
    """
    parts = []
    for d, count in enumerate(counts.tolist()):
        members = np.flatnonzero(set_of == d)
        whole, rest = divmod(count, len(members))
        parts += [np.tile(members, whole), np.sort(rng.choice(members, rest, replace=False))]
    return np.concatenate(parts)


def _normal(weights: np.ndarray, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    if not len(sizes) or min(sizes) < 1:
        raise RecipeError(f"every set of a mixture needs structures, they have {list(map(int, sizes))}")
    return weights / weights.sum()
