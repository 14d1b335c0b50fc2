"""The entries of the catalogue from its files, and what is chosen of them."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, UnreadableFileError

from .schema import OPEN_LICENCES, DataSet, Source, data_set, plain


@lru_cache(1)
def sources() -> dict[str, Source]:
    """The sources by name."""
    told = tomllib.loads(_folder().joinpath("sources.toml").read_text("utf-8"))
    return {name: Source(name, **entry) for name, entry in told.items()}


@lru_cache(1)
def catalogue() -> dict[str, DataSet]:
    """The entries by id, in the order of their ids. Raises `InvalidStructureError`: a file of the catalogue is wrong."""
    entries: dict[str, DataSet] = {}
    for file in sorted(_folder().joinpath("sets").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            entry = data_set(tomllib.loads(file.read_text("utf-8")), sources(), file.name)
            if entry.id in entries or file.name != f"{entry.id}.toml":
                raise InvalidStructureError(f"the id {entry.id!r} is not the file's name, or is there twice", where=file.name)
            entries[entry.id] = entry
    return entries


def _folder() -> resources.abc.Traversable:
    return resources.files(__package__ or "mlipfm_data.catalogue")


def find(name: str) -> DataSet:
    """The entry of this id or name. Raises `UnreadableFileError` with the nearest."""
    wanted = plain(name)
    for entry in catalogue().values():
        if wanted in (plain(entry.id), plain(entry.name)):
            return entry
    near = difflib.get_close_matches(name.lower(), catalogue(), 1, 0.5)
    mend = f"did you mean {near[0]!r}?" if near else "see `mlipfm data catalogue`"
    raise UnreadableFileError(f"the catalogue has no set {name!r}", mend=mend)


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
    """The sets that fit, and those of which the sources do not state what was asked for (and state nothing that speaks against it).

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
