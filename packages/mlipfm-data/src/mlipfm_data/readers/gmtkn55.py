"""Reader of GMTKN55 in its native layout: folders with struc.xyz, .CHRG (total charge) and .UHF (number of unpaired electrons).

A file that is missing means a neutral molecule, or no unpaired electron (github.com/grimme-lab/GMTKN55). Reaction energies (.res) belong to sums of
structures and are no labels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .extxyz import raw_frames
from .frame import RawFrame, ReadReport, options_from
from .framed import checked, placed

_FILE, _DEEPEST = "struc.xyz", 3


class Gmtkn55Reader:
    """Geometries with charge and multiplicity from a folder of one species, of a subset, or of subsets. Options: `frames_in.ReadOptions`."""

    suffixes = (".gmtkn55",)

    def recognises(self, path: Path) -> bool:
        return any((folder / _FILE).is_file() for folder in (path, *path.glob("*/"), *path.glob("*/*/")))

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the order of the folders' names; the group is the subset, of which molecules are parts of each other.

        Raises:
            UnreadableFileError: the folder holds no struc.xyz.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        if not path.is_dir():
            raise UnreadableFileError("no such folder", where=str(path))
        yield from checked(_frames(path), options_from(options), report, path)


def _folders(path: Path, depth: int = 0) -> Iterator[Path]:
    if (path / _FILE).is_file():
        yield path
    if depth < _DEEPEST:
        for name in sorted(os.listdir(path)):  # names are smaller than paths: there may be many
            folder = path / name
            if folder.is_dir() and not folder.is_symlink():
                yield from _folders(folder, depth + 1)


def _frames(path: Path) -> Iterator[RawFrame | MlipfmError]:
    for index, folder in enumerate(_folders(path)):
        where = f"{folder / _FILE}: frame {index}"
        try:
            yield _frame(folder, index, where, path)
        except MlipfmError as error:  # one bad species says nothing about the next
            yield placed(InvalidStructureError(error.what, where=error.where, hint=error.hint), where)


def _frame(folder: Path, index: int, where: str, root: Path) -> RawFrame:
    frame = next(raw_frames(folder / _FILE))
    if isinstance(frame, MlipfmError):
        raise frame
    frame.index, frame.where, frame.source = index, where, root.name
    frame.group = "/".join(folder.relative_to(root).parts[:-1]) or root.name
    frame.info = {**frame.info, "charge": _number(folder / ".CHRG"), "multiplicity": _number(folder / ".UHF") + 1}
    return frame


def _number(file: Path) -> int:
    if not file.is_file():
        return 0
    try:
        return int(file.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise InvalidStructureError(f"{file.name} holds no whole number: {error}") from None
