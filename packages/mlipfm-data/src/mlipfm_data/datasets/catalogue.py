"""The entries of the catalogue from its files, and what is chosen of them."""

from __future__ import annotations

import difflib
import fnmatch
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, UnreadableFileError

from .connect import DownloadError
from .download import FileRequest
from .fetch import Known
from .manifest import SetDescription
from .schema import OPEN_LICENCES, DataFile, DataSet, Source, data_set, plain
from .unpack import TAR, is_archive, unpacked_name

# Which files of a set of the catalogue are downloaded.


def chosen(entry: DataSet, patterns: list[str], all_files: bool) -> list[FileRequest]:
    """Return the files whose names fit one of the patterns; without patterns the only file, or all of them if requested.

    Raises:
        DownloadError: the set is not released or has no address of a file (with its pages), several files and none is chosen, or none that fits.
    """
    if not entry.files:
        pages = ", ".join(str(fact.value) for fact in entry.pages)
        what = "was not released" if entry.status != "released" else "has no address of a file in the catalogue"
        raise DownloadError(what, where=entry.name, hint=f"see {pages}" if pages else "see `mlipfm data list` for others")
    names = [file.name for file in entry.files]
    fitting = [file for file in entry.files if all_files or any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns)]
    if patterns and not fitting:
        raise DownloadError(f"no file fits {' or '.join(patterns)}", where=entry.name, hint=f"there are {', '.join(names)}")
    if not fitting and len(names) > 1:
        listed = ", ".join(f"{file.name} ({file.note})" if file.note else file.name for file in entry.files)
        raise DownloadError(f"has {len(names)} files: {listed}", where=entry.name, hint="choose some with --file PATTERN, or --all")
    return [_wanted(entry, file) for file in fitting or entry.files]


def _wanted(entry: DataSet, file: DataFile) -> FileRequest:
    origin = {
        "set": entry.id,
        "licence": " or ".join(dict.fromkeys(str(fact.value) for fact in entry.licences)) or None,
        "citation": entry.citations[0].value if entry.citations else None,
    }
    return FileRequest(file.url, file.name, Known(file.size, file.sha256, file.md5), origin)


def described(entry: DataSet, wanted: list[FileRequest], folder: Path) -> list[SetDescription]:
    """Describe how files of a set are imported from `folder`: one description for each file, with reader, options, level and licence.

    A file that no reader takes is described as left out. The licence is given if all sources of the entry name the same one.

    Raises:
        DownloadError: the catalogue names no reader for any of the files.
    """
    licences = {str(fact.value) for fact in entry.licences}
    licence = licences.pop() if len(licences) == 1 else None
    citation = str(entry.citations[0].value) if entry.citations else None
    sets = []
    for one in wanted:
        name = unpacked_name(one.name) if is_archive(one.name) else one.name
        inside = one.name.lower().endswith((".zip", *TAR))  # an archive becomes a folder, everything else a file
        fitting = [files for files in entry.imports if inside or any(fnmatch.fnmatch(name, glob) for glob in files.path.split("|"))]
        files = tuple(files if inside else replace(files, path=name) for files in fitting)
        title = entry.id if len(entry.files) == 1 else f"{entry.id}-{name.partition('.')[0]}"
        left_out = None if files else f"the catalogue names no reader for {one.name}"
        sets.append(SetDescription(title, files, licence, citation, left_out, folder=name if inside else "."))
    if not any(one.files for one in sets):
        raise DownloadError(
            "the catalogue names no reader for these files", where=entry.name, hint="`mlipfm data download` only downloads them"
        )
    return sets


@lru_cache(1)
def sources() -> dict[str, Source]:
    """Return the sources by name."""
    told = tomllib.loads(_folder().joinpath("sources.toml").read_text("utf-8"))
    return {name: Source(name, **entry) for name, entry in told.items()}


@lru_cache(1)
def catalogue() -> dict[str, DataSet]:
    """Return the entries by id, in the order of their ids. Raises `InvalidStructureError`: a file of the catalogue is wrong."""
    entries: dict[str, DataSet] = {}
    for file in sorted(_folder().joinpath("sets").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            entry = data_set(tomllib.loads(file.read_text("utf-8")), sources(), file.name)
            if entry.id in entries or file.name != f"{entry.id}.toml":
                raise InvalidStructureError(f"the id {entry.id!r} is not the file's name, or is there twice", where=file.name)
            entries[entry.id] = entry
    return entries


def _folder() -> resources.abc.Traversable:
    return resources.files(__package__ or "mlipfm_data.datasets")


def find(name: str) -> DataSet:
    """Return the entry of this id or name. Raises `UnreadableFileError` with the nearest."""
    wanted = plain(name)
    for entry in catalogue().values():
        if wanted in (plain(entry.id), plain(entry.name)):
            return entry
    near = difflib.get_close_matches(name.lower(), catalogue(), 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else "see `mlipfm data list`"
    raise UnreadableFileError(f"the catalogue has no set {name!r}", hint=hint)


@dataclass(frozen=True)
class Wish:
    """What is looked for; None and False: everything."""

    elements: tuple[str, ...] = ()
    level: str | None = None
    labels: tuple[str, ...] = ()
    charged: bool = False
    open_shell: bool = False
    open_licence: bool = False
    downloadable: bool = False
    readable: bool = False


def choose(wish: Wish, entries: Iterable[DataSet]) -> tuple[list[DataSet], list[DataSet]]:
    """Return the sets that fit, and those of which the sources do not give what was requested (and nothing that contradicts it).

    Raises:
        UnknownElementError: a symbol that is none.
    """
    for symbol in wish.elements:
        number(symbol)
    fitting, unknown = [], []
    for entry in entries:
        answers = list(_answers(wish, entry))
        if all(answers):
            fitting.append(entry)
        elif False not in answers:
            unknown.append(entry)
    return fitting, unknown


def _answers(wish: Wish, entry: DataSet) -> Iterable[bool | None]:
    """For each part of the wish: yes, no, or None: no source says."""
    for symbol in wish.elements:
        yield _has_element(entry, symbol)
    if wish.level:
        levels = [plain(level) for fact in entry.levels for level in fact.value]
        yield any(plain(wish.level) in level for level in levels) if levels else None
    for label in wish.labels:
        named = {name for fact in entry.labels for name in fact.value}
        yield label in named if named else None
    if wish.charged:
        yield True if any(fact.value == "charged" for fact in entry.charges) else (False if entry.charges else None)
    if wish.open_shell:
        yield True if any(fact.value == "open" for fact in entry.spins) else (False if entry.spins else None)
    if wish.open_licence:
        yield all(fact.value in OPEN_LICENCES for fact in entry.licences) if entry.licences else None
    if wish.downloadable:
        yield bool(entry.files)
    if wish.readable:
        yield any(fact.reader != "none" for fact in entry.layouts)


def _has_element(entry: DataSet, symbol: str) -> bool | None:
    if any(symbol in fact.value for fact in entry.elements):
        return True
    return None if not entry.elements or any(fact.at_least for fact in entry.elements) else False
