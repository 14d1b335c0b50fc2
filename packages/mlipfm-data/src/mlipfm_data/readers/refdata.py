"""Reader of the benchmark collection `refdata`: reactions in `.din` files (coefficients, names of geometries, reference energy) and geometries in
`.xyz` files whose comment line is `charge multiplicity`.

Reference energies belong to reactions and not to structures: `reactions` gives them, and the reader gives the geometries, grouped by reaction.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import UnreadableFileError
from mlipfm_interfaces.raw_frame import At, RawFrame
from mlipfm_interfaces.units import KCAL_MOL


@dataclass(frozen=True)
class Reaction:
    """sum of coefficient x energy over the species is `energy` (eV). Coefficients are negative for what is consumed, and may be fractions."""

    species: tuple[tuple[float, str], ...]
    energy: float
    label: str

    @property
    def name(self) -> str:
        """Its label, or its species."""
        return self.label or " ".join(f"{coefficient:+g} {name}" for coefficient, name in self.species)


def reactions(path: Path | str) -> Iterator[Reaction]:
    """Reactions of a `.din` file, in its order (kcal/mol there).

    Raises:
        UnreadableFileError: missing, no number where one must be, or it ends inside a reaction.
    """
    path = Path(path)
    content = _content(path)
    species: list[tuple[float, str]] = []
    for k, line in content:
        coefficient = _number(line, path, k)
        try:
            k, word = next(content)
        except StopIteration:
            raise UnreadableFileError("the file ends inside a reaction", where=f"{path}: line {k}", hint="is it complete?") from None
        if coefficient:
            species.append((coefficient, word.split()[0]))
            continue
        words = word.split(maxsplit=1)
        yield Reaction(tuple(species), _number(words[0], path, k) * KCAL_MOL, words[1] if len(words) > 1 else "")
        species = []
    if species:
        raise UnreadableFileError("the file ends inside a reaction", where=str(path), hint="is it complete?")


def _content(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that say something."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for k, line in enumerate(stream, 1):
                if line.strip() and not line.startswith("#"):
                    yield k, line.strip()
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", where=str(path)) from None


def _number(text: str, path: Path, line: int) -> float:
    try:
        return float(text.split()[0])
    except ValueError:
        raise UnreadableFileError(f"a number was expected, got {text[:40]!r}", where=f"{path}: line {line}") from None


class RefdataReader:
    """Geometries of the species of a `.din` file, each once, from the .xyz files in the folder above.

    Group: the first reaction in which the species takes part, together with all that share a species with it.
    """

    suffixes = (".din",)

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the geometries. Raises `UnreadableFileError`: no `.din` file."""
        home = path.parent.parent if path.parent.name[:2].isdigit() else path.parent
        folders = [home, *_folders(home)]
        first, same = _groups(path)
        for name, group in first.items():
            file = next((file for folder in folders if (file := folder / f"{name}.xyz").is_file()), None)
            yield At(name, geometry, file, _root(same, group))


def _folders(home: Path) -> list[Path]:
    """Return all folders in a folder, by name."""
    with os.scandir(home) as items:
        inside = sorted(item.path for item in items if item.is_dir())
    return [folder for path in inside for folder in (Path(path), *_folders(Path(path)))]


def _groups(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Species -> name of a reaction in which it takes part, and names of reactions that share a species -> the first of them."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for reaction in reactions(path):
        names = [name for _, name in reaction.species]
        roots = list(dict.fromkeys(_root(same, first[name]) for name in names if name in first)) or [reaction.name]
        same.update(dict.fromkeys(roots[1:], roots[0]))
        for name in names:
            first.setdefault(name, roots[0])
    return first, same


def _root(same: dict[str, str], group: str) -> str:
    while group in same:
        group = same[group]
    return group


def geometry(path: Path | None, group: str | None) -> RawFrame:
    """Read a geometry with charge and multiplicity from its comment line. Raises `UnreadableFileError` if it is none."""
    if path is None:
        raise UnreadableFileError("no .xyz file of this name is there")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        count = int(lines[0])
        words = [line.split() for line in lines[2 : 2 + count]]
        positions = np.array([row[1:4] for row in words], dtype=np.float64).reshape(count, 3)
    except (IndexError, ValueError) as error:
        raise UnreadableFileError(f"{path.name} is no geometry: {error}") from None
    stated = lines[1].split()
    info: dict[str, Any] = {"comment": lines[1].strip()} if stated else {}
    if len(stated) == 2 and all(word.lstrip("+-").isdecimal() for word in stated):
        info = {"charge": int(stated[0]), "spin": int(stated[1])}
    numbers = np.array([number(row[0].rstrip("0123456789").capitalize()) for row in words], dtype=np.int64)
    unread = ("columns behind the fourth",) if any(len(row) > 4 for row in words) else ()
    return RawFrame(numbers, positions, info=info, group=group, unread=unread)
