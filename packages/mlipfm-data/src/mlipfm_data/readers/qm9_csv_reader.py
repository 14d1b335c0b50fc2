"""Reader of QM9 as a table (the columns of the PyPI package qm9pack): geometries with orbital energies, dipole moments and Mulliken charges.

B3LYP/6-31G(2df,p), Ramakrishnan et al., Sci. Data 1, 140022 (2014). The electronic energy is U0 without the zero-point energy. `Dipole_debye` is
a length without direction and `Polarizability_bohr3` an average: neither is a quantity of the table, and they are not read.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import HARTREE

from .file_kinds import refuse_pickle
from .framed import BROKEN, checked, opened
from .frames_in import RawFrame, ReadReport, options_from

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
        yield from checked(_frames(path), options_from(options, layout=_CONVENTIONS, name="QM9"), report, path)


def _frames(path: Path) -> Iterator[RawFrame | MlipfmError]:
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
                        f"the row has not {len(table.fieldnames or ())} columns", where=where, mend="is the file complete?"
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
