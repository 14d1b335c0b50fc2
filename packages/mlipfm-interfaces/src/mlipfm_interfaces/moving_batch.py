"""`MovingBatch`: the batch of systems whose atoms and cells move, with neighbour lists that are used again.

Lists are searched up to cutoff + skin and used until atoms or cell have moved so far that a pair from beyond could have come within the cutoff. For
every geometry the pairs within the cutoff are picked out of the list, in its order: the views are those of a fresh list to the last bit, whatever
happened before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .batch import Batch, GraphSpec, View, collate
from .errors import InvalidStructureError
from .kspace import kspace_view
from .neighbors import CROWD_RADIUS, Geometry, batch_pairs, dense_from_pairs, pairs_from_pairs, reversal
from .structure import Structure

__all__ = ["SKIN", "MovingBatch"]

Array = NDArray[Any]

#: Å. Half of it is what an atom may move before neighbours are searched again.
SKIN = 0.5


class MovingBatch:
    """The batch of `structures` at other positions and cells.

    Attributes:
        reference: [atoms, 3] Å, positions at which neighbours were searched last. reference_cells: [systems, 3, 3] Å, then.
        present_cells: those of the last batch.
        rebuilds: how often they were searched. device: of the batch.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        graphs: Sequence[GraphSpec],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        skin: float = SKIN,
        reference: Array | None = None,
        reference_cells: Array | None = None,
    ) -> None:
        """Search neighbours at `reference` [atoms, 3] Å in `reference_cells` [systems, 3, 3] Å, by default those of the structures.

        Raises:
            InvalidStructureError: for an empty list. OverlapError, DensityError: from the neighbour list.
        """
        self.skin, self.rebuilds, self._graphs = skin, 0, tuple(dict.fromkeys(graphs))
        batch = collate(structures, (), dtype, device)
        self._numbers, self._pbc, self.present_cells = (part.numpy(force=True) for part in (batch.atomic_numbers, batch.pbc, batch.cell))
        self._system, self._ends = batch.system.numpy(force=True), np.cumsum(batch.n_atoms.numpy(force=True))[:-1]
        self.device = batch.positions.device
        if reference_cells is not None:
            self.present_cells = np.array(reference_cells, dtype=np.float64)
            batch = replace(batch, cell=torch.from_numpy(self.present_cells).to(self.device))
        self._search(batch.positions.numpy(force=True) if reference is None else np.array(reference, dtype=np.float64))
        self._fixed = replace(batch, keys=("",) * batch.n_systems, kspace=self._kspace())

    def at(self, positions: Array, cells: Array | None = None) -> Batch:
        """Return the batch at `positions` [atoms, 3] and `cells` [systems, 3, 3], Å, both copied; without `cells` they are the last ones.

        Raises:
            InvalidStructureError: for positions that are not finite. OverlapError, DensityError, CapacityExceeded: as from `collate`.
        """
        if cells is not None and not np.array_equal(cells, self.present_cells):
            self.present_cells = np.array(cells, dtype=np.float64)
            self._fixed = replace(self._fixed, cell=torch.from_numpy(self.present_cells).to(self.device), kspace=self._kspace())
        if not self._covered(positions):
            self._search(np.array(positions, dtype=np.float64))
        moved = np.array(positions, dtype=np.float64)
        if self.device.type == "cpu":
            columns = np.ascontiguousarray(moved.T)
            views = {graph: pairs.view(columns, self) for graph, pairs in self._lists.items()}
            return replace(self._fixed, positions=torch.from_numpy(moved), views=views)
        return replace(self._fixed, positions=torch.from_numpy(moved).to(self.device), views=self._wide)

    def geometries(self, positions: Array) -> list[Geometry]:
        """Return what the neighbours of each system are searched in, at `positions` and the present cells."""
        systems = zip(np.split(self._numbers, self._ends), np.split(positions, self._ends), self.present_cells, self._pbc, strict=True)
        return [Geometry(*system) for system in systems]

    def cells_of(self, atoms: Array) -> Array:
        """Return the present cell of each of `atoms` [n]: [n, 3, 3] Å."""
        cells: Array = self.present_cells[self._system[atoms]]
        return cells

    def _covered(self, positions: Array) -> bool:
        """Whether no pair within a cutoff can be missing from the lists.

        The vector d of a pair has become d F + u_j - u_i, F the deformation of the cell and u the ways of the atoms beyond it. A pair that is not
        listed was longer than cutoff + skin and is now at least (cutoff + skin) s - 2 max |u| long, s the smallest singular value of F.
        """
        least, expected = 1.0, self.reference
        if self.present_cells is not self.reference_cells and not np.array_equal(self.present_cells, self.reference_cells):
            if not (np.abs(np.linalg.det(self.reference_cells)) > 0).all():
                return False
            deformation = np.linalg.solve(self.reference_cells, self.present_cells)
            least = float(np.linalg.svd(deformation, compute_uv=False).min())
            expected = np.einsum("na,nab->nb", self.reference, deformation[self._system])
        way = positions - expected
        farthest = float(np.sqrt(np.einsum("na,na->n", way, way).max()))
        return all((graph.cutoff + self.skin) * least - 2 * farthest >= graph.cutoff for graph in self._graphs)

    def _search(self, positions: Array) -> None:
        wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        if len(wrong):
            raise InvalidStructureError("a position is not finite", where=f"atom {wrong[0]}", hint="look at the forces of the step before")
        self.rebuilds += 1
        self.reference, self.reference_cells = positions, self.present_cells
        self._lists = {graph: _WidePairs(self.geometries(positions), graph, self.skin) for graph in self._graphs}
        on_cpu = self.device.type == "cpu"  # elsewhere the whole list stays on the device
        self._wide = {} if on_cpu else {graph: pairs.all().to(self.device) for graph, pairs in self._lists.items()}

    def _kspace(self) -> dict[GraphSpec, Any]:
        geometries = self.geometries(self.reference)
        return {g: kspace_view(geometries, g.kspace).to(self.device) for g in self._graphs if g.kspace is not None}


class _WidePairs:
    """Pairs of a batch up to cutoff + skin, in canonical order."""

    def __init__(self, geometries: Sequence[Geometry], graph: GraphSpec, skin: float) -> None:
        self.graph, self.atoms = graph, sum(len(g.positions) for g in geometries)
        self.i, self.j, self.shift = batch_pairs(geometries, graph.cutoff + skin)
        self.reversal = reversal(self.i, self.j, self.shift) if graph.layout == "dense" else None
        # Most pairs of a large system cross no boundary: (lattice vector, those that cross it, how often).
        rows = [(vector, np.flatnonzero(self.shift[:, vector])) for vector in range(3)]
        self.crossing = [(vector, some, self.shift[some, vector].astype(np.float64)) for vector, some in rows if len(some)]
        self._cells: Array | None = None
        self._kept: Array | None = None
        self._view: View | None = None

    def view(self, columns: Array, moving: MovingBatch) -> View:
        """The pairs within the cutoff, at positions [3, atoms]; the same object as long as they are the same pairs."""
        distance2 = self._squared_distances(columns, moving)
        if len(distance2) and distance2.min() < CROWD_RADIUS**2:
            batch_pairs(moving.geometries(columns.T), self.graph.cutoff)  # names the atoms and refuses them
        kept = distance2 < self.graph.cutoff * self.graph.cutoff
        if self._view is None or self._kept is None or not np.array_equal(kept, self._kept):
            self._kept, self._view = kept, self._picked(kept)
        return self._view

    def all(self) -> View:
        """Every pair of the list: those beyond the cutoff contribute 0."""
        return self._picked(np.ones(len(self.i), dtype=bool))

    def _picked(self, kept: Array) -> View:
        i, j, shift = self.i[kept], self.j[kept], self.shift[kept]
        if self.reversal is None:
            return pairs_from_pairs(i, j, shift, self.atoms, self.graph.capacity)
        place = np.cumsum(kept) - 1
        return dense_from_pairs(i, j, shift, place[self.reversal[kept]], self.atoms, self.graph.capacity)

    def _squared_distances(self, columns: Array, moving: MovingBatch) -> Array:
        """In the order of operations of `neighbors`, so that a pair is on the same side of the cutoff here and there."""
        if self._cells is not moving.present_cells:
            self._cells = moving.present_cells
            self._steps = [(some, (count[:, None] * moving.cells_of(self.i[some])[:, vector]).T) for vector, some, count in self.crossing]
        total = np.zeros(len(self.i))
        for axis, column in enumerate(columns):
            d = column[self.j]
            d -= column[self.i]
            for some, step in self._steps:
                d[some] += step[axis]
            d *= d
            total += d
        return total
