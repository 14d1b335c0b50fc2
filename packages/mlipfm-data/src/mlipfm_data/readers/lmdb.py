"""Reader of LMDB files whose values are pickles: Open Catalyst (objects of torch_geometric) and Uni-Mol (dictionaries of atoms and conformers).

`safe_pickle` takes the data out of the pickles and refuses everything else.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import DamagedFileError, InvalidStructureError, MlipfmError, PluginError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, RawFrame

from .label_names import whole_entry
from .safe_pickle import plain

# LMDB files as what they are: keys and bytes.
#
# LMDB maps the file into memory and does not check its header. A file that is shorter than its header ends the process with SIGBUS, which no `try`
# catches, so the size is compared with the header first. One process must not open a path twice: handles are shared and counted.

_MAGIC = 0xBEEFC0DE
_PAGE_HEADER = 16
#: Magic, version, address and size of the map, then two records of a database (page size first), the last page and the transaction.
_META = struct.Struct("<IIQQ I44x 48x QQ")

_HANDLES: dict[tuple[str, int], tuple[Any, int]] = {}
_LOCK = threading.Lock()


def check_size(path: Path) -> None:
    """Compare the size of an LMDB file with what its newest header says, without mapping it.

    Raises:
        UnreadableFileError: missing, or no LMDB file. DamagedFileError: shorter than its header says.
    """
    pages, page_size = _header(path)
    needed, size = pages * page_size, path.stat().st_size
    if size < needed:
        raise DamagedFileError(f"the file has {size} bytes, its header says {needed}: it is cut off", where=str(path), hint="copy it again")


def _header(path: Path) -> tuple[int, int]:
    """Pages in use and bytes of one page, by the newer of the two headers."""
    try:
        with path.open("rb") as stream:
            first = stream.read(_PAGE_HEADER + _META.size)
            page_size = _meta(first, path)[1]
            stream.seek(page_size)
            second = stream.read(_PAGE_HEADER + _META.size)
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", where=str(path)) from None
    newest = max((_meta(page, path) for page in (first, second)), key=lambda meta: meta[2])
    return newest[0], page_size


def _meta(page: bytes, path: Path) -> tuple[int, int, int]:
    """(pages, page size, transaction) of one of the two headers."""
    if len(page) < _PAGE_HEADER + _META.size:
        raise UnreadableFileError("too short for an LMDB file", where=str(path), hint="is it complete?")
    magic, version, _, _, page_size, last, transaction = _META.unpack_from(page, _PAGE_HEADER)
    if magic != _MAGIC or version not in (1, 999) or page_size not in (1 << k for k in range(8, 17)):
        raise UnreadableFileError("this is no LMDB file of a 64-bit machine", where=str(path), hint="name another reader")
    return last + 1, page_size, transaction


@contextlib.contextmanager
def records(path: Path) -> Iterator[Any]:
    """A read-only transaction: `get(key)` and `cursor()`; nothing is written, not even a lock file.

    Raises:
        UnreadableFileError, DamagedFileError: as `check_size`, and if LMDB refuses the file. PluginError: lmdb is not installed.
    """
    mark = (os.path.realpath(path), os.getpid())
    handle = _acquire(path, mark)
    try:
        with handle.begin(buffers=False) as transaction:
            yield transaction
    finally:
        _release(mark)


def _acquire(path: Path, mark: tuple[str, int]) -> Any:
    try:
        import lmdb
    except ImportError:
        raise PluginError("lmdb is not installed", hint="pip install 'mlipfm-data[lmdb]'") from None
    with _LOCK:
        handle, users = _HANDLES.get(mark, (None, 0))
        if handle is None:
            check_size(path)
            try:
                handle = lmdb.open(mark[0], subdir=False, readonly=True, lock=False, readahead=False, max_readers=1)
            except lmdb.Error as error:
                raise UnreadableFileError(f"LMDB cannot open it ({error})", where=str(path)) from None
        _HANDLES[mark] = (handle, users + 1)
    return handle


def _release(mark: tuple[str, int]) -> None:
    with _LOCK:
        handle, users = _HANDLES[mark]
        if users > 1:
            _HANDLES[mark] = (handle, users - 1)
        else:
            del _HANDLES[mark]
            handle.close()


def entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every record: keys that are numbers in the order of the numbers, others behind them. Memory: 8 bytes a record.

    Raises:
        UnreadableFileError, DamagedFileError, PluginError: as `records`.
    """
    with records(path) as transaction:
        numbers, others = array("Q"), []
        for key in transaction.cursor().iternext(keys=True, values=False):
            plain = key.isdigit() and len(key) < 19 and not (len(key) > 1 and key.startswith(b"0"))
            if plain:
                numbers.append(int(key))
            else:
                others.append(bytes(key))
        for number in np.sort(np.frombuffer(numbers, dtype=np.uint64)) if numbers else ():
            key = str(number).encode()
            yield key, transaction.get(key)
        for key in others:
            yield key, transaction.get(key)


_NO_RECORDS = (b"length", b"metadata", b"__keys__", b"__len__")
_GEOMETRY = ("pos", "cell", "atomic_numbers", "natoms", "pbc")
#: Of molecules for Uni-Mol: text and lists that describe, and say nothing that we read.
_UNIMOL = ("atoms", "coordinates")


class PickledLmdbReader:
    """`.lmdb` files of Open Catalyst or Uni-Mol, in the order of their keys.

    Open Catalyst: `pos`, `cell`, `atomic_numbers`, energy `y` (or `energy`), forces `force`; group is `sid`. Periodic as `pbc` says, else where the
    cell is not zero. Uni-Mol: each conformer of `coordinates` is a frame; group is `smi`.
    """

    suffixes = (".lmdb",)

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the records. Raises `UnreadableFileError`, `DamagedFileError`: cut off, no LMDB file. `PluginError`: lmdb is not installed."""
        for key, value in entries(path):
            if key not in _NO_RECORDS:
                yield At(f"key {key.decode(errors='replace')[:40]}", _record_frames, value)


def _record_frames(value: bytes) -> list[RawFrame | MlipfmError]:
    """Return the frames of one record. Raises `UnreadableFileError` for a record of another kind."""
    record = plain(value)
    if isinstance(record, Mapping) and "atomic_numbers" in record and "pos" in record:
        return [_catalyst(record)]
    if isinstance(record, Mapping) and "atoms" in record and "coordinates" in record:
        return list(_unimol(record))
    keys = ", ".join(map(str, list(record)[:8])) if isinstance(record, Mapping) else type(record).__name__
    raise UnreadableFileError(f"neither a record of Open Catalyst (pos, atomic_numbers) nor of Uni-Mol (atoms, coordinates): {keys}")


def _catalyst(record: Mapping[str, Any]) -> RawFrame:
    numbers = np.asarray(record["atomic_numbers"]).reshape(-1)
    positions = np.asarray(record["pos"], dtype=np.float64).reshape(len(numbers), 3)
    cell = record.get("cell")
    cell = None if cell is None or not np.any(cell) else np.asarray(cell, dtype=np.float64).reshape(3, 3)
    pbc = None if record.get("pbc") is None else np.asarray(record["pbc"], dtype=bool).reshape(3)
    results = {
        name: record[key] for key, name in (("y", "energy"), ("force", "forces"), ("stress", "stress")) if record.get(key) is not None
    }
    rest = {str(k): v for k, v in record.items() if k not in (*_GEOMETRY, "y", "force", "stress")}
    info, arrays, unread = whole_entry(rest, len(numbers))
    group = record.get("sid")
    group = None if group is None or np.size(group) != 1 else str(np.asarray(group).reshape(-1)[0])
    return RawFrame(_whole(numbers), positions, cell, pbc, info, arrays, results, group=group, unread=unread)


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Atomic numbers, which some of these files keep as floats; 6.5 stays 6.5 and is refused later."""
    rounded = np.rint(numbers)
    return rounded.astype(np.int64) if np.array_equal(rounded, numbers) else numbers


def _unimol(record: Mapping[str, Any]) -> Iterator[RawFrame | MlipfmError]:
    numbers = np.array([number(str(name)) for name in record["atoms"]], dtype=np.int64)
    given = record["coordinates"]
    conformers = [given] if isinstance(given, np.ndarray) and given.ndim == 2 else list(given)
    info, arrays, unread = whole_entry({str(k): v for k, v in record.items() if k not in _UNIMOL}, len(numbers))
    group = record.get("smi")
    for k, coordinates in enumerate(conformers):
        positions = np.asarray(coordinates, dtype=np.float64)
        if positions.shape != (len(numbers), 3):
            yield InvalidStructureError(f"{len(numbers)} atoms, coordinates of shape {list(positions.shape)}", where=f"conformer {k}")
            continue
        yield RawFrame(numbers, positions, info=info, arrays=arrays, group=group if isinstance(group, str) else None, unread=unread)
