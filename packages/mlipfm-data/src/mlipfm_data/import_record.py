"""Which files were imported into a store, and how: the same file with other options is refused, since it would double or silently keep frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import RefusedFileError
from mlipfm_interfaces.files import atomic_write

from .readers.frames_in import ASSUMED, ReadReport

#: In the store's folder.
FILE = "imports.json"
_PART = 1 << 20
#: Options that do not change what is stored.
_IDLE = ("report", "require")


class ImportRecord:
    """`imports.json` of a store: fingerprint of a file -> its name and the options it was imported with.

    Args:
        store: folder of the store; nothing is written before `add`.
    """

    def __init__(self, store: Path) -> None:
        self.path = store / FILE
        self.known: dict[str, dict[str, Any]] = {}
        self._assumed: dict[str, Any] = {}  # recorded for the file that is checked, and not stated now
        if self.path.exists():
            self.known = json.loads(self.path.read_bytes())

    def check(self, file: Path, options: Mapping[str, Any]) -> None:
        """Refuse a file that is in the store already, imported otherwise.

        Raises:
            RefusedFileError: naming the options that differ.
        """
        self._assumed = {}
        entry = self.known.get(fingerprint(file)) if file.exists() else None
        if entry is None:
            return
        before, now = entry["options"], _plain(options)
        differ = {key for key in {*before, *now} if before.get(key) != now.get(key)}
        self._assumed = {key: before[key] for key in sorted(differ) if key not in now and before[key] == ASSUMED.get(key)}
        self._refuse(file, {key: (before.get(key), now.get(key)) for key in sorted(differ - set(self._assumed))})

    def check_applied(self, file: Path, report: ReadReport) -> None:
        """Refuse, at the first frame, a file that an earlier version imported with conventions that are not those which apply to it.

        Earlier versions recorded `energy_unit` eV and so on although nobody had stated it.

        Raises:
            RefusedFileError: naming the conventions that differ.
        """
        applied = {key: next(iter(report.applied(key)), value) for key, value in self._assumed.items()}
        self._refuse(file, {key: (value, applied[key]) for key, value in self._assumed.items() if applied[key] != value})

    def _refuse(self, file: Path, differ: Mapping[str, tuple[Any, Any]]) -> None:
        if differ:
            said = ", ".join(f"{key} {before!r}, now {now!r}" for key, (before, now) in differ.items())
            raise RefusedFileError(
                f"this file is in the store already, imported with {said}",
                where=str(file),
                mend="give the same options, or import it into a new store",
            )

    def add(self, file: Path, options: Mapping[str, Any]) -> None:
        """Remember a file."""
        mark = fingerprint(file)
        if mark not in self.known:
            self.known[mark] = {"file": file.name, "options": _plain(options)}
            atomic_write(self.path, json.dumps(self.known, indent=1, sort_keys=True).encode())


def fingerprint(path: Path) -> str:
    """Of a file: its size and its first and last megabyte. Of a folder: the names and sizes in it."""
    digest = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for item in sorted(path.rglob("*")):
            digest.update(f"{item.relative_to(path)} {item.stat().st_size}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as stream:
        digest.update(stream.read(_PART))
        stream.seek(max(0, size - _PART))
        digest.update(stream.read(_PART))
    return digest.hexdigest()


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON keeps them; what was not given is left out."""
    given = {key: value for key, value in options.items() if value is not None and key not in _IDLE}
    plain: dict[str, Any] = json.loads(json.dumps(given, default=str))
    return plain
