"""Export to an ASE database in SQLite, written without ASE: `ase.db` reads and extends it, and reading it here gives equal structures.

Energy, forces, stress (Voigt xx,yy,zz,yz,xz,xy in ASE's sign), dipole, charges and magnetic moments are ASE's columns, so that `row.toatoms()` has
them in its calculator. Other labels, deviations, the field and the provenance are in `data` (`REF_<quantity>`, `STD_<quantity>`, as in extended XYZ);
`total_charge`, `spin_multiplicity` and `level_of_theory` are key-value pairs, so that `db.select(level_of_theory="pbe")` finds them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.atomic import file_in_place
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import UnwritableFileError
from mlipfm_interfaces.structure import Structure

from ..readers.extxyz import provenance_values
from ..readers.interpret import FIELD_KEY, LEVEL_KEY, PROVENANCE_KEY
from ..readers.label_names import placed
from .report import ExportReport, held, not_read_again

#: Of the format that ASE has written since 3.19.
VERSION = 9
#: The table of structures: ASE finds its columns by their order.
_COLUMNS = {
    "id": "INTEGER PRIMARY KEY AUTOINCREMENT", "unique_id": "TEXT UNIQUE", "ctime": "REAL", "mtime": "REAL", "username": "TEXT", "numbers": "BLOB",
    "positions": "BLOB", "cell": "BLOB", "pbc": "INTEGER", "initial_magmoms": "BLOB", "initial_charges": "BLOB", "masses": "BLOB", "tags": "BLOB",
    "momenta": "BLOB", "constraints": "TEXT", "calculator": "TEXT", "calculator_parameters": "TEXT", "energy": "REAL", "free_energy": "REAL",
    "forces": "BLOB", "stress": "BLOB", "dipole": "BLOB", "magmoms": "BLOB", "magmom": "REAL", "charges": "BLOB", "key_value_pairs": "TEXT",
    "data": "BLOB", "natoms": "INTEGER", "fmax": "REAL", "smax": "REAL", "volume": "REAL", "mass": "REAL", "charge": "REAL",
}  # fmt: skip
_BESIDE = {
    "species": ("Z INTEGER", "n INTEGER"),
    "keys": ("key TEXT",),
    "text_key_values": ("key TEXT", "value TEXT"),
    "number_key_values": ("key TEXT", "value REAL"),
}
_INDICES = {
    "systems": ("unique_id", "ctime", "username", "calculator"), "species": ("Z",), "keys": ("key",), "text_key_values": ("key",),
    "number_key_values": ("key",),
}  # fmt: skip
#: Our labels under the names of ASE's columns.
_RESULTS = {"forces": "forces", "dipole": "dipole", "charges": "charges", "magnetic_moments": "magmoms"}
_VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
_INSERT = f"insert into systems ({', '.join(_COLUMNS)}) values ({', '.join(f':{name}' for name in _COLUMNS)})"
#: ASE counts years of 365.25 days from the first of January 2000.
_EPOCH, _YEAR = 946_681_200.0, 31_557_600.0


def export_ase_db(structures: Iterable[Structure], path: Path | str) -> ExportReport:
    """Write structures to `path`, in their order; memory is that of one. The file appears only when it is complete.

    Raises:
        UnwritableFileError: disk full, ...; what `path` was is intact.
    """
    path, report = Path(path), ExportReport()
    with file_in_place(path) as part:
        try:
            with closing(sqlite3.connect(part)) as database:
                _fill(database, structures, report)
        except sqlite3.Error as error:
            raise UnwritableFileError(f"cannot write: {error}", where=str(path), hint="is the disk full?") from error
    return report


def _fill(database: sqlite3.Connection, structures: Iterable[Structure], report: ExportReport) -> None:
    database.execute("pragma journal_mode = off")  # the file has no name yet: nothing of it is kept if this fails
    database.execute("pragma synchronous = off")
    database.execute(f"create table systems ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})")
    for table, columns in _BESIDE.items():
        database.execute(f"create table {table} ({', '.join(columns)}, id INTEGER, FOREIGN KEY (id) REFERENCES systems(id))")
    database.execute("create table information (name TEXT, value TEXT)")
    database.execute("insert into information values ('version', ?)", (str(VERSION),))
    now = (time.time() - _EPOCH) / _YEAR
    for number, structure in enumerate(structures, 1):
        _add(database, number, held(structure, report, not_read_again), now, report)
        report.structures += 1
    for table, names in _INDICES.items():
        for name in names:
            database.execute(f"create index {table}_{name}_index on {table}({name})")
    database.commit()


def _add(database: sqlite3.Connection, number: int, s: Structure, now: float, report: ExportReport) -> None:
    pairs = {"total_charge": s.total_charge, "spin_multiplicity": s.spin_multiplicity, LEVEL_KEY: s.level}
    pairs = {key: value for key, value in pairs.items() if value is not None}
    row = dict.fromkeys(_COLUMNS) | _geometry(s) | _results(s, report)
    row |= {"id": number, "unique_id": _unique(s, number), "ctime": now, "mtime": now, "username": "mlipfm"}
    row |= {"key_value_pairs": json.dumps(pairs), "data": packed(_data(s))}
    database.execute(_INSERT, row)
    counts = zip(*(part.tolist() for part in np.unique(s.atomic_numbers, return_counts=True)), strict=True)
    database.executemany("insert into species values (?, ?, ?)", [(z, n, number) for z, n in counts])
    database.executemany("insert into keys values (?, ?)", [(key, number) for key in pairs])
    for key, value in pairs.items():
        table = "text" if isinstance(value, str) else "number"
        database.execute(f"insert into {table}_key_values values (?, ?, ?)", (key, value, number))


def _unique(s: Structure, number: int) -> str:
    """Return an id that is the same when the same store is exported again."""
    return hashlib.blake2b(f"{s.key} {s.level} {number}".encode(), digest_size=16).hexdigest()


def _geometry(s: Structure) -> dict[str, Any]:
    volume = abs(float(np.linalg.det(s.cell)))
    return {
        "numbers": s.atomic_numbers.astype("<i4").tobytes(),
        "positions": _bytes(s.positions),
        "cell": _bytes(s.cell),
        "pbc": int(s.pbc @ np.array([1, 2, 4])),
        "natoms": len(s),
        "volume": volume or None,
        "mass": float(MASSES[s.atomic_numbers].sum()),
        "charge": s.total_charge,
    }


def _results(s: Structure, report: ExportReport) -> dict[str, Any]:
    """Columns of the labels that ASE's calculators know."""
    row: dict[str, Any] = {column: _bytes(s.labels[key]) for key, column in _RESULTS.items() if key in s.labels}
    if "energy" in s.labels:
        row["energy"] = float(s.labels["energy"])
    if "forces" in s.labels:
        row["fmax"] = float(np.linalg.norm(s.labels["forces"], axis=1).max())
    if "stress" in s.labels:
        stress = s.labels["stress"]
        if _nearly_symmetric(stress):
            row["stress"] = _bytes(((stress + stress.T) / 2)[_VOIGT])
            row["smax"] = float(np.abs(stress).max())
        else:
            report.beside["stress is not symmetric, which ASE's column cannot say: kept as REF_stress in `data`"] += 1
    return row | ({"calculator": "unknown", "calculator_parameters": "{}"} if row else {})


def _nearly_symmetric(stress: np.ndarray) -> bool:
    """Return whether six components say what nine do, as far as the readers ask two spellings of one label to agree."""
    return bool(np.allclose((stress + stress.T) / 2, stress, rtol=1e-6, atol=1e-6))


def _data(s: Structure) -> dict[str, Any]:
    """Return what ASE has no column for; and a stress whose six components are not exactly its nine."""
    data: dict[str, Any] = {PROVENANCE_KEY: provenance_values(s)}
    if s.external_field is not None:
        data[FIELD_KEY] = s.external_field
    others = [key for key in s.labels if key not in _RESULTS and key not in ("energy", "stress")]
    if "stress" in s.labels and not np.array_equal(s.labels["stress"], s.labels["stress"].T):
        others.append("stress")
    data |= {f"REF_{key}": placed(key, s.labels[key])[1] for key in others}
    return data | {f"STD_{key}": placed(key, value)[1] for key, value in s.label_std.items()}


def packed(values: dict[str, Any]) -> bytes:
    """ASE's binary form: 8 bytes that say where the JSON begins, the numbers of the arrays, the JSON."""
    parts, offset, plain = [], 8, dict(values)
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            plain[key] = {"__ndarray__": [list(value.shape), value.dtype.name, offset]}
            parts.append(value.tobytes())
            offset += value.nbytes
    return offset.to_bytes(8, "little") + b"".join(parts) + json.dumps(plain).encode()


def _bytes(value: np.ndarray) -> bytes:
    return np.ascontiguousarray(value, dtype="<f8").tobytes()
