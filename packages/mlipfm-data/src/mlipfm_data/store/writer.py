"""`StoreWriter`: adds structures and label overlays to a store. A kill at any moment loses nothing that `add` returned from.

New structures go to an unfinished shard (`shard-000003.part`, a log of frames) that a later writer continues. `commit`, closing, or the size limit
seal it: it is flushed, read back and verified, given its final name, and only then named in the manifest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.files import lock, unwritable
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.level_names import canonical_level
from mlipfm_interfaces.records import Layouts
from mlipfm_interfaces.structure import Structure

from . import manifest as manifests
from .manifest import FILE, Manifest
from .shards import Shard, seal
from .statistics import Summary

SHARD_BYTES = 2**30
_AT_ONCE = 256  # records in one write


class StoreWriter:
    """Writes a new store, or appends to one.

    Args:
        path: folder; made if it does not exist.
        name: of the data set; needed for a new store, and must not differ for an old one.
        single: store positions and labels of atoms as float32 (energies, stresses and cells stay float64). Keys are then those of the rounded
            positions.
        shard_bytes: a shard is sealed when it has passed this size.

    Attributes:
        repaired: bytes of torn records that were cut off unfinished shards; 0 unless a writer was killed.

    Raises:
        LockedError: another process writes to this store. UnreadableFileError, DamagedFileError: an old store that cannot be read.
        UnwritableFileError: disk full, read-only, ...; what was committed is intact.
    """

    def __init__(self, path: Path | str, *, name: str | None = None, single: bool = False, shard_bytes: int = SHARD_BYTES) -> None:
        self.path, self.single = Path(path), single
        self.shard_bytes = min(shard_bytes, SHARD_BYTES)
        self._opened, self._closed = contextlib.ExitStack(), False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._opened.enter_context(lock(self.path / "writer.lock"))
        self._present: set[tuple[str, str | None]] | None = None
        self._sizes: dict[str, int] = {}
        try:
            self._manifest = self._open_manifest(name)
            self._shard, self._overlay = self._continue("shard"), self._continue("overlay")
            self.repaired = self._shard.repaired + self._overlay.repaired
            if any(_count(log) and log.size >= self.shard_bytes for log in (self._shard, self._overlay)):
                self.commit()  # a writer was killed while it was doing so
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        try:  # what was added is good whatever went wrong around it; the store stays marked as incomplete
            self.commit()
        finally:
            self._release()

    def __len__(self) -> int:
        """Structures in the store, those not yet committed included."""
        return sum(entry.records for entry in self._manifest.shards) + _count(self._shard)

    def add(self, structure: Structure) -> str:
        """Append a structure and return the key it has in this store."""
        self._begin()
        self._shard.append(structure)
        key = self.key(structure)
        if self._present is not None:
            self._remember(key, structure.level, len(structure))
        if self._shard.size >= self.shard_bytes:
            self.commit()
        return key

    def add_records(self, records: Sequence[bytes], layouts: Layouts) -> None:
        """Append structures that were encoded elsewhere, with `layouts`, without decoding them; sealing verifies them.

        Raises:
            DamagedFileError: a checksum does not match.
        """
        for k in range(0, len(records), _AT_ONCE):
            self._begin()
            self._shard.append_records(records[k : k + _AT_ONCE], layouts)
            self._present = None  # read again on first use
            if self._shard.size >= self.shard_bytes:
                self.commit()

    def has(self, structure: Structure) -> bool:
        """Return whether this geometry is in the store at this level, from whatever run: what a resumed job need not do again."""
        return (self.key(structure), structure.level and canonical_level(structure.level)) in self.present

    def key(self, structure: Structure) -> str:
        """Return the structure's key once it is in this store (that of the rounded positions if `single`)."""
        if not self.single:
            return structure.key
        return structure.replace(positions=structure.positions.astype(np.float32)).key

    @property
    def present(self) -> Set[tuple[str, str | None]]:
        """(key, level) of every structure in the store, those not yet committed included."""
        if self._present is None:
            self._present = set()
            for entry in self._manifest.shards:
                shard = Shard(self.path, entry)
                columns = shard.columns
                for i, (key, atoms) in enumerate(zip(columns.keys, columns.atoms.tolist(), strict=True)):
                    self._remember(key.tobytes().hex(), shard.level(i), atoms)
                shard.close()
            for structure, _ in self._shard if _count(self._shard) else ():
                self._remember(structure.key, structure.level, len(structure))
        return self._present

    def add_overlay(
        self, key: str, level: str, labels: Mapping[str, Any], *, source: str | None = None, licence: str | None = None
    ) -> None:
        """Append labels for the structures with this key, joined when they are read at `level`; where two give one label, the later counts.

        Args:
            source, licence: of the labels, where others made them than the structure; a structure is read under its own licence and theirs.

        Raises:
            InvalidStructureError: no such structure in this store. ShapeError, UnknownQuantityError: labels that do not fit it.
        """
        if not self.present or key not in self._sizes:
            raise InvalidStructureError(f"this store has no structure with key {key}", where=str(self.path), hint="add the structure first")
        atoms = self._sizes[key]
        checked = Structure(np.ones(atoms), np.zeros((atoms, 3)), labels=labels)
        self._begin()
        self._overlay.append_labels(key, level, checked.labels, source=source, licence=licence)
        if self._overlay.size >= self.shard_bytes:
            self.commit()

    def commit(self) -> None:
        """Seal what was added: when it returns, readers see it and a power cut does not lose it.

        Raises:
            UnwritableFileError, DamagedFileError: nothing is lost that is still on the disk; the next commit tries again.
        """
        manifest = self._manifest
        for kind, log in (("shards", self._shard), ("overlays", self._overlay)):
            if not _count(log):
                continue
            log.flush()
            log.close()
            entry, summary = seal(log.path, log.path.with_suffix(".frames"))
            whole = Summary.from_json(manifest.summary.as_json())
            whole.merge(summary)
            manifest = replace(manifest, summary=whole, **{kind: (*getattr(manifest, kind), entry)})  # type: ignore[arg-type]
        if manifest is not self._manifest:
            manifest.save(self.path)
            self._manifest = manifest
            self._shard, self._overlay = self._continue("shard"), self._continue("overlay")

    def close(self) -> None:
        """Commit, mark the store as complete, and let others write."""
        try:
            self.commit()
            if not self._manifest.complete:
                self._manifest = replace(self._manifest, complete=True)
                self._manifest.save(self.path)
            for log in (self._shard, self._overlay):
                log.path.unlink(missing_ok=True)  # nothing is in it
        finally:
            self._release()

    def _release(self) -> None:
        for log in (getattr(self, "_shard", None), getattr(self, "_overlay", None)):
            if log is not None:
                log.close()
        self._opened.close()
        self._closed = True

    def _begin(self) -> None:
        if self._closed:
            raise ValueError("this writer is closed")
        if self._manifest.complete:
            self._manifest = replace(self._manifest, complete=False)
            self._manifest.save(self.path)

    def _remember(self, key: str, level: str | None, atoms: int) -> None:
        assert self._present is not None
        self._present.add((key, level and canonical_level(level)))
        self._sizes[key] = atoms

    def _open_manifest(self, name: str | None) -> Manifest:
        for leftover in self.path.glob(".*.tmp"):  # of a writer that was killed; we hold the lock
            leftover.unlink()
        if (self.path / FILE).exists():
            manifest = manifests.load(self.path)
            if name not in (None, manifest.name):
                raise RefusedFileError(
                    f"is the store of {manifest.name!r}, not of {name!r}", where=str(self.path), hint="choose another folder"
                )
            return manifest
        if name is None:
            raise UnreadableFileError("is not a store", where=str(self.path), hint="give a name to make a new one")
        manifest = Manifest(name)
        manifest.save(self.path)
        return manifest

    def _continue(self, kind: str) -> FrameLog:
        """Return the unfinished shard of this kind: new, or as a killed writer left it."""
        entries = self._manifest.shards if kind == "shard" else self._manifest.overlays
        part = self.path / f"{kind}-{len(entries):06d}.part"
        sealed = part.with_suffix(".frames")
        if sealed.exists():  # killed after it got its name and before the manifest named it
            sealed.rename(part)
        log = FrameLog(part, single=self.single)
        if part.exists():
            log.open_to_append()
        return log


def _count(log: FrameLog) -> int:
    return len(log) if log.path.exists() else 0
