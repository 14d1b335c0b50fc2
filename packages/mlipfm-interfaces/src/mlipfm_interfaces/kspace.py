"""Reciprocal vectors of periodic systems as integer triples: every k with |k| <= 2 pi / resolution, one of each pair +k, -k, no k = 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import InvalidStructureError
from .lattice import reduced
from .neighbors import Geometry
from .structure import Structure

#: Reciprocal vectors of one system beyond which the list is refused instead of filling the memory.
MAX_VECTORS = 4_000_000


@dataclass(frozen=True)
class KSpaceView:
    """Reciprocal vectors of a batch; k = 2 pi n @ inv(cell).T is made by the potential, so that the strain stays differentiable.

    Attributes:
        index: [vectors, 3] int64, the triples n. The first component of n that is not zero is positive.
        system: [vectors] int64, ascending.
    """

    index: Tensor
    system: Tensor

    def to(self, device: torch.device | str) -> KSpaceView:
        """Return the same vectors on another device."""
        return KSpaceView(self.index.to(device), self.system.to(device))


def kspace_view(structures: Sequence[Structure | Geometry], resolution: float) -> KSpaceView:
    """Return all half-space triples with |k| <= 2 pi / `resolution` (Å) of each system that is periodic in three directions; others have none.

    Raises:
        InvalidStructureError: for a resolution that is not positive, or more than `MAX_VECTORS` vectors in one system.
    """
    if not resolution > 0:
        raise InvalidStructureError(f"the k-space resolution must be positive (Angstrom), got {resolution}")
    empty = np.zeros((0, 3), dtype=np.int64)
    parts = [half_space(s.cell, resolution) if s.pbc.all() else empty for s in structures]
    system = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return KSpaceView(torch.from_numpy(np.concatenate([empty, *parts])), torch.from_numpy(system))


def half_space(cell: NDArray[np.float64], resolution: float) -> NDArray[np.int64]:
    """Sorted triples n != 0 of one half space with |n @ inv(cell).T| <= 1 / `resolution`, [vectors, 3] int64.

    n_a = k . cell_a / 2 pi, hence |n_a| <= |cell_a| / resolution (Cauchy-Schwarz) is complete for any cell; a reduced basis keeps the
    number of candidates small.
    """
    volume = abs(np.linalg.det(cell))
    expected = 2 * np.pi / 3 * volume / resolution**3
    if expected > MAX_VECTORS:
        raise InvalidStructureError(
            f"a cell of {volume:.1e} Angstrom^3 has about {expected:.1e} reciprocal vectors at a resolution of {resolution} Angstrom",
            hint="shrink the empty part of the cell, or do not make it periodic",
        )
    basis, transform = reduced(cell)
    top = np.floor(np.linalg.norm(basis, axis=1) / resolution * (1 + 1e-12)).astype(np.int64)
    grid = np.stack(np.meshgrid(*(np.arange(-t, t + 1) for t in top), indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.linalg.norm(grid @ np.linalg.inv(basis).T, axis=1) <= (1 + 1e-12) / resolution
    # n of the reduced basis is transform @ n of the given one.
    index: NDArray[np.int64] = grid[inside] @ np.rint(np.linalg.inv(transform)).astype(np.int64).T
    first = np.where(index[:, 0] != 0, index[:, 0], np.where(index[:, 1] != 0, index[:, 1], index[:, 2]))
    index = index[first > 0]
    return index[np.lexsort(index.T[::-1])]
