"""New stores from old ones: `merge_stores` puts them together without touching a record, `filter_store` keeps what is wanted.

So several writers work at the same time: each fills a store of its own, and the merged one has their sealed shards as they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, RefusedFileError
from mlipfm_interfaces.files import fsync_folder, lock, unwritable
from mlipfm_interfaces.structure import Structure

from . import manifest as manifests
from .handles import verify
from .manifest import Entry, Manifest
from .store import Store
from .store_writer import StoreWriter
from .summary import Summary


@dataclass(frozen=True)
class Kept:
    """What a filter or a merge did. `dropped`: reason -> structures."""

    structures: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class Wanted:
    """What `filter_store` keeps; None and () ask nothing.

    Attributes:
        levels: of theory. elements: symbols; structures with any other are dropped. min_atoms, max_atoms: inclusive.
        max_force: eV/Å, norm of the force on every atom; structures without forces are kept. labels: all of them must be there.
        unique: of structures with one key and level only the first.
    """

    levels: Sequence[str] = ()
    elements: Sequence[str] = ()
    min_atoms: int | None = None
    max_atoms: int | None = None
    max_force: float | None = None
    labels: Sequence[str] = ()
    unique: bool = False

    def refusal(self, s: Structure) -> str | None:
        """Why a structure is dropped, None if it is kept."""
        if self.levels and s.level not in self.levels:
            return "another level"
        if not (self.min_atoms or 0) <= len(s) <= (self.max_atoms or len(s)):
            return "number of atoms"
        if self.elements and not np.isin(s.atomic_numbers, [number(e) for e in self.elements]).all():
            return "other elements"
        if missing := [key for key in self.labels if key not in s.labels]:
            return f"no {missing[0]}"
        if self.max_force is not None and "forces" in s.labels and np.linalg.norm(s.labels["forces"], axis=1).max() > self.max_force:
            return "forces too large"
        return None


def merge_stores(stores: Sequence[Path | str], out: Path | str, name: str, *, keep_duplicates: bool = False) -> Kept:
    """One new store with the shards and overlays of several, in their order; every file is hashed on the way (linked where it can be, else copied).

    Raises:
        RefusedFileError: `out` exists, or a store is not complete. DamagedFileError: a file is not what its manifest says.
        InvalidStructureError: structures of one key and level in several places (`filter_store` with `unique` drops them).
    """
    out, opened = Path(out), [Store(path) for path in stores]
    if out.exists():
        raise RefusedFileError("exists already", where=str(out), mend="choose a new folder")
    for store in opened:
        if not store.complete:
            raise RefusedFileError("is not complete: a writer is at work or was killed", where=str(store.path), mend="finish it first")
    seen = {(store.key(i), level) for store in opened for i, level in enumerate(store.levels)}
    doubles = sum(map(len, opened)) - len(seen)
    if doubles and not keep_duplicates:
        raise InvalidStructureError(
            f"{doubles} structures are there more than once, with the same geometry and level",
            where=", ".join(map(str, stores)),
            mend="keep them (--keep-duplicates) and drop the later ones with `mlipfm data filter --unique`, or keep them on purpose",
        )
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a merge that was killed
    try:
        part.mkdir(parents=True)
        with lock(part / "writer.lock"):
            merged, summary = Manifest(name, complete=True), Summary()
            for store in opened:
                found = manifests.load(store.path)
                merged = replace(
                    merged,
                    shards=(*merged.shards, *_taken(store.path, part, found.shards, "shard", len(merged.shards))),
                    overlays=(*merged.overlays, *_taken(store.path, part, found.overlays, "overlay", len(merged.overlays))),
                )
                summary.merge(found.summary)
            replace(merged, summary=summary).save(part)
        part.rename(out)
        fsync_folder(out.absolute().parent)
    except OSError as error:
        raise unwritable(out, error) from error
    return Kept(sum(map(len, opened)), {})


def _taken(folder: Path, out: Path, entries: Iterable[Entry], kind: str, first: int) -> list[Entry]:
    """Link or copy shards and their indices under the next free numbers."""
    new = []
    for k, entry in enumerate(entries, first):
        renamed = replace(entry, file=f"{kind}-{k:06d}.frames")
        for old_name, new_name, digest in ((entry.file, renamed.file, entry.sha256), (entry.index, renamed.index, entry.index_sha256)):
            try:
                os.link(folder / old_name, out / new_name)
            except OSError:  # another file system
                shutil.copyfile(folder / old_name, out / new_name)
                with (out / new_name).open("rb") as file:
                    os.fsync(file.fileno())
            verify(out / new_name, digest)
        new.append(renamed)
    return new


def filter_store(store: Path | str, out: Path | str, wanted: Wanted, name: str | None = None) -> Kept:
    """A new store with the structures of another that are wanted, in its precision, with its overlays; kept + dropped = what was there.

    Raises:
        RefusedFileError: `out` exists, and not as a killed run of this filter left it. UnknownElementError: `wanted.elements` names none.
    """
    out, dropped = Path(out), dict[str, int]()
    if out.exists() and (out / manifests.FILE).exists() and manifests.load(out).complete:
        raise RefusedFileError("exists already", where=str(out), mend="choose a new folder")
    with Store(store) as source, StoreWriter(out, name=name or source.name, single=source.single) as writer:
        done, kept, seen = len(writer), 0, set[tuple[str, str | None]]()
        for s in source:
            reason = wanted.refusal(s)
            if reason is None and wanted.unique and (s.key, s.level) in seen:
                reason = "there already"
            if reason is not None:
                dropped[reason] = dropped.get(reason, 0) + 1
                continue
            kept += 1
            seen.add((s.key, s.level))
            if kept > done:
                writer.add(s)
            elif not writer.has(s):  # what a killed run wrote is not written again, but it must be of this filter
                raise RefusedFileError("holds structures that this filter does not give", where=str(out), mend="choose a new folder")
        keys = {key for key, _ in seen}
        for laid in source.overlays():
            if laid.key in keys and (laid.key, laid.level) not in seen:  # those of a structure's own level were joined to it
                writer.add_overlay(laid.key, laid.level, laid.labels, source=laid.source, licence=laid.licence)
    return Kept(kept, dropped)
