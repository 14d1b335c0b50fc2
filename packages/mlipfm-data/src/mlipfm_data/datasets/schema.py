"""What an entry of the catalogue is: facts with their sources, and files that can be downloaded. Checked when it is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError
from mlipfm_interfaces.theory import canonical_level

from .manifest import FileDescription, file_description

#: Licences under which data may be used, changed and passed on by everyone, as SPDX names them.
OPEN_LICENCES = frozenset(
    {"CC0-1.0", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-SA-4.0", "MIT", "BSD-3-Clause", "Apache-2.0", "PDDL-1.0", "ODC-By-1.0", "ODbL-1.0"}
)
KINDS = ("molecules", "materials", "surfaces", "properties", "unlabelled")
STATUSES = ("released", "not released")


@dataclass(frozen=True)
class Source:
    """Where facts were read: `kind` (paper, readme, loader, page, sample), what it is, and its address or repository, file and commit."""

    name: str
    kind: str
    what: str
    where: str


@dataclass(frozen=True)
class Fact:
    """One statement of one source.

    Attributes:
        value: text, number, or a tuple of texts. source: name of a `Source`. note: what else the source says about it.
        of: what part a number counts, if not all of the set. step: to which it is rounded in the source: 2M has a step of 1,000,000.
        at_least: the list is known not to be complete.
        reader, layout: of a native layout: the reader that takes it, or `none`, and what that reader calls it.
    """

    value: Any
    source: str
    note: str | None = None
    of: str | None = None
    step: int = 0
    at_least: bool = False
    reader: str | None = None
    layout: str | None = None

    def agrees(self, other: Fact) -> bool:
        """Whether both can be true: numbers of the same part within their rounding, texts if one begins like the other, lists if they share one."""
        if self.of != other.of:
            return True
        if isinstance(self.value, int) and isinstance(other.value, int):
            return abs(self.value - other.value) * 2 <= self.step + other.step
        mine, theirs = (set(map(plain, v if isinstance(v, tuple) else (v,))) for v in (self.value, other.value))
        return any(a.startswith(b) or b.startswith(a) for a in mine for b in theirs)


@dataclass(frozen=True)
class DataFile:
    """A file of a set: its address, the name it gets, and what was published about it."""

    url: str
    name: str
    source: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    note: str | None = None


Facts = tuple[Fact, ...]


@dataclass(frozen=True)
class DataSet:
    """An entry. Each field of facts holds one fact for each source that was read; empty: none of them gives it.

    `imports` describes how its files are read: `path` is a glob on the name of a downloaded file, or inside the folder that an archive becomes.
    """

    id: str
    name: str
    kind: str
    status: str = "released"
    elements: Facts = ()
    element_count: Facts = ()
    levels: Facts = ()
    sampling: Facts = ()
    charges: Facts = ()
    spins: Facts = ()
    labels: Facts = ()
    licences: Facts = ()
    citations: Facts = ()
    layouts: Facts = ()
    units: Facts = ()
    structures: Facts = ()
    bytes: Facts = ()
    pages: Facts = ()
    files: tuple[DataFile, ...] = field(default=())
    imports: tuple[FileDescription, ...] = field(default=())

    def differing(self) -> list[str]:
        """Fields whose sources contradict each other."""
        return [name for name in ("element_count", "levels", "licences", "structures", "bytes") if _contradictory(getattr(self, name))]


#: The fields that hold facts, in the order in which they are shown.
FACTS = tuple(f.name for f in fields(DataSet) if f.type == "Facts")


def _contradictory(facts: Facts) -> bool:
    return any(not a.agrees(b) for i, a in enumerate(facts) for b in facts[:i])


def plain(text: str) -> str:
    """Return a text for comparisons: `ωB97X/6-31G*` and `wb97x/6-31g(d)` are the same level."""
    return re.sub(r"[^a-z0-9]", "", canonical_level(text).replace("*", "(d)"))


def data_set(told: Mapping[str, Any], sources: Mapping[str, Source], where: str) -> DataSet:
    """Return an entry from the content of its file.

    Raises:
        InvalidStructureError: an unknown key, a value of another type than its field has, an unknown source, element or kind; names the place.
    """
    allowed = {f.name for f in fields(DataSet)}
    if unknown := sorted(set(told) - allowed):
        raise _fault(f"has unknown fields {unknown}", where)
    values: dict[str, Any] = {key: told[key] for key in ("id", "name", "kind", "status") if key in told}
    if not all(isinstance(value, str) for value in values.values()) or not {"id", "name", "kind"} <= values.keys():
        raise _fault("needs `id`, `name` and `kind`", where)
    if values["kind"] not in KINDS or values.get("status", "released") not in STATUSES or not re.fullmatch(r"[a-z0-9-]+", values["id"]):
        raise _fault("has an unknown kind or status, or an id that is not lower case", where)
    for name in FACTS:
        values[name] = tuple(_fact(name, one, sources, f"{where}: {name}") for one in told.get(name, ()))
    values["imports"] = tuple(file_description(one, f"{where}: imports") for one in told.get("imports", ()))
    values["files"] = tuple(_file(one, sources, f"{where}: files") for one in told.get("files", ()))
    return DataSet(**values)


def _fact(name: str, told: Any, sources: Mapping[str, Source], where: str) -> Fact:
    fact = _made(Fact, told, sources, where)
    value = tuple(fact.value.split()) if name == "elements" and isinstance(fact.value, str) else fact.value
    value = tuple(value) if isinstance(value, list) else value
    try:
        right = _CHECKS.get(name, _is_text)(value)
    except MlipfmError as error:
        raise _fault(error.what, where) from None
    if not right:
        raise _fault(f"has the value {fact.value!r}", where)
    if name == "layouts" and fact.reader is None:
        raise _fault("needs the name of a reader, or `none`", where)
    return Fact(value, fact.source, fact.note, fact.of, fact.step, fact.at_least, fact.reader, fact.layout)


def _file(told: Any, sources: Mapping[str, Source], where: str) -> DataFile:
    file = _made(DataFile, told, sources, where)
    digests = ((file.sha256, 64), (file.md5, 32))
    if not file.url.startswith(("https://", "http://")) or any(
        d is not None and not re.fullmatch(f"[0-9a-f]{{{n}}}", d) for d, n in digests
    ):
        raise _fault(f"{file.name} has no address of a file, or a digest that is none", where)
    return file


def _made(kind: type[Any], told: Any, sources: Mapping[str, Source], where: str) -> Any:
    try:
        made = kind(**told)
    except TypeError as error:
        raise _fault(f"{str(error).replace('.__init__()', '')}", where) from None
    if made.source not in sources:
        raise _fault(f"names the unknown source {made.source!r}", where)
    return made


def _fault(what: str, where: str) -> InvalidStructureError:
    return InvalidStructureError(what, where=where, hint="see `mlipfm_data.datasets.schema`")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_is_text, value))


def _are_elements(value: Any) -> bool:
    return _is_list(value) and len(set(value)) == len(value) and all(number(symbol) for symbol in value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "elements": _are_elements,
    "element_count": _is_count,
    "levels": lambda value: _is_list(value) and all(canonical_level(level) == level for level in value),
    "sampling": _is_list,
    "labels": _is_list,
    "charges": lambda value: value in ("neutral", "charged"),
    "spins": lambda value: value in ("closed", "open"),
    "structures": _is_count,
    "bytes": _is_count,
    "pages": lambda value: _is_text(value) and value.startswith(("https://", "http://")),
}
