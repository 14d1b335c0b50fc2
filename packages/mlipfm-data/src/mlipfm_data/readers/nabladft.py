"""Reader of nablaDFT: energy databases and optimisation trajectories (ASE sqlite) and Hamiltonian databases (tables `data`, R E F as bytes).

Khrabrov et al., PCCP 24, 25853 (2022) and nabla2-DFT (2024): wB97X-D/def2-SVP, Hartree, Hartree/Angstrom, Angstrom; Hamiltonian databases in bohr.
Energies of the energy databases are relative to atoms; the atoms' energies, which the databases carry as `atomrefs`, are added here, so that
energies are total ones. Bytes are decoded as numbers and JSON; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, Conventions, RawFrame

from . import mapped_smiles
from .label_names import whole_entry

LEVEL = "wb97x-d/def2-svp"

#: Hartree, of the isolated atoms: `atomrefs` in the metadata of the energy databases; the trajectories do not carry them.
ATOMS = {1: -0.5024932583661139, 6: -37.79809934247253, 7: -54.522414832380626, 8: -74.97667809850873, 9: -99.61446950401614,
         15: -341.13941895023964, 16: -397.9719278356063, 17: -459.98864965660516, 35: -2573.8571719614743, 53: -297.7564286148722}  # fmt: skip

_ENERGY = {"level": LEVEL, "forces_sign": 1, "length_unit": "Angstrom", "energy_unit": "Hartree", "forces_unit": "Hartree/Angstrom"}
_HAMILTONIAN = Conventions("nablaDFT", _ENERGY | {"forces_unit": "Hartree/bohr", "length_unit": "bohr"})
_STORED = Conventions("nablaDFT", _ENERGY)
_TOTAL = Conventions("nablaDFT", _ENERGY, fixed={"energy_unit": "the energies of the atoms, which `total` adds, are in Hartree"})
_ADDED = "energies of the atoms added: energies are total ones"


class NablaDftReader:
    """nablaDFT databases, in the order of their rows; `total=False` leaves energies as they are stored."""

    suffixes = (".db",)

    def recognises(self, path: Path) -> bool:
        with read_only(path) as database:
            return _kind(database) is not None

    def frames(self, path: Path, *, total: bool = True) -> Iterator[At]:
        """Yield the rows. Raises `UnreadableFileError`: no nablaDFT database."""
        with read_only(path) as database:
            kind = _kind(database)
            if kind is None:
                raise UnreadableFileError("no nablaDFT database: neither rows with `moses_id` nor a table `data` of R, E and F")
            yield from _rows(database, total) if kind == "energy" else _hamiltonians(database)


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A database, opened so that nothing is written beside it, unless rows wait there in a `-wal` or `-journal`; its schema is checked.

    Raises:
        UnreadableFileError: missing, or it cannot be opened.
    """
    if not path.is_file():
        raise UnreadableFileError("no such file", where=str(path))
    file = path.resolve()
    beside = [file.with_name(file.name + end) for end in ("-wal", "-journal")]
    whole = not any(other.is_file() and other.stat().st_size for other in beside)
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro{'&immutable=1' if whole else ''}", uri=True)
    except sqlite3.Error as error:
        raise UnreadableFileError(f"cannot be opened: {error}", where=str(path)) from None
    try:
        connection.execute("pragma trusted_schema = off")
        yield connection
    finally:
        connection.close()


def _kind(database: sqlite3.Connection) -> str | None:
    """`energy`, `hamiltonian`, or None for another database."""
    try:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        if "systems" in tables:
            (pairs,) = database.execute("select key_value_pairs from systems limit 1").fetchone() or (None,)
            return "energy" if isinstance(pairs, str) and '"moses_id"' in pairs else None
        columns = {row[1] for row in database.execute("pragma table_info(data)")}
        return "hamiltonian" if columns >= {"Z", "R", "E", "F", "H"} else None
    except sqlite3.Error as error:
        raise UnreadableFileError(f"no sqlite database: {error}", hint="is the file complete?") from None


def _rows(database: sqlite3.Connection, total: bool) -> Iterator[At]:
    atoms = ATOMS | _references(database) if total else None
    for row, *values in database.execute("select id, numbers, positions, cell, pbc, key_value_pairs, data from systems order by id"):
        yield At(f"row {row}", _frame, atoms, *values)


def _frame(atoms: Mapping[int, float] | None, numbers: bytes, positions: bytes, cell: bytes, pbc: int, pairs: str, data: Any) -> RawFrame:
    """Return the frame of a row; with energies of `atoms` in Hartree, its energy is the total one."""
    z, info = np.frombuffer(numbers, "<i4"), json.loads(pairs)
    for key in ("moses_id", "smiles"):
        if key not in info:
            raise InvalidStructureError(
                f"the row has no {key!r} among its key-value pairs: it is not of nablaDFT", hint="name another reader"
            )
    values = unpacked(data)
    if "energy" not in values:
        raise InvalidStructureError("the row has no energy")
    rest = {k: v for k, v in {**info, **values}.items() if k not in ("energy", "forces", "moses_id", "smiles")}
    system, arrays, unread = whole_entry(rest, len(z))
    frame = RawFrame(z, np.frombuffer(positions, "<f8").reshape(-1, 3), np.frombuffer(cell, "<f8").reshape(3, 3),
                     np.array([bool(pbc & 1), bool(pbc & 2), bool(pbc & 4)]), group=f"moses-{info['moses_id']}", unread=unread,
                     conventions=_STORED if atoms is None else _TOTAL)  # fmt: skip
    frame.arrays = {**arrays, **({"forces": values["forces"]} if "forces" in values else {})}
    frame.info = system | {"energy": values["energy"], "charge": mapped_smiles.total_charge(info["smiles"])}
    if atoms is not None:
        energy = float(np.asarray(values["energy"]).reshape(-1)[0])
        total = _total(energy, z, atoms)
        frame.info["energy"], frame.remarks = total, (_ADDED,) if total != energy else ()
    return frame


def _references(database: sqlite3.Connection) -> dict[int, float]:
    """Return the energies of atoms in Hartree that the database itself carries."""
    row = database.execute("select value from information where name = 'metadata'").fetchone()
    stated = json.loads(row[0]).get("atomrefs", {}).get("energy", []) if row else []
    return {z: float(value) for z, value in enumerate(stated) if value}


def _total(energy: float, numbers: np.ndarray, atoms: Mapping[int, float]) -> float:
    """The total energy in Hartree: molecules are bound by less than a hundredth of the energies of their atoms, so the two cannot be confused."""
    lacking = sorted({int(z) for z in numbers} - set(atoms))
    if lacking:
        raise InvalidStructureError(f"no atomic energy for the elements {lacking}", hint="set total=False (--option total=False)")
    shift = sum(atoms[int(z)] for z in numbers)
    return energy if energy < 0.5 * shift else energy + shift


def unpacked(blob: bytes | str | None) -> dict[str, Any]:
    """Return the `data` of a row: JSON, or ASE's bytes (an offset, arrays, and JSON in which an array is its shape, type and offset).

    Raises:
        InvalidStructureError: the bytes are not that.
    """
    if blob is None or isinstance(blob, str):
        return dict(json.loads(blob or "{}"))
    try:
        start = int(np.frombuffer(blob[:8], "<i8")[0])
        if not 8 <= start <= len(blob):
            raise ValueError("the offset lies outside")
        return {key: _value(value, blob) for key, value in json.loads(blob[start:].decode()).items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InvalidStructureError(f"the bytes of the row are damaged: {error}") from None


def _value(value: Any, blob: bytes) -> Any:
    if not (isinstance(value, dict) and "__ndarray__" in value):
        return value
    shape, name, offset = value["__ndarray__"]
    kind = np.dtype(name).newbyteorder("<")
    if kind.kind not in "biuf":
        raise ValueError(f"an array of {name}")
    return np.frombuffer(blob, kind, count=int(np.prod(shape)), offset=int(offset)).reshape(shape)


def _hamiltonians(database: sqlite3.Connection) -> Iterator[At]:
    """Hamiltonians and overlaps (H, S, C) are no quantities of the table and are not read."""
    columns = [row[1] for row in database.execute("pragma table_info(data)")]
    unread = tuple(name for name in columns if name not in ("id", "Z", "R", "E", "F"))
    named = bool(database.execute("select 1 from sqlite_master where name = 'dataset_ids'").fetchone())
    for row, *values in database.execute("select id, Z, R, E, F from data order by id"):
        molecule = database.execute("select MOSES_ID from dataset_ids where id = ?", (row,)).fetchone() if named else None
        yield At(f"row {row}", _hamiltonian, *values, f"moses-{molecule[0]}" if molecule else None, unread)


def _hamiltonian(z: bytes, positions: bytes, energy: float, forces: bytes | None, group: str | None, unread: tuple[str, ...]) -> RawFrame:
    arrays = {"forces": np.frombuffer(forces, "<f4").reshape(-1, 3)} if forces else {}
    numbers, xyz = np.frombuffer(z, "<i4"), np.frombuffer(positions, "<f4").reshape(-1, 3)
    return RawFrame(numbers, xyz, info={"energy": energy}, arrays=arrays, group=group, unread=unread, conventions=_HAMILTONIAN)
