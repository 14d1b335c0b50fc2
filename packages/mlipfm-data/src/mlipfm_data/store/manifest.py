"""`manifest.json` of a store: which shards it consists of, with their hashes, and the statistics. It carries its own digest.

A store is what its manifest says: files that it does not name are not part of it. It is replaced atomically, so readers see the old or the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import DamagedFileError, FormatVersionError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write, canonical_json, read_bytes

from .statistics import Summary

KIND = "mlipfm-store"
FORMAT = 1
FILE = "manifest.json"

#: From format n to n + 1. Stores of every format are read for ever; `tests/museum` keeps one of each.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class Entry:
    """A shard: file name, records (frames, or labels of an overlay), bytes and SHA-256 of the file and of its index."""

    file: str
    records: int
    bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str

    @property
    def index(self) -> str:
        """Name of the index file beside it."""
        return Path(self.file).with_suffix(".index").name


@dataclass(frozen=True)
class Manifest:
    """A store on paper.

    Attributes:
        name: of the data set. complete: False while a writer is at work, and after it was killed.
        shards, overlays: in the order they were written. summary: statistics of all shards.
    """

    name: str
    complete: bool = False
    shards: tuple[Entry, ...] = ()
    overlays: tuple[Entry, ...] = ()
    summary: Summary = field(default_factory=Summary)

    def save(self, folder: Path) -> None:
        """Write it. Raises `UnwritableFileError`; the old one is then intact."""
        value = {
            "kind": KIND,
            "format": FORMAT,
            "name": self.name,
            "complete": self.complete,
            "shards": [asdict(entry) for entry in self.shards],
            "overlays": [asdict(entry) for entry in self.overlays],
            "statistics": self.summary.as_json(),
        }
        value["digest"] = _digest(value)
        atomic_write(folder / FILE, _spell(value))


def is_store(folder: Path) -> bool:
    """Return whether there is a store: a manifest is its last file."""
    return (folder / FILE).is_file()


def load(folder: Path) -> Manifest:
    """Read and verify the manifest of a store.

    Raises:
        UnreadableFileError: no store there. RefusedFileError: a manifest of something else. DamagedFileError: changed by one bit or more.
        FormatVersionError: newer than this mlipfm.
    """
    path = folder / FILE
    if not is_store(folder):
        raise UnreadableFileError(
            "is not a store: it has no manifest.json",
            where=str(folder),
            hint="give the folder of a store; `mlipfm data import FILES --out FOLDER` makes one",
        )
    data, where = read_bytes(path), str(path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"is not JSON: {error}", where=where, hint="copy the store again") from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise RefusedFileError("is not the manifest of a store", where=where)
    if value.get("digest") != _digest(value) or data != _spell(value):
        raise DamagedFileError("its digest does not match: it was changed or damaged", where=where, hint="copy the store again")
    if value["format"] > FORMAT:
        raise FormatVersionError(
            f"store format {value['format']}, this mlipfm reads up to {FORMAT}", where=where, hint="upgrade mlipfm-data"
        )
    for version in range(value["format"], FORMAT):
        value = UPGRADES[version](value)
    return _from_json(value, where)


def _from_json(value: dict[str, Any], where: str) -> Manifest:
    try:
        shards, overlays = (tuple(Entry(**entry) for entry in value[key]) for key in ("shards", "overlays"))
        summary = Summary.from_json(value["statistics"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(f"an entry is missing or wrong: {error!r}", where=where) from error
    for entry in (*shards, *overlays):
        if Path(entry.file).name != entry.file:
            raise RefusedFileError(f"names a file outside the store: {entry.file!r}", where=where)
    return Manifest(value["name"], value["complete"], shards, overlays, summary)


def _spell(value: dict[str, Any]) -> bytes:
    """Return the one spelling of a manifest, readable by people."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json({key: item for key, item in value.items() if key != "digest"})).hexdigest()
