"""Reader of ASE databases in SQLite (.db), without ASE: one row at a time, key-value pairs and `data` included, units from SchNetPack's metadata."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnitError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .ase_rows import row_frame
from .conventions import SPELLINGS
from .framed import checked
from .frames_in import RawFrame, ReadReport, option_words, options_from

_MAGIC = b"SQLite format 3\x00"
#: Columns of the table `systems` that are arrays, with their types.
_BLOBS = {
    "numbers": "<i4", "positions": "<f8", "cell": "<f8", "forces": "<f8", "stress": "<f8", "dipole": "<f8", "magmoms": "<f8", "charges": "<f8",
    "initial_magmoms": "<f8", "initial_charges": "<f8", "tags": "<i4", "masses": "<f8", "momenta": "<f8",
}  # fmt: skip
_PLAIN = ("energy", "free_energy")
#: Units as SchNetPack spells them.
_UNITS = {
    "eV": "eV", "Hartree": "Hartree", "Ha": "Hartree", "kcal/mol": "kcal/mol", "kJ/mol": "kJ/mol", "Ang": "Angstrom", "Angstrom": "Angstrom",
    "Bohr": "bohr", "a0": "bohr", "eV/Ang": "eV/Angstrom", "eV/Angstrom": "eV/Angstrom", "Ha/Bohr": "Hartree/bohr", "Ha/a0": "Hartree/bohr",
    "Hartree/Bohr": "Hartree/bohr", "kcal/mol/Ang": "kcal/mol/Angstrom", "Debye": "Debye", "D": "Debye", "eAng": "e Angstrom", "e*Ang": "e Angstrom",
    "eV/Ang/Ang/Ang": "eV/Angstrom^3", "GPa": "GPa", "kbar": "kbar",
}  # fmt: skip


class AseDbReader:
    """Streams the rows of ASE databases. Options: `frames_in.ReadOptions`, and `report`.

    Where the metadata state units (SchNetPack), these are taken unless an option says otherwise.
    """

    suffixes = (".db",)

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the order of the ids; a damaged row does not end the reading.

        Raises:
            UnreadableFileError: missing, no SQLite database, or not one of ASE.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        with closing(_connected(path)) as database:
            stated = _stated_units(_metadata(database, path), options)
            yield from checked(_frames(database, path), options_from(options, file=stated), report, path)


def metadata_units(path: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Unit options that the metadata of a database state. Raises `UnreadableFileError` as `AseDbReader.read`."""
    with closing(_connected(path)) as database:
        return _stated_units(_metadata(database, path), options)


def _connected(path: Path) -> sqlite3.Connection:
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise UnreadableFileError("this is no sqlite database", where=str(path), mend="name another reader")
        whole = not path.with_name(path.name + "-wal").exists()  # then nothing is written beside it, and it may lie on a read-only disk
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if whole else ''}", uri=True, check_same_thread=False)
        database.execute("select numbers, positions, cell, pbc from systems limit 1")
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", where=str(path)) from None
    except sqlite3.Error as error:
        raise UnreadableFileError(f"this is no database of ASE: {error}", where=str(path), mend="name another reader") from None
    return database


def _metadata(database: sqlite3.Connection, path: Path) -> Mapping[str, Any]:
    try:
        found = database.execute("select value from information where name = 'metadata'").fetchone()
        value = json.loads(found[0]) if found else {}
    except (sqlite3.Error, ValueError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _stated_units(metadata: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    """Unit options from SchNetPack's metadata, of the keys that will be read.

    Raises:
        UnitError: a unit that is not known, unless the user states it.
    """
    units = metadata.get("_property_unit_dict")
    if not isinstance(units, Mapping):
        return {}
    stated = {"length_unit": metadata.get("_distance_unit")}
    lower = {str(key).lower(): unit for key, unit in units.items()}
    for quantity in ("energy", "forces", "stress", "dipole"):
        keys = (options.get(f"{quantity}_key"), *SPELLINGS[quantity])
        stated[f"{quantity}_unit"] = next((lower[str(key).lower()] for key in keys if str(key).lower() in lower), None)
    given = {name: str(unit) for name, unit in stated.items() if unit is not None and options.get(name) is None}
    for name, unit in given.items():
        if unit not in _UNITS:
            raise UnitError(
                f"the metadata state the unit {unit!r}", mend=f"state one with {option_words(name)}; known: {', '.join(_UNITS)}"
            )
    return {name: _UNITS[unit] for name, unit in given.items()}


def _frames(database: sqlite3.Connection, path: Path) -> Iterator[RawFrame | MlipfmError]:
    known = [row[1] for row in database.execute("pragma table_info(systems)")]
    wanted = [name for name in ("id", "pbc", "key_value_pairs", "data", "constraints", *_PLAIN, *_BLOBS) if name in known]
    rows = database.execute(f"select {', '.join(wanted)} from systems order by id")
    index = 0
    while True:
        try:
            values = rows.fetchone()
        except sqlite3.Error as error:
            raise UnreadableFileError(f"the database is damaged from row {index} on: {error}", where=str(path)) from None
        if values is None:
            return
        row = dict(zip(wanted, values, strict=True))
        where = f"{path}: frame {index} (id {row.get('id')})"
        try:
            yield row_frame(_decoded(row), index, where, path.name)
        except MlipfmError as error:
            yield error if error.where else type(error)(error.what, where=where, mend=error.mend)
        except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            yield InvalidStructureError(f"the row is damaged: {error}", where=where)
        index += 1


def _decoded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as `ase_rows.row_frame` takes it."""
    out: dict[str, Any] = {key: row[key] for key in _PLAIN if row.get(key) is not None}
    for key, kind in _BLOBS.items():
        if row.get(key) is not None:
            out[key] = np.frombuffer(row[key], dtype=kind)
    if "forces" in out:
        out["forces"] = out["forces"].reshape(-1, 3)
    out["pbc"] = [bool(int(row["pbc"]) >> axis & 1) for axis in range(3)]
    if "momenta" in out:
        out["momenta"] = out["momenta"].reshape(-1, 3)
    for key in ("key_value_pairs", "data", "constraints"):
        out[key] = _object(row.get(key))
    return out


def _object(value: Any) -> Any:
    """JSON, or ASE's binary form: 8 bytes saying where the JSON begins, the numbers of its arrays, the JSON."""
    if value is None or isinstance(value, str):
        return json.loads(value) if value else {}
    start = int.from_bytes(value[:8], "little")
    return _with_arrays(json.loads(value[start:]), value[:start])


def _with_arrays(value: Any, numbers: bytes) -> Any:
    if isinstance(value, list):
        return [_with_arrays(item, numbers) for item in value]
    if not isinstance(value, dict):
        return value
    if "__ndarray__" not in value:
        return {key: _with_arrays(item, numbers) for key, item in value.items()}
    shape, kind, offset = value["__ndarray__"]
    if kind not in ("float64", "float32", "int64", "int32", "bool"):
        raise InvalidStructureError(f"the row holds an array of type {str(kind)[:20]!r}")
    dtype, size = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
    if min([*shape, offset, 0]) < 0 or offset + size * dtype.itemsize > len(numbers):
        raise InvalidStructureError("the row holds an array beyond its end")
    return np.frombuffer(numbers, dtype=dtype, count=size, offset=offset).reshape(shape)
