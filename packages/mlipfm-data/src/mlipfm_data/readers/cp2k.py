"""Reader of molecular dynamics of CP2K: `NAME-pos-1.xyz` with `NAME-frc-1.xyz` and `NAME-1.cell` beside it.

Positions are Å, forces Hartree/bohr, the energy of the comment line is Hartree. A cell that no file gives must be given.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, Conventions, RawFrame

from .convergence import cp2k_steps

_ENERGY = re.compile(r"\bE\s*=\s*([-+0-9.eEdD]+)")
_STEP = re.compile(r"\bi\s*=\s*(\d+)")
_UNITS = {"length_unit": "Angstrom", "forces_sign": 1, "energy_unit": "Hartree", "forces_unit": "Hartree/bohr"}


class Cp2kReader:
    """The steps of a trajectory of CP2K.

    `cell`: three lengths or nine numbers in Å, for runs of constant volume that wrote no `.cell` file; `"none"` for molecules without periodicity.
    """

    suffixes = ("-pos-1.xyz",)
    conventions = Conventions("CP2K", _UNITS)

    def frames(self, path: Path, *, cell: str | None = None) -> Iterator[At]:
        """Yield the steps. Raises `UnreadableFileError`: cut off, or neither a `.cell` file nor `cell` is there."""
        forces_path = path.with_name(path.name.replace("-pos-", "-frc-"))
        forces = _blocks(forces_path) if forces_path != path and forces_path.is_file() else None
        cells = _cells(path, cell)
        failed, log = cp2k_steps(path)
        project = path.name.split("-pos-")[0]
        known = {path.name, forces_path.name, path.name.replace("-pos-1.xyz", "-1.cell"), log}
        beside = tuple(sorted(file.name for file in path.parent.glob(f"{glob.escape(project)}-*") if file.name not in known))
        for index, block in enumerate(_blocks(path)):
            step = _step(block[0])
            words = f"{log} says of step {step}: SCF run NOT converged" if int(step or index) in failed else None
            others = (forces_path.name, next(forces, None)) if forces is not None else None
            yield At("", _frame, block, others, next(cells, None), path.name, beside, words)


_Block = tuple[str, list[str], np.ndarray]


def _frame(
    block: _Block, others: tuple[str, _Block | None] | None, cell: np.ndarray | None, group: str, unread: tuple[str, ...], words: str | None
) -> RawFrame:
    comment, names, positions = block
    results: dict[str, Any] = {}
    found = _ENERGY.search(comment)
    if found:
        results["energy"] = float(found[1].replace("D", "E").replace("d", "e"))
    if others is not None:
        name, other = others
        if other is None or other[1] != names or _step(other[0]) != _step(comment):
            raise InvalidStructureError(f"{name} has other atoms or another step here")
        results["forces"] = other[2]
    if cell is None:
        raise InvalidStructureError("the .cell file has fewer steps")
    known = {name: number(re.sub(r"\d+$", "", name)) for name in dict.fromkeys(names)}
    numbers = np.array([known[name] for name in names], dtype=np.int64)
    return RawFrame(numbers, positions, cell, np.full(3, bool(cell.any())), results=results, group=group, unread=unread, unconverged=words)


def _step(comment: str) -> str:
    found = _STEP.search(comment)
    return found[1] if found else ""


def _blocks(path: Path) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """(comment, names, three numbers of each atom) of each step. Raises `UnreadableFileError` if the file ends inside a step."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        step = 0
        while header := stream.readline():
            if not header.strip():
                continue
            if not header.strip().isdecimal():
                raise UnreadableFileError(f"the number of atoms was expected, got {header[:40]!r}", where=f"{path}: frame {step}")
            comment, count = stream.readline(), int(header)
            lines = [line.split() for line in islice(stream, count)]
            if len(lines) < count or any(len(words) != 4 for words in lines):
                raise UnreadableFileError(f"the file ends inside frame {step}, or a line has not four words", where=str(path))
            try:
                yield comment, [words[0] for words in lines], np.array([words[1:] for words in lines], dtype=np.float64)
            except ValueError as error:
                raise UnreadableFileError(f"no number: {error}", where=f"{path}: frame {step}") from None
            step += 1


def _cells(path: Path, given: str | None) -> Iterator[np.ndarray]:
    """Yield the cell [3, 3] of each step: of the option, or of `NAME-1.cell` (step, time, nine numbers, volume)."""
    file = path.with_name(path.name.replace("-pos-1.xyz", "-1.cell"))
    if given is not None:
        fixed = _given(given, path)
        while True:
            yield fixed
    elif file.is_file() and file != path:
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if not line.startswith("#") and line.strip():
                    yield np.array(line.split()[2:11], dtype=np.float64).reshape(3, 3)
    else:
        raise UnreadableFileError(
            f"no file gives the cell ({file.name} is not there)",
            where=str(path),
            hint="give it: --option cell='10 10 20' (three or nine numbers), or cell=none",
        )


def _given(text: str, path: Path) -> np.ndarray:
    try:
        numbers = np.array([] if text == "none" else str(text).split(), dtype=np.float64)
    except ValueError:
        numbers = np.zeros(1)
    if numbers.size not in (0, 3, 9):
        raise UnreadableFileError(f"`cell` must be three or nine numbers or 'none', got {text!r}", where=str(path))
    if numbers.size == 9:
        return numbers.reshape(3, 3)
    return np.diag(numbers) if numbers.size else np.zeros((3, 3))
