"""`collate(structures, graph_specs, dtype, device) -> Batch`: the only way to make a Batch.

A Batch holds many systems end to end, float64 geometry, labels with masks, and one neighbour view for every GraphSpec that a potential of this
step stated. Views hold integer shifts only; displacements are made from positions and cells in float64 and cast once (`Batch.displacements`).
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
from .neighbors import DenseView, PairView, dense_view, pair_view
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
        total_charge: [systems] int64, e; 0 where not stated, and then `charge_stated` [systems] is False.
        spin_multiplicity: [systems] int64, 2S+1; 0 means not stated.
        external_field: [systems, 3] float64, V/Å; zero where not stated.
        levels: level id of each system, or None.
        keys: `Structure.key` of each system.
        labels: quantity -> float64. System quantities [systems, ...], atom quantities [atoms, ...]; probe quantities
            [probes, atoms, 3] with companions `hessian_rows_index` [probes, systems, 2] int64 (atom of the batch, axis) and
            `hvp_probe` [probes, atoms, 3]. Missing entries are 0.
        label_mask: quantity -> bool, True where the label exists: [systems], and [probes, systems] for probes.
        views: GraphSpec -> neighbours. kspace: GraphSpec -> reciprocal vectors, where asked.
        strain: [systems, 3, 3] float64, zero: the leaf of the stress; its symmetric part deforms displacements and cells.
        dtype: of displacements and features.
        mask_undefined: whether what a system does not have (stress without three periodic directions, dipole of a periodic system) is zero there.
            Else asking for it is refused. Training sets it, and leaves those systems out of the losses on it (`defined`).
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
        """[systems] bool: whether each system has the quantity `key` at all: stress with three periodic directions, dipole and quadrupole (and Born
        charges, which are derivatives of the dipole here) without any."""
        if key == "stress":
            return self.pbc.all(dim=1)
        if key in ("dipole", "quadrupole", "born_charges"):
            return ~self.pbc.any(dim=1)
        return torch.ones_like(self.pbc[:, 0])

    def with_leaves(self, *, strain: bool = False, field: bool = False) -> Batch:
        """A copy whose positions (and, if asked, strain and external field) are leaves that take gradients."""
        changes: dict[str, Tensor] = {"positions": self.positions.detach().requires_grad_()}
        if strain:
            changes["strain"] = torch.zeros_like(self.strain).requires_grad_()
        if field:
            changes["external_field"] = self.external_field.detach().requires_grad_()
        return replace(self, **changes)  # type: ignore[arg-type]  # all values are Tensors of the right field

    def displacements(self, spec: GraphSpec, slots: tuple[Tensor, ...] | None = None) -> Tensor:
        """Vectors r_j - r_i of the view of `spec`, in `dtype`: [pairs, 3], or [atoms, K, 3] for the dense layout.

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
        """[atoms, ...] -> [systems, ...], summed in float64."""
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
    """Labels and masks as in `Batch`; deviations of labels and labels of pairs are left out."""
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
    return labels, masks


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
