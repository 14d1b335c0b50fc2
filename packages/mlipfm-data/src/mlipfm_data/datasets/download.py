"""Download a file or the files of a set of the catalogue into a folder, and keep a record of what came from where.

OUT/downloads.json holds for each file its address, size, SHA-256, what it was verified against, the set's licence and citation, and what was unpacked
from it. A file without a published digest is accepted when it first comes; from then on it is verified against the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import DamagedFileError, UnwritableFileError
from mlipfm_interfaces.files import atomic_write, lock, unwritable

from .connect import DownloadError, shown
from .fetch import NOTHING, Fetched, Known, fetch, file_name
from .unpack import LIMITS, Limits, is_archive, unpack, unpacked_name

RECORD = "downloads.json"
_FORMAT = 1


@dataclass(frozen=True)
class FileRequest:
    """A file to download.

    Attributes:
        url: its address. name: of the file in the folder. known: size and digests that were published. origin: set, licence and citation, for the
            record.
    """

    url: str
    name: str
    known: Known = NOTHING
    origin: dict[str, Any] | None = None


def file_request(url: str, name: str | None = None, sha256: str | None = None) -> FileRequest:
    """Return a file by its address alone. Raises `DownloadError`: the address does not end in a name and none is given."""
    return FileRequest(url, file_name("https://x/" + name) if name else file_name(url), Known(sha256=sha256))


def download(wanted: FileRequest, out: Path, *, unpacking: bool = True, limits: Limits = LIMITS, **patience: Any) -> Iterator[str]:
    """Download one file into `out`, unpack it if it is an archive, and yield lines that say what was done.

    Raises:
        DownloadError, DamagedFileError, RefusedFileError, UnwritableFileError, LockedError: see `fetching.fetch` and `unpacking.unpack`.
    """
    if wanted.name == RECORD:
        raise DownloadError(f"{RECORD} is the name of the record", where=shown(wanted.url), hint="give another: --as NAME")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    before = recorded(out).get(wanted.name, {})
    _check_same(before, wanted, out)
    fetched = fetch(wanted.url, out / wanted.name, _known(wanted.known, before), **patience)
    _note(out, wanted.name, _entry(wanted, fetched, before))
    yield _said(fetched, wanted, before)
    if unpacking and is_archive(wanted.name):
        yield _unpacked(out, wanted.name, fetched, before.get("unpacked"), limits)


def _known(published: Known, before: dict[str, Any]) -> Known:
    """Return what was published, and where nothing was, what came the first time."""
    if not before:
        return published
    return replace(published, size=published.size or before.get("size"), sha256=published.sha256 or before.get("sha256"))


def _check_same(before: dict[str, Any], wanted: FileRequest, out: Path) -> None:
    if before and before.get("url") != wanted.url and not wanted.known.digest:
        raise UnwritableFileError(f"{wanted.name} came from {shown(str(before.get('url')))} before", where=str(out),
                                  hint="choose another folder, or --as another name")  # fmt: skip


def _entry(wanted: FileRequest, fetched: Fetched, before: dict[str, Any]) -> dict[str, Any]:
    published = [name for name in fetched.verified if getattr(wanted.known, name) is not None]
    kept = {"unpacked": before["unpacked"]} if "unpacked" in before and before.get("sha256") == fetched.sha256 else {}
    return {"url": wanted.url, "size": fetched.size, "sha256": fetched.sha256, "verified": published, **(wanted.origin or {}), **kept}


def _said(fetched: Fetched, wanted: FileRequest, before: dict[str, Any]) -> str:
    published = [name for name in ("sha256", "md5") if name in fetched.verified and getattr(wanted.known, name) is not None]
    if published:
        trust = f"{' and '.join(published)} as published"
    elif before:
        trust = "sha256 as when it first came"
    else:
        trust = f"no digest is published: accepted at first use, sha256 {fetched.sha256} is recorded"
    return f"{fetched.path}: {fetched.size} bytes{', was there already' if fetched.was_there else ''}; {trust}"


def _unpacked(out: Path, name: str, fetched: Fetched, before: Any, limits: Limits) -> str:
    target = out / unpacked_name(name)
    if isinstance(before, dict) and before.get("path") == target.name and target.exists():
        return f"{target}: unpacked already"
    done = unpack(fetched.path, target, limits)
    entry = recorded(out)[name] | {"unpacked": {"path": target.name, "files": done.files, "size": done.size}}
    _note(out, name, entry)
    return f"{target}: {done.files} files, {done.size} bytes"


def recorded(out: Path) -> dict[str, dict[str, Any]]:
    """Return the record of a folder: name of the file -> what is known of it. Raises `DamagedFileError`: it is no record."""
    path = out / RECORD
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_bytes())
        files = told["files"]
        if told["format"] != _FORMAT or not all(isinstance(entry, dict) for entry in files.values()):
            raise ValueError("not the record of downloads")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"is no record of downloads: {error}", where=str(path), hint="move it away") from None
    return dict(files)


def _note(out: Path, name: str, entry: dict[str, Any]) -> None:
    with lock(out / f".{RECORD}.lock", timeout=60):
        files = recorded(out) | {name: entry}
        atomic_write(out / RECORD, (json.dumps({"format": _FORMAT, "files": files}, indent=1, sort_keys=True) + "\n").encode())
