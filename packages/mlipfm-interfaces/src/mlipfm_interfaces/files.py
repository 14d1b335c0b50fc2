"""Files on disk: the one atomic write, the one cache folder, the one lock, and the text that digests are taken of.

After `atomic_write` returns, the new bytes survive a power cut; if it fails or the process is killed at any moment, the old file is intact.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import LockedError, MlipfmError, RefusedFileError, UnreadableFileError, UnwritableFileError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_OTHER_FOLDER = "choose another folder by --out"


def atomic_write(path: Path | str, data: bytes | memoryview) -> None:
    """Replace the content of `path` by `data`, entirely or not at all.

    The bytes go to a temporary file in the same folder, are flushed to the device, renamed over `path`, and the folder is flushed. A symbolic
    link stays a link: what it points to is replaced.

    Raises:
        UnwritableFileError: disk full, read-only, missing folder. The old content is still there and no temporary file is left.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
        fsync_folder(target.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # normally it is gone: renamed
            os.unlink(temporary)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte: one `os.write` may take fewer, and takes at most 2 GiB."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


def fsync_folder(folder: Path | str) -> None:
    """Make the names in a folder (files created, renamed, removed) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path | str, error: OSError) -> UnwritableFileError:
    """Return the user's error for a failed write, with what to do about it."""
    if error.errno in _FULL:
        hint = "free some space or raise the quota, or choose another folder"
    elif error.errno in _FORBIDDEN:
        hint = "choose a folder you may write to"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = "create the folder first"
    else:
        hint = "check the disk"
    return UnwritableFileError(f"cannot write: {error.strerror}", where=str(path), hint=hint)


def read_bytes(path: Path | str) -> bytes:
    """Return the whole file in memory. (A mapped file that is cut while it is read kills the process with SIGBUS.)

    Raises:
        UnreadableFileError: missing, a folder, a device, or not permitted.
    """
    file = Path(path)
    if file.is_dir():
        raise UnreadableFileError("is a folder, a file is wanted", where=str(path))
    if not file.exists():
        raise UnreadableFileError("there is no such file", where=str(path), hint="check the path")
    if not file.is_file():
        raise UnreadableFileError("is not a plain file", where=str(path))
    try:
        return file.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}", where=str(path)) from error


def sha256(path: Path | str) -> str:
    """SHA-256 of a file, 64 hex digits; memory does not grow with the file.

    Raises:
        UnreadableFileError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}", where=str(path)) from error


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling: keys sorted, no spaces, ASCII, no NaN or infinity (ValueError). The same value gives the same bytes everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def strict_json(text: str | bytes) -> Any:
    """Return the value of a JSON text in which no key stands twice in an object, and NaN and infinities do not stand.

    Raises:
        ValueError: it is no such text. RecursionError: it is nested too deep.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    def no_constant(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    return json.loads(text, object_pairs_hook=once, parse_constant=no_constant)


def claim_folder(folder: Path, settings: Mapping[str, Any], what: str) -> None:
    """Make `folder` the place of the work with these settings, see `claim_file`; they are in its file `request.json`.

    Raises:
        RefusedFileError: the folder has the settings of other work, with the differences, or something else.
    """
    path = folder / "request.json"
    if not path.exists() and folder.exists() and any(item.name != "lock" for item in folder.iterdir()):
        raise RefusedFileError("the folder is not empty", where=str(folder), hint=_OTHER_FOLDER)
    claim_file(path, settings, what)


def claim_file(path: Path, settings: Mapping[str, Any], what: str, error: type[MlipfmError] = RefusedFileError) -> None:
    """Write the settings (JSON-ready) of the work in the folder of `path` to it, or find them there; the same settings go on with the work.

    Raises:
        RefusedFileError, or `error`: the file has the settings of other work, with the differences.
    """
    if path.exists():
        before = json.loads(path.read_bytes())
        differ = [
            f"{key}: {before.get(key)} -> {settings.get(key)}"
            for key in sorted({*before, *settings})
            if before.get(key) != settings.get(key)
        ]
        if differ:
            raise error(f"this folder belongs to another {what} ({'; '.join(differ)})", where=str(path.parent), hint=_OTHER_FOLDER)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(settings, indent=1, sort_keys=True).encode())


def cache_dir() -> Path:
    """Return the one folder for downloads, environments and compiled code: $MLIPFM_CACHE, else ~/.cache/mlipfm. Created, for its owner only.

    Raises:
        UnwritableFileError: if it cannot be created.
    """
    stated = os.environ.get("MLIPFM_CACHE")
    folder = Path(stated).expanduser() if stated else Path.home() / ".cache" / "mlipfm"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


@contextlib.contextmanager
def lock(path: Path | str, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for the length of a `with` block, against other processes and other threads.

    The kernel frees the lock when its process ends, however it ends, so there are no stale locks; the file itself stays.

    Args:
        timeout: seconds to wait for another holder.

    Raises:
        LockedError: still locked after `timeout`; names the holder. UnwritableFileError: the lock file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        _acquire(descriptor, path, timeout)
        holder = f"process {os.getpid()} ({Path(sys.argv[0] or 'python').name}) on {socket.gethostname()} since {time.strftime('%F %T')}\n"
        with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would not free it while a forked child lives
        os.close(descriptor)


def _acquire(descriptor: int, path: Path | str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 300, 0).decode(errors="replace").strip() or "another process"
                raise LockedError(f"is in use by {holder}", where=str(path), hint="wait for it to finish, or stop it") from None
        time.sleep(0.02)
