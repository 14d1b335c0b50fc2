"""Find the files of a set in a folder: an unpacked folder, or a `.tar.xz` archive, which is unpacked into the cache folder."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from mlipfm_interfaces.errors import RefusedFileError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write, cache_dir, lock, sha256

#: Of one archive when it is unpacked; public sets that are shared this way have some megabytes.
MAX_BYTES, MAX_FILES = 1 << 34, 1_000_000
_DONE = ".complete"


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
        raise RefusedFileError(f"the archive writes outside its folder: {error}", where=str(archive), hint="do not use it") from None
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise UnreadableFileError(f"the archive cannot be unpacked: {error}", where=str(archive), hint="is it complete?") from None
