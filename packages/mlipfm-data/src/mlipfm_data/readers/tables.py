"""Readers of CSV tables: crystals in a column `cif` (Carbon-24, Perov-5, MP-20), and QM9 as the PyPI package qm9pack writes it."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, Conventions, RawFrame
from mlipfm_interfaces.units import HARTREE

from .compressed import opened

# Reader of CSV tables with a column `cif`: crystals of Carbon-24, Perov-5 and MP-20 with properties beside them, one row at a time.
#
# The CIF texts must list every atom of the cell (space group P1), as these tables do; others are refused, since symmetry is not applied here.

#: Characters of one cell of the table.
LARGEST_CELL = 1 << 24
#: Columns that are labels: the smaller of the two gaps is the band gap; energies are per atom.
_GAPS = ("ind_gap", "band_gap", "bandgap")
_PER_ATOM = "energy_per_atom"


class CifCsvReader:
    """CSV tables of crystals, row by row. Group: `material_id`."""

    suffixes = (".csv",)

    def recognises(self, path: Path) -> bool:
        """Return whether the table has a column `cif`."""
        return "cif" in columns(path)

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the rows. Raises `UnreadableFileError`: no column `cif`."""
        for index, row in enumerate(rows(path, "cif")):
            yield At(f"row {index + 1}", _crystal_frame, row)


def _crystal_frame(row: Mapping[str, Any]) -> RawFrame:
    numbers, positions, cell = crystal(row["cif"] or "")
    return RawFrame(numbers, positions, cell, np.ones(3, dtype=bool), _labels(row, len(numbers)), group=row.get("material_id"))


def rows(path: Path, column: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV table that has `column`, by its header. Raises `UnreadableFileError`: no such column."""
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
    with path.open(encoding="utf-8", newline="") as stream:
        table = csv.DictReader(stream, strict=True)
        if column not in (table.fieldnames or ()):
            raise UnreadableFileError(f"the table has no column {column!r}; it has {', '.join(table.fieldnames or ()) or 'none'}")
        yield from table


def columns(path: Path) -> tuple[str, ...]:
    """Names in the first line of a CSV table; () if there are none."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return tuple(next(csv.reader([stream.readline(LARGEST_CELL)]), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()


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
    """QM9 as a table, compressed or not."""

    suffixes = (".csv", ".csv.gz")
    conventions = Conventions("QM9", _CONVENTIONS)

    def recognises(self, path: Path) -> bool:
        with opened(path) as stream:
            return set(stream.readline(1 << 16).decode(errors="replace").strip().split(",")) >= _NEEDS

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the rows. Raises `UnreadableFileError`: without the columns of QM9, or a row is cut off."""
        with opened(path) as stream:
            table = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), strict=True)
            if not set(table.fieldnames or ()) >= _NEEDS:
                raise UnreadableFileError(f"no table of QM9: it has not the columns {', '.join(sorted(_NEEDS))}")
            for row in table:
                if None in row or None in row.values():
                    what = f"the row has not {len(table.fieldnames or ())} columns"
                    raise UnreadableFileError(what, where=f"line {table.line_num}", hint="is the file complete?")
                yield At(f"line {table.line_num}", _molecule_frame, row)


def _molecule_frame(row: dict[str, str]) -> RawFrame:
    numbers = np.array([number(symbol) for symbol in re.findall(r"[A-Z][a-z]?", row["Elements"])], dtype=np.int64)
    positions = _floats(row["XYZ_Ang"])
    if positions.size != 3 * len(numbers):
        raise InvalidStructureError(f"{positions.size} coordinates for {len(numbers)} elements")
    info: dict[str, Any] = {key: float(row[name]) for key, name in _ORBITALS.items() if row.get(name)}
    info["energy"] = float(row["InternalEnergy_0K_au"]) - float(row["ZPVE_au"])
    arrays = {"charges": _floats(row["Mulliken_pop"])} if row.get("Mulliken_pop") else {}
    unread = tuple(name for name, value in row.items() if name not in {*_NEEDS, *_ORBITALS.values(), "Mulliken_pop"} and value)
    return RawFrame(numbers, positions.reshape(-1, 3), info=info, arrays=arrays, group=f"gdb9-{row['Index']}", unread=unread)


def _floats(text: str) -> np.ndarray:
    """Numbers of a list of lists. It is nearly JSON: some are written as `0.`."""
    return np.array([float(word) for word in re.split(r"[\[\], ]+", text) if word])
