"""New stores from old ones: `merge_stores` puts them together without touching a record, `filter_store` keeps what is wanted.

So several writers work at the same time: each fills a store of its own, and the merged one has their sealed shards as they are.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, RefusedFileError
from mlipfm_interfaces.files import fsync_folder, lock, unwritable
from mlipfm_interfaces.licences import is_known
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level

from ..licensing import checked_licence, with_licence
from . import manifest as manifests
from .manifest import Entry, Manifest
from .open_files import verify
from .statistics import Summary
from .store import Store
from .writer import StoreWriter


@dataclass(frozen=True)
class Kept:
    """What a filter or a merge did.

    Attributes:
        dropped: reason -> structures. licensed: structures that were given a licence. unclear: licences that are no SPDX expression and were kept ->
            structures. complete: whether all that was read had been complete.
    """

    structures: int
    dropped: dict[str, int]
    licensed: int = 0
    unclear: dict[str, int] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True)
class StoreFilter:
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

    def reasons(self) -> list[str]:
        """Return those that `refusal` can give, in the order in which it asks; "there already" comes last."""
        asked = {
            "another level": bool(self.levels),
            "number of atoms": self.min_atoms is not None or self.max_atoms is not None,
            "other elements": bool(self.elements),
            **{f"no {key}": True for key in self.labels},
            "forces too large": self.max_force is not None,
            "there already": self.unique,
        }
        return [reason for reason, given in asked.items() if given]

    def refusal(self, s: Structure) -> str | None:
        """Why a structure is dropped, None if it is kept."""
        if self.levels and not find_level(s.level, self.levels):
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
        raise RefusedFileError("exists already", where=str(out), hint="choose a new folder")
    for store in opened:
        store.require_complete()
    seen = {(store.key(i), level) for store in opened for i, level in enumerate(store.levels)}
    doubles = sum(map(len, opened)) - len(seen)
    if doubles and not keep_duplicates:
        raise InvalidStructureError(
            f"{doubles} structures are there more than once, with the same geometry and level",
            where=", ".join(map(str, stores)),
            hint="keep them (--keep-duplicates) and drop the later ones with `mlipfm data filter --unique`, or keep them on purpose",
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


def filter_store(
    store: Path | str,
    out: Path | str,
    wanted: StoreFilter,
    name: str | None = None,
    *,
    licence: str | None = None,
    replace_licence: str | None = None,
    incomplete: bool = False,
    near_duplicates: Collection[int] = (),
) -> Kept:
    """Return a new store with the structures of another that are wanted, in its precision, with its overlays; kept + dropped = what was there.

    Nothing is written if nothing is kept.

    Args:
        licence: SPDX expression, given to what gives no licence; replace_licence: given to what gives this text and to nothing else. See
            `licensing.with_licence`.
        incomplete: take what a store holds whose writer is at work or was killed.
        near_duplicates: positions that are dropped, such as `DuplicateReport.removable()`.

    Raises:
        RefusedFileError: `out` exists, and not as a killed run of this filter left it; or the store is not complete. UnknownElementError:
            `wanted.elements` names none. MlipfmError: the licence is not known.
    """
    out, dropped, seen = Path(out), dict[str, int](), set[tuple[str, str | None]]()
    given = None if licence is None else _Given(checked_licence(licence), replace_licence)
    if out.resolve() == Path(store).resolve():
        raise RefusedFileError("is the store that is read", where=str(out), hint="choose a new folder")
    if out.exists() and (out / manifests.FILE).exists() and manifests.load(out).complete:
        raise RefusedFileError("exists already", where=str(out), hint="choose a new folder")
    with Store(store) as source:
        if not incomplete:
            source.require_complete("finish it first: run again what wrote it; or take what it holds so far (--incomplete)")
        frames = _kept(source, wanted, dropped, seen, frozenset(near_duplicates))
        first = next(frames, None)
        if first is None:
            return Kept(0, dropped)
        with StoreWriter(out, name=name or source.name, single=source.single) as writer:
            kept, licensed, unclear = _write(chain([first], frames), writer, given)
            keys = {key for key, _ in seen}
            with Store(out) as before:
                done = sum(1 for _ in before.overlays())  # by a run that was killed
            # those of a structure's own level were joined to it
            wanted_ones = (laid for laid in source.overlays() if laid.key in keys and (laid.key, laid.level) not in seen)
            for laid in islice(wanted_ones, done, None):
                stated = (laid.licence and given and given.to(laid.licence)) or laid.licence
                writer.add_overlay(laid.key, laid.level, laid.labels, source=laid.source, licence=stated)
    return Kept(kept, dropped, licensed, unclear, source.complete)


@dataclass(frozen=True)
class _Given:
    """A licence and what it is given to."""

    licence: str
    replace_licence: str | None

    def to(self, stated: str | None) -> str | None:
        return with_licence(stated, self.licence, self.replace_licence)


def _kept(
    source: Store, wanted: StoreFilter, dropped: dict[str, int], seen: set[tuple[str, str | None]], near: frozenset[int]
) -> Iterator[Structure]:
    """Yield the structures that are wanted; the others are counted in `dropped`, by reason."""
    for k, s in enumerate(source):
        reason = wanted.refusal(s) or ("near-duplicate" if k in near else None)
        if reason is None and wanted.unique and (s.key, s.level) in seen:
            reason = "there already"
        if reason is not None:
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        seen.add((s.key, s.level))
        yield s


def _write(frames: Iterable[Structure], writer: StoreWriter, given: _Given | None) -> tuple[int, int, dict[str, int]]:
    """Write structures, but those that a killed run wrote, which must be these; see `Kept` for what is returned."""
    count, licensed, unclear = 0, 0, Counter[str]()
    fault = RefusedFileError("holds structures that this filter does not give", where=str(writer.path), hint="choose a new folder")
    writer.commit()
    with Store(writer.path) as before:
        for s in frames:
            new = None if given is None else given.to(s.provenance.licence)
            if new is not None:
                licensed += 1
                s = s.replace(provenance=replace(s.provenance, licence=new))
            elif given is not None and s.provenance.licence and not is_known(s.provenance.licence):
                unclear[s.provenance.licence] += 1
            if count >= len(before):
                writer.add(s)
            elif before.key(count) != writer.key(s) or not _same(before[count], s):
                raise fault
            count += 1
        if count < len(before):
            raise fault
    return count, licensed, dict(unclear)


def _same(a: Structure, b: Structure) -> bool:
    """Level, provenance and labels; both are of stores of one precision."""
    if (a.level, a.provenance, set(a.labels)) != (b.level, b.provenance, set(b.labels)):
        return False
    return all(np.array_equal(a.labels[key], b.labels[key], equal_nan=True) for key in a.labels)
