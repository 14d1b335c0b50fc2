"""Readers of folders of arrays: DeePMD systems (type.raw, set.*/coord.npy ...) and PWdata of PWMLFF and MatPL (position.npy, lattice.npy ...)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import FormatVersionError, InvalidStructureError, UnreadableFileError
from mlipfm_interfaces.raw_frame import EV_ANGSTROM, At, Conventions, RawFrame

from .interpret import FIELD_KEY, LEVEL_KEY, PROVENANCE_KEY
from .npz import NpyRows, rows_of

# Reader of DeePMD systems: a folder with type.raw, type_map.raw and set.*/{coord,box,energy,force,virial,hessian}.npy, units eV and Angstrom.
#
# The virial has the sign of conventions (virial = -V stress). A folder without `nopbc` is periodic. Layout: docs.deepmodeling.com, "system". A
# folder of systems, one or two levels deep, is read system after system in the order of their names.

_FILES = {"coord": "_positions", "box": "_box", "energy": "energy", "force": "forces", "virial": "virial", "hessian": "_hessian",
          "real_atom_types": "_types", "atom_ener": "REF_atomic_energies", "atom_pref": "forces_weight"}  # fmt: skip

#: In a `set.*` of our own exports: a line that names kind and format, then a line of JSON for each frame, with what DeePMD has no file for.
FRAMES_FILE = "mlipfm_frames.jsonl"
#: Files of format 1 have no first line that says so. Every format is read for ever; `tests/museum` keeps one of each.
FRAMES_KIND, FRAMES_FORMAT = "mlipfm-deepmd-frames", 2
_STATED = (LEVEL_KEY, "charge", "spin", FIELD_KEY, PROVENANCE_KEY)
_LONGEST_LINE = 1 << 20


class DeepmdReader:
    """A DeePMD system, which is a folder, or a folder of them; set after set, in the memory of a frame."""

    suffixes = (".deepmd",)
    conventions = Conventions("DeePMD", EV_ANGSTROM)

    def recognises(self, path: Path) -> bool:
        return any(any(system.glob("set.*/coord.npy")) for system in _systems(path))

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the frames.

        Raises:
            UnreadableFileError: no system there, a file of it is missing, cut or damaged (frames before that were yielded). RefusedFileError:
                an array of Python objects. UnknownElementError: `type_map.raw` names no element.
        """
        systems = _systems(path)
        if not systems:
            raise UnreadableFileError("no DeePMD system: there is no type.raw")
        for system in systems:
            yield from _frames(system)


def _systems(path: Path) -> list[Path]:
    """Return the folder itself if it is a system, else the systems in it, however deep."""
    if (path / "type.raw").is_file():
        return [path]
    return sorted(file.parent for file in path.rglob("type.raw"))


def _frames(path: Path) -> Iterator[At]:
    table = _elements(path)
    types = _whole_numbers(path / "type.raw")
    index = 0
    for folder in sorted(path.glob("set.*")):
        with contextlib.ExitStack() as stack:
            columns = {
                key: NpyRows(stack.enter_context((folder / f"{name}.npy").open("rb")), str(folder / f"{name}.npy"))
                for name, key in _FILES.items()
                if (folder / f"{name}.npy").is_file()
            }
            if "_positions" not in columns:
                raise UnreadableFileError("there is no coord.npy", where=str(folder))
            if "_box" not in columns and not (path / "nopbc").is_file():
                raise UnreadableFileError("there is no box.npy, and no file `nopbc` says that none is needed", where=str(folder))
            known = {f"{name}.npy" for name in _FILES} | {FRAMES_FILE}
            unread = tuple(sorted(file.name for file in folder.iterdir() if file.name not in known))
            stated = _stated_lines(folder, columns["_positions"].rows, stack)
            for row in rows_of(columns, columns["_positions"].rows):
                line = stated.readline(_LONGEST_LINE) if stated is not None else b"{}"
                yield At(f"{path.name}/{folder.name}", _frame, row, types, table, index, path, unread, line)
                index += 1


def _stated_lines(folder: Path, frames: int, stack: contextlib.ExitStack) -> BinaryIO | None:
    """Return the lines of our own exports, open at the first frame; None in the systems of others.

    Raises:
        UnreadableFileError: they are not as many as the frames. FormatVersionError: newer than this mlipfm.
    """
    file = folder / FRAMES_FILE
    if not file.is_file():
        return None
    stream = stack.enter_context(file.open("rb"))
    begin = len(first) if _format(first := stream.readline(_LONGEST_LINE), str(file)) > 1 else 0
    stream.seek(begin)
    lines = sum(part.count(b"\n") for part in iter(lambda: stream.read(_LONGEST_LINE), b""))
    stream.seek(begin)
    if lines != frames:
        raise UnreadableFileError(
            f"{lines} lines for {frames} frames",
            where=str(file),
            hint="export again; only if another program changed the frames, remove this file",
        )
    return stream


def _format(first: bytes, where: str) -> int:
    """Return the format that the first line gives; 1 if it is that of a frame already."""
    try:
        header = json.loads(first)
    except (ValueError, RecursionError):
        return 1
    if not isinstance(header, dict) or "kind" not in header:
        return 1
    number = header.get("format")
    if header["kind"] != FRAMES_KIND or not isinstance(number, int):
        raise UnreadableFileError(f"is of kind {header['kind']!r}, format {number!r}, not the frames of an export", where=where)
    if number > FRAMES_FORMAT:
        raise FormatVersionError(
            f"{FRAMES_KIND} format {number}, this mlipfm reads up to {FRAMES_FORMAT}", where=where, hint="upgrade mlipfm-data"
        )
    return number


def _stated(line: bytes) -> dict[str, Any]:
    """Level, state and provenance of a frame of our own exports. Raises `ValueError` if the line is no JSON of a frame."""
    try:
        values = json.loads(line)
    except RecursionError:
        raise ValueError(f"{FRAMES_FILE} is nested too deep in the line of this frame") from None
    if not isinstance(values, dict):
        raise ValueError(f"{FRAMES_FILE} holds {line[:40].decode()!r}")
    if "kind" in values:
        raise ValueError(f"{FRAMES_FILE} has a first line where that of this frame should be: are two files joined?")
    return {key: values[key] for key in _STATED if key in values}


def _frame(
    row: dict[str, np.ndarray], types: np.ndarray, table: np.ndarray, index: int, path: Path, unread: tuple[str, ...], line: bytes
) -> RawFrame:
    positions = row.pop("_positions").reshape(-1, 3)
    types = row.pop("_types", types)
    if len(types) != len(positions):
        raise InvalidStructureError(f"{len(types)} types for {len(positions)} atoms")
    real = types >= 0  # -1 fills up systems of mixed types
    if types.max(initial=0) >= len(table):
        raise InvalidStructureError(f"type {types.max()} is not in type_map.raw")
    box = row.pop("_box", None)
    periodic = box is not None and not (path / "nopbc").is_file()
    cell = box.reshape(3, 3) if box is not None and periodic else np.zeros((3, 3))
    frame = RawFrame(
        table[types[real]], positions[real], cell, np.full(3, periodic), group=path.name, unread=unread, index=index, source=path.name
    )
    hessian = row.pop("_hessian", None)
    frame.info, frame.arrays = {key: row[key] for key in ("energy", "virial") if key in row}, {}
    for key in ("forces", "REF_atomic_energies", "forces_weight"):
        if key in row:
            frame.arrays[key] = row[key].reshape(len(positions), -1)[real]
    if hessian is not None and real.all():
        frame.arrays |= hessian_rows(hessian, len(positions))
    frame.info |= _stated(line)
    return frame


def hessian_rows(hessian: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Return a full Hessian d2E/dx dx, [3N, 3N] in eV/Å², as the two arrays by which `conventions` knows rows of it.

    Raises:
        InvalidStructureError: another number of entries.
    """
    if hessian.size != 9 * n * n:
        raise InvalidStructureError(f"the Hessian has {hessian.size} entries, {n} atoms need {9 * n * n}")
    rows = hessian.reshape(3 * n, n, 3).transpose(1, 0, 2).astype(np.float64)
    index = np.stack(np.divmod(np.arange(3 * n), 3), axis=1)
    return {"REF_hessian_rows": rows, "REF_hessian_rows_index": index}


def _elements(path: Path) -> np.ndarray:
    """Atomic number of each type."""
    file = path / "type_map.raw"
    if not file.is_file():
        raise UnreadableFileError("there is no type_map.raw that names the elements", where=str(path), hint="write one element a line")
    return np.array([number(word) for word in _words(file)], dtype=np.int64)


def _whole_numbers(file: Path) -> np.ndarray:
    try:
        return np.array([int(word) for word in _words(file)], dtype=np.int64)
    except ValueError as error:
        raise UnreadableFileError(f"not a list of types: {error}", where=str(file)) from None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"cannot be read: {error}", where=str(file)) from None


_PWDATA_FILES = {"position": "_positions", "lattice": "_cell", "energies": "energy", "forces": "forces", "virials": "virial"}


class PwdataReader:
    """A PWdata folder, `train` before `valid`. `ei` (atomic energies of PWmat) and `atom_type` are not needed. Memory is that of a frame."""

    suffixes = (".pwdata",)
    conventions = Conventions("PWdata", EV_ANGSTROM)

    def recognises(self, path: Path) -> bool:
        return bool(_parts(path))

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the frames.

        Raises:
            UnreadableFileError: a file is missing, cut or damaged (frames before that were yielded). RefusedFileError: an array of Python objects.
        """
        parts = _parts(path)
        if not parts:
            raise UnreadableFileError("no PWdata: there is no position.npy with image_type.npy, nor train and valid with them")
        for part in parts:
            yield from _part_frames(part, (part.parent if part.name in ("train", "valid") else part).name)


def _parts(path: Path) -> list[Path]:
    """Return the folder itself if it holds frames, else the folders in it that do, however deep (`train`, `valid`)."""
    places = [path] if (path / "position.npy").is_file() else sorted(file.parent for file in path.rglob("position.npy"))
    return [place for place in places if (place / "image_type.npy").is_file()]


def _part_frames(part: Path, group: str) -> Iterator[At]:
    with contextlib.ExitStack() as stack:
        columns = {
            key: NpyRows(stack.enter_context((part / f"{name}.npy").open("rb")), str(part / f"{name}.npy"))
            for name, key in _PWDATA_FILES.items()
            if (part / f"{name}.npy").is_file()
        }
        if "_cell" not in columns:
            raise UnreadableFileError("there is no lattice.npy", where=str(part))
        types = NpyRows(stack.enter_context((part / "image_type.npy").open("rb")), str(part / "image_type.npy"))
        constant = types.whole().reshape(-1) if types.rows == 1 else None
        if constant is None:
            columns["_types"] = types
        known = {*(f"{name}.npy" for name in _PWDATA_FILES), "image_type.npy", "atom_type.npy"}
        unread = tuple(sorted(file.name for file in part.glob("*.npy") if file.name not in known))
        for row in rows_of(columns, columns["_positions"].rows):
            yield At(part.name, _pwdata_frame, row, constant, group, unread)


def _pwdata_frame(row: dict[str, np.ndarray], constant: np.ndarray | None, group: str, unread: tuple[str, ...]) -> RawFrame:
    numbers = row.pop("_types") if constant is None else constant
    fractional, cell = row.pop("_positions"), row.pop("_cell")
    sizes = {"position.npy": fractional.size, "forces.npy": row["forces"].size if "forces" in row else 3 * len(numbers)}
    for name, size in sizes.items():
        if size != 3 * len(numbers):
            raise InvalidStructureError(f"{name} has {size} numbers for {len(numbers)} atoms")
    if cell.size != 9:
        raise InvalidStructureError(f"lattice.npy has {cell.size} numbers a frame, nine are needed")
    cell = cell.reshape(3, 3)
    arrays = {"forces": row["forces"].reshape(-1, 3)} if "forces" in row else {}
    info: dict[str, Any] = {key: row[key] for key in ("energy", "virial") if key in row}
    return RawFrame(numbers, fractional.reshape(-1, 3) @ cell, cell, np.ones(3, dtype=bool), info, arrays, group=group, unread=unread)
