"""Archives from the web: plain files and folders only, nothing outside the folder, bounded in size, number and ratio, all or nothing.

An archive that holds anything else (links, devices, absolute paths, `..`, the same name twice) is refused as a whole. Modes, owners and times are not
taken over. Archives inside archives are left as they are.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from mlipfm_interfaces.errors import DamagedFileError, RefusedFileError, UnwritableFileError
from mlipfm_interfaces.files import fsync_folder, unwritable

from .fetch import Advance, bar

_CHUNK = 1 << 20
_LONGEST_READ = 1 << 24  # a header of a tar archive that is longer is an attack on the memory
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_ONE = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, struct.error, ValueError, OverflowError,
           RecursionError)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What an archive may become.

    Attributes:
        size: bytes in all; None: what is free on the disk. ratio: bytes for each byte of the archive, beyond `harmless` bytes. members: files and
            folders.
    """

    size: int | None = None
    ratio: float = 250.0
    harmless: int = 1 << 26
    members: int = 5_000_000


LIMITS = Limits()


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive: the folder (or the file, of a compressed file), files and bytes."""

    path: Path
    files: int
    size: int


def is_archive(name: str) -> bool:
    """Return whether a file of this name is unpacked: zip, tar, compressed tar, and single compressed files."""
    return name.lower().endswith((".zip", *TAR, *_ONE))


def unpacked_name(name: str) -> str:
    """Name of the folder or file that an archive becomes: without its ending."""
    ending = max((end for end in (".zip", *TAR, *_ONE) if name.lower().endswith(end)), key=len)
    return name[: -len(ending)]


def unpack(archive: Path, into: Path, limits: Limits = LIMITS) -> Unpacked:
    """Unpack `archive` beside `into` and rename the result to `into` when all of it is there.

    Raises:
        RefusedFileError: the archive holds what it must not, or grows beyond the limits. DamagedFileError: cut or damaged. UnwritableFileError:
        `into` exists, or no space. In every case nothing is left behind.
    """
    if into.exists() or into.is_symlink():
        raise UnwritableFileError("is there already", where=str(into), hint="move it away, or use --no-unpack")
    partial = into.with_name(f".{into.name}.unpacking")
    _remove(partial)
    budget = _Budget(archive, into.parent, limits)
    try:
        with bar(f"unpacking {archive.name}", archive.stat().st_size) as advance:
            budget.advance = advance
            _unpack(archive, partial, budget)
        partial.replace(into)
        fsync_folder(into.parent)
    except _DAMAGE as error:
        raise DamagedFileError(
            f"cannot be unpacked: {error or type(error).__name__}", where=str(archive), hint="download it again"
        ) from error
    except OSError as error:
        raise unwritable(into, error) from error
    finally:
        _remove(partial)
    return Unpacked(into, budget.files, budget.written)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unpack(archive: Path, partial: Path, budget: _Budget) -> None:
    name = archive.name.lower()
    if name.endswith(".zip"):
        partial.mkdir()
        _unzip(archive, partial, budget)
    elif name.endswith(TAR):
        partial.mkdir()
        _untar(archive, partial, budget)
    else:
        with _ONE[Path(name).suffix](archive, "rb") as stream:  # type: ignore[operator]  # the three have one signature
            budget.one_more(archive.name)
            budget.copy(stream, partial, archive.name)


class _Budget:
    """Counts what is unpacked and refuses what goes beyond the limits or is no plain file."""

    def __init__(self, archive: Path, folder: Path, limits: Limits) -> None:
        free = shutil.disk_usage(folder).free
        self.archive, self.limits = archive, limits
        self.most = free if limits.size is None else min(free, limits.size)
        self.by_ratio = max(limits.harmless, limits.ratio * archive.stat().st_size)
        self.files = self.members = self.written = 0
        self.advance: Advance = lambda count: None

    def refuse(self, what: str, member: str) -> RefusedFileError:
        shown = "".join(c if c.isprintable() else "?" for c in member)[:120]
        return RefusedFileError(f"{what}: {shown!r}", where=str(self.archive), hint="nothing was unpacked; look at it with another program")

    def one_more(self, member: str) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise self.refuse(f"more than {self.limits.members} members", member)

    def check(self, size: float, member: str) -> None:
        if size > self.by_ratio:
            raise self.refuse(f"more than {self.limits.ratio:g} times its size comes out of the archive", member)
        if size > self.most:
            raise self.refuse(f"more than the {self.most} bytes that there is room for", member)

    def place(self, member: str, partial: Path) -> Path:
        """Where a member goes. Raises RefusedFileError: outside or nowhere."""
        path = PurePosixPath(member)
        drive = re.match(r"[A-Za-z]:", member)
        if not member.strip("./") or "\\" in member or "\0" in member or path.is_absolute() or ".." in path.parts or drive:
            raise self.refuse("a name that leads out of the folder or nowhere", member)
        return partial / path

    def folder(self, member: str, partial: Path) -> None:
        if member.strip("./"):  # `./` is the archive's own folder
            self._make(self.place(member, partial), member)

    def _make(self, folder: Path, member: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self.refuse("a folder where a file is", member) from None

    def file(self, stream: IO[bytes], member: str, partial: Path) -> None:
        target = self.place(member, partial)
        self._make(target.parent, member)
        self.copy(stream, target, member)

    def copy(self, stream: IO[bytes], target: Path, member: str) -> None:
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except (FileExistsError, IsADirectoryError):
            raise self.refuse("the same name twice", member) from None
        with os.fdopen(descriptor, "wb") as file:
            while chunk := stream.read(_CHUNK):
                self.written += len(chunk)
                self.check(self.written, member)
                file.write(chunk)
        self.files += 1


def _unzip(archive: Path, partial: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        budget.check(float(sum(member.file_size for member in members)), "(sum of all members)")
        for member in members:
            budget.one_more(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise budget.refuse("a link or device", member.filename)
            if member.flag_bits & 1:
                raise budget.refuse("an encrypted file", member.filename)
            if member.is_dir() or kind == stat.S_IFDIR:
                budget.folder(member.filename, partial)
                continue
            with _supported(file, member, budget) as stream:
                budget.file(stream, member.filename, partial)
            budget.advance(member.compress_size)


@contextlib.contextmanager
def _supported(file: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> Iterator[IO[bytes]]:
    try:
        stream = file.open(member)
    except NotImplementedError as error:
        raise budget.refuse(f"compressed in a way that is not supported ({error})", member.filename) from None
    with stream:
        yield stream


def _untar(archive: Path, partial: Path, budget: _Budget) -> None:
    with archive.open("rb") as raw, _decompressed(raw) as plain:
        stream, before = _Forward(plain, budget), 0
        with tarfile.open(fileobj=stream, mode="r:") as file:  # type: ignore[call-overload]  # it reads, seeks forward and tells
            while (member := file.next()) is not None:
                file.members.clear()  # it would keep all of them in memory
                budget.one_more(member.name)
                _untar_one(file, member, partial, budget)
                before, more = raw.tell(), raw.tell() - before
                budget.advance(more)
        stream.check_end()


def _untar_one(file: tarfile.TarFile, member: tarfile.TarInfo, partial: Path, budget: _Budget) -> None:
    if member.isdir():
        return budget.folder(member.name, partial)
    data = file.extractfile(member) if member.isreg() and not member.issparse() and member.size >= 0 else None
    if data is None:
        raise budget.refuse("a link, device or sparse file", member.name)
    budget.file(data, member.name, partial)


def _decompressed(raw: IO[bytes]) -> Any:
    """By the first bytes, whatever the name says."""
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if head == b"\xfd7zXZ\x00":
        return lzma.LZMAFile(raw)
    return contextlib.nullcontext(raw)


class _Forward:
    """A stream for `tarfile` that goes forward only and counts: headers that fill the memory and endless padding are refused like large files."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self.stream, self.budget, self.position, self.last = stream, budget, 0, b""

    def read(self, size: int) -> bytes:
        if size > _LONGEST_READ:
            raise self.budget.refuse("a header of absurd length", f"{size} bytes")
        self.last = self.stream.read(size)
        self.position += len(self.last)
        self.budget.check(self.position, "(the archive itself)")
        return self.last

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        if position < self.position:
            raise tarfile.ReadError("a member lies before the last one")
        while self.position < position and self.read(min(_CHUNK, position - self.position)):
            pass
        return self.position

    def check_end(self) -> None:
        """`tarfile` takes a damaged header for the end; the end is a block of zeros. Reading on checks the sums of the compressed stream."""
        if not self.last or any(self.last):
            raise tarfile.ReadError("a header is damaged, or the end is missing")
        while self.read(_CHUNK):
            pass
