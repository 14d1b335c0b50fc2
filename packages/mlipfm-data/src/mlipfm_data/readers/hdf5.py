"""Reader of HDF5 data sets in their published layouts: ANI-1, ANI-1x/1ccx, ANI-2x, COMP6, SPICE 1 and 2, Transition1x, QM7-X, AIMNet2, QM9, mlip.

The layout is recognised by the data sets of the file, never by its name. Memory is that of a few conformations, and of the names of the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, Note, RawFrame
from mlipfm_interfaces.theory import canonical_level

from .hdf5_files import datasets, opened, rows, rows_at_once, subgroups, text, walk, whole
from .hdf5_layouts import LAYOUTS, Hdf5Layout, Molecule, declared_units
from .interpret import located


class Hdf5Reader:
    """HDF5 files in the arrangements of `hdf5_layouts.LAYOUTS`; a geometry with several levels of theory gives several frames, of one group.

    `high_energy=True` also reads the conformers that ANI-1 keeps apart for their high energy.
    """

    suffixes = (".h5", ".hdf5", ".hdf")

    def frames(
        self, path: Path, *, high_energy: bool = False, level: str | None = None, keys: Mapping[str, str] = MappingProxyType({})
    ) -> Iterator[At | MlipfmError | Note]:
        """Yield the geometries. Only the data sets of `level`, and those that the user names, are loaded.

        Raises:
            UnreadableFileError: damaged (the frames before the damage were yielded), or in no known layout. RefusedFileError: a file whose data lie
                in other files.
        """
        with opened(path) as file:
            known = False
            if _repeated(file):
                yield Note("train, val and test repeat what is in data: not read")
            for group in walk(file["data"], 1) if _repeated(file) else walk(file):
                data = datasets(group)
                layout = layout_of(set(data) | {f"@{name}" for name in group.attrs})
                if layout is None and not known:
                    raise _unknown(group, data)
                if layout is None:
                    yield _unknown(group, data)
                    continue
                known = True
                parts, count = [data], _high_energy(data)
                if count and high_energy:
                    parts.append(data | {"coordinates": data["coordinatesHE"], "energies": data["energiesHE"]})
                elif count:
                    yield Note("high-energy conformers (coordinatesHE) not read: set high_energy=True (--option high_energy=true)", count)
                wanted = {*keys.values(), *_keys(layout, level)}
                for part in parts:
                    yield from _molecule(Molecule(group, part, single=part[layout.positions].ndim == 2), layout, wanted)


def _keys(layout: Hdf5Layout, level: str | None) -> set[str]:
    """Keys of the labels of a level; of all where there is one level, or none is wanted."""
    wanted = canonical_level(level) if level is not None and len(layout.levels) > 1 else None
    return {key for labels in layout.levels if wanted in (None, labels.level) for key in labels.keys.values()}


def layout_of(names: set[str]) -> Hdf5Layout | None:
    """Return the layout whose telling data sets are all among `names`; of several the most particular one."""
    fitting = [layout for layout in LAYOUTS if layout.needs <= names]
    return max(fitting, key=lambda layout: len(layout.needs), default=None)


def _unknown(group: Any, data: dict[str, Any]) -> UnreadableFileError:
    found = ", ".join(sorted(data)[:12])
    known = "; ".join(f"{layout.name}: {', '.join(sorted(layout.needs))}" for layout in LAYOUTS)
    return UnreadableFileError(
        f"no known layout has the data sets {found}", where=f"{group.file.filename}: {group.name}", hint=f"known: {known}"
    )


def _repeated(file: Any) -> bool:
    """Transition1x repeats its `data` as train, val and test."""
    return "data" in file and bool({"train", "val", "test"} & set(file))


def _high_energy(data: dict[str, Any]) -> int:
    return data["coordinatesHE"].shape[0] if "coordinatesHE" in data and "energiesHE" in data else 0


def _molecule(molecule: Molecule, layout: Hdf5Layout, keys: set[str]) -> Iterator[At | MlipfmError]:
    name, positions = molecule.group.name, molecule.data[layout.positions]
    count = 1 if molecule.single else positions.shape[0]
    try:
        molecule.options = declared_units(molecule, layout)
        layout.prepare(molecule)
        if molecule.numbers is None:
            molecule.numbers = _numbers(molecule, layout)
        columns = _columns(molecule, layout, keys, count)
    except UnreadableFileError:
        raise
    except MlipfmError as error:  # then no conformation of this molecule can be used
        yield from (located(error, name) for _ in range(count))
        return
    parts = name.strip("/").split("/")
    group = parts[max(layout.group, -len(parts))] if layout.group is not None else None
    unread = _unread(molecule, layout, columns)
    for k, values in enumerate(_rows(columns, count, molecule.single)):
        yield At(f"{name}[{k}]", _frame, molecule, layout, values, group, unread)


def _frame(molecule: Molecule, layout: Hdf5Layout, values: dict[str, Any], group: str | None, unread: tuple[str, ...]) -> RawFrame:
    numbers, positions = values.pop("_numbers", molecule.numbers), values.pop("_positions")
    info: dict[str, Any] = dict(molecule.info)
    arrays: dict[str, Any] = {}
    for key, value in values.items():
        (arrays if value.ndim and len(value) == len(numbers) and key not in layout.states else info)[key] = value
    return RawFrame(
        numbers, positions, info=info, arrays=arrays, group=group, unread=unread, conventions=layout.conventions, stated=molecule.options
    )


def _unread(molecule: Molecule, layout: Hdf5Layout, columns: dict[str, Any]) -> tuple[str, ...]:
    """Names of data sets, attributes (`@name`) and groups beside what is read; the labels of other levels are no part of this frame."""
    known = {layout.positions, layout.numbers, *columns, *layout.needs, *layout.reads, *layout.states, "coordinatesHE", "energiesHE"}
    known |= {key for labels in layout.levels for key in labels.keys.values()}
    names = [*molecule.data, *(f"@{name}" for name in molecule.group.attrs), *(f"{name}/" for name in subgroups(molecule.group))]
    return tuple(sorted(name for name in names if name not in known))


def _numbers(molecule: Molecule, layout: Hdf5Layout) -> Any:
    """[N] at once, or the data set [conformations, N] itself."""
    dataset = molecule.data[layout.numbers]
    if dataset.dtype.kind in "SO":  # element symbols
        return np.array([number(text(name)) for name in whole(dataset).reshape(-1)], dtype=np.int64)
    if dataset.ndim == 2 and not molecule.single and dataset.shape[1] > 1:
        return dataset
    return whole(dataset).reshape(-1)


def _columns(molecule: Molecule, layout: Hdf5Layout, keys: set[str], count: int) -> dict[str, Any]:
    """Return what is read row by row, after a look at the shapes.

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
