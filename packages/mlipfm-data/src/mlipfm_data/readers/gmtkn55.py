"""Reader of GMTKN55 in its native layout: folders with struc.xyz, .CHRG (total charge) and .UHF (number of unpaired electrons).

A file that is missing means a neutral molecule, or no unpaired electron (github.com/grimme-lab/GMTKN55). Reaction energies (.res) belong to sums of
structures and are no labels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from mlipfm_interfaces.errors import InvalidStructureError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, RawFrame

from .extxyz import ExtxyzReader

_FILE, _DEEPEST = "struc.xyz", 3


class Gmtkn55Reader:
    """Geometries with charge and multiplicity from a folder of one species, of a subset, or of subsets, in the order of the folders' names.

    The group is the subset, of which molecules are parts of each other.
    """

    suffixes = (".gmtkn55",)

    def recognises(self, path: Path) -> bool:
        return any((folder / _FILE).is_file() for folder in (path, *path.glob("*/"), *path.glob("*/*/")))

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the geometries. Raises `UnreadableFileError`: no folder."""
        if not path.is_dir():
            raise UnreadableFileError("no such folder")
        for folder in _folders(path):
            yield At(str((folder / _FILE).relative_to(path)), _frame, folder, path)


def _folders(path: Path, depth: int = 0) -> Iterator[Path]:
    if (path / _FILE).is_file():
        yield path
    if depth < _DEEPEST:
        for name in sorted(os.listdir(path)):  # names are smaller than paths: there may be many
            folder = path / name
            if folder.is_dir() and not folder.is_symlink():
                yield from _folders(folder, depth + 1)


def _frame(folder: Path, root: Path) -> RawFrame:
    first = next(ExtxyzReader().frames(folder / _FILE), None)
    if first is None:
        raise InvalidStructureError("the file holds no frame")
    frame = cast(RawFrame, first.make(*first.arguments))
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
