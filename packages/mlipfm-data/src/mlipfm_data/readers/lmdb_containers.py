"""LMDB files as what they are: keys and bytes. The only module that imports lmdb.

LMDB maps the file into memory and trusts its header. A file that is shorter than its header says ends the process with SIGBUS, which no `try`
catches, so the size is compared with the header first. One process must not open a path twice: handles are shared and counted.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import DamagedFileError, PluginError, UnreadableFileError

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
        raise DamagedFileError(f"the file has {size} bytes, its header says {needed}: it is cut off", where=str(path), mend="copy it again")


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
        raise UnreadableFileError("too short for an LMDB file", where=str(path), mend="is it complete?")
    magic, version, _, _, page_size, last, transaction = _META.unpack_from(page, _PAGE_HEADER)
    if magic != _MAGIC or version not in (1, 999) or page_size not in (1 << k for k in range(8, 17)):
        raise UnreadableFileError("this is no LMDB file of a 64-bit machine", where=str(path), mend="name another reader")
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
        raise PluginError("lmdb is not installed", mend="pip install 'mlipfm-data[lmdb]'") from None
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
