"""Readers of CSV tables: crystals in a column `cif` (Carbon-24, Perov-5, MP-20), and QM9 as the PyPI package qm9pack writes it."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import HARTREE

from .frame import RawFrame, ReadReport, options_from, refuse_pickle
from .framed import BROKEN, checked, opened, placed

# Reader of CSV tables with a column `cif`: crystals of Carbon-24, Perov-5 and MP-20 with properties beside them, one row at a time.
#
# The CIF texts must list every atom of the cell (space group P1), as these tables do; others are refused, since symmetry is not applied here.

#: Characters of one cell of the table.
LARGEST_CELL = 1 << 24
#: Columns that are labels: the smaller of the two gaps is the band gap; energies are per atom.
_GAPS = ("ind_gap", "band_gap", "bandgap")
_PER_ATOM = "energy_per_atom"


class CifCsvReader:
    """Streams Structures from CSV tables of crystals. Options: `frames_in.ReadOptions`, and `report`. Group: `material_id`."""

    suffixes = (".csv",)

    def recognises(self, path: Path) -> bool:
        """Whether the table has a column `cif`."""
        return "cif" in columns(path)

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the order of the rows.

        Raises:
            UnreadableFileError: missing, or no column `cif`. RefusedFileError: a pickle.
        """
        path, chosen, report = Path(path), options_from(options), report if report is not None else ReadReport()
        refuse_pickle(path)
        yield from checked(_frames(path), chosen, report, path)


def _frames(path: Path) -> Iterator[RawFrame | MlipfmError]:
    for index, row in enumerate(rows(path, "cif")):
        where = f"{path}: frame {index} (row {index + 1})"
        try:
            numbers, positions, cell = crystal(row["cif"] or "")
            info = _labels(row, len(numbers))
            frame = RawFrame(index, where, path.name, numbers, positions, cell, np.ones(3, dtype=bool), info, group=row.get("material_id"))
        except MlipfmError as error:
            yield placed(error, where)
        else:
            yield frame


def rows(path: Path, column: str) -> Iterator[dict[str, Any]]:
    """Rows of a CSV table that has `column`, by its header. Raises `UnreadableFileError`: missing, no text, no such column, or cut off in quotes."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            yield from _rows(stream, path, column)
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", where=str(path)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFileError(f"this is no CSV table: {error}", where=str(path)) from None


def columns(path: Path) -> tuple[str, ...]:
    """Names in the first line of a CSV table; () if there are none."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return tuple(next(csv.reader([stream.readline(LARGEST_CELL)]), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()


def _rows(stream: TextIO, path: Path, column: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
    table = csv.DictReader(stream, strict=True)
    if column not in (table.fieldnames or ()):
        raise UnreadableFileError(
            f"the table has no column {column!r}; it has {', '.join(table.fieldnames or ()) or 'none'}", where=str(path)
        )
    yield from table


def _labels(row: Mapping[str, Any], atoms: int) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for key, text in row.items():
        try:
            value = float(text)
        except (TypeError, ValueError):
            if key and text and key not in ("cif", "material_id"):
                info[key] = text
            continue
        if key == _PER_ATOM:
            info["energy"] = value * atoms
        elif key in _GAPS:
            info["REF_band_gap"] = value
        elif key:
            info[key] = value
    return info


def crystal(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(atomic numbers [N], positions [N, 3] Å, cell [3, 3] Å) of a CIF that lists every atom.

    Raises:
        UnreadableFileError: a value is missing. InvalidStructureError: symmetry that would have to be applied, or sites partly occupied.
    """
    single, columns = _tags(text)
    try:
        lengths = [_number(single[f"_cell_length_{axis}"]) for axis in "abc"]
        angles = [_number(single[f"_cell_angle_{angle}"]) for angle in ("alpha", "beta", "gamma")]
        names = columns.get("_atom_site_type_symbol") or columns["_atom_site_label"]
        fractional = np.array([[_number(word) for word in columns[f"_atom_site_fract_{axis}"]] for axis in "xyz"]).T
    except (KeyError, ValueError) as error:
        raise UnreadableFileError(f"the CIF lacks or spells wrongly: {error}") from None
    operations = columns.get("_symmetry_equiv_pos_as_xyz") or columns.get("_space_group_symop_operation_xyz") or ["x,y,z"]
    if [word.replace(" ", "").replace("+", "").lower() for word in operations] != ["x,y,z"]:
        raise InvalidStructureError("the CIF has symmetry beyond P1", hint="write all atoms of the cell into it")
    if any(abs(_number(word) - 1) > 1e-6 for word in columns.get("_atom_site_occupancy", ())):
        raise InvalidStructureError("a site is partly occupied", hint="disordered structures are not read")
    cell = _cell(lengths, angles)
    numbers = np.array([number("".join(c for c in name if c.isalpha())) for name in names], dtype=np.int64)
    return numbers, fractional @ cell, cell


def _cell(lengths: list[float], angles: list[float]) -> np.ndarray:
    """Lattice vectors as rows: a along x, b in the plane of x and y."""
    a, b, c = lengths
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(angles))
    sin_gamma = np.sin(np.radians(angles[2]))
    x, y = cos_beta, (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    rest = 1 - x * x - y * y
    if not (rest > 0 and min(lengths) > 0):
        raise InvalidStructureError(f"lengths {lengths} and angles {angles} make no cell")
    return np.array([[a, 0, 0], [b * cos_gamma, b * sin_gamma, 0], [c * x, c * y, c * np.sqrt(rest)]])


def _number(word: str) -> float:
    return float(word.split("(")[0])  # a deviation in parentheses: 4.123(2)


def _tags(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Single tags, and columns of loops by their tags."""
    single: dict[str, str] = {}
    columns: dict[str, list[str]] = {}
    loop: list[str] | None = None
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.lower() == "loop_":
            loop = []
        elif line.startswith("_") and loop is not None and not any(columns.get(tag) for tag in loop):
            loop.append(line.split()[0])
            columns[loop[-1]] = []
        elif line.startswith(("_", "data_")):
            loop = None
            words = _words(line)
            single[words[0]] = words[1] if len(words) > 1 else ""
        elif loop:
            for tag, word in zip(loop, _words(line), strict=False):
                columns[tag].append(word)
    return single, columns


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        raise UnreadableFileError(f"the CIF has an open quote: {line[:40]!r}") from None


LEVEL = "b3lyp/6-31g(2df,p)"
_NEEDS = frozenset({"Index", "Elements", "XYZ_Ang", "InternalEnergy_0K_au", "ZPVE_au"})
_ORBITALS = {"REF_homo": "HOMO_au", "REF_lumo": "LUMO_au", "REF_band_gap": "HOMO_LUMO_gap_au"}
_CONVENTIONS = {
    "level": LEVEL,
    "energy_unit": "Hartree",
    "length_unit": "Angstrom",
    "factors": dict.fromkeys(("homo", "lumo", "band_gap"), HARTREE),
}


class Qm9CsvReader:
    """Structures from such a table, compressed or not. Options: `frames_in.ReadOptions`."""

    suffixes = (".csv", ".csv.gz")

    def recognises(self, path: Path) -> bool:
        try:
            with opened(path) as stream:
                return set(stream.readline(1 << 16).decode(errors="replace").strip().split(",")) >= _NEEDS
        except BROKEN:
            return False
        except MlipfmError:
            return False

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the file's order; memory is that of a row.

        Raises:
            UnreadableFileError: missing, cut, not text, or without the columns of QM9; frames before the damage have been yielded.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        refuse_pickle(path)
        yield from checked(_qm9_frames(path), options_from(options, layout=_CONVENTIONS, name="QM9"), report, path)


def _qm9_frames(path: Path) -> Iterator[RawFrame | MlipfmError]:
    index = 0
    with opened(path) as stream:
        table = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), strict=True)
        try:
            if not set(table.fieldnames or ()) >= _NEEDS:
                raise UnreadableFileError(f"no table of QM9: it has not the columns {', '.join(sorted(_NEEDS))}", where=str(path))
            for row in table:
                where = f"{path}: frame {index} (line {table.line_num})"
                if None in row or None in row.values():
                    raise UnreadableFileError(
                        f"the row has not {len(table.fieldnames or ())} columns", where=where, hint="is the file complete?"
                    )
                try:
                    yield _frame(row, index, where, path.name)
                except (MlipfmError, ValueError) as error:
                    yield InvalidStructureError(getattr(error, "what", str(error)), where=where)
                index += 1
        except (csv.Error, *BROKEN) as error:
            where = f"{path}: line {table.line_num + 1}"
            raise UnreadableFileError(f"the file breaks off or is no table: {error}", where=where) from None


def _frame(row: dict[str, str], index: int, where: str, source: str) -> RawFrame:
    numbers = np.array([number(symbol) for symbol in re.findall(r"[A-Z][a-z]?", row["Elements"])], dtype=np.int64)
    positions = _floats(row["XYZ_Ang"])
    if positions.size != 3 * len(numbers):
        raise InvalidStructureError(f"{positions.size} coordinates for {len(numbers)} elements")
    info: dict[str, Any] = {key: float(row[name]) for key, name in _ORBITALS.items() if row.get(name)}
    info["energy"] = float(row["InternalEnergy_0K_au"]) - float(row["ZPVE_au"])
    arrays = {"charges": _floats(row["Mulliken_pop"])} if row.get("Mulliken_pop") else {}
    return RawFrame(
        index,
        where,
        source,
        numbers,
        positions.reshape(-1, 3),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        info,
        arrays,
        group=f"gdb9-{row['Index']}",
        unread=tuple(name for name, value in row.items() if name not in {*_NEEDS, *_ORBITALS.values(), "Mulliken_pop"} and value),
    )


def _floats(text: str) -> np.ndarray:
    """Numbers of a list of lists. It is nearly JSON: some are written as `0.`."""
    return np.array([float(word) for word in re.split(r"[\[\], ]+", text) if word])
