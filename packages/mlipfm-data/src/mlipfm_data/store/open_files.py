"""Open files of a process: one descriptor per real path, shared and counted, dropped after fork; and which files have been hashed."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from mlipfm_interfaces.errors import DamagedFileError, UnreadableFileError
from mlipfm_interfaces.files import sha256


@dataclass
class Handle:
    """An open file: its descriptor (-1 once closed), the file it is (device, inode), and how many hold it."""

    path: Path
    descriptor: int
    file: tuple[int, int]
    holders: int = 0


_lock = threading.Lock()
_open: dict[Path, Handle] = {}  # by real path
_verified: dict[Path, tuple[int, ...]] = {}  # real path -> stamp of the file whose hash was right


def acquire(path: Path) -> Handle:
    """Handle of a real path to read from; `release` it as often.

    Raises:
        UnreadableFileError: if it cannot be opened.
    """
    with _lock:
        try:
            status = os.stat(path)
            file = status.st_dev, status.st_ino
            if path not in _open or _open[path].file != file:  # another file under the old name: who holds the old one keeps it
                _open[path] = Handle(path, os.open(path, os.O_RDONLY), file)
        except OSError as error:
            raise UnreadableFileError(f"cannot be read: {error.strerror}", where=str(path)) from error
        _open[path].holders += 1
        return _open[path]


def release(handle: Handle) -> None:
    """Give back one `acquire`; the last one closes the file."""
    with _lock:
        handle.holders -= 1
        if handle.holders == 0 and handle.descriptor >= 0:
            os.close(handle.descriptor)
            handle.descriptor = -1
            if _open.get(handle.path) is handle:
                del _open[handle.path]


def verify(path: Path, wanted: str) -> None:
    """Hash a file, once for as long as its size, times and inode stay.

    Raises:
        DamagedFileError: another hash than `wanted`.
    """
    status = os.stat(path)
    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    if _verified.get(path) == stamp:
        return
    if sha256(path) != wanted:
        raise DamagedFileError(
            "its hash does not match the manifest: it was changed or damaged", where=str(path), hint="copy the store again"
        )
    _verified[path] = stamp


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Return what says that a file was verified, to be handed to a worker process."""
    return _verified.get(path)


def trust(path: Path, stamp: tuple[int, ...] | None) -> None:
    """Take over a stamp from the process that verified the file."""
    if stamp is not None:
        _verified.setdefault(path, stamp)


def _drop() -> None:
    """In a forked child: close what came from the parent; readers see the descriptor -1 and acquire their own."""
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have locked it
    for handle in _open.values():
        os.close(handle.descriptor)
        handle.descriptor = -1
    _open.clear()


os.register_at_fork(after_in_child=_drop)
