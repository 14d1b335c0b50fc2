"""`Store`: a data set on disk, read by index. A folder of sealed shards and the manifest that names them; `StoreWriter` makes it.

Nothing that was changed on the disk is ever returned: the manifest carries its own digest, sizes are checked when the store is opened, a shard's
hash before its first use, and the checksum of a record each time it is read.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import numpy as np
from mlipfm_interfaces.display import html_table, line
from mlipfm_interfaces.errors import MissingLabelsError, MlipfmError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.label_weights import structure_weight
from mlipfm_interfaces.level_names import canonical_level
from mlipfm_interfaces.structure import Structure

from . import manifest as manifests
from .shards import Shard
from .statistics import LevelStatistics, Summary
from .structure_table import StructureTable, laid_licence, structure_table_of
from .writer import StoreWriter

Labels = dict[str, np.ndarray[Any, Any]]


class Overlay(NamedTuple):
    """A record of an overlay: labels for the structures of this key at this level, and where they come from, if they say."""

    key: str
    level: str
    labels: Labels
    source: str | None
    licence: str | None


class Store(Sequence[Structure]):
    """A store as its manifest said when it was opened; what a writer adds later is seen by opening it again. Picklable, safe to fork.

    Args:
        path: the folder.

    Attributes:
        name: of the data set. complete: False if a writer is at work or was killed (`StoreWriter` continues it); what is there is whole.

    Raises:
        UnreadableFileError, DamagedFileError, RefusedFileError, FormatVersionError: naming the file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        found = manifests.load(self.path)
        self.name, self.complete, self._summary = found.name, found.complete, found.summary
        self._shards = [Shard(self.path, entry) for entry in found.shards]
        self._overlays = [Shard(self.path, entry) for entry in found.overlays]
        self._first = [0, *accumulate(map(len, self._shards))]  # index of the first structure of each shard
        self._joins: dict[tuple[bytes, str | None], list[tuple[int, int]]] | None = None

    def __enter__(self) -> Store:
        return self

    def __repr__(self) -> str:
        levels = [level for level in self.statistics.levels if level]
        state = "" if self.complete else "not complete"
        return line("Store", repr(str(self.path)), f"{len(self)} structures", *(f"level {level!r}" for level in levels), state)

    def _repr_html_(self) -> str:
        found, sizes = self.statistics, sorted(self.statistics.sizes)
        rows = {
            "store": self.path,
            "structures": len(self),
            "elements": ", ".join(f"{name} {count}" for name, count in found.elements.most_common()),
            "atoms per structure": f"{sizes[0]} to {sizes[-1]}" if sizes else None,
            "levels of theory": ", ".join(f"{name or 'not given'} ({level.structures})" for name, level in sorted(found.levels.items())),
            "licences": ", ".join(f"{name or 'not given'} ({count})" for name, count in sorted(found.licences.items())),
            "state": None if self.complete else "not complete: a writer is at work or was killed",
        }
        return html_table(rows)

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_joins": None}

    def __len__(self) -> int:
        return self._first[-1]

    @overload
    def __getitem__(self, index: int) -> Structure: ...

    @overload
    def __getitem__(self, index: slice) -> list[Structure]: ...

    def __getitem__(self, index: int | slice) -> Structure | list[Structure]:
        """Structure `index` with the labels of overlays of its own level. Raises `DamagedFileError` naming shard and record."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, i = self._place(index)
        return self._joined(shard.structure(i))

    def __iter__(self) -> Iterator[Structure]:
        """All structures in order; faster than by index."""
        for shard in self._shards:
            for i, record in enumerate(shard.records()):
                yield self._joined(shard.structure(i, record))

    @property
    def statistics(self) -> Summary:
        """Counted when the store was written; overlays do not enter."""
        return self._summary

    @property
    def natoms(self) -> np.ndarray[Any, Any]:
        """[structures] int64 number of atoms, without decoding anything."""
        return np.concatenate([np.zeros(0, np.int64), *(shard.columns.atoms for shard in self._shards)], dtype=np.int64)

    @property
    def levels(self) -> list[str | None]:
        """Level of theory of every structure, without decoding anything."""
        return [shard.level(i) for shard in self._shards for i in range(len(shard))]

    def weightless(self) -> set[int]:
        """Return the places of structures whose label `weight` is 0; structures are decoded only if the store or an overlay has weights."""
        shards = [*self._shards, *self._overlays]
        if not any(block.slot == "label:weight" for shard in shards for layout in shard.columns.layouts.all for block in layout.blocks):
            return set()
        return {k for k, s in enumerate(self) if structure_weight(s) == 0}

    @property
    def single(self) -> bool:
        """Whether positions and labels of atoms are stored as float32 (in any part of the store)."""
        return any(block.dtype == "<f4" for shard in self._shards for layout in shard.columns.layouts.all for block in layout.blocks)

    def overlays(self) -> Iterator[Overlay]:
        """Yield every label record, in the order they were written."""
        for overlay in self._overlays:
            for i, known in enumerate(overlay.columns.keys):
                origin = overlay.layout(i).provenance
                yield Overlay(known.tobytes().hex(), str(overlay.level(i)), overlay.labels(i), origin["source"], origin["licence"])

    def census(self) -> StructureTable:
        """Return `structure_table` under its old name."""
        warnings.warn("Store.census is an old name: use structure_table", DeprecationWarning, stacklevel=2)
        return self.structure_table()

    def structure_table(self) -> StructureTable:
        """Return what every structure is, without its geometry and the values of its labels; one pass over the files.

        Raises:
            DamagedFileError: naming shard and record.
        """
        joins = self._joined_at() if self._overlays else {}
        return structure_table_of(self._shards, {place: [self._overlays[k].layout(i) for k, i in rows] for place, rows in joins.items()})

    def key(self, index: int) -> str:
        """Return `Structure.key` of structure `index`, without decoding it."""
        shard, i = self._place(index)
        return str(shard.columns.keys[i].tobytes().hex())

    def at_level(self, index: int, level: str) -> Structure:
        """Return the geometry of structure `index` with the labels that overlays of another level give it.

        Raises:
            MissingLabelsError: if no overlay of that level has labels for it.
        """
        shard, i = self._place(index)
        plain, level = shard.structure(i), canonical_level(level)
        rows = self._joined_at().get((bytes.fromhex(plain.key), level), ())
        if not rows:
            raise MissingLabelsError(f"no labels of level {level!r} for structure {index}", where=str(self.path))
        return self._laid(plain.replace(level=level, labels={}, label_std={}), rows)

    def verify(self) -> list[MlipfmError]:
        """Hash every file and read every record; what is wrong, one error for each place. Empty for a sound store."""
        faults: list[MlipfmError] = []
        for shard in (*self._shards, *self._overlays):
            try:
                if sha256(shard.path) != shard.entry.sha256:
                    raise UnreadableFileError("its hash does not match the manifest", where=str(shard.path))
                for i in range(len(shard)):
                    shard.structure(i) if shard in self._shards else shard.labels(i)
            except MlipfmError as error:
                faults.append(error)
        return faults

    def require_complete(self, hint: str = "finish it first: run again what wrote it") -> None:
        """Refuse a store that has not all that it is to have.

        Raises:
            RefusedFileError: a writer is at work or was killed.
        """
        if not self.complete:
            raise RefusedFileError("is not complete: a writer is at work or was killed", where=str(self.path), hint=hint)

    def close(self) -> None:
        """Give back the open files; reading again takes them again."""
        for shard in (*getattr(self, "_shards", ()), *getattr(self, "_overlays", ())):
            shard.close()

    def _place(self, index: int) -> tuple[Shard, int]:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"structure {index} of {n}")
        index %= n
        k = bisect_right(self._first, index) - 1
        return self._shards[k], index - self._first[k]

    def _joined(self, structure: Structure) -> Structure:
        """Return the structure with the labels of overlays of its level; ours alone, it was made a moment ago."""
        rows = self._joined_at().get((bytes.fromhex(structure.key), structure.level), ()) if self._overlays else ()
        return self._laid(structure, rows) if rows else structure

    def _laid(self, structure: Structure, rows: Sequence[tuple[int, int]]) -> Structure:
        """Return the structure, changed: with the labels of these records, whose licences it is under as well."""
        labels = dict(structure.labels)
        for k, i in rows:
            labels |= self._overlays[k].labels(i)
        licence = laid_licence(structure.provenance.licence, [self._overlays[k].layout(i) for k, i in rows])
        structure.__dict__["labels"] = MappingProxyType(labels)
        structure.__dict__["provenance"] = replace(structure.provenance, licence=licence)
        return structure

    def _joined_at(self) -> dict[tuple[bytes, str | None], list[tuple[int, int]]]:
        """(structure key, level) -> (overlay, record) of its labels."""
        if self._joins is None:
            self._joins = {}
            for k, overlay in enumerate(self._overlays):
                for i, known in enumerate(overlay.columns.keys):
                    self._joins.setdefault((known.tobytes(), overlay.level(i)), []).append((k, i))
        return self._joins


__all__ = ["LevelStatistics", "Overlay", "Store", "StoreWriter", "Summary"]
