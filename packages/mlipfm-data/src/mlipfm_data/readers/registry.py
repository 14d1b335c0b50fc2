"""Read any supported file: `read` streams, `read_all` collects. The reader is found by the file's name among the plug-ins `mlipfm.readers`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import UnreadableFileError
from mlipfm_interfaces.protocols import Reader, Refusal
from mlipfm_interfaces.structure import Structure

from .frame import refuse_pickle
from .option_text import check_options


def read(path: Path | str, reader: str | None = None, **options: Any) -> Iterator[Structure | Refusal]:
    """Structures and refusals of a file, in its order, in bounded memory.

    Args:
        path: the file, or the folder of a format that is one (DeePMD, PWdata).
        reader: name of a reader (`extxyz`, `ase`, ...); found by the file's name and, where several readers fit, by its content if left out.
        options: `frames_in.ReadOptions`, those of the reader, and `report=ReadReport()` to see every decision. None
            states nothing, so that what the file, its layout or the reader knows holds.

    Raises:
        UnreadableFileError: if the file as a whole cannot be read. RefusedFileError: a pickle. PluginError: unknown reader.
        UnknownQuantityError: an option that this reader does not have.
    """
    path = Path(path)
    found = reader_of(path, reader)
    stated = {name: value for name, value in options.items() if value is not None}
    check_options(found, stated)
    return found.read(path, **stated)


def read_all(path: Path | str, reader: str | None = None, **options: Any) -> list[Structure]:
    """All structures of a file, in memory.

    Raises:
        MlipfmError: the first refusal, and as `read`.
    """
    structures = []
    for item in read(path, reader, **options):
        if isinstance(item, Refusal):
            raise item.error
        structures.append(item)
    return structures


def reader_of(path: Path, name: str | None = None) -> Reader:
    """The reader of a file that is there and is no pickle; raises as `read` and `find_reader`."""
    refuse_pickle(path)
    if not path.exists():
        raise UnreadableFileError("no such file", where=str(path))
    return find_reader(path, name)


def find_reader(path: Path, name: str | None = None) -> Reader:
    """The reader `name`; or one that recognises the content of the file or folder; or the one whose suffix fits the end of its name best.

    A reader may have a method `recognises(path) -> bool`. It is asked where the name fits, and for every folder; a reader that says no is not used.

    Raises:
        PluginError: for an unknown name. UnreadableFileError: if no reader knows the suffix or the folder.
    """
    if name is not None:
        return _instance(plugins.load("readers", name))
    best: tuple[bool, int, Reader] | None = None
    for reader in _readers():
        fit = max((len(end) for end in reader.suffixes if path.name.endswith(end)), default=0)
        recognises = getattr(reader, "recognises", None)
        if not fit and not (path.is_dir() and recognises):
            continue
        known = recognises is not None and recognises(path)
        if (known or recognises is None) and (best is None or (known, fit) > best[:2]):
            best = (known, fit, reader)
    if best is None:
        kind = "folder" if path.is_dir() else "file"
        raise UnreadableFileError(
            f"no reader knows this kind of {kind}", where=str(path), hint=f"name one: {', '.join(plugins.names('readers'))}"
        )
    return best[2]


@lru_cache(1)
def _readers() -> tuple[Reader, ...]:
    """All installed readers; cached, because looking through the installed packages takes longer than reading a small file."""
    return tuple(_instance(plugins.load("readers", name)) for name in plugins.names("readers"))


def _instance(plugin: Any) -> Reader:
    reader: Reader = plugin() if isinstance(plugin, type) else plugin
    return reader
