"""Shards: sealed files of records with an index. Immutable; hashed as a whole before first use, every record checked on every read.

A shard is a log of frames (`mlipfm_interfaces.frames`) and beside it an index: one row of 28 bytes for every record, so that numbers of atoms and
keys are known without decoding. Files are read with `pread`, never mapped: a file that is cut while it is read gives an error, not a SIGBUS.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mlipfm_interfaces.errors import DamagedFileError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write, fsync_folder, read_bytes, sha256, unwritable
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.records import LABELS, LAYOUT, Layout, Layouts, check, decode, decode_labels
from mlipfm_interfaces.structure import Structure

from . import open_files
from .manifest import Entry
from .statistics import Summary

Array = np.ndarray[Any, Any]

#: A row of the index: where the record begins, number of atoms (_LAYOUT: a layout), number of its layout, key of the structure.
ROW = np.dtype([("offset", "<u4"), ("atoms", "<u4"), ("layout", "<u4"), ("key", "V16")])
_LAYOUT = 2**32 - 1
_BLOCK = 2**22  # bytes read at once when a shard is read from end to end


def seal(part: Path, target: Path) -> tuple[Entry, Summary]:
    """Read an unfinished shard back, write its index, and give it its final name. Statistics come from what was read back.

    Raises:
        DamagedFileError: what is on the disk is not what was written. UnwritableFileError: the unfinished shard is intact.
    """
    log = FrameLog(part)
    if log.torn or not all(place.good for place in log.places()):
        raise DamagedFileError(
            "what was read back is not what was written", where=str(part), hint="check the disk; FrameLog reads the good frames"
        )
    index, summary = _index(log)
    size, records = log.size, len(log)
    log.close()
    entry = Entry(target.name, records, size, sha256(part), len(index), hashlib.sha256(index).hexdigest())
    atomic_write(target.with_name(entry.index), index)
    try:
        os.rename(part, target)
        fsync_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    return entry, summary


def _index(log: FrameLog) -> tuple[bytes, Summary]:
    rows: list[tuple[int, int, int, bytes]] = []
    summary = Summary()
    for offset, record in log.records():
        kind, layout = check(record)
        if kind == LAYOUT:
            rows.append((offset, _LAYOUT, layout, bytes(16)))
        elif kind == LABELS:
            rows.append((offset, 0, layout, bytes.fromhex(decode_labels(record, log.layouts)[0])))
        else:
            structure, _ = decode(record, log.layouts)
            summary.add(structure)
            rows.append((offset, len(structure), layout, bytes.fromhex(structure.key)))
    return np.array(rows, dtype=ROW).tobytes(), summary


class _Columns(NamedTuple):
    """The index of a shard without the rows of layouts, by column, and its layouts."""

    start: Array
    end: Array
    atoms: Array
    layout: Array
    keys: Array
    layouts: Layouts


class Shard:
    """A sealed shard to read from. Sizes are checked when the store is opened; hashes, index and layouts on first use."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.path, self.entry = Path(os.path.realpath(folder / entry.file)), entry
        self._columns: _Columns | None = None
        self._handle: open_files.Handle | None = None
        for path, size in ((self.path, entry.bytes), (self.path.with_name(entry.index), entry.index_bytes)):
            try:
                found = path.stat().st_size
            except OSError as error:
                raise UnreadableFileError(
                    f"is missing from the store: {error.strerror}", where=str(path), hint="copy the store again"
                ) from error
            if found != size:
                raise DamagedFileError(f"has {found} bytes, the manifest says {size}", where=str(path), hint="copy the store again")

    def __len__(self) -> int:
        return self.entry.records

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "entry": self.entry, "stamp": open_files.stamp_of(self.path)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.entry = state["path"], state["entry"]
        self._columns, self._handle = None, None
        open_files.trust(self.path, state["stamp"])

    @property
    def columns(self) -> _Columns:
        """The index; hashes are verified at first use.

        Raises:
            DamagedFileError: index or shard differ from what the manifest says.
        """
        if self._columns is None:
            self._columns = self._load()
        return self._columns

    def layout(self, i: int) -> Layout:
        """Return what record i shares with others: level, provenance, the shapes of its arrays."""
        return self.columns.layouts[int(self.columns.layout[i])]

    def level(self, i: int) -> str | None:
        """Level of theory of record i."""
        return self.layout(i).level

    def record(self, i: int) -> bytes:
        """Bytes of record i; `decode` checks them."""
        columns = self.columns
        start = int(columns.start[i])
        return os.pread(self._descriptor(), int(columns.end[i]) - start, start)

    def structure(self, i: int, record: bytes | None = None) -> Structure:
        """Structure i; its key is taken from the index.

        Raises:
            DamagedFileError: the checksum does not match.
        """
        try:
            structure, _ = decode(self.record(i) if record is None else record, self.columns.layouts)
        except MlipfmError as error:
            error.where = f"{self.path}, record {i}"
            raise
        structure.__dict__["key"] = self.columns.keys[i].tobytes().hex()  # where cached_property keeps it
        return structure

    def labels(self, i: int) -> dict[str, np.ndarray[Any, Any]]:
        """Labels of record i of an overlay."""
        try:
            return decode_labels(self.record(i), self.columns.layouts)[2]
        except MlipfmError as error:
            error.where = f"{self.path}, record {i}"
            raise

    def records(self) -> Iterator[bytes]:
        """Bytes of all records in order, read in blocks."""
        starts, ends = self.columns.start.astype(np.int64), self.columns.end.astype(np.int64)
        first = 0
        while first < len(starts):
            last = max(int(np.searchsorted(ends, starts[first] + _BLOCK, "right")), first + 1)
            origin = int(starts[first])
            block = os.pread(self._descriptor(), int(ends[last - 1]) - origin, origin)
            for a, b in zip((starts[first:last] - origin).tolist(), (ends[first:last] - origin).tolist(), strict=True):
                yield block[a:b]
            first = last

    def close(self) -> None:
        """Give the file handle back; the next read takes it again."""
        if self._handle is not None:
            open_files.release(self._handle)
        self._handle = None

    def _descriptor(self) -> int:
        if self._handle is None or self._handle.descriptor < 0:
            self._handle = open_files.acquire(self.path)
        return self._handle.descriptor

    def _load(self) -> _Columns:
        path = self.path.with_name(self.entry.index)
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() != self.entry.index_sha256:
            raise DamagedFileError(
                "its hash does not match the manifest: it was changed or damaged", where=str(path), hint="copy the store again"
            )
        open_files.verify(self.path, self.entry.sha256)
        table = np.frombuffer(data, ROW)
        ends = np.append(table["offset"][1:], np.uint32(self.entry.bytes))
        layouts = Layouts()
        for row in np.flatnonzero(table["atoms"] == _LAYOUT).tolist():
            start = int(table["offset"][row])
            record = os.pread(self._descriptor(), int(ends[row]) - start, start)
            check(record)
            layouts.learn(record)
        content = table["atoms"] != _LAYOUT
        return _Columns(
            table["offset"][content], ends[content], table["atoms"][content], table["layout"][content], table["key"][content], layouts
        )
