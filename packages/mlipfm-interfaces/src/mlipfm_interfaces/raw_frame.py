"""What a file format hands to `mlipfm_data.read`: frames as the file has them, and the units, signs and levels of theory that go with them.

A format (`protocols.Format`) yields `RawFrame`s, and `read` alone interprets them: it finds the labels, converts units and signs, and refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import MlipfmError

#: Conventions of formats that keep these units, and forces that are -dE/dr.
EV_ANGSTROM = {"energy_unit": "eV", "length_unit": "Angstrom", "forces_unit": "eV/Angstrom", "forces_sign": 1}

#: How `RawFrame.found` marks the results of a calculator; `find` takes the mark, too.
CALCULATOR = " (calculator)"
#: Columns of text that no header names: `column_5`, `columns_5-7`, counted from 1.
_COLUMNS = re.compile(r"columns?_(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class LevelKeys:
    """The labels of one level of theory in a format.

    Attributes:
        level: canonical id, where the format itself fixes it, else None.
        keys: quantity -> key in the file.
        options: read options that differ from those of the format (units, signs).
    """

    level: str | None
    keys: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Conventions:
    """Units, signs, orders and levels that a format fixes. What the user gives, or the file itself, takes precedence.

    Attributes:
        name: of the format, for the report.
        options: name of a read option (`energy_unit`, `forces_sign`, `stress_order`, `level` ...) -> value.
        levels: the levels of theory of each geometry; with several, every level with an energy makes a frame, and the option `level` chooses one.
        fixed: name of an option -> why the user must not give another value, in words.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[LevelKeys, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)


@dataclass
class RawFrame:
    """One frame as its file has it: keys, units and signs are not interpreted yet.

    Attributes:
        numbers: atomic numbers [N]. positions: [N, 3] and cell: [3, 3] in the file's length unit; without a cell, zeros.
        pbc: [3]; left out, the frame is periodic if it has a cell, and the report says that this is assumed.
        info: values of the system by key, as text or as numbers. arrays: values of the atoms by key, [N, ...].
        results: results of a calculator (ASE moves `energy`, `forces`, `stress` there).
        group: what must stay in one part of a split, where the format says it: a molecule, a trajectory.
        unread: names of what the file holds for this frame and the format did not load.
        unconverged: why the labels are not those of a converged calculation, in words; None if nothing says so.
        remarks: what the format did to values of the file, for the report.
        conventions: those of this frame, where a file has frames of several kinds; else those of the format.
        stated: read options that the file itself gives (units).
        missing: key -> error: why a label of one of several levels is not there.
        index, source: of the frame in its file and the name of the file, where they are not those that `read` counts and opens.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: Any = None
    pbc: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    unread: tuple[str, ...] = ()
    unconverged: str | None = None
    remarks: tuple[str, ...] = ()
    conventions: Conventions | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, MlipfmError] = field(default_factory=dict)
    index: int | None = None
    source: str | None = None
    periodic_assumed: bool = False

    def __post_init__(self) -> None:
        if self.pbc is None:
            self.pbc, self.periodic_assumed = np.full(3, self.cell is not None), self.cell is not None
        if self.cell is None:
            self.cell = np.zeros((3, 3))

    def find(self, key: str) -> Any:
        """Return the value under `key` (of the system, the atoms, the calculator: the first that has it), or None.

        `key:1` is the second column of `key`; `columns_6-8` are the columns 6 to 8 of a text file in which `columns_5-9` have no name.
        """
        for place in (self.info, self.arrays, self.results):
            if place.get(key) is not None:
                return place[key]
        if key.endswith(CALCULATOR):
            return self.results.get(key.removesuffix(CALCULATOR))
        return self._part(key) if ":" in key or key.startswith("column") else None

    def named(self, key: str) -> str:
        """Return the name under which `found` lists what `find(key)` gives."""
        if key in self.info or key in self.arrays:
            return key
        if key in self.results:
            return key + CALCULATOR
        whole = self._columns(key)
        return key if key.endswith(CALCULATOR) else whole[0] if whole else key.rpartition(":")[0] or key

    def _columns(self, key: str) -> tuple[str, int, int] | None:
        """Find the array of unnamed columns that contains those of `key`, and first and last of them in it."""
        wanted = _COLUMNS.fullmatch(key)
        for name in self.arrays if wanted else ():
            there = _COLUMNS.fullmatch(name)
            if wanted and there:
                (a, b), (c, d) = ((int(found[1]), int(found[2] or found[1])) for found in (wanted, there))
                if c <= a <= b <= d:
                    return name, a - c, b - c + 1
        return None

    def _part(self, key: str) -> Any:
        columns = self._columns(key)
        if columns is not None:
            block = np.asarray(self.arrays[columns[0]])[:, columns[1] : columns[2]]
            return block[:, 0] if block.shape[1] == 1 else block
        name, _, column = key.rpartition(":")
        whole = self.find(name) if name and column.isdecimal() else None
        if whole is None:
            return None
        values = np.asarray(whole)
        return values[..., int(column)] if values.ndim and int(column) < values.shape[-1] else None

    def found(self) -> list[str]:
        """Return all keys that carry values, for messages; a calculator's are marked."""
        return [*self.info, *self.arrays, *(key + CALCULATOR for key in self.results), *self.unread]


class At:
    """A place of the file, and the call that makes the frame there. An error of the call refuses this frame, and reading goes on.

    Args:
        place: in words: `line 205`. make, arguments: `make(*arguments)` returns one raw frame, or a sequence of frames and errors.
    """

    def __init__(self, place: str, make: Callable[..., RawFrame | Sequence[RawFrame | MlipfmError]], *arguments: Any) -> None:
        self.place, self.make, self.arguments = place, make, arguments


@dataclass(frozen=True)
class Note:
    """A remark about the file for the report, and how many frames it is about."""

    text: str
    frames: int = 1
