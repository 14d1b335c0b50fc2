"""One file from the web to the disk: resumed after any break, the same bytes as if it had come at once, or a clear error.

What has arrived lies in NAME.part, and NAME.part.json says which version of the file it is (ETag, Last-Modified, length). A part is continued only if
the server says that it is still the same file, or if a digest is known that will tell; otherwise it is begun anew. NAME appears when it is complete
and verified, by a rename.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlipfm_interfaces.errors import DamagedFileError, UnwritableFileError
from mlipfm_interfaces.files import atomic_write, canonical_json, fsync_folder, lock, unwritable

from .connect import BrokenConnection, DownloadError, request, shown

# A progress bar on a terminal for what takes long enough to wonder; silent elsewhere.

Advance = Callable[[int], None]
_SMALL = 1 << 23  # bytes


def bar(title: str, total: int | None, done: int = 0) -> contextlib.AbstractContextManager[Advance]:
    """Return a bar for bytes, shown where there are many to come; `total` None: unknown."""
    if total is not None and total - done < _SMALL:
        return contextlib.nullcontext(lambda count: None)
    from mlipfm_interfaces.console import counter  # brings rich

    return counter(title, total, done=done, in_bytes=True)


_CHUNK = 1 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that another try may cure
_RESTARTS = 3  # times that a file may change under our hands


@dataclass(frozen=True)
class Known:
    """What is known of a file beforehand; what is None is not checked."""

    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def digest(self) -> bool:
        return self.sha256 is not None or self.md5 is not None


NOTHING = Known()


@dataclass(frozen=True)
class Fetched:
    """A complete file: `verified` names what it was checked against (`sha256`, `md5`, `size`), or is empty: the first download is accepted."""

    path: Path
    size: int
    sha256: str
    verified: tuple[str, ...]
    was_there: bool = False


@dataclass(frozen=True)
class _Version:
    """Which version of a file a part belongs to."""

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        """For If-Range: a strong ETag or a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def same(self, other: _Version) -> bool:
        """Return whether nothing that both state differs."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified), (self.total, other.total))
        return all(a is None or b is None or a == b for a, b in pairs)


class _Changed(Exception):
    """The file on the server is not the one that the part belongs to."""


def fetch(url: str, target: Path, known: Known = NOTHING, *, patience: int = 5, pause: float = 1.0) -> Fetched:
    """Download `url` to `target`. A complete `target` is verified again and not downloaded; a part is continued.

    Args:
        patience: tries without a single new byte before giving up. pause: seconds before the second of them; doubled each time.

    Raises:
        DownloadError: not reached, refused, or no complete file. DamagedFileError: other bytes or another length than known. LockedError: another
        process downloads it. UnwritableFileError: no space or no permission; what has arrived is kept.
    """
    part, memo = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    with _written(target), lock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return verify(target, known, was_there=True)
        _receive_all(url, part, memo, known, patience, pause)
        fetched = _verified_or_removed(part, memo, known, target)
        os.replace(part, target)
        memo.unlink(missing_ok=True)
        fsync_folder(target.parent)
        target.with_name(f".{target.name}.lock").unlink(missing_ok=True)  # who opened it before finds the target complete
    return fetched


@contextlib.contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(target, error) from error


def verify(path: Path, known: Known, *, was_there: bool = False) -> Fetched:
    """Size and digests of a file, compared with what is known. Raises `DamagedFileError`: they differ."""
    size = path.stat().st_size
    checks = []
    if known.size is not None:
        _compare("bytes", size, known.size, path)
        checks.append("size")
    sha256, md5 = _digests(path, size, known.md5 is not None)
    for name, found, wanted in (("sha256", sha256, known.sha256), ("md5", md5, known.md5)):
        if wanted is not None:
            _compare(name, found, wanted.lower(), path)
            checks.append(name)
    return Fetched(path, size, sha256, tuple(checks), was_there)


def _compare(what: str, found: object, wanted: object, path: Path) -> None:
    if found != wanted:
        raise DamagedFileError(f"has {what} {found}, {wanted} is known: another or a damaged file", where=str(path),
                               hint="delete it and download it again; if that gives the same, tell who published it")  # fmt: skip


def _digests(path: Path, size: int, with_md5: bool) -> tuple[str, str | None]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, bar(f"checking {path.name.removesuffix('.part')}", size) as advance:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            if with_md5:
                md5.update(chunk)
            advance(len(chunk))
    return sha256.hexdigest(), md5.hexdigest() if with_md5 else None


def _verified_or_removed(part: Path, memo: Path, known: Known, target: Path) -> Fetched:
    """A part that is complete and wrong can not be continued: it goes."""
    try:
        fetched = verify(part, known)
    except DamagedFileError as error:
        part.unlink()
        memo.unlink(missing_ok=True)
        error.where = str(target)
        error.hint = "nothing was kept; try again, and if that gives the same, tell who published it"
        error.args = (error.what, error.where, error.hint)
        raise
    return Fetched(target, fetched.size, fetched.sha256, fetched.verified)


def _receive_all(url: str, part: Path, memo: Path, known: Known, patience: int, pause: float) -> None:
    """Try until the part is complete; only tries that bring nothing wear out the patience."""
    restarts = idle = 0
    met = False  # the server, in this run
    while True:
        before = _length(part)
        try:
            with _Try(url, part, memo, known) as attempt:
                met = True
                attempt.receive()
            return
        except _Changed:
            part.unlink(missing_ok=True)
            memo.unlink(missing_ok=True)
            restarts += 1
            if restarts > _RESTARTS:
                raise DownloadError(
                    f"changes while it is downloaded ({restarts} times)", where=shown(url), hint="try again later"
                ) from None
        except BrokenConnection as error:
            idle = 0 if _length(part) > before else idle + 1
            if idle >= patience or not (met or before or _length(part)):
                raise
            time.sleep(min(60.0, max(pause * 2 ** (idle - 1) if idle else 0.0, error.wait)))


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


class _Try:
    """One request and its answer, checked; `receive` appends the body to the part."""

    def __init__(self, url: str, part: Path, memo: Path, known: Known) -> None:
        self.url, self.part, self.memo, self.known = url, part, memo, known
        self.old = _recall(memo, url)
        self.offset = _length(part) if self.old and (self.old.validator or known.digest) else 0

    def __enter__(self) -> _Try:
        headers = {"Range": f"bytes={self.offset}-"} if self.offset else {}
        if self.offset and self.old and self.old.validator:
            headers["If-Range"] = self.old.validator
        self.answer = request(self.url, headers)
        return self

    def __exit__(self, *exception: object) -> None:
        self.answer.close()

    def receive(self) -> None:
        status, version = self.answer.status or 0, _version(self.url, self.answer)
        if status == 416 and self.offset:
            return self._nothing_left()
        if status >= 400:
            raise self._refusal(status)
        if status not in (200, 206):
            raise DownloadError(f"answers with HTTP {status}, which is no file", where=shown(self.url))
        start, version = self._checked(status, version)
        self._check_length(version)
        if not start:
            self.part.unlink(missing_ok=True)  # before the note says that it is of this version
        atomic_write(self.memo, canonical_json(vars(version)))
        with bar(self.part.name.removesuffix(".part"), version.total, start) as advance:
            self._append(start, version, advance)

    def _checked(self, status: int, version: _Version) -> tuple[int, _Version]:
        """Where the body begins, and the version with its total length. Raises `_Changed`, or DownloadError: this is no file to keep."""
        encoding = self.answer.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise DownloadError(f"is sent as {encoding} although the file itself was requested", where=shown(self.url))
        kind = self.answer.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml") and not self.part.name.endswith((".html.part", ".htm.part")):
            raise DownloadError("the server answers with a web page and not with the file", where=shown(self.url),
                                hint="open the address in a browser: it may ask for a login or a licence, or the file has moved")  # fmt: skip
        if status == 200:
            return 0, version
        start, total = _content_range(self.answer.headers.get("Content-Range", ""))
        version = _Version(version.url, version.etag, version.modified, total)
        if start != self.offset or self.old is None or not self.old.same(version):
            raise _Changed
        return start, version

    def _check_length(self, version: _Version) -> None:
        if version.total is None:
            if self.answer.headers.get("Transfer-Encoding", "").lower() != "chunked" and self.known.size is None and not self.known.digest:
                raise DownloadError("the server gives no length: a broken connection would look like the end of the file", where=shown(self.url),
                                    hint="give its --sha256")  # fmt: skip
            return
        if self.known.size is not None and version.total != self.known.size:
            raise DamagedFileError(f"the server has {version.total} bytes, {self.known.size} are known: another file", where=shown(self.url),
                                   hint="see whether a new version was published")  # fmt: skip
        free = shutil.disk_usage(self.part.parent).free
        if version.total - _length(self.part) > free:
            raise UnwritableFileError(f"needs {version.total} bytes, {free} are free", where=str(self.part.parent),
                                      hint="free some space or choose another folder; a part is continued")  # fmt: skip

    def _append(self, start: int, version: _Version, advance: Advance) -> None:
        received = start
        with self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for chunk in _chunks(self.answer, self.url):
                file.write(chunk)
                received += len(chunk)
                advance(len(chunk))
                if self.known.size is not None and received > self.known.size:
                    raise DamagedFileError(f"the server sends more than the {self.known.size} bytes that are known", where=shown(self.url))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        if version.total is not None and received != version.total:
            raise BrokenConnection(f"broke off after {received} of {version.total} bytes", where=shown(self.url),
                                   hint="run the same command again: it goes on where it stopped")  # fmt: skip

    def _nothing_left(self) -> None:
        """HTTP 416: the part is as long as the file, or belongs to another one."""
        found = re.fullmatch(r"bytes \*/(\d+)", self.answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != self.offset or (self.old and self.old.total not in (None, self.offset)):
            raise _Changed

    def _refusal(self, status: int) -> DownloadError:
        what = f"the server refuses: HTTP {status} {http.client.responses.get(status, '')}".rstrip()
        if status in _PASSING:
            error = BrokenConnection(what, where=shown(self.url), hint="try again later: it goes on where it stopped")
            wait = self.answer.headers.get("Retry-After", "")
            error.wait = min(60.0, float(wait)) if wait.isascii() and wait.isdigit() else 0.0
            return error
        hint = {401: "it asks for a login: open it in a browser", 403: "it asks for a login or a licence: open it in a browser",
                404: "the address is old: see `mlipfm data list NAME`", 410: "it was withdrawn"}.get(status)  # fmt: skip
        return DownloadError(what, where=shown(self.url), hint=hint)


def _chunks(answer: http.client.HTTPResponse | urllib.error.HTTPError, url: str) -> Iterator[bytes]:
    """Yield what arrives, as it arrives: `read1` gives the bytes before a break, `read` would drop them."""
    read: Callable[[int], bytes] = answer.read1  # an HTTPError passes it on
    try:
        while chunk := read(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise BrokenConnection(f"broke off: {error or type(error).__name__}", where=shown(url),
                               hint="run the same command again: it goes on where it stopped") from error  # fmt: skip


def _version(url: str, answer: http.client.HTTPResponse | urllib.error.HTTPError) -> _Version:
    headers = answer.headers
    modified = headers.get("Last-Modified")
    length = headers.get("Content-Length", "")
    whole = answer.status == 200 and length.isascii() and length.isdigit()
    dated = modified if modified and email.utils.parsedate(modified) else None
    return _Version(url, headers.get("ETag"), dated, int(length) if whole else None)


def _content_range(text: str) -> tuple[int, int | None]:
    """First byte and total length; (-1, None) for a header that is none."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", text.strip())
    return (int(found[1]), None if found[3] == "*" else int(found[3])) if found else (-1, None)


def _recall(memo: Path, url: str) -> _Version | None:
    """Return what is remembered of the part; None: nothing, or it is of another address."""
    try:
        told = json.loads(memo.read_bytes())
        version = _Version(**told)
    except (OSError, ValueError, TypeError):
        return None
    kinds = (isinstance(version.etag, str | None), isinstance(version.modified, str | None), isinstance(version.total, int | None))
    return version if all(kinds) and version.url == url else None


def file_name(url: str) -> str:
    """Return the last part of an address's path as the name of a file. Raises `DownloadError`: it has none that is harmless."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rstrip("/").rpartition("/")[2])
    if not re.fullmatch(r"[\w()+,=@~-][\w .()+,=@~-]{0,150}", name, re.ASCII) or name.endswith((" ", ".", ".part")):
        raise DownloadError("the address does not end in the name of a file", where=shown(url), hint="give one: --as NAME")
    return name
