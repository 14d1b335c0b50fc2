"""Reader of HDF5 data sets in their published layouts: ANI-1, ANI-1x/1ccx, ANI-2x, COMP6, SPICE 1 and 2, Transition1x, QM7-X, AIMNet2, QM9, mlip.

The layout is told by the data sets of the file, never by its name. Memory is that of a few conformations, and of the names of the groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .frame import RawFrame, ReadOptions, ReadReport, options_from, refuse_pickle
from .framed import checked, placed
from .hdf5_files import datasets, opened, rows, rows_at_once, subgroups, text, walk, whole
from .hdf5_layouts import LAYOUTS, Layout, Molecule, stated_units
from .levels import LevelFrames

_Item = tuple[RawFrame, ReadOptions] | MlipfmError


class Hdf5Reader:
    """Structures from HDF5 files; a geometry with several levels of theory gives several, of one group. Options: `frames_in.ReadOptions`, where
    `level` chooses one of several levels; `high_energy=True` also reads the conformers that ANI-1 keeps apart for their high energy.
    """

    suffixes = (".h5", ".hdf5", ".hdf")

    def read(
        self, path: Path, *, report: ReadReport | None = None, high_energy: bool = False, **options: Any
    ) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the file's order.

        Raises:
            UnreadableFileError: missing, damaged (frames before the damage have been yielded), or in no known layout. RefusedFileError: a pickle, or
                a file whose data lie in other files. LevelError: no such level.
        """
        path = Path(path)
        refuse_pickle(path)
        report = report if report is not None else ReadReport()
        with opened(path) as file:
            yield from checked(_frames(file, path, options, high_energy, report), options_from(options), report, path)


def _frames(file: Any, path: Path, options: dict[str, Any], high_energy: bool, report: ReadReport) -> Iterator[_Item]:
    makers: dict[str, LevelFrames] = {}
    index = 0
    for group in _groups(file, report):
        data = datasets(group)
        layout = layout_of(set(data) | {f"@{name}" for name in group.attrs})
        if layout is None:
            error = _unknown(group, data)
            if not makers:
                raise error
            yield error
            index += 1
            continue
        maker = makers.setdefault(layout.name, LevelFrames(layout.levels, layout.options, options, report, layout.name))
        for part in (data, *_high_energy(data, high_energy, report)):
            maker.index = index
            yield from _molecule(Molecule(group, part, single=part[layout.positions].ndim == 2), layout, maker, path)
            index = maker.index


def layout_of(names: set[str]) -> Layout | None:
    """The layout whose telling data sets are all among `names`; of several the most particular one."""
    fitting = [layout for layout in LAYOUTS if layout.needs <= names]
    return max(fitting, key=lambda layout: len(layout.needs), default=None)


def _unknown(group: Any, data: dict[str, Any]) -> UnreadableFileError:
    found = ", ".join(sorted(data)[:12])
    known = "; ".join(f"{layout.name}: {', '.join(sorted(layout.needs))}" for layout in LAYOUTS)
    return UnreadableFileError(
        f"no known layout has the data sets {found}", where=f"{group.file.filename}: {group.name}", hint=f"known: {known}"
    )


def _groups(file: Any, report: ReadReport) -> Iterator[Any]:
    """Groups with data; Transition1x repeats its `data` as train, val and test."""
    if "data" in file and {"train", "val", "test"} & set(file):
        report.notes["train, val and test repeat what is in data: not read"] += 1
        yield from walk(file["data"], 1)
    else:
        yield from walk(file)


def _high_energy(data: dict[str, Any], wanted: bool, report: ReadReport) -> list[dict[str, Any]]:
    count = data["coordinatesHE"].shape[0] if "coordinatesHE" in data and "energiesHE" in data else 0
    if count and not wanted:
        report.notes["high-energy conformers (coordinatesHE) not read: set high_energy=True (--option high_energy=true)"] += count
    return [data | {"coordinates": data["coordinatesHE"], "energies": data["energiesHE"]}] if count and wanted else []


def _molecule(molecule: Molecule, layout: Layout, maker: LevelFrames, path: Path) -> Iterator[_Item]:
    where = f"{path}: {molecule.group.name}"
    positions = molecule.data[layout.positions]
    count = 1 if molecule.single else positions.shape[0]
    try:
        molecule.options = stated_units(molecule, layout, maker.user)
        layout.prepare(molecule)
        if molecule.numbers is None:
            molecule.numbers = _numbers(molecule, layout)
        columns = _columns(molecule, layout, maker.keys(), count)
    except UnreadableFileError:
        raise
    except MlipfmError as error:  # then no conformation of this molecule can be used
        for _ in range(count):
            yield maker.failed(_empty(path, where), placed(error, where))
        return
    parts = molecule.group.name.strip("/").split("/")
    group = parts[max(layout.group, -len(parts))] if layout.group is not None else None
    unread = _unread(molecule, layout, columns)
    for k, values in enumerate(_rows(columns, count, molecule.single)):
        numbers = values.pop("_numbers") if "_numbers" in values else molecule.numbers
        frame = RawFrame(0, f"{where}[{k}]", path.name, numbers, values.pop("_positions"), np.zeros((3, 3)), np.zeros(3, bool), group=group)
        frame.unread = unread
        info: dict[str, Any] = dict(molecule.info)
        arrays: dict[str, Any] = {}
        for key, value in values.items():
            (arrays if value.ndim and len(value) == len(numbers) and key not in layout.states else info)[key] = value
        frame.info, frame.arrays = info, arrays
        yield from maker.frames(frame, molecule.options)


def _unread(molecule: Molecule, layout: Layout, columns: dict[str, Any]) -> tuple[str, ...]:
    """Names of data sets, attributes (`@name`) and groups beside what is read; the labels of other levels are no part of this frame."""
    known = {layout.positions, layout.numbers, *columns, *layout.needs, *layout.reads, *layout.states, "coordinatesHE", "energiesHE"}
    known |= {key for labels in layout.levels for key in labels.keys.values()}
    names = [*molecule.data, *(f"@{name}" for name in molecule.group.attrs), *(f"{name}/" for name in subgroups(molecule.group))]
    return tuple(sorted(name for name in names if name not in known))


def _empty(path: Path, where: str) -> RawFrame:
    return RawFrame(0, where, path.name, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)), np.zeros(3, bool))


def _numbers(molecule: Molecule, layout: Layout) -> Any:
    """[N] at once, or the data set [conformations, N] itself."""
    dataset = molecule.data[layout.numbers]
    if dataset.dtype.kind in "SO":  # element symbols
        return np.array([number(text(name)) for name in whole(dataset).reshape(-1)], dtype=np.int64)
    if dataset.ndim == 2 and not molecule.single and dataset.shape[1] > 1:
        return dataset
    return whole(dataset).reshape(-1)


def _columns(molecule: Molecule, layout: Layout, keys: set[str], count: int) -> dict[str, Any]:
    """What is read row by row, after a look at the shapes.

    Raises:
        InvalidStructureError: data sets of different lengths.
    """
    positions = molecule.data[layout.positions]
    columns = {"_positions": positions} | {key: molecule.data[key] for key in (*keys, *layout.states) if key in molecule.data}
    if not isinstance(molecule.numbers, np.ndarray):
        columns["_numbers"] = molecule.numbers
    atoms = positions.shape[-2] if positions.ndim >= 2 else -1
    if positions.ndim not in (2, 3) or positions.shape[-1] != 3:
        raise InvalidStructureError(f"{layout.positions!r} has shape {list(positions.shape)}, [conformations, atoms, 3] was expected")
    if molecule.numbers.shape[-1] != atoms:
        raise InvalidStructureError(f"{molecule.numbers.shape[-1]} elements for {atoms} atoms")
    for key, column in columns.items():
        if not molecule.single and (not column.shape or column.shape[0] != count):
            raise InvalidStructureError(f"{key!r} has shape {list(column.shape)}, {count} conformations were expected")
    return columns


def _rows(columns: dict[str, Any], count: int, single: bool) -> Iterator[dict[str, np.ndarray]]:
    if single:
        yield {key: column if isinstance(column, np.ndarray) else whole(column) for key, column in columns.items()}
        return
    step = min(rows_at_once(column) for column in columns.values())
    for start in range(0, count, step):
        block = {key: rows(column, start, min(start + step, count)) for key, column in columns.items()}
        for k in range(min(step, count - start)):
            yield {key: values[k] for key, values in block.items()}
