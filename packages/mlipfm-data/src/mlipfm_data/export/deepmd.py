"""Export to DeePMD systems: LEVEL/FORMULA/{type.raw, type_map.raw, set.000/{coord,box,energy,force,virial,...}.npy}, in eV and Å.

A system is of one composition in one order of atoms, one level of theory, one charge and multiplicity, and one kind of labels, so that no folder
mixes what a model without these conditions must not mix. virial = -V stress: positive when the crystal is compressed. All numbers are float64 and
come back with all their bits; a stress comes back from V stress / V, with a relative error of 2e-16. What DeePMD does not ask for (level, charge,
multiplicity, field, provenance) is in `set.*/mlipfm_frames.jsonl`, which other programs leave alone: a line with the number of its format,
then a line for each frame.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.atomic import folder_in_place
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.structure import Structure

from ..readers.deepmd import FRAMES_FILE, FRAMES_FORMAT, FRAMES_KIND
from ..readers.extxyz import provenance_values
from ..readers.interpret import FIELD_KEY, LEVEL_KEY, PROVENANCE_KEY
from .report import ExportReport, left_out, not_read_again

#: Frames of a `set.*`, and bytes beyond which it has fewer: a set is in memory while it is written.
SET_FRAMES, SET_BYTES = 5000, 1 << 26
#: Our labels under the names of DeePMD's files.
_FILES = {"energy": "energy", "forces": "force", "stress": "virial", "atomic_energies": "atom_ener", "hessian_rows": "hessian"}


@dataclass(frozen=True)
class System:
    """What the frames of one folder have in common.

    Attributes:
        name: of the folder, LEVEL/FORMULA. numbers: [N]. periodic: in three directions or in none. labels: their keys.
    """

    name: str
    numbers: np.ndarray
    periodic: bool
    labels: tuple[str, ...]


@dataclass
class Plan:
    """Which structure goes to which system.

    Attributes:
        systems: in the order in which they were met. of: for each structure, 4 bytes: the position of its system, -1 if none takes it.
    """

    systems: list[System] = field(default_factory=list)
    of: array[int] = field(default_factory=lambda: array("i"))
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _names: Counter[str] = field(default_factory=Counter)
    _folders: dict[str | None, str] = field(default_factory=dict)

    def add(self, s: Structure, report: ExportReport) -> None:
        """Give a structure its system; what the format cannot hold is counted in `report`."""
        if s.pbc.any() and not s.pbc.all():
            report.left_out["whole structures (periodic in one or two directions; DeePMD knows all or none)"] += 1
            self.of.append(-1)
            return
        without = left_out(s, _reason)
        report.left_out.update(f"{key} ({why})" for key, why in without.items() if not key.endswith(("_index", "_probe")))
        report.left_out.update(f"standard deviation of {key} (DeePMD has none)" for key in s.label_std)
        if s.cell.any() and not s.pbc.any():
            report.left_out["cell (of a structure that is not periodic)"] += 1
        labels = tuple(key for key in _FILES if key in s.labels and key not in without)
        mark = (s.atomic_numbers.tobytes(), bool(s.pbc.any()), s.level, s.total_charge, s.spin_multiplicity, labels)
        if mark not in self._known:
            self._known[mark] = len(self.systems)
            self.systems.append(System(self._name(s), s.atomic_numbers, bool(s.pbc.any()), labels))
        self.of.append(self._known[mark])

    def rows(self) -> Iterator[tuple[System, np.ndarray]]:
        """Each system with the positions of its structures, ascending."""
        of = np.frombuffer(self.of, dtype=np.intc) if self.of else np.zeros(0, np.intc)
        order = np.argsort(of, kind="stable")
        edges = np.searchsorted(of[order], np.arange(len(self.systems) + 1))
        for system, start, end in zip(self.systems, edges, edges[1:], strict=False):
            yield system, order[start:end]

    def _name(self, s: Structure) -> str:
        """`pbe/C2H6O`, `pbe/C2H5O_charge-1`; further ones of the name (another order of atoms, other labels) end in -2, -3, ..."""
        if s.level not in self._folders:
            self._folders[s.level] = self._unused(re.sub(r"[^A-Za-z0-9.+-]+", "_", s.level or "no-level").strip("_."))
        state = "" if not s.total_charge else f"_charge{s.total_charge:+d}"
        state += "" if s.spin_multiplicity in (None, 1) else f"_mult{s.spin_multiplicity}"
        return self._unused(f"{self._folders[s.level]}/{s.formula}{state}")

    def _unused(self, name: str) -> str:
        """Return the name, with a number if it is taken; Co and CO are one name on some file systems."""
        wanted = name
        while self._names[name.casefold()]:
            self._names[wanted.casefold()] += 1
            name = f"{wanted}-{self._names[wanted.casefold()]}"
        self._names[name.casefold()] = 1
        return name


def export_deepmd(structures: Sequence[Structure], path: Path | str, title: str | None = None) -> ExportReport:
    """Write structures as a folder of systems: two passes, memory of one set and 4 bytes for each structure.

    Args:
        structures: a store, or any sequence. path: the folder, new or replaced; it appears only when it is complete. title: of the progress shown.

    Raises:
        UnwritableFileError: disk full, ...; what `path` was is intact.
    """
    from ..importing import shown

    path, report, plan = Path(path), ExportReport(), Plan()
    for s in shown(iter(structures), f"{title or path.name}: systems"):
        plan.add(s, report)
    with folder_in_place(path) as part:
        for _ in shown(_written(structures, plan, part), title or path.name):
            report.structures += 1
    report.systems = len(plan.systems)
    return report


def _reason(s: Structure, key: str) -> str | None:
    if key not in _FILES:
        return "DeePMD systems hold energy, force, virial, atom_ener and hessian"
    if key == "hessian_rows" and not _whole_hessian(s):
        return "only whole Hessians"
    return not_read_again(s, key)


def _whole_hessian(s: Structure) -> bool:
    """Return whether all 3N rows are there, in order."""
    index = np.stack(np.divmod(np.arange(3 * len(s)), 3), axis=1)
    return np.array_equal(s.labels["hessian_rows_index"], index)


def _written(structures: Sequence[Structure], plan: Plan, folder: Path) -> Iterator[Structure]:
    """Write all systems; yields each structure as it is taken."""
    for system, rows in plan.rows():
        home = folder / system.name
        home.mkdir(parents=True)
        elements = np.unique(system.numbers)
        (home / "type_map.raw").write_text("".join(f"{symbol(int(z))}\n" for z in elements))
        (home / "type.raw").write_text("".join(f"{k}\n" for k in np.searchsorted(elements, system.numbers)))
        if not system.periodic:
            (home / "nopbc").touch()
        size = _set_size(system)
        for k, start in enumerate(range(0, len(rows), size)):
            yield from _write_set(structures, rows[start : start + size], system, home / f"set.{k:03d}")


def _set_size(system: System) -> int:
    numbers = 8 * 3 * len(system.numbers)
    row = numbers * (3 * len(system.numbers) + 2 if "hessian_rows" in system.labels else 2)
    return max(1, min(SET_FRAMES, SET_BYTES // row))


def _write_set(structures: Sequence[Structure], rows: np.ndarray, system: System, folder: Path) -> Iterator[Structure]:
    folder.mkdir()
    columns: dict[str, np.ndarray] = {}
    with (folder / FRAMES_FILE).open("w", encoding="utf-8") as stated:
        stated.write(json.dumps({"kind": FRAMES_KIND, "format": FRAMES_FORMAT}) + "\n")
        for k, row in enumerate(rows.tolist()):
            s = structures[row]
            for name, value in _arrays(s, system).items():
                if name not in columns:
                    columns[name] = np.empty((len(rows), *value.shape))
                columns[name][k] = value
            stated.write(json.dumps(_stated(s)) + "\n")
            yield s
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", values)


def _arrays(s: Structure, system: System) -> dict[str, np.ndarray]:
    """Return the row of each file."""
    row = {"coord": s.positions.reshape(-1)}
    if system.periodic:
        row["box"] = s.cell.reshape(-1)
    for key in system.labels:
        value = s.labels[key]
        row[_FILES[key]] = virial(s).reshape(-1) if key == "stress" else value.reshape(-1) if value.ndim else value
    return row


def virial(s: Structure) -> np.ndarray:
    """[3, 3] in eV, -V stress: positive when the crystal is compressed."""
    result: np.ndarray = -s.labels["stress"] * abs(np.linalg.det(s.cell))
    return result


def _stated(s: Structure) -> dict[str, Any]:
    """Return what DeePMD has no file for, under the keys of our extended XYZ."""
    field = None if s.external_field is None else s.external_field.tolist()
    values = {
        LEVEL_KEY: s.level,
        "charge": s.total_charge,
        "spin": s.spin_multiplicity,
        FIELD_KEY: field,
        PROVENANCE_KEY: provenance_values(s),
    }
    return {key: value for key, value in values.items() if value is not None}
