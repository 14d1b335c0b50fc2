"""Readers of ASE databases without ASE: SQLite (`.db`), and `.aselmdb`, the layout of OMat24, OC20/22, ODAC23 and OMol25."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, RawFrame

from .file_notes import fixed_by
from .interpret import SPELLINGS
from .label_names import split_by_atoms, whole_entry
from .lmdb import entries

# A row of an ASE database as a dictionary (JSON, `.aselmdb`): geometry, calculator results, key-value pairs and data.

#: Calculator results that rows keep under their own names.
RESULTS = ("energy", "free_energy", "forces", "stress", "dipole", "charges", "magmoms")
_PER_ATOM = ("initial_magmoms", "initial_charges", "tags", "masses", "momenta")
#: What else ASE keeps in a row: geometry, and its own books (ase/db/row.py).
_KNOWN = ("numbers", "positions", "cell", "pbc", "key_value_pairs", "data", "constraints", "id", "unique_id", "ctime", "mtime", "user", "username",
          "calculator", "calculator_parameters", "natoms", "mass", "volume", "fmax", "smax", "age", "formula", "constrained_forces")  # fmt: skip


def row_frame(row: Mapping[str, Any]) -> RawFrame:
    """Return the frame of a row; ASE's spelling of arrays (`__ndarray__`) is undone.

    Raises:
        UnreadableFileError: it has no atoms. InvalidStructureError: arrays that do not fit each other.
    """
    try:
        numbers = np.asarray(_value(row["numbers"]), dtype=np.int64)
        positions = np.asarray(_value(row["positions"]), dtype=np.float64).reshape(len(numbers), 3)
        cell = np.asarray(_value(row.get("cell", np.zeros((3, 3)))), dtype=np.float64).reshape(3, 3)
        pbc = np.broadcast_to(np.asarray(_value(row.get("pbc", False)), dtype=bool), 3)
    except KeyError as error:
        raise UnreadableFileError(f"the row has no {error}", hint="is this a database of structures?") from None
    except (TypeError, ValueError) as error:
        raise InvalidStructureError(f"the row is damaged: {error}") from None
    results = {key: _value(row[key]) for key in RESULTS if row.get(key) is not None}
    info: dict[str, Any] = {}
    arrays = {key: _value(row[key]) for key in _PER_ATOM if row.get(key) is not None}
    for inner in ("key_value_pairs", "data"):
        system, atoms = split_by_atoms({key: _value(value) for key, value in _inner(row.get(inner)).items()}, len(numbers))
        info |= system
        arrays |= atoms
    rest = {key: value for key, value in row.items() if key not in (*RESULTS, *_PER_ATOM, *_KNOWN)}
    system, atoms, more = whole_entry({key: _value(value) for key, value in rest.items()}, len(numbers))
    info, arrays = {**system, **info}, {**atoms, **arrays}
    held, unread = fixed_by(_value(row.get("constraints")), len(numbers))
    return RawFrame(numbers, positions, cell, pbc, info, arrays | held, results, unread=(*unread, *more))


def _inner(value: Any) -> Mapping[str, Any]:
    value = _value(value)
    return value if isinstance(value, Mapping) else {}


def _value(value: Any) -> Any:
    """ASE writes arrays as {"__ndarray__": [shape, type, numbers]}, cells as {"array": ..., "__ase_objtype__": "cell"}."""
    if isinstance(value, Mapping) and "__ndarray__" in value:
        try:
            shape, kind, numbers = value["__ndarray__"]
            if kind not in ("float64", "float32", "int64", "int32", "bool"):
                raise InvalidStructureError(f"the row holds an array of type {str(kind)[:20]!r}")
            return np.asarray(numbers, dtype=kind).reshape(shape)
        except MlipfmError:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidStructureError(f"the row holds a damaged array: {error}") from None
    if isinstance(value, Mapping) and value.get("__ase_objtype__") == "cell":
        return _value(value.get("array"))
    return value


# Reader of ASE databases in SQLite (.db), without ASE: one row at a time, key-value pairs and `data` included, units from SchNetPack's metadata.

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
    """ASE databases in SQLite, read one row at a time in the order of the ids. Units are those that the metadata state (SchNetPack)."""

    suffixes = (".db",)

    def frames(self, path: Path, *, keys: Mapping[str, str] = MappingProxyType({})) -> Iterator[At]:
        """Yield the rows. Raises `UnreadableFileError`: no SQLite database, or not one of ASE."""
        with closing(_connected(path)) as database:
            stated = _stated_units(_metadata(database), keys)
            known = [row[1] for row in database.execute("pragma table_info(systems)")]
            wanted = [name for name in ("id", "pbc", "key_value_pairs", "data", "constraints", *_PLAIN, *_BLOBS) if name in known]
            for values in database.execute(f"select {', '.join(wanted)} from systems order by id"):
                row = dict(zip(wanted, values, strict=True))
                yield At(f"id {row.get('id')}", _frame, row, stated)

    def units(self, path: Path, keys: Mapping[str, str]) -> dict[str, str]:
        """Return the unit options that the metadata state. Raises as `frames`."""
        with closing(_connected(path)) as database:
            return _stated_units(_metadata(database), keys)


def _frame(row: Mapping[str, Any], stated: Mapping[str, str]) -> RawFrame:
    frame = row_frame(_decoded(row))
    frame.stated = stated
    return frame


def _connected(path: Path) -> sqlite3.Connection:
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise UnreadableFileError("this is no sqlite database", where=str(path), hint="name another reader")
        whole = not path.with_name(path.name + "-wal").exists()  # then nothing is written beside it, and it may lie on a read-only disk
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if whole else ''}", uri=True, check_same_thread=False)
        database.execute("select numbers, positions, cell, pbc from systems limit 1")
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", where=str(path)) from None
    except sqlite3.Error as error:
        raise UnreadableFileError(f"this is no database of ASE: {error}", where=str(path), hint="name another reader") from None
    return database


def _metadata(database: sqlite3.Connection) -> Mapping[str, Any]:
    try:
        found = database.execute("select value from information where name = 'metadata'").fetchone()
        value = json.loads(found[0]) if found else {}
    except (sqlite3.Error, ValueError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _stated_units(metadata: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, str]:
    """Unit options from SchNetPack's metadata, of the keys that will be read."""
    units = metadata.get("_property_unit_dict")
    if not isinstance(units, Mapping):
        return {}
    stated = {"length_unit": metadata.get("_distance_unit")}
    lower = {str(key).lower(): unit for key, unit in units.items()}
    for quantity in ("energy", "forces", "stress", "dipole"):
        names = (keys.get(quantity), *SPELLINGS[quantity])
        stated[f"{quantity}_unit"] = next((lower[str(key).lower()] for key in names if str(key).lower() in lower), None)
    return {name: _UNITS.get(str(unit), str(unit)) for name, unit in stated.items() if unit is not None}


def _decoded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as `ase_rows.row_frame` takes it."""
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


#: Bytes of one row when it is unpacked: compressed zeros must not fill the memory.
LARGEST_ROW = 1 << 28
_NO_ROWS = (b"nextid", b"deleted_ids", b"metadata")


class AseLmdbReader:
    """`.aselmdb` files in the order of their ids; deleted rows are left out."""

    suffixes = (".aselmdb",)

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the rows. Raises `UnreadableFileError`, `DamagedFileError`: cut off, no LMDB file. `PluginError`: lmdb is not installed."""
        for key, value in entries(path):
            if key not in _NO_ROWS:
                yield At(f"id {key.decode(errors='replace')[:40]}", _packed_frame, value)


def _packed_frame(value: bytes) -> RawFrame:
    """Return the frame of a row of compressed JSON. Raises `UnreadableFileError`: not compressed, not JSON, no dictionary, or too large."""
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(value, LARGEST_ROW)
        if inflate.unconsumed_tail:
            raise UnreadableFileError(f"the row has more than {LARGEST_ROW} bytes when it is unpacked")
        row = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise UnreadableFileError(f"the row is no compressed JSON: {str(error)[:80]}", hint="is the file complete?") from None
    if not isinstance(row, dict):
        raise UnreadableFileError(f"the row is a {type(row).__name__}, not a dictionary")
    return row_frame(row)
