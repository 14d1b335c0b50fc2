"""Which known sets lie in a folder: as unpacked folders, or as `.tar.xz` archives, which are unpacked into the cache folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mlipfm_interfaces.errors import RefusedFileError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write, cache_dir, lock, sha256

from . import KNOWN
from .schema import KnownFiles, KnownSet

#: Of one archive when it is unpacked; public sets that are shared this way have some megabytes.
MAX_BYTES, MAX_FILES = 1 << 34, 1_000_000
_DONE = ".complete"


def found_sets(folder: Path | str) -> list[KnownSet]:
    """The known sets in `folder`, by name. Raises `UnreadableFileError`: no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UnreadableFileError("no such folder", where=str(folder))
    return [KNOWN[name] for name in sorted(KNOWN) if (folder / name).is_dir() or _archive(folder, name).is_file()]


def _archive(folder: Path, name: str) -> Path:
    return folder / f"{name}.tar.xz"


def unpacked(folder: Path, name: str) -> Path:
    """Folder of the set's files. An archive is unpacked once, by its hash, into the cache folder.

    Raises:
        UnreadableFileError: the archive is damaged. RefusedFileError: it would write outside its folder, or grow beyond any set.
    """
    if (folder / name).is_dir():
        return folder / name
    archive = _archive(folder, name)
    home = cache_dir() / "sets"
    home.mkdir(exist_ok=True)
    place = home / f"{name}-{sha256(archive)[:16]}"
    with lock(home / f"{name}.lock", timeout=600):
        if not (place / _DONE).exists():
            partial = place.with_name(f".{place.name}.part")
            shutil.rmtree(partial, ignore_errors=True)
            _unpack(archive, partial)
            atomic_write(partial / _DONE, b"")
            partial.replace(place)
    inner = place / name
    return inner if inner.is_dir() else place


def _unpack(archive: Path, into: Path) -> None:
    """Plain files and folders only, nothing outside `into`, bounded in number and size."""
    into.mkdir(parents=True)
    size = count = 0
    try:
        with tarfile.open(archive, "r:xz") as packed:
            for member in packed:
                if not (member.isfile() or member.isdir()):
                    raise RefusedFileError(f"the archive holds {member.name!r}, which is no plain file", where=str(archive))
                size, count = size + member.size, count + 1
                if size > MAX_BYTES or count > MAX_FILES:
                    raise RefusedFileError(f"the archive grows beyond {MAX_BYTES} bytes or {MAX_FILES} files", where=str(archive))
                packed.extract(member, into, filter="data")
    except tarfile.FilterError as error:
        raise RefusedFileError(f"the archive writes outside its folder: {error}", where=str(archive), mend="do not use it") from None
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise UnreadableFileError(f"the archive cannot be unpacked: {error}", where=str(archive), mend="is it complete?") from None


def matching(files: KnownFiles, folder: Path) -> list[Path]:
    """Files (or folders, for formats that are folders) of `folder` that the pattern names, in the order of their names."""
    found = {path for pattern in files.pattern.split("|") for path in folder.glob(pattern)}
    return sorted(path for path in found if path.name != _DONE)


def options(known: KnownSet, files: KnownFiles, path: Path, folder: Path) -> dict[str, object]:
    """Options for the reader of one file. `group` and `source` are filled in."""
    group = None if files.group is None else files.group.format(stem=path.name.split(".")[0], folder=path.parent.name, name=known.name)
    source = f"{known.name}/{path.relative_to(folder).as_posix()}"
    given = {"level": files.level, "require": files.require, "group": group, "source": source, "licence": known.licence}
    return {key: value for key, value in given.items() if value is not None} | dict(files.options)


def digest(known: KnownSet, folder: Path) -> str:
    """Of what is known of a set and of the names and sizes of its files: whether importing it again would be the same."""
    content = [[path.relative_to(folder).as_posix(), path.stat().st_size] for files in known.files for path in matching(files, folder)]
    text = json.dumps([asdict(known) | {"files": [_plain(files) for files in known.files]}, content], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(files: KnownFiles) -> dict[str, object]:
    return {"pattern": files.pattern, "reader": files.reader, "level": files.level, "options": dict(files.options), "require": files.require,
            "group": files.group}  # fmt: skip


def jobs(known: KnownSet, folder: Path) -> Iterator[tuple[Path, str | None, dict[str, object]]]:
    """(file, reader, options) of everything that is read of a set."""
    for files in known.files:
        for path in matching(files, folder):
            yield path, files.reader, options(known, files, path, folder)
