"""`FrameLog`: an append-only file of frames, as trajectories and unfinished shards of a store are.

Each append is one write to the operating system: a killed process loses at most the frame it was writing, and a frame that was damaged on disk
takes no other with it. Reopening for append cuts a torn last record off and says how many bytes it was.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import DamagedFileError, FormatVersionError, LockedError, RefusedFileError, UnreadableFileError
from .files import fsync_folder, unwritable, write_all
from .records import HEAD, LAYOUT, MAGIC, Dynamics, Layouts, check, decode, encode, encode_labels, seal
from .structure import Structure

FORMAT = 1
_MAGIC = b"mlipfmFL"
_HEADER = struct.Struct("<8sII")  # magic, format, crc32 of both
_CHUNK = 2**20

_log = logging.getLogger("mlipfm.frames")


class Place(NamedTuple):
    """Where a frame is in the file, and whether its bytes are those that were written."""

    offset: int
    length: int
    good: bool


class FrameLog:
    """Frames on disk, by index. Reading takes no lock and may happen while another process appends.

    Iterating and indexing raise `DamagedFileError`, naming the frame, where the file was damaged; `good_frames` goes on behind it.

    Args:
        path: the file; made by the first append.
        single: store positions, velocities and labels of atoms as float32 (see `records.encode`); concerns what is appended from now on.

    Attributes:
        repaired: bytes of a torn last record that were cut off when the log was opened for append.
    """

    def __init__(self, path: Path | str, *, single: bool = False) -> None:
        self.path, self.single = Path(path), single
        self.repaired = 0
        self._descriptor: int | None = None
        self._writing = False
        self._forget()

    def __enter__(self) -> FrameLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "single": self.single}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"], single=state["single"])  # type: ignore[misc]  # a fresh, closed log of the same file

    def __len__(self) -> int:
        """Number of frames, damaged ones included."""
        self._refresh()
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Structure, Dynamics | None]:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"frame {index} of {n}")
        return self._read(index % n)

    def __iter__(self) -> Iterator[tuple[Structure, Dynamics | None]]:
        """All frames in order.

        Raises:
            DamagedFileError: at a damaged frame, and at the end if the last record is torn.
        """
        for index in range(len(self)):
            yield self._read(index)
        if self.torn:
            hint = f"the {len(self)} frames before are given by good_frames(); appending cuts it off"
            raise DamagedFileError(f"ends in a torn record of {self.torn} bytes", where=str(self.path), hint=hint)

    def good_frames(self) -> Iterator[tuple[int, Structure, Dynamics | None]]:
        """(index, structure, dynamics) of every frame that is whole."""
        for index in range(len(self)):
            if self._places[index].good:
                yield index, *self._read(index)

    def places(self) -> list[Place]:
        """Place of every frame; `good` is False for damaged ones."""
        self._refresh()
        return list(self._places)

    @property
    def torn(self) -> int:
        """Bytes behind the last whole record: a torn or damaged last record, or one that is being written."""
        self._refresh()
        return self._size() - self._end

    @property
    def size(self) -> int:
        """Bytes of whole records, with the file's header."""
        self._refresh()
        return self._end

    def append(self, structure: Structure, dynamics: Dynamics | None = None) -> None:
        """Add a frame at the end. After it returns, a kill of this process does not lose it (`flush` guards against power cuts as well).

        Raises:
            LockedError: another process appends to this log. UnwritableFileError: disk full, ...; the log is as before.
        """
        self.open_to_append()
        self._write(lambda: [encode(structure, dynamics, self._layouts, self.single)])

    def append_labels(
        self,
        key: str,
        level: str,
        labels: Mapping[str, np.ndarray[Any, Any]],
        *,
        source: str | None = None,
        licence: str | None = None,
    ) -> None:
        """Add labels alone (see `records.encode_labels`); counts as a frame in `places`."""
        self.open_to_append()
        self._write(lambda: [encode_labels(key, level, labels, self._layouts, source, licence)])

    def append_records(self, records: Sequence[bytes], layouts: Layouts) -> None:
        """Add frames that were encoded elsewhere, with `layouts`, as they are (`single` does not count): one write for all of them.

        Raises:
            DamagedFileError: a checksum does not match. LockedError, UnwritableFileError: as `append`. The log is as before.
        """
        self.open_to_append()
        self._write(lambda: list(_adopted(records, layouts, self._layouts)))

    def flush(self) -> None:
        """Return when everything appended is on the device."""
        if self._descriptor is not None and self._writing:
            try:
                os.fsync(self._descriptor)
                fsync_folder(self.path.absolute().parent)
            except OSError as error:
                raise unwritable(self.path, error) from error

    def truncate(self, n: int) -> None:
        """Keep the first n frames only. A log that does not exist stays so.

        Raises:
            IndexError: if there are fewer.
        """
        if not self.path.exists():
            return
        self.open_to_append()
        if n > len(self._places):
            raise IndexError(f"cannot keep {n} frames of {len(self._places)}")
        end = self._places[n - 1].offset + self._places[n - 1].length if n else _HEADER.size
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, end)
        self._forget()

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]  # not None: just asked
            self._descriptor, self._writing = None, False

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of every whole record, layouts included."""
        self._refresh()
        yield from scan(self._reader(), _HEADER.size, self._end)

    def record(self, index: int) -> bytes:
        """Return the bytes of a whole frame."""
        self._refresh()
        place = self._places[index]
        return os.pread(self._reader(), place.length, place.offset)

    @property
    def layouts(self) -> Layouts:
        """The layouts of this file, for `records.decode`."""
        return self._layouts

    def _read(self, index: int) -> tuple[Structure, Dynamics | None]:
        try:
            if not self._places[index].good:
                raise DamagedFileError("the frame is damaged", hint="good_frames() reads the others")
            return decode(self.record(index), self._layouts)
        except (DamagedFileError, FormatVersionError) as error:
            error.where = f"{self.path}, frame {index}"
            raise

    def _reader(self) -> int:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise UnreadableFileError(f"cannot be read: {error.strerror}", where=str(self.path)) from error
        return self._descriptor

    def _size(self) -> int:
        return os.fstat(self._reader()).st_size

    def _forget(self) -> None:
        """Know nothing of the content; the next use reads it again."""
        self._places: list[Place] = []
        self._layouts = Layouts()
        self._end = 0  # of the last whole record
        self._seen = 0  # size of the file at the last look
        self._copy = 0  # bytes of the layout record just read, whose second copy comes next

    def _refresh(self) -> None:
        """Take in what was appended since the last look."""
        size = self._size()
        if size < self._end:
            self._forget()
        if self._end == 0:
            self._check_header(size)
        if size != self._seen:
            for offset, record in scan(self._reader(), self._end, size):
                self._take(offset, record)
            self._seen = size

    def _check_header(self, size: int) -> None:
        head = os.pread(self._reader(), _HEADER.size, 0)
        if len(head) < _HEADER.size:
            raise UnreadableFileError(f"is truncated: {size} bytes", where=str(self.path))
        magic, version, crc = _HEADER.unpack(head)
        if crc != zlib.crc32(head[:12]):
            if magic == _MAGIC:
                raise DamagedFileError("the header of the file is damaged", where=str(self.path))
            raise RefusedFileError("is not a log of frames", where=str(self.path))
        if magic != _MAGIC:
            raise RefusedFileError("is not a log of frames", where=str(self.path))
        if version > FORMAT:
            raise FormatVersionError(
                f"log format {version}, this mlipfm reads up to {FORMAT}", where=str(self.path), hint="upgrade mlipfm-interfaces"
            )
        self._end = _HEADER.size

    def _take(self, offset: int, record: bytes) -> None:
        """Note a whole record. What lies between it and the one before is damage: of a frame, or of one copy of a layout."""
        gap = offset - self._end
        kind, number = check(record)
        first_copy = kind == LAYOUT and number not in self._layouts
        self._layouts.reserve(number)
        if kind == LAYOUT:
            gap -= len(record) if gap and first_copy else 0
            self._layouts.learn(record)
        if gap > 0 and gap != self._copy:
            self._places.append(Place(self._end, gap, False))
        if kind != LAYOUT:
            self._places.append(Place(offset, len(record), True))
        self._copy = len(record) if first_copy else 0
        self._end = offset + len(record)

    def open_to_append(self) -> None:
        """Take the log for this process and repair it; the first `append` does it, too. `close` lets others append.

        Raises:
            LockedError: another process appends to it. UnwritableFileError: no permission, read-only, ...
        """
        if self._writing:
            return
        self.close()
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise LockedError(
                "is being written by another process", where=str(self.path), hint="wait for it to finish, or stop it"
            ) from None
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._writing = True
        try:
            self._repair()
        except BaseException:
            self.close()
            raise

    def _repair(self) -> None:
        """Write the header if there is none yet, cut a torn last record off."""
        assert self._descriptor is not None
        head = _HEADER.pack(_MAGIC, FORMAT, zlib.crc32(_HEADER.pack(_MAGIC, FORMAT, 0)[:12]))
        size = self._size()
        if size < len(head) and head.startswith(os.pread(self._descriptor, size, 0)):  # killed while the file was made
            os.ftruncate(self._descriptor, 0)
            try:
                write_all(self._descriptor, head)
            except OSError as error:
                raise unwritable(self.path, error) from error
            self._forget()
        self.repaired = self.torn
        if self.repaired:
            _log.warning("%s: %d bytes of a torn last record cut off, %d frames kept", self.path, self.repaired, len(self._places))
            os.ftruncate(self._descriptor, self._end - self._copy)  # a layout without its second copy goes, too
            self._forget()

    def _write(self, make: Callable[[], list[tuple[bytes, bytes]]]) -> None:
        assert self._descriptor is not None
        self._refresh()
        start = self._end
        try:
            pairs = make()
            write_all(self._descriptor, b"".join([part for record, new in pairs for part in (new, record)]))
        except BaseException as error:
            os.ftruncate(self._descriptor, start)
            self._forget()  # a layout may have been learned that is not in the file
            if isinstance(error, OSError):
                raise unwritable(self.path, error) from error
            raise
        for record, new in pairs:
            self._places.append(Place(start + len(new), len(record), True))
            start += len(new) + len(record)
        self._copy = 0
        self._end = self._seen = start


def _adopted(records: Sequence[bytes], layouts: Layouts, here: Layouts) -> Iterator[tuple[bytes, bytes]]:
    """(record with the number its layout has `here`, layout records to be written before it)."""
    numbers: dict[int, int] = {}
    for record in records:
        (kind, number), new = check(record), b""
        if number not in numbers:
            numbers[number], new = here.adopt(number, layouts)
        yield record if numbers[number] == number else seal(kind, numbers[number], record[HEAD.size :]), new


def scan(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, record) of every whole record between two places of a file; what is damaged is stepped over."""
    window = _Window(descriptor, end)
    at: int | None = start
    while at is not None and at < end:
        record = window.record(at)
        if record is None:
            at = window.next_record(at + 1)
            continue
        yield at, record
        at += len(record)


class _Window:
    """A file read in chunks of about 1 MiB."""

    def __init__(self, descriptor: int, end: int) -> None:
        self._descriptor, self._end = descriptor, end
        self._start, self._chunk = 0, b""

    def read(self, offset: int, n: int) -> bytes:
        inside = offset - self._start
        if inside < 0 or inside + n > len(self._chunk):
            self._start, self._chunk = offset, os.pread(self._descriptor, min(max(n, _CHUNK), self._end - offset), offset)
            inside = 0
        return self._chunk[inside : inside + n]

    def record(self, offset: int) -> bytes | None:
        """Return the record that begins here, None if none does."""
        head = self.read(offset, HEAD.size)
        if len(head) < HEAD.size or not head.startswith(MAGIC[:2], 4):
            return None
        length = HEAD.size + HEAD.unpack(head)[4]
        if offset + length > self._end:
            return None
        record = self.read(offset, length)
        try:
            check(record)
        except DamagedFileError:
            return None
        return record

    def next_record(self, offset: int) -> int | None:
        """Where the next whole record begins, at `offset` or behind it."""
        at = offset + 4  # the magic stands behind the checksum
        while at < self._end:
            chunk = self.read(at, min(_CHUNK, self._end - at))
            found = chunk.find(MAGIC)
            if found >= 0 and self.record(at + found - 4) is not None:
                return at + found - 4
            at += found + 1 if found >= 0 else max(len(chunk) - len(MAGIC) + 1, 1)
        return None


__all__ = ["FORMAT", "Dynamics", "FrameLog", "Place", "decode", "encode"]
