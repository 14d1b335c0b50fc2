"""Reader of PWdata, the layout of PWMLFF and MatPL: a folder with position.npy (fractional), lattice.npy, image_type.npy, energies, forces, virials.

Units eV and Angstrom; forces are -dE/dr (measured on HfO2: slope 1.000). A folder that holds `train` and `valid` is read in this order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .framed import checked
from .frames_in import EV_ANGSTROM, RawFrame, ReadReport, options_from
from .npy_rows import NpyRows, rows_of

_FILES = {"position": "_positions", "lattice": "_cell", "energies": "energy", "forces": "forces", "virials": "virial"}


class PwdataReader:
    """Structures from a PWdata folder. Options: `frames_in.ReadOptions`. `ei` (atomic energies of PWmat) and `atom_type` are not needed."""

    suffixes = (".pwdata",)

    def recognises(self, path: Path) -> bool:
        return bool(_parts(path))

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals, `train` before `valid`; memory is that of a frame.

        Raises:
            UnreadableFileError: no such folder, a file of it is missing, cut or damaged (frames before that have been yielded). RefusedFileError:
                an array of Python objects.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        if not _parts(path):
            raise UnreadableFileError(
                "no PWdata: there is no position.npy with image_type.npy, nor train and valid with them", where=str(path)
            )
        yield from checked(_frames(path), options_from(options, layout=EV_ANGSTROM, name="PWdata"), report, path)


def _parts(path: Path) -> list[Path]:
    return [
        part
        for part in (path, path / "train", path / "valid")
        if all((part / f"{name}.npy").is_file() for name in ("position", "image_type"))
    ]


def _frames(path: Path) -> Iterator[RawFrame | MlipfmError]:
    index = 0
    for part in _parts(path):
        with contextlib.ExitStack() as stack:
            columns = {
                key: NpyRows(stack.enter_context((part / f"{name}.npy").open("rb")), str(part / f"{name}.npy"))
                for name, key in _FILES.items()
                if (part / f"{name}.npy").is_file()
            }
            if "_cell" not in columns:
                raise UnreadableFileError("there is no lattice.npy", where=str(part))
            types = NpyRows(stack.enter_context((part / "image_type.npy").open("rb")), str(part / "image_type.npy"))
            constant = types.whole().reshape(-1) if types.rows == 1 else None
            if constant is None:
                columns["_types"] = types
            known = {*(f"{name}.npy" for name in _FILES), "image_type.npy", "atom_type.npy"}
            unread = tuple(sorted(file.name for file in part.glob("*.npy") if file.name not in known))
            for row in rows_of(columns, columns["_positions"].rows):
                frame = _frame(row, constant, index, f"{path}: frame {index} ({part.name})", path.name)
                if isinstance(frame, RawFrame):
                    frame.unread = unread
                yield frame
                index += 1


def _frame(row: dict[str, np.ndarray], constant: np.ndarray | None, index: int, where: str, source: str) -> RawFrame | MlipfmError:
    numbers = row.pop("_types") if constant is None else constant
    fractional, cell = row.pop("_positions"), row.pop("_cell")
    sizes = {"position.npy": fractional.size, "forces.npy": row["forces"].size if "forces" in row else 3 * len(numbers)}
    for name, size in sizes.items():
        if size != 3 * len(numbers):
            return InvalidStructureError(f"{name} has {size} numbers for {len(numbers)} atoms", where=where)
    if cell.size != 9:
        return InvalidStructureError(f"lattice.npy has {cell.size} numbers a frame, nine are needed", where=where)
    cell = cell.reshape(3, 3)
    arrays = {"forces": row["forces"].reshape(-1, 3)} if "forces" in row else {}
    info: dict[str, Any] = {key: row[key] for key in ("energy", "virial") if key in row}
    return RawFrame(
        index, where, source, numbers, fractional.reshape(-1, 3) @ cell, cell, np.ones(3, dtype=bool), info, arrays, group=source
    )
