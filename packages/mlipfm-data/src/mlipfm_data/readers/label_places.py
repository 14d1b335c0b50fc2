"""How labels lie in formats that hold values of systems and of atoms: extended XYZ, ASE's Atoms, ASE databases."""

from __future__ import annotations

from typing import Any

import numpy as np
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
