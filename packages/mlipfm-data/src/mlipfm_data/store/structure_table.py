"""Tables of structures: key, elements, charge, multiplicity, level, labels and licence of each, without decoding geometries and values of labels.

One pass over the shards reads the head and the atomic numbers of each record; what structures share comes from the layouts of their records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.licences import combined
from mlipfm_interfaces.record_blocks import Heads, read_heads
from mlipfm_interfaces.records import Layout
from numpy.typing import NDArray

from .shards import ROW, Shard

Integers = NDArray[np.int64]

#: (structure key, level) -> layouts of the labels that overlays give it.
Laid = Mapping[tuple[bytes, str | None], Sequence[Layout]]

_CHUNK = 2**22  # bytes of records that are looked at together


class Kind(NamedTuple):
    """What structures have in common; labels, sources and licence are those of the structure and of the overlays of its level.

    Attributes:
        level: None if not given. periodic: along all three axes. licence: SPDX expression, None if not given.
        labels: their keys. sources: of the structure, then of the overlays that give one. periodic_axes: 0 to 3.
    """

    level: str | None
    periodic: bool
    licence: str | None
    labels: frozenset[str]
    sources: tuple[str, ...]
    periodic_axes: int = 0


@dataclass(frozen=True)
class StructureTable:
    """Of structures in their order.

    Attributes:
        keys: [structures] V16, `Structure.key` as bytes. n_atoms: [structures]. atomic_numbers: [atoms] uint8, end to end.
        total_charge: [structures] e, 0 where not given, and then `charge_stated` [structures] is False.
        spin_multiplicity: [structures] 2S+1, 0 where not given.
        kinds: each once. kind: [structures] place in `kinds`.
    """

    keys: NDArray[Any]
    n_atoms: Integers
    atomic_numbers: NDArray[np.uint8]
    total_charge: Integers
    charge_stated: NDArray[np.bool_]
    spin_multiplicity: Integers
    kinds: tuple[Kind, ...]
    kind: Integers

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.kind)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers, ascending."""
        return tuple(np.flatnonzero(np.bincount(self.atomic_numbers)).tolist())

    def count(self, of: Callable[[Kind], Iterable[str]]) -> Counter[str]:
        """Structures by what `of` says of their kinds: `count(lambda kind: kind.labels)`."""
        numbers = np.bincount(self.kind, minlength=len(self.kinds)).tolist()
        found: Counter[str] = Counter()
        for kind, number in zip(self.kinds, numbers, strict=True):
            found.update(dict.fromkeys(of(kind), number))
        return found

    def of_kind(self, wanted: Callable[[Kind], bool]) -> NDArray[np.bool_]:
        """[structures] whether the kind of each is wanted."""
        return np.array([wanted(kind) for kind in self.kinds], dtype=bool)[self.kind]

    def having(self, z: int) -> Integers:
        """Places of the structures that contain the element."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        first = np.cumsum(self.n_atoms) - self.n_atoms
        return np.flatnonzero(np.logical_or.reduceat(self.atomic_numbers == z, first))

    def take(self, rows: Integers) -> StructureTable:
        """Of the structures `rows`, in this order."""
        first, counts = np.cumsum(self.n_atoms) - self.n_atoms, self.n_atoms[rows]
        steps = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        used, kind = np.unique(self.kind[rows], return_inverse=True)
        return StructureTable(
            self.keys[rows],
            counts,
            self.atomic_numbers[np.repeat(first[rows], counts) + steps],
            self.total_charge[rows],
            self.charge_stated[rows],
            self.spin_multiplicity[rows],
            tuple(self.kinds[k] for k in used.tolist()),
            kind.astype(np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[StructureTable]) -> StructureTable:
        """Of several, end to end."""
        kinds = list(dict.fromkeys(kind for part in parts for kind in part.kinds))
        place = {kind: k for k, kind in enumerate(kinds)}
        renamed = [np.array([place[kind] for kind in part.kinds], dtype=np.int64)[part.kind] for part in parts]

        def ends(arrays: Iterable[Any], dtype: Any) -> Any:
            return np.concatenate([np.zeros(0, dtype), *arrays])

        return cls(
            ends((part.keys for part in parts), ROW["key"]),
            ends((part.n_atoms for part in parts), np.int64),
            ends((part.atomic_numbers for part in parts), np.uint8),
            ends((part.total_charge for part in parts), np.int64),
            ends((part.charge_stated for part in parts), bool),
            ends((part.spin_multiplicity for part in parts), np.int64),
            tuple(kinds),
            ends(renamed, np.int64),
        )


def structure_table_of(shards: Sequence[Shard], laid: Laid) -> StructureTable:
    """Of all structures of some shards, with the labels of overlays.

    Raises:
        DamagedFileError: naming shard and record.
    """
    return StructureTable.joined([part for shard in shards for part in _of_shard(shard, laid)])


def shared(first: StructureTable, second: StructureTable) -> Integers:
    """Places of the structures of `second` that are in `first` too, with the same key and level."""
    found = np.zeros(len(second), dtype=bool)
    for level in {kind.level for kind in second.kinds}:
        there, here = (part.of_kind(lambda kind, level=level: kind.level == level) for part in (first, second))  # type: ignore[misc]  # of the loop
        found[here] = np.isin(second.keys[here].view("S16"), first.keys[there].view("S16"))
    return np.flatnonzero(found)


def _of_shard(shard: Shard, laid: Laid) -> Iterator[StructureTable]:
    columns = shard.columns
    kinds, kind = _kinds(shard, laid)
    start = 0
    for chunk in _chunks(shard):
        rows = slice(start, start + len(chunk))
        yield StructureTable(columns.keys[rows], *_heads(shard, chunk, start), kinds=tuple(kinds), kind=kind[rows])
        start += len(chunk)


def _heads(shard: Shard, chunk: list[bytes], start: int) -> Heads:
    try:
        return read_heads(chunk)
    except MlipfmError as error:
        error.where = f"{shard.path}, record {start + int(str(error.where).rpartition(' ')[2])}"
        raise


def _chunks(shard: Shard) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for record in shard.records():
        chunk.append(record)
        size += len(record)
        if size > _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _kinds(shard: Shard, laid: Laid) -> tuple[list[Kind], Integers]:
    """Return the kinds of a shard's structures, and the place of each one's among them."""
    columns = shard.columns
    layouts = columns.layouts.all
    places: dict[Kind, int] = {}
    plain = [places.setdefault(_kind(layout, ()), len(places)) for layout in layouts]
    kind = np.array(plain, dtype=np.int64)[columns.layout]
    for row, key in enumerate(columns.keys) if laid else ():
        layout = layouts[int(columns.layout[row])]
        above = laid.get((key.tobytes(), layout.level), ())
        if above:
            kind[row] = places.setdefault(_kind(layout, above), len(places))
    return list(places), kind


def _kind(layout: Layout, above: Sequence[Layout]) -> Kind:
    labels = frozenset(block.slot[6:] for part in (layout, *above) for block in part.blocks if block.slot.startswith("label:"))
    sources = dict.fromkeys(part.provenance["source"] for part in (layout, *above) if part.provenance["source"])
    licence, axes = laid_licence(layout.provenance["licence"], above), int(np.sum(layout.pbc))
    return Kind(layout.level, axes == 3, licence, labels, tuple(sources), axes)


def laid_licence(licence: str | None, above: Sequence[Layout]) -> str | None:
    """Licence of a structure with the labels of overlays: its own, and those that overlays state for theirs."""
    more = [layout.provenance["licence"] for layout in above if layout.provenance["licence"]]
    return combined([licence, *more]) if more else licence
