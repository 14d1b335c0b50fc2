"""Descriptions of data sets: which files are read by which reader, at which level of theory, in which units and under which licence.

A manifest (`mlipfm data import --manifest FILE`) is a TOML or JSON file of such descriptions; entries of the catalogue have them as `imports`.

    [[sets]]
    name = "ice"                     # unique; each structure records "ice/PATH" as its source
    folder = "downloads/ice"         # relative to the manifest [default: the name]
    licence = "CC-BY-4.0"            # SPDX expression [default: not given]
    citation = "Who, Journal (2024)"
    left_out = "spectra: no reader"  # what is not imported, and why
    [[sets.files]]
    path = "*.xyz"                   # glob inside the folder; several are joined by `|`
    reader = "extxyz"                # [default: by the name of the file]
    level = "pbe-d3bj/520ev"         # [default: as the file says]
    require = ["energy"]             # labels without which a frame is refused [default: the energy]
    group = "{stem}"                 # a name, `{stem}`, `{folder}` or `{name}`: stays together in splits
    options = { energy_unit = "Hartree", total_charge = 0 }  # any option of the reader
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.files import read_bytes
from mlipfm_interfaces.theory import canonical_level

from ..licensing import checked_licence


@dataclass(frozen=True)
class FileDescription:
    """Files of a data set that are read in the same way.

    Attributes:
        path: glob inside the set's folder, or several joined by `|`; files are read in the order of their names.
        reader: name of a reader, or None: found by the file's name.
        level: level of theory of the labels; None if the file says it or there are no labels.
        options: further options of the reader (units, signs, keys), as `readers.options.ReadOptions`.
        require: labels without which a frame is refused; () for geometries and properties.
        group: structures that must stay together in a split: a name, `{stem}` (name of the file), `{folder}`, `{name}` (of the set), or None.
    """

    path: str
    reader: str | None = None
    level: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    require: tuple[str, ...] = ("energy",)
    group: str | None = None

    def check(self) -> None:
        """Raise `MlipfmError` for an unknown reader, an option that the reader does not have, an unknown unit, or a level that is not canonical."""
        from ..readers.option_text import split_options
        from ..readers.options import ReadOptions, option_names
        from ..readers.registry import find_reader

        if self.level is not None and canonical_level(self.level) != self.level:
            raise InvalidStructureError(f"the level {self.level!r} is written {canonical_level(self.level)!r}")
        if self.reader is not None:
            split_options(find_reader(Path(self.path), self.reader), self.options)
        ReadOptions(require=self.require, **{key: value for key, value in self.options.items() if key in option_names()})


@dataclass(frozen=True)
class SetDescription:
    """A data set.

    Attributes:
        name: of the set; the first part of the source of each structure.
        licence: SPDX expression, or words in tables of ours; None: not given. citation: of the paper that made the data.
        left_out: the reason, when nothing of it is imported (or what of it is left out).
        folder: of its files, absolute or relative to the folder of all sets; None: the name.
    """

    name: str
    files: tuple[FileDescription, ...] = ()
    licence: str | None = None
    citation: str | None = None
    left_out: str | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        if not self.files and not self.left_out:
            raise InvalidStructureError(f"the set {self.name!r} has neither files nor a reason why not", hint="give one of them")


def read_manifest(path: Path) -> list[SetDescription]:
    """Read the sets of a manifest, TOML or JSON.

    Raises:
        UnreadableFileError: no such file, or neither TOML nor JSON. InvalidStructureError: an unknown or missing key, or a value of another type.
        MlipfmError: an unknown reader, option, unit or licence. Each names the place.
    """
    text = read_bytes(path)
    try:
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text.decode())
    except ValueError as error:
        raise UnreadableFileError(f"is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}", where=str(path)) from None
    if not isinstance(content, dict) or set(content) != {"sets"} or not isinstance(content["sets"], list) or not content["sets"]:
        hint = """write [[sets]] with name = "...", below it [[sets.files]] with path = "*.xyz"; the README of mlipfm-data has one"""
        raise InvalidStructureError("a manifest has one key, `sets`: a list of data sets", where=str(path), hint=hint)
    sets = [_set(given, f"{path}: set {k + 1}") for k, given in enumerate(content["sets"])]
    double = sorted({one.name for one in sets if sum(other.name == one.name for other in sets) > 1})
    if double:
        raise InvalidStructureError(f"several sets are named {', '.join(double)}", where=str(path), hint="give each its own name")
    return sets


def _set(given: Any, where: str) -> SetDescription:
    _check_keys(given, SetDescription, where)
    files = given.get("files", [])
    if not isinstance(files, list):
        raise InvalidStructureError("`files` must be a list", where=where)
    described = tuple(file_description(one, f"{where}, files {k + 1}") for k, one in enumerate(files))
    for k, one in enumerate(described):
        try:
            one.check()
        except MlipfmError as error:
            raise type(error)(error.what, where=f"{where}, files {k + 1}", hint=error.hint) from None
    name = given["name"]
    if not name or "/" in name or name.startswith("."):
        raise InvalidStructureError(f"{name!r} is no name of a set", where=where, hint="a name without `/` that does not begin with a dot")
    licence = given.get("licence")
    return SetDescription(**given | {"files": described, "licence": None if licence is None else checked_licence(licence)})


def file_description(given: Any, where: str) -> FileDescription:
    """Return the description of files in a manifest or the catalogue. Raises `InvalidStructureError`: an unknown key or a value of another type."""
    _check_keys(given, FileDescription, where)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in given.get("options", {}).items()}
    level = given.get("level") and canonical_level(given["level"])
    return FileDescription(**given | {"options": options, "require": tuple(given.get("require", ("energy",))), "level": level})


#: Fields that are no text.
_TYPES: dict[str, tuple[type, str]] = {"files": (list, "a list"), "require": (list, "a list of names"), "options": (dict, "a table")}


def _check_keys(given: Any, kind: type[Any], where: str) -> None:
    """Refuse keys that the description does not have, values of another type, and a missing `name` or `path`."""
    known = [f.name for f in fields(kind)]
    if not isinstance(given, dict):
        raise InvalidStructureError(f"a table with {', '.join(known)} is expected, got {given!r}", where=where)
    if unknown := sorted(set(given) - set(known)):
        raise InvalidStructureError(f"unknown keys: {', '.join(unknown)}", where=where, hint=f"known are {', '.join(known)}")
    if known[0] not in given:
        raise InvalidStructureError(f"has no `{known[0]}`", where=where)
    for key, value in given.items():
        expected, words = _TYPES.get(key, (str, "a text"))
        if not isinstance(value, expected):
            raise InvalidStructureError(f"`{key}` must be {words}, got {value!r}", where=where)


def folder_of(described: SetDescription, root: Path) -> Path:
    """Return the folder of the set's files."""
    return root / (described.folder or described.name)


def jobs(described: SetDescription, folder: Path) -> Iterator[tuple[Path, str | None, dict[str, Any]]]:
    """Yield (file, reader, options) of everything that is read of a set."""
    for files in described.files:
        for path in _matching(files, folder):
            yield path, files.reader, _options(described, files, path, folder)


def _matching(files: FileDescription, folder: Path) -> list[Path]:
    """Files (or folders, for formats that are folders) that the glob names, in the order of their names; none whose name begins with a dot."""
    return sorted({path for pattern in files.path.split("|") for path in folder.glob(pattern) if not path.name.startswith(".")})


def _options(described: SetDescription, files: FileDescription, path: Path, folder: Path) -> dict[str, Any]:
    group = files.group and files.group.format(stem=path.name.split(".")[0], folder=path.parent.name, name=described.name)
    source = f"{described.name}/{path.relative_to(folder).as_posix()}"
    given = {"level": files.level, "require": files.require, "group": group, "source": source, "licence": described.licence}
    return {key: value for key, value in given.items() if value is not None} | dict(files.options)


def digest(described: SetDescription, folder: Path) -> str:
    """Return a SHA-256 of a description and of the names and sizes of its files: whether importing them again would give the same.

    The spelling of the keys is that of stores on disk and stays.
    """
    content = [[path.relative_to(folder).as_posix(), path.stat().st_size] for files in described.files for path in _matching(files, folder)]
    told = {"name": described.name, "licence": described.licence, "citation": described.citation, "not_imported": described.left_out}
    files = [{"pattern" if key == "path" else key: value for key, value in asdict(one).items()} for one in described.files]
    return hashlib.sha256(json.dumps([told | {"files": files}, content], sort_keys=True, default=str).encode()).hexdigest()
