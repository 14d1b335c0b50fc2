"""`FlatStructures`: structures end to end in the arrays that a Batch takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidStructureError
from .quantities import QUANTITIES
from .structure import Structure

Array = NDArray[Any]


@dataclass(frozen=True)
class FlatStructures:
    """What `collate` needs of structures, and nothing else: no provenance, no deviations of labels, no labels of pairs.

    Attributes:
        positions: [atoms, 3] float64, Å. atomic_numbers: [atoms] int64. n_atoms: [systems] int64.
        cell: [systems, 3, 3] float64, Å, rows. pbc: [systems, 3] bool.
        total_charge: [systems] int64, e; 0 where not stated, and then `charge_stated` [systems] is False.
        spin_multiplicity: [systems] int64, 2S+1; 0 means not stated.
        external_field: [systems, 3] float64, V/Å; zero where not stated.
        levels, keys: of each system.
        labels, label_mask: as in `Batch`.
    """

    positions: Array
    atomic_numbers: Array
    n_atoms: Array
    cell: Array
    pbc: Array
    total_charge: Array
    charge_stated: Array
    spin_multiplicity: Array
    external_field: Array
    levels: tuple[str | None, ...]
    keys: tuple[str, ...]
    labels: Mapping[str, Array]
    label_mask: Mapping[str, Array]

    def __len__(self) -> int:
        """Number of systems."""
        return len(self.n_atoms)


def flatten(structures: Sequence[Structure]) -> FlatStructures:
    """Put structures end to end.

    Raises:
        InvalidStructureError: for an empty list.
    """
    if not structures:
        raise InvalidStructureError("a batch needs at least one structure")
    counts = np.array([len(s) for s in structures])
    labels, masks = _labels(structures, counts)
    return FlatStructures(
        positions=np.concatenate([s.positions for s in structures]),
        atomic_numbers=np.concatenate([s.atomic_numbers for s in structures]),
        n_atoms=counts,
        cell=np.stack([s.cell for s in structures]),
        pbc=np.stack([s.pbc for s in structures]),
        total_charge=np.array([s.total_charge or 0 for s in structures], dtype=np.int64),
        charge_stated=np.array([s.total_charge is not None for s in structures]),
        spin_multiplicity=np.array([s.spin_multiplicity or 0 for s in structures], dtype=np.int64),
        external_field=np.stack([np.zeros(3) if s.external_field is None else s.external_field for s in structures]),
        levels=tuple(s.level for s in structures),
        keys=tuple(s.key for s in structures),
        labels=labels,
        label_mask=masks,
    )


def _labels(structures: Sequence[Structure], counts: Array) -> tuple[dict[str, Array], dict[str, Array]]:
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
