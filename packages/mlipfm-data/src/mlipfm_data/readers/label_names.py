"""How labels lie in formats that hold values of systems and of atoms: extended XYZ, ASE's Atoms, ASE databases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import ShapeError
from mlipfm_interfaces.quantities import QUANTITIES
from numpy.typing import NDArray

Array = NDArray[Any]


def layout_of(key: str) -> str:
    """`system`, `atom`, `pair` or `probe`; companions of probes are of their layout."""
    return QUANTITIES[key].layout if key in QUANTITIES else "probe"


def placed(key: str, value: Array) -> tuple[bool, Array]:
    """Whether a label (or its deviation) is written per atom, and how: rows of probes [rows, N, 3] as [N, rows, 3], so that atoms come first."""
    layout = layout_of(key)
    if layout == "atom":
        return True, value
    if layout == "probe" and not key.endswith("_index"):
        return True, np.ascontiguousarray(value.transpose(1, 0, 2))
    return False, value


def rows_first(value: Array, n: int) -> Array:
    """[rows, N, 3] from what `placed` made of it, in any shape of N x rows x 3 numbers."""
    return value.reshape(n, -1, 3).transpose(1, 0, 2)


def as_numbers(value: Any, key: str) -> np.ndarray:
    """Float64 array of a value given as text (`1.0 2.0`, `_JSON [[1, 2]]`, `[1, 2]`), list or array.

    Raises:
        ShapeError: if it is not numeric.
    """
    try:
        if isinstance(value, str):
            text = value.removeprefix("_JSON").strip()
            if text.startswith("["):
                return np.asarray(json.loads(text), dtype=np.float64)
            return np.asarray([float(word) for word in text.split()], dtype=np.float64)
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ShapeError(f"the value of {key!r} is not numeric: {str(value)[:60]!r}") from None


def regular(value: Any) -> bool:
    """Return whether `value` is an array, or a list of numbers (or truth values) of one shape."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if not isinstance(value, list | tuple) or not value:
        return False
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except ValueError:
        return False


def split_by_atoms(values: Mapping[str, Any], n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values of the system, values of the atoms): the latter are arrays whose first axis has `n` entries; of one atom, with a second axis."""
    info: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for key, value in values.items():
        shape: tuple[int, ...] = np.shape(value) if regular(value) else ()
        per_atom = len(shape) > 0 and shape[0] == n and (len(shape) > 1 or n > 1)
        (arrays if per_atom else info)[str(key)] = value
    return info, arrays


def whole_entry(values: Mapping[str, Any], n: int) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Everything that an entry of a file holds: values of the system, values of the atoms, and names of what is neither.

    Numbers and text inside a dictionary `data` are called `data_NAME`; deeper dictionaries and ragged lists are named only.
    """
    flat: dict[str, Any] = {}
    unread: list[str] = []
    for key, value in values.items():
        inside = {f"{key}_{name}": x for name, x in value.items()} if isinstance(value, Mapping) else {str(key): value}
        for name, x in inside.items():
            if isinstance(x, str | int | float) or regular(x):
                flat[name] = x
            elif x is not None and not (isinstance(x, list | tuple | Mapping) and not x):
                unread.append(name)
    info, arrays = split_by_atoms(flat, n)
    return info, arrays, tuple(unread)
