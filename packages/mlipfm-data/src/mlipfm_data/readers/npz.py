"""Reader of .npz data sets: sGDML (MD17, MD22, CCSD(T) sets), rMD17, NequIP, and PhysNet (also SPF). The layout is recognised by the arrays."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from mlipfm_interfaces.errors import RefusedFileError, UnitError, UnreadableFileError
from mlipfm_interfaces.raw_frame import EV_ANGSTROM, Conventions, LevelKeys, RawFrame

# Rows of NumPy arrays in files, one after the other: memory is that of a row. Objects (pickles inside .npy) are refused.

#: Bytes of a row (or of an array that is wanted as a whole) beyond which a header is not believed.
LARGEST_ROW = 1 << 28
_BROKEN = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpyRows:
    """An array in a stream: `shape`, `dtype`, and its rows by `row()` in order.

    Raises:
        RefusedFileError: an array of Python objects. UnreadableFileError: no .npy, or rows too large to be true.
    """

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self.stream, self.where = stream, where
        try:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADERS:
                raise ValueError(f"version {version} of the format")
            self.shape, fortran, self.dtype = _HEADERS[version](stream)
        except _BROKEN as error:
            raise UnreadableFileError(f"not an array of NumPy: {' '.join(str(error).split())[:120]}", where=where) from None
        if self.dtype.hasobject:
            raise RefusedFileError(
                "the array holds Python objects, which are pickles, and pickles are never read: they can run code",
                where=where,
                hint="save it again as an array of numbers",
            )
        self.fortran = fortran and len(self.shape) > 1
        if self._bytes(self.shape[1:]) > LARGEST_ROW or (self.fortran and self._bytes(self.shape) > LARGEST_ROW):
            raise UnreadableFileError(f"an array of shape {list(self.shape)} is not believable", where=where)
        self._done = 0
        self._all: np.ndarray | None = None

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape, dtype=np.float64)) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Number of rows; a scalar has none."""
        return self.shape[0] if self.shape else 0

    def row(self) -> np.ndarray:
        """Return the next row. Raises `UnreadableFileError` if the file ends before it does or is damaged."""
        if self.fortran:  # then a row lies scattered over the file
            if self._all is None:
                self._all = self._read(self.shape[::-1], "the array").T
            value = self._all[self._done]
        else:
            value = self._read(self.shape[1:], f"row {self._done}")
        self._done += 1
        return value

    def whole(self) -> np.ndarray:
        """Return all of it, for small arrays. Raises `UnreadableFileError` if it is large, cut or damaged."""
        if self._bytes(self.shape) > LARGEST_ROW:
            raise UnreadableFileError(f"an array of shape {list(self.shape)} is not believable here", where=self.where)
        return self._read(self.shape[::-1], "the array").T if self.fortran else self._read(self.shape, "the array")

    def _read(self, shape: tuple[int, ...], what: str) -> np.ndarray:
        wanted = self._bytes(shape)
        parts: list[bytes] = []
        while wanted:
            try:
                part = self.stream.read(wanted)
            except _BROKEN as error:
                raise UnreadableFileError(f"damaged in {what}: {error}", where=self.where) from None
            if not part:
                raise UnreadableFileError(f"the file ends in {what} of {self.rows}", where=self.where, hint="the file is truncated")
            parts.append(part)
            wanted -= len(part)
        return np.frombuffer(b"".join(parts), dtype=self.dtype).reshape(shape)


def rows_of(columns: dict[str, NpyRows], count: int) -> Iterator[dict[str, np.ndarray]]:
    """`count` times one row of every column.

    Raises:
        UnreadableFileError: a column of another length, before anything is read.
    """
    for key, column in columns.items():
        if column.rows != count:
            raise UnreadableFileError(f"{key!r} has {column.rows} rows, {count} were expected", where=column.where)
    for _ in range(count):
        yield {key: column.row() for key, column in columns.items()}


@dataclass(frozen=True)
class NpzLayout:
    """A published arrangement of arrays: those that tell it, where elements and positions are, keys of labels, units as `ReadOptions`."""

    name: str
    needs: frozenset[str]
    positions: str
    numbers: str
    keys: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    charge: str | None = None


_KCAL = {"length_unit": "Angstrom", "forces_sign": 1, "energy_unit": "kcal/mol", "forces_unit": "kcal/mol/Angstrom"}

LAYOUTS = (
    # Christensen, von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020): kcal/mol and Angstrom.
    NpzLayout("rMD17", frozenset({"nuclear_charges", "coords", "energies"}), "coords", "nuclear_charges",
           {"energy": "energies", "forces": "forces"}, _KCAL),
    # Unke, Meuwly, J. Chem. Theory Comput. 15, 3678 (2019): padded to the largest molecule, N atoms each; eV, eV/Angstrom, e Angstrom.
    NpzLayout("PhysNet", frozenset({"N", "Z", "R", "E"}), "R", "Z", {"energy": "E", "forces": "F", "dipole": "D"},
           EV_ANGSTROM | {"dipole_unit": "e Angstrom"}, charge="Q"),
    # sgdml.org, data sets: kcal/mol and Angstrom unless `e_unit` and `r_unit` say otherwise; `z` is of one molecule. With a `z` of every frame the
    # names are the same and the units are not known.
    NpzLayout("sGDML", frozenset({"R", "z", "E"}), "R", "z", {"energy": "E", "forces": "F"}, _KCAL),
    # github.com/mir-group/nequip, npz data sets: eV and Angstrom; cell and pbc for all frames or for each.
    NpzLayout("NequIP", frozenset({"pos", "atomic_numbers"}), "pos", "atomic_numbers", {"energy": "energy", "forces": "forces"}, EV_ANGSTROM),
    NpzLayout("NequIP", frozenset({"R", "z", "energy"}), "R", "z", {"energy": "energy", "forces": "forces"}, EV_ANGSTROM),
)  # fmt: skip

#: Arrays that say something of all frames when they have as many dimensions, of each frame when they have one more.
_CONSTANT = {"cell": 2, "pbc": 1}
#: Other names of the cell.
_CELLS = ("cells", "lattice", "lattices", "box", "boxes", "unit_cell", "lattice_vectors")


class NpzReader:
    """.npz files of the arrangements in `LAYOUTS`. Memory is that of a frame."""

    suffixes = (".npz",)

    def frames(self, path: Path, *, keys: Mapping[str, str] = MappingProxyType({})) -> Iterator[RawFrame]:
        """Yield the frames.

        Raises:
            UnreadableFileError: no archive of NumPy, cut, damaged, or in no known layout; the frames before the damage were yielded.
            RefusedFileError: an array that is read holds Python objects.
        """
        with contextlib.ExitStack() as stack:
            try:
                archive = stack.enter_context(zipfile.ZipFile(path))
            except zipfile.BadZipFile:
                raise UnreadableFileError("is no .npz archive, or its end is missing", where=str(path)) from None
            yield from _frames(_Arrays(archive, path, stack), set(keys.values()))


class _Arrays:
    """The arrays of an archive, each opened on first use."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, stack: contextlib.ExitStack) -> None:
        self.archive, self.path, self.stack = archive, path, stack
        self.names = {name.removesuffix(".npy") for name in archive.namelist()}

    def open(self, name: str) -> NpyRows:
        where = f"{self.path}: {name}"
        try:
            return NpyRows(self.stack.enter_context(self.archive.open(f"{name}.npy")), where)
        except (zipfile.BadZipFile, KeyError, OSError, NotImplementedError, RuntimeError) as error:
            raise UnreadableFileError(f"cannot be read from the archive: {error}", where=where) from None


def _frames(arrays: _Arrays, keys: set[str]) -> Iterator[RawFrame]:
    layout = next((layout for layout in LAYOUTS if layout.needs <= arrays.names), None)
    if layout is None:
        known = "; ".join(f"{layout.name}: {', '.join(sorted(layout.needs))}" for layout in LAYOUTS)
        raise UnreadableFileError(f"no known layout has the arrays {', '.join(sorted(arrays.names)[:12])}", hint=f"known: {known}")
    options = layout.options
    if layout.name == "sGDML" and "e_unit" not in arrays.names and len(arrays.open(layout.numbers).shape) != 1:
        options = {key: value for key, value in options.items() if key not in ("energy_unit", "forces_unit")}  # somebody else's file
    conventions = Conventions(layout.name, options, (LevelKeys(None, layout.keys),))
    stated = _stated_units(arrays)
    columns = {"_positions": arrays.open(layout.positions)}
    constants: dict[str, np.ndarray] = {}
    if len(columns["_positions"].shape) != 3:
        raise UnreadableFileError(f"{layout.positions!r} has shape {list(columns['_positions'].shape)}, [frames, atoms, 3] was expected")
    taken = {layout.positions, "e_unit", "r_unit"}
    for key, name, rank in _wanted(layout, keys | set(layout.keys.values()), arrays):
        column = arrays.open(name)
        taken.add(name)
        if rank is not None and len(column.shape) == rank:
            constants[key] = column.whole()
        else:
            columns[key] = column
    unread = tuple(sorted(arrays.names - taken))
    for row in rows_of(columns, columns["_positions"].rows):
        frame = _frame(constants | row, layout)
        frame.unread, frame.conventions, frame.stated = unread, conventions, stated
        yield frame


def _wanted(layout: NpzLayout, keys: set[str], arrays: _Arrays) -> Iterator[tuple[str, str, int | None]]:
    """(name here, name in the file, number of dimensions that an array for all frames has) of what is read beside the positions."""
    yield "_numbers", layout.numbers, 1
    special = {"_atoms": "N" if "N" in layout.needs else None, "charge": layout.charge}
    yield from ((key, name, None) for key, name in special.items() if name in arrays.names)
    yield from ((key, key, rank) for key, rank in _CONSTANT.items() if key in arrays.names)
    if "cell" not in arrays.names:
        yield from (("cell", name, _CONSTANT["cell"]) for name in [name for name in _CELLS if name in arrays.names][:1])
    yield from ((key, key, None) for key in sorted(keys) if key in arrays.names)


def _frame(values: dict[str, np.ndarray], layout: NpzLayout) -> RawFrame:
    numbers, positions = values.pop("_numbers"), values.pop("_positions")
    atoms = int(values.pop("_atoms", len(numbers)))
    cell, pbc = values.pop("cell", None), values.pop("pbc", None)
    if cell is not None:
        cell = np.diag(cell) if cell.size == 3 else cell
        if cell.size != 9:
            raise UnreadableFileError(f"the cell has {cell.size} numbers, three or nine are needed")
        cell = cell.reshape(3, 3) if cell.any() else None
    frame = RawFrame(numbers[:atoms], positions[:atoms], cell, None if pbc is None else np.broadcast_to(pbc, 3))
    forces = layout.keys["forces"]
    frame.arrays = {key: value[:atoms] for key, value in values.items() if key == forces or (value.ndim and len(value) == len(positions))}
    frame.info = {key: value for key, value in values.items() if key not in frame.arrays}
    return frame


def _stated_units(arrays: _Arrays) -> dict[str, str]:
    """sGDML files give their units in `e_unit` and `r_unit`."""
    stated = {}
    for name, known in (
        ("e_unit", {"kcal/mol": "kcal/mol", "eV": "eV", "Hartree": "Hartree"}),
        ("r_unit", {"Ang": "Angstrom", "a0": "bohr"}),
    ):
        if name in arrays.names:
            value = str(np.asarray(arrays.open(name).whole()).reshape(-1)[0].astype(str))
            if value not in known:
                raise UnitError(f"{name} is {value!r}", hint=f"known here: {', '.join(known)}")
            stated[name] = known[value]
    if "r_unit" in stated and stated["r_unit"] != "Angstrom":
        raise UnitError("positions in bohr are not expected in this layout", hint="convert them to Angstrom")
    if "e_unit" not in stated:
        return {}
    return {"energy_unit": stated["e_unit"], "forces_unit": f"{stated['e_unit']}/Angstrom"}
