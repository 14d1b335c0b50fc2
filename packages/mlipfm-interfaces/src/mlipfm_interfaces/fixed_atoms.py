"""Columns of files that say which atoms are fixed: how they are recognised by name, and what they may hold."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ShapeError

_FIXED, _MOVES = r"(^|_)(fix|froz|freez|constrain)", r"(^|_)(mov|mobile|selective)"
_TRUE, _FALSE = ("T", "TRUE", ".TRUE.", "1", "1.0"), ("F", "FALSE", ".FALSE.", "0", "0.0")


@lru_cache(maxsize=4096)
def marks_fixed(name: str) -> bool | None:
    """True for the name of a column that is true for fixed atoms, False for one that is true for atoms that move, None for another name."""
    if re.search(_FIXED, name.lower()):
        return True
    return False if re.search(_MOVES, name.lower()) else None


def truths(values: Any, key: str) -> NDArray[np.bool_]:
    """Return the booleans of a column of T/F, true/false, or 0/1, in its shape.

    Raises:
        ShapeError: anything else.
    """
    array = np.asarray(values)
    if array.dtype.kind in "SUO":
        words = np.char.upper(array.astype(str))
        known = np.isin(words, _TRUE + _FALSE)
        if known.all():
            return np.isin(words, _TRUE)
        raise ShapeError(f"{key!r} must be true or false for each atom, got {words[~known][0]!r}")
    numbers = array.astype(np.float64)
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise ShapeError(f"{key!r} must be 0 or 1 for each atom, got {numbers[~np.isin(numbers, (0.0, 1.0))].flat[0]:g}")
    return numbers.astype(bool)


def fixed_axes(values: Any, key: str, n: int, fixed: bool) -> NDArray[np.bool_]:
    """Return [n, 3], true along the axes along which a column fixes each of `n` atoms.

    Args:
        values: of one or three columns. fixed: whether they are true for what is fixed, see `marks_fixed`.

    Raises:
        ShapeError: the values are not true or false, or of other atoms.
    """
    flags = truths(values, key)
    if flags.size not in (n, 3 * n):
        raise ShapeError(f"{key!r} has shape {list(flags.shape)}, [{n}] or [{n}, 3] is needed")
    return np.broadcast_to(flags.reshape(n, -1) == fixed, (n, 3))
