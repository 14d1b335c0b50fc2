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
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnitError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from . import mapped_smiles
from .frame import RawFrame, ReadReport, options_from, refuse_pickle
from .framed import checked
from .label_names import whole_entry

LEVEL = "wb97x-d/def2-svp"

#: Hartree, of the isolated atoms: `atomrefs` in the metadata of the energy databases; the trajectories do not carry them.
ATOMS = {1: -0.5024932583661139, 6: -37.79809934247253, 7: -54.522414832380626, 8: -74.97667809850873, 9: -99.61446950401614,
         15: -341.13941895023964, 16: -397.9719278356063, 17: -459.98864965660516, 35: -2573.8571719614743, 53: -297.7564286148722}  # fmt: skip

_ENERGY = {"level": LEVEL, "forces_sign": 1, "length_unit": "Angstrom", "energy_unit": "Hartree", "forces_unit": "Hartree/Angstrom"}
_HAMILTONIAN = _ENERGY | {"forces_unit": "Hartree/bohr", "length_unit": "bohr"}


class NablaDftReader:
    """Structures from nablaDFT databases. Options: `frames_in.ReadOptions`; `total=False` leaves energies as they are stored."""

    suffixes = (".db",)

    def recognises(self, path: Path) -> bool:
        try:
            with read_only(path) as database:
                return _kind(database, path) is not None
        except MlipfmError:
            return False

    def read(self, path: Path, *, report: ReadReport | None = None, total: bool = True, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the order of the rows; memory is that of a row.

        Raises:
            UnreadableFileError: missing, damaged (frames before the damage have been yielded), or no nablaDFT database. RefusedFileError: a pickle.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        refuse_pickle(path)
        with read_only(path) as database:
            kind = _kind(database, path)
            if kind is None:
                raise UnreadableFileError(
                    "no nablaDFT database: neither rows with `moses_id` nor a table `data` of R, E and F", where=str(path)
                )
            defaults, frames = (
                (_ENERGY, _rows(database, path, total, report)) if kind == "energy" else (_HAMILTONIAN, _hamiltonians(database, path))
            )
            chosen = options_from(options, layout=defaults, name="nablaDFT")
            if kind == "energy" and total and chosen.energy_unit != "Hartree":
                what = f"`energy_unit` {chosen.energy_unit!r}: the energies of the atoms, which are added, are in Hartree"
                raise UnitError(what, where=str(path), hint="leave `energy_unit` out, or set total=False (--option total=False)")
            yield from checked(_until_damage(frames, path), chosen, report, path)


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A database, opened so that nothing is written beside it, unless rows wait there in a `-wal` or `-journal`; its schema is not trusted.

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


def _kind(database: sqlite3.Connection, path: Path) -> str | None:
    """`energy`, `hamiltonian`, or None for another database."""
    try:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        if "systems" in tables:
            (pairs,) = database.execute("select key_value_pairs from systems limit 1").fetchone() or (None,)
            return "energy" if isinstance(pairs, str) and '"moses_id"' in pairs else None
        columns = {row[1] for row in database.execute("pragma table_info(data)")}
        return "hamiltonian" if columns >= {"Z", "R", "E", "F", "H"} else None
    except sqlite3.Error as error:
        raise UnreadableFileError(f"no sqlite database: {error}", where=str(path), hint="is the file complete?") from None


def _until_damage(frames: Iterator[Any], path: Path) -> Iterator[Any]:
    try:
        yield from frames
    except sqlite3.Error as error:
        raise UnreadableFileError(f"the database is damaged: {error}", where=str(path)) from None


def _rows(database: sqlite3.Connection, path: Path, total: bool, report: ReadReport) -> Iterator[RawFrame | MlipfmError]:
    atoms = ATOMS | _references(database)
    rows = database.execute("select id, numbers, positions, cell, pbc, key_value_pairs, data from systems order by id")
    for index, (row, numbers, positions, cell, pbc, pairs, data) in enumerate(rows):
        where = f"{path}: frame {index} (row {row})"
        try:
            z, info = np.frombuffer(numbers, "<i4"), json.loads(pairs)
            frame = RawFrame(index, where, path.name, z, np.frombuffer(positions, "<f8").reshape(-1, 3), np.frombuffer(cell, "<f8").reshape(3, 3),
                             np.array([bool(pbc & 1), bool(pbc & 2), bool(pbc & 4)]), group=f"moses-{info['moses_id']}")  # fmt: skip
            values = unpacked(data)
            rest = {**info, **values}
            system, arrays, frame.unread = whole_entry(
                {k: v for k, v in rest.items() if k not in ("energy", "forces", "moses_id", "smiles")}, len(z)
            )
            frame.arrays = {**arrays, **({"forces": values["forces"]} if "forces" in values else {})}
            frame.info = system | {"energy": values["energy"], "charge": mapped_smiles.total_charge(info["smiles"])}
            if total:
                frame.info["energy"] = _total(float(np.asarray(values["energy"]).reshape(-1)[0]), z, atoms, report)
            yield frame
        except (MlipfmError, ValueError, TypeError, KeyError) as error:
            yield InvalidStructureError(getattr(error, "what", f"the row cannot be read: {type(error).__name__}: {error}"), where=where)


def _references(database: sqlite3.Connection) -> dict[int, float]:
    """The energies of atoms in Hartree that the database itself carries."""
    row = database.execute("select value from information where name = 'metadata'").fetchone()
    stated = json.loads(row[0]).get("atomrefs", {}).get("energy", []) if row else []
    return {z: float(value) for z, value in enumerate(stated) if value}


def _total(energy: float, numbers: np.ndarray, atoms: Mapping[int, float], report: ReadReport) -> float:
    """The total energy in Hartree: molecules are bound by less than a hundredth of the energies of their atoms, so the two cannot be confused."""
    lacking = sorted({int(z) for z in numbers} - set(atoms))
    if lacking:
        raise InvalidStructureError(f"no atomic energy for the elements {lacking}", hint="set total=False (--option total=False)")
    shift = sum(atoms[int(z)] for z in numbers)
    if energy < 0.5 * shift:
        return energy
    report.notes["energies of the atoms added: energies are total ones"] += 1
    return energy + shift


def unpacked(blob: bytes | str | None) -> dict[str, Any]:
    """The `data` of a row: JSON, or ASE's bytes (an offset, arrays, and JSON in which an array is its shape, type and offset).

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


def _hamiltonians(database: sqlite3.Connection, path: Path) -> Iterator[RawFrame | MlipfmError]:
    """Hamiltonians and overlaps (H, S, C) are no quantities of the table and are not read."""
    columns = [row[1] for row in database.execute("pragma table_info(data)")]
    unread = tuple(name for name in columns if name not in ("id", "Z", "R", "E", "F"))
    named = bool(database.execute("select 1 from sqlite_master where name = 'dataset_ids'").fetchone())
    for index, (row, z, positions, energy, forces) in enumerate(database.execute("select id, Z, R, E, F from data order by id")):
        where = f"{path}: frame {index} (row {row})"
        molecule = database.execute("select MOSES_ID from dataset_ids where id = ?", (row,)).fetchone() if named else None
        try:
            numbers, xyz = np.frombuffer(z, "<i4"), np.frombuffer(positions, "<f4").reshape(-1, 3)
            arrays = {"forces": np.frombuffer(forces, "<f4").reshape(-1, 3)} if forces else {}
            group = f"moses-{molecule[0]}" if molecule else None
            yield RawFrame(
                index,
                where,
                path.name,
                numbers,
                xyz,
                np.zeros((3, 3)),
                np.zeros(3, bool),
                {"energy": energy},
                arrays,
                group=group,
                unread=unread,
            )
        except (ValueError, TypeError) as error:
            yield InvalidStructureError(f"the row cannot be read: {error}", where=where)
