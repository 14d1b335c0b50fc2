"""Reader of the SQLite databases of GEMS: protein fragments, polyalanines, crambin (Unke et al., Sci. Adv. 10, eadn4397 (2024); zenodo 10720941).

A table `data`, in the order of its columns: id, total charge, number of unpaired electrons, Z (int32), R (Å), energy (eV), forces (eV/Å), dipole
(e Å); arrays are bytes of little-endian float32. A table `metadata` counts the rows. As openQDC reads them: openqdc/datasets/potential/
proteinfragments.py of github.com/valence-labs/openQDC. Its authors' comment names PBE0+MBD/def2-TZVPP; the files name no level, so `level` says it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import UnreadableFileError
from mlipfm_interfaces.raw_frame import EV_ANGSTROM, At, Conventions, RawFrame

from .nabladft import read_only

_COLUMNS = 8


class GemsReader:
    """GEMS databases, in the order of the rows. Charge and multiplicity that a row leaves empty are not given."""

    suffixes = (".db",)
    conventions = Conventions("GEMS", EV_ANGSTROM | {"dipole_unit": "e Angstrom", "spin_meaning": "unpaired"})

    def recognises(self, path: Path) -> bool:
        with read_only(path) as database:
            return _is_gems(database)

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the rows. Raises `UnreadableFileError`: no GEMS database."""
        with read_only(path) as database:
            if not _is_gems(database):
                raise UnreadableFileError(
                    f"no GEMS database: no table `metadata` beside a table `data` of {_COLUMNS} columns with Z, R and E"
                )
            for row, *values in database.execute("select * from data order by id"):
                yield At(f"row {row}", _frame, *values)


def _is_gems(database: sqlite3.Connection) -> bool:
    tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    if not tables >= {"data", "metadata"}:
        return False
    columns = [row[1] for row in database.execute("pragma table_info(data)")]
    if len(columns) != _COLUMNS or "H" in columns:  # a Hamiltonian: nablaDFT's, which has as many columns and the same tables
        return False
    first = database.execute("select * from data order by id limit 1").fetchone()
    return first is None or (isinstance(first[3], bytes) and isinstance(first[4], bytes) and isinstance(first[5], int | float | None))


def _frame(charge: Any, unpaired: Any, z: bytes, r: bytes, energy: Any, f: Any, d: Any) -> RawFrame:
    numbers = np.frombuffer(z, "<i4")
    info = {"charge": charge, "spin": unpaired, "energy": energy, "dipole": None if d is None else _reals(d, 1, "dipole")[0]}
    arrays = {} if f is None else {"forces": _reals(f, len(numbers), "forces")}
    given = {key: value for key, value in info.items() if value is not None}
    return RawFrame(numbers, _reals(r, len(numbers), "positions"), info=given, arrays=arrays)


def _reals(blob: bytes, n: int, what: str) -> np.ndarray:
    values = np.frombuffer(blob, "<f4")
    if values.size != 3 * n:
        raise ValueError(f"{values.size} numbers of {what}, {3 * n} are needed")
    return values.reshape(n, 3).astype(np.float64)
