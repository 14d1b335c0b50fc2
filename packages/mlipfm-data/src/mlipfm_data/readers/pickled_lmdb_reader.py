"""Reader of LMDB files whose values are pickles: Open Catalyst (objects of torch_geometric) and Uni-Mol (dictionaries of atoms and conformers).

The pickles are not run: `plain_pickle` takes the data out of them and refuses everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .framed import checked, placed
from .frames_in import RawFrame, ReadReport, options_from
from .label_places import whole_entry
from .lmdb_containers import entries
from .plain_pickle import plain

_NO_RECORDS = (b"length", b"metadata", b"__keys__", b"__len__")
_GEOMETRY = ("pos", "cell", "atomic_numbers", "natoms", "pbc")
#: Of molecules for Uni-Mol: text and lists that describe, and say nothing that we read.
_UNIMOL = ("atoms", "coordinates")


class PickledLmdbReader:
    """Streams Structures from `.lmdb` files of Open Catalyst or Uni-Mol. Options: `frames_in.ReadOptions`, and `report`.

    Open Catalyst: `pos`, `cell`, `atomic_numbers`, energy `y` (or `energy`), forces `force`; group is `sid`. Periodic as `pbc` says, else where the
    cell is not zero. Uni-Mol: each conformer of `coordinates` is a frame; group is `smi`.
    """

    suffixes = (".lmdb",)

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the order of the keys.

        Raises:
            UnreadableFileError, DamagedFileError: missing, cut off, no LMDB file. PluginError: lmdb is not installed.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        chosen = options_from(options)
        yield from checked(_frames(path), chosen, report, path)


def _frames(path: Path) -> Iterator[RawFrame | MlipfmError]:
    index = 0
    for key, value in entries(path):
        if key in _NO_RECORDS:
            continue
        where = f"{path}: frame {index} (key {key.decode(errors='replace')[:40]})"
        try:
            made = record_frames(plain(value), index, where, path.name)
        except MlipfmError as error:
            made = [placed(error, where)]
        yield from made
        index += len(made)


def record_frames(record: Any, index: int, where: str, source: str) -> list[RawFrame | MlipfmError]:
    """The frames of one record. Raises `UnreadableFileError` for a record of another kind, `InvalidStructureError` for arrays that do not fit."""
    try:
        if isinstance(record, Mapping) and "atomic_numbers" in record and "pos" in record:
            return [_catalyst(record, index, where, source)]
        if isinstance(record, Mapping) and "atoms" in record and "coordinates" in record:
            return list(_unimol(record, index, where, source))
    except (TypeError, ValueError) as error:
        raise InvalidStructureError(f"the record is damaged: {error}") from None
    keys = ", ".join(map(str, list(record)[:8])) if isinstance(record, Mapping) else type(record).__name__
    raise UnreadableFileError(f"neither a record of Open Catalyst (pos, atomic_numbers) nor of Uni-Mol (atoms, coordinates): {keys}")


def _catalyst(record: Mapping[str, Any], index: int, where: str, source: str) -> RawFrame:
    numbers = np.asarray(record["atomic_numbers"]).reshape(-1)
    positions = np.asarray(record["pos"], dtype=np.float64).reshape(len(numbers), 3)
    cell = record.get("cell")
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64).reshape(3, 3)
    pbc = record.get("pbc")
    assumed = pbc is None
    pbc = np.full(3, bool(cell.any())) if pbc is None else np.asarray(pbc, dtype=bool).reshape(3)
    results = {
        name: record[key] for key, name in (("y", "energy"), ("force", "forces"), ("stress", "stress")) if record.get(key) is not None
    }
    rest = {str(k): v for k, v in record.items() if k not in (*_GEOMETRY, "y", "force", "stress")}
    info, arrays, unread = whole_entry(rest, len(numbers))
    group = record.get("sid")
    return RawFrame(
        index, where, source, _whole(numbers), positions, cell, pbc, info, arrays, results,
        group=None if group is None or np.size(group) != 1 else str(np.asarray(group).reshape(-1)[0]), unread=unread, periodic_assumed=assumed,
    )  # fmt: skip


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Atomic numbers, which some of these files keep as floats; 6.5 stays 6.5 and is refused later."""
    rounded = np.rint(numbers)
    return rounded.astype(np.int64) if np.array_equal(rounded, numbers) else numbers


def _unimol(record: Mapping[str, Any], index: int, where: str, source: str) -> Iterator[RawFrame | MlipfmError]:
    numbers = np.array([number(str(name)) for name in record["atoms"]], dtype=np.int64)
    given = record["coordinates"]
    conformers = [given] if isinstance(given, np.ndarray) and given.ndim == 2 else list(given)
    info, arrays, unread = whole_entry({str(k): v for k, v in record.items() if k not in _UNIMOL}, len(numbers))
    group = record.get("smi")
    for k, coordinates in enumerate(conformers):
        place = f"{where}, conformer {k}"
        positions = np.asarray(coordinates, dtype=np.float64)
        if positions.shape != (len(numbers), 3):
            yield InvalidStructureError(f"{len(numbers)} atoms, coordinates of shape {list(positions.shape)}", where=place)
            continue
        yield RawFrame(
            index + k, place, source, numbers, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), info, arrays,
            group=group if isinstance(group, str) else None, unread=unread,
        )  # fmt: skip
