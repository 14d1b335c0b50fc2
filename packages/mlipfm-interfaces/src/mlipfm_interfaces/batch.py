"""`collate(structures, graph_specs, dtype, device) -> Batch`: the only way to make a Batch.

A Batch holds many systems end to end, float64 geometry, labels with masks, and one neighbour view for every GraphSpec that a potential of this
step gave. Views hold integer shifts only; displacements are made from positions and cells in float64 and cast once (`Batch.displacements`).

`MovingBatch` makes the batch of systems whose atoms and cells move. Its neighbour lists are searched up to cutoff + skin and used until atoms or cell
have moved so far that a pair from beyond could have come within the cutoff. For every geometry the pairs within the cutoff are picked out of the
list, in its order: the views are those of a fresh list to the last bit, whatever happened before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import InvalidStructureError, PropertyNotAvailableError
from .kspace import KSpaceView, kspace_view
from .neighbors import (
    CROWD_RADIUS,
    DenseView,
    Geometry,
    PairView,
    batch_pairs,
    dense_from_pairs,
    dense_view,
    pair_view,
    pairs_from_pairs,
    reversal,
)
from .quantities import QUANTITIES
from .structure import Structure

Array = NDArray[Any]
View = PairView | DenseView


@dataclass(frozen=True)
class GraphSpec:
    """What neighbours a potential needs.

    Attributes:
        cutoff: Å. Pairs beyond it contribute exactly 0.
        layout: `pairs` (a list sorted by the first atom) or `dense` ([atoms, capacity] blocks with the slot of the reverse pair).
        capacity: `dense`: neighbours per atom, `pairs`: pairs in the batch. None fits the batch; a number is padded to, and more neighbours
            than that raise `CapacityExceeded` (the caller rebuilds).
        kspace: if set, also the reciprocal vectors up to 2 pi / kspace, kspace in Å.
    """

    cutoff: float
    layout: Literal["pairs", "dense"] = "pairs"
    capacity: int | None = None
    kspace: float | None = None


@dataclass(frozen=True)
class Batch:
    """Systems end to end. Tensors are on one device; geometry is float64, `dtype` is what potentials compute in.

    Attributes:
        positions: [atoms, 3] float64, Å, as given (not wrapped).
        atomic_numbers: [atoms] int64.
        system: [atoms] int64, index of the system of each atom, ascending.
        n_atoms: [systems] int64.
        cell: [systems, 3, 3] float64, Å, rows. pbc: [systems, 3] bool.
        total_charge: [systems] int64, e; 0 where not given, and then `charge_stated` [systems] is False.
        spin_multiplicity: [systems] int64, 2S+1; 0 means not given.
        external_field: [systems, 3] float64, V/Å; zero where not given.
        levels: level id of each system, or None.
        keys: `Structure.key` of each system.
        labels: quantity -> float64. System quantities [systems, ...], atom quantities [atoms, ...]; probe quantities
            (pair quantities of open systems [atoms, most atoms of a system], the second place counted within the system), probe quantities
            [probes, atoms, 3] with companions `hessian_rows_index` [probes, systems, 2] int64 (atom of the batch, axis) and
            `hvp_probe` [probes, atoms, 3]. Missing entries are 0.
        label_mask: quantity -> bool, True where the label exists: [systems], and [probes, systems] for probes.
        views: GraphSpec -> neighbours. kspace: GraphSpec -> reciprocal vectors, where asked.
        strain: [systems, 3, 3] float64, zero: the leaf of the stress; its symmetric part deforms displacements and cells.
        dtype: of displacements and features.
        mask_undefined: whether what a system does not have (stress without three periodic directions, dipole of a periodic system) is zero there.
            Else asking for it is refused. Training sets it, and leaves those systems out of the losses on it (`defined`).
        node_input: what objectives of pre-training add to the atoms, (keep [atoms, 1], added [atoms, channels]): the embedding e of the element of
            each atom becomes keep x e + added. None outside of training.
    """

    positions: Tensor
    atomic_numbers: Tensor
    system: Tensor
    n_atoms: Tensor
    cell: Tensor
    pbc: Tensor
    total_charge: Tensor
    charge_stated: Tensor
    spin_multiplicity: Tensor
    external_field: Tensor
    levels: tuple[str | None, ...]
    keys: tuple[str, ...]
    labels: Mapping[str, Tensor]
    label_mask: Mapping[str, Tensor]
    views: Mapping[GraphSpec, View]
    kspace: Mapping[GraphSpec, KSpaceView]
    strain: Tensor
    dtype: torch.dtype
    mask_undefined: bool = False
    node_input: tuple[Tensor, Tensor] | None = None

    @property
    def n_systems(self) -> int:
        return len(self.levels)

    @property
    def volume(self) -> Tensor:
        """[systems] float64, Å³, of the undeformed cells; with `mask_undefined` infinite where a system is not periodic in three directions.

        Raises:
            PropertyNotAvailableError: if a system is not periodic in three dimensions.
        """
        periodic = self.pbc.all(dim=1)
        flat = (~periodic).nonzero().flatten().tolist()
        if flat and not self.mask_undefined:
            raise PropertyNotAvailableError(
                "volume and stress need three periodic directions",
                where=f"system {flat[0]}",
                hint="do not ask the stress of molecules and slabs",
            )
        volume: Tensor = torch.linalg.det(self.cell).abs()
        return torch.where(periodic, volume, torch.inf)

    def defined(self, key: str) -> Tensor:
        """Return [systems] bool: whether each system has the quantity `key` at all: stress with three periodic directions, dipole and quadrupole
        (and Born charges, which are derivatives of the dipole here) without any."""
        if key == "stress":
            return self.pbc.all(dim=1)
        if key in ("dipole", "quadrupole", "born_charges"):
            return ~self.pbc.any(dim=1)
        return torch.ones_like(self.pbc[:, 0])

    def with_leaves(self, *, strain: bool = False, field: bool = False) -> Batch:
        """Return a copy whose positions (and, if asked, strain and external field) are leaves that take gradients."""
        changes: dict[str, Tensor] = {"positions": self.positions.detach().requires_grad_()}
        if strain:
            changes["strain"] = torch.zeros_like(self.strain).requires_grad_()
        if field:
            changes["external_field"] = self.external_field.detach().requires_grad_()
        return replace(self, **changes)  # type: ignore[arg-type]  # all values are Tensors of the right field

    def displacements(self, spec: GraphSpec, slots: tuple[Tensor, ...] | None = None) -> Tensor:
        """Return vectors r_j - r_i of the view of `spec`, in `dtype`: [pairs, 3], or [atoms, K, 3] for the dense layout.

        `slots`, indices into the view as `nonzero(as_tuple=True)` gives them, picks some: [slots, 3]. Computed in float64, deformed by the
        symmetric part of `strain`, cast once. Padding is (2 cutoff, 0, 0): beyond every envelope, never zero.
        """
        view = self.views[spec]
        neighbor, shift, mask = view.j if isinstance(view, PairView) else view.index, view.shift, view.mask
        if isinstance(view, PairView):
            center = view.i
        elif slots is None:
            center = torch.arange(len(self.positions), device=self.positions.device)[:, None]
        else:
            center = slots[0]
        if slots is not None:
            center = center[slots] if isinstance(view, PairView) else center
            neighbor, shift, mask = neighbor[slots], shift[slots], mask[slots]
        system = self.system[center]
        vectors = (
            self.positions[neighbor] - self.positions[center] + torch.einsum("...a,...ab->...b", shift.to(torch.float64), self.cell[system])
        )
        if self.strain.requires_grad:
            symmetric = (self.strain + self.strain.mT) / 2
            vectors = vectors + torch.einsum("...a,...ab->...b", vectors, symmetric[system])
        far = torch.zeros(3, dtype=torch.float64, device=vectors.device)
        far[0] = 2 * spec.cutoff
        return torch.where(mask[..., None], vectors, far).to(self.dtype)

    def sum_per_system(self, per_atom: Tensor) -> Tensor:
        """Sum values of atoms per system: [atoms, ...] -> [systems, ...], in float64."""
        total = torch.zeros((self.n_systems, *per_atom.shape[1:]), dtype=torch.float64, device=per_atom.device)
        return total.index_add(0, self.system, per_atom.to(torch.float64))


def collate(
    structures: Sequence[Structure],
    graph_specs: Sequence[GraphSpec],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Batch:
    """Put structures end to end and build every neighbour view that `graph_specs` asks for.

    Raises:
        InvalidStructureError: for an empty list. OverlapError, DensityError: from the neighbour list. CapacityExceeded: fixed capacity too small.
    """
    if not structures:
        raise InvalidStructureError("a batch needs at least one structure")
    counts = np.array([len(s) for s in structures])
    labels, masks = _labels(structures, counts)
    fields = [np.zeros(3) if s.external_field is None else s.external_field for s in structures]
    specs = tuple(dict.fromkeys(graph_specs))
    batch = Batch(
        positions=torch.from_numpy(np.concatenate([s.positions for s in structures])),
        atomic_numbers=torch.from_numpy(np.concatenate([s.atomic_numbers for s in structures])),
        system=torch.from_numpy(np.repeat(np.arange(len(structures)), counts)),
        n_atoms=torch.from_numpy(counts),
        cell=torch.from_numpy(np.stack([s.cell for s in structures])),
        pbc=torch.from_numpy(np.stack([s.pbc for s in structures])),
        total_charge=torch.tensor([s.total_charge or 0 for s in structures], dtype=torch.int64),
        charge_stated=torch.tensor([s.total_charge is not None for s in structures]),
        spin_multiplicity=torch.tensor([s.spin_multiplicity or 0 for s in structures], dtype=torch.int64),
        external_field=torch.from_numpy(np.stack(fields)),
        levels=tuple(s.level for s in structures),
        keys=tuple(s.key for s in structures),
        labels={key: torch.from_numpy(value) for key, value in labels.items()},
        label_mask={key: torch.from_numpy(value) for key, value in masks.items()},
        views={spec: _view(structures, spec) for spec in specs},
        kspace={spec: kspace_view(structures, spec.kspace) for spec in specs if spec.kspace is not None},
        strain=torch.zeros(len(structures), 3, 3, dtype=torch.float64),
        dtype=dtype,
    )
    return batch if torch.device(device).type == "cpu" else _moved(batch, torch.device(device))


def _view(structures: Sequence[Structure], spec: GraphSpec) -> View:
    return (pair_view if spec.layout == "pairs" else dense_view)(structures, spec.cutoff, spec.capacity)


def _moved(batch: Batch, device: torch.device) -> Batch:
    def move(value: object) -> object:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, PairView | DenseView | KSpaceView):
            return value.to(device)
        if isinstance(value, Mapping):
            return {key: move(item) for key, item in value.items()}
        return value

    return Batch(**{name: move(getattr(batch, name)) for name in Batch.__dataclass_fields__})  # type: ignore[arg-type]


def _labels(structures: Sequence[Structure], counts: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Labels and masks as in `Batch`; deviations of labels are left out."""
    labels: dict[str, Array] = {}
    masks: dict[str, Array] = {}
    for key in sorted({k for s in structures for k in s.labels if k in QUANTITIES}):
        kind = QUANTITIES[key]
        present = np.array([key in s.labels for s in structures])
        if kind.layout == "probe":
            _probe_labels(structures, counts, key, kind.companion or "", labels, masks)
        elif kind.layout == "system":
            labels[key] = np.stack([s.labels.get(key, np.zeros(kind.shape)) for s in structures])
            masks[key] = present
        elif kind.layout == "atom":
            labels[key] = np.concatenate([s.labels[key] if key in s.labels else np.zeros((len(s), *kind.shape)) for s in structures])
            masks[key] = present
        else:
            _pair_labels(structures, counts, key, labels, masks)
    return labels, masks


def _pair_labels(structures: Sequence[Structure], counts: Array, key: str, labels: dict[str, Array], masks: dict[str, Array]) -> None:
    """Matrices [atoms, atoms] of open systems, one below the other. Of a periodic system a pair of atoms is no pair of neighbours: left out."""
    fits = np.array([not s.pbc.any() and key in s.labels and s.labels[key].shape == (len(s), len(s)) for s in structures])
    values = np.zeros((int(counts.sum()), int(counts.max())))
    first = np.cumsum(counts) - counts
    for k in np.flatnonzero(fits).tolist():
        values[first[k] : first[k] + counts[k], : counts[k]] = structures[k].labels[key]
    labels[key], masks[key] = values, fits


def _probe_labels(
    structures: Sequence[Structure], counts: Array, key: str, companion: str, labels: dict[str, Array], masks: dict[str, Array]
) -> None:
    """Row p of every structure stands in one block p, so that one vector-Jacobian product serves all structures."""
    rows = [len(s.labels[key]) if key in s.labels else 0 for s in structures]
    first = np.concatenate([[0], np.cumsum(counts)])
    values = np.zeros((max(rows), int(first[-1]), 3))
    mask = np.zeros((max(rows), len(structures)), dtype=bool)
    index = np.zeros((max(rows), len(structures), 2), dtype=np.int64)
    index[..., 0] = first[:-1]
    probe = np.zeros_like(values)
    for k, s in enumerate(structures):
        if not rows[k]:
            continue
        here = slice(first[k], first[k + 1])
        values[: rows[k], here], mask[: rows[k], k] = s.labels[key], True
        if companion == "hessian_rows_index":
            index[: rows[k], k] = s.labels[companion].astype(np.int64) + [first[k], 0]
        else:
            probe[: rows[k], here] = s.labels[companion]
    labels[key], masks[key] = values, mask
    labels[companion] = index if companion == "hessian_rows_index" else probe


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
        """Return whether no pair within a cutoff can be missing from the lists.

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
        """Return the pairs within the cutoff, at positions [3, atoms]; the same object as long as they are the same pairs."""
        distance2 = self._squared_distances(columns, moving)
        if len(distance2) and distance2.min() < CROWD_RADIUS**2:
            batch_pairs(moving.geometries(columns.T), self.graph.cutoff)  # names the atoms and refuses them
        kept = distance2 < self.graph.cutoff * self.graph.cutoff
        if self._view is None or self._kept is None or not np.array_equal(kept, self._kept):
            self._kept, self._view = kept, self._picked(kept)
        return self._view

    def all(self) -> View:
        """Return every pair of the list: those beyond the cutoff contribute 0."""
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
