"""The record codec: one Structure, optionally with Dynamics, as one checksummed binary record. Logs of frames and stores consist of such records.

What many records share (names, shapes and dtypes of arrays, level, source, periodicity) is a *layout*, written once per file and referred to by
number. A record is `HEAD` (checksum, magic, kind, layout number, payload length), `FIXED` (counts, charge, multiplicity, index), with dynamics
time and step, the sizes of free axes, all float64 values, all float32 values, the atomic numbers as bytes, and the provenance group as text. All
little-endian. The checksum (CRC-32) covers header and payload, so every single flipped bit is found.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import DamagedFileError, FormatVersionError, ShapeError
from .files import canonical_json
from .level_names import canonical_level
from .quantities import QUANTITIES
from .structure import Provenance, Structure

Array = NDArray[Any]

FORMAT = 1
MAGIC = b"mF\x01"
HEAD = struct.Struct("<I3sBII")  # crc32 of the rest, magic, kind, layout, bytes of payload
FIXED = struct.Struct("<IiiIq")  # atoms, charge, multiplicity, bytes of text, provenance index
MOTION = struct.Struct("<dq")  # time in fs, step
LAYOUT, FRAME, LABELS = 1, 2, 3  # kinds of records

_NONE32, _NONE64 = -(2**31), -(2**63)  # not given
_FREE = -1  # an axis whose length every record gives
_ATOMS = -2  # an axis of length N


@dataclass(frozen=True)
class Dynamics:
    """How the atoms of a frame move.

    Attributes:
        velocities: [N, 3] float64, Å/fs. masses: [N] float64, amu. time: fs. step: number of the step.
    """

    velocities: Array
    masses: Array
    time: float
    step: int


class _Block(NamedTuple):
    """One array in a layout: slot (`positions`, `label:forces`, ...), dtype (`<f8` or `<f4`), axes (lengths, _ATOMS or _FREE)."""

    slot: str
    dtype: str
    axes: tuple[int, ...]


class _Plan(NamedTuple):
    """Where the values of a record are: (slot, first, last, shape) in its values, of which float64 come first."""

    slices: list[tuple[str, int, int, tuple[int, ...]]]
    n_double: int
    n_single: int


@dataclass(frozen=True)
class Layout:
    """What a group of records shares; `blocks` are sorted so that float64 comes first. `n_free`: number of free axes."""

    blocks: tuple[_Block, ...]
    moving: bool
    pbc: Array
    level: str | None
    provenance: Mapping[str, Any]  # source, sampling, licence
    n_free: int
    plans: dict[int, _Plan] = field(default_factory=dict)  # by number of atoms

    def plan(self, n: int, free: tuple[int, ...]) -> _Plan:
        """Places of the values in a record of n atoms."""
        known = self.plans.get(n)
        if known is not None and not free:
            return known
        lengths, slices, at, n_double = iter(free), [], 0, 0
        for block in self.blocks:
            shape = tuple(n if axis == _ATOMS else next(lengths) if axis == _FREE else axis for axis in block.axes)
            slices.append((block.slot, at, at + math.prod(shape), shape))
            at += math.prod(shape)
            n_double = at if block.dtype == "<f8" else n_double
        plan = _Plan(slices, n_double, at - n_double)
        if not free and len(self.plans) < 10_000:
            self.plans[n] = plan
        return plan

    @classmethod
    def from_json(cls, text: bytes) -> Layout:
        value = json.loads(text)
        blocks = tuple(_Block(slot, dtype, tuple(axes)) for slot, dtype, axes in value["blocks"])
        if any(block.dtype not in ("<f8", "<f4") or any(axis < _ATOMS for axis in block.axes) for block in blocks):
            raise ValueError("a block of unknown dtype or shape")
        pbc = np.array(value["pbc"], dtype=bool)
        pbc.setflags(write=False)
        shared = {key: value[key] for key in ("source", "sampling", "licence")}
        n_free = sum(axis == _FREE for block in blocks for axis in block.axes)
        level = value["level"] and canonical_level(value["level"])  # older files have other spellings: wb97m-d3(bj)
        return cls(blocks, bool(value["moving"]), pbc, level, MappingProxyType(shared), n_free)


class Layouts:
    """The layouts of one file, in both directions: number -> Layout to read, description -> number to write."""

    def __init__(self) -> None:
        self._by_number: dict[int, Layout] = {}
        self._texts: dict[int, bytes] = {}
        self._numbers: dict[bytes, int] = {}
        self._by_key: dict[Any, tuple[int, Layout]] = {}
        self._next = 0

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def __getitem__(self, number: int) -> Layout:
        if number not in self._by_number:
            raise DamagedFileError(f"the description of layout {number} is lost")
        return self._by_number[number]

    @property
    def all(self) -> list[Layout]:
        """Layouts by number, for files that have lost none.

        Raises:
            DamagedFileError: if a description is lost.
        """
        return [self[number] for number in range(self._next)]

    def reserve(self, number: int) -> None:
        """Never give this number to a new layout: records refer to it, even if its description is lost."""
        self._next = max(self._next, number + 1)

    def learn(self, record: bytes) -> None:
        """Take in a layout record that was read and checked.

        Raises:
            DamagedFileError: if it describes no layout.
        """
        number, text = HEAD.unpack_from(record)[3], record[HEAD.size :]
        try:
            self._by_number[number] = Layout.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(f"the description of layout {number} is damaged: {error}") from error
        self._numbers[text], self._texts[number] = number, text
        self.reserve(number)

    def adopt(self, number: int, others: Layouts) -> tuple[int, bytes]:
        """Number here of layout `number` of another file, and the bytes to write first if it is new.

        Raises:
            DamagedFileError: the other file has lost its description.
        """
        others[number]
        text = others._texts[number]
        here, _, new = self.number(text, lambda: json.loads(text))
        return here, new

    def number(self, key: Any, describe: Any) -> tuple[int, Layout, bytes]:
        """Number and layout of what `describe()` (JSON-ready) says, remembered under `key`; the bytes to write first if it is new."""
        known = self._by_key.get(key)
        if known is not None:
            return (*known, b"")
        text = canonical_json(describe())
        new = b""
        if text not in self._numbers:
            new = seal(LAYOUT, self._next, text)
            self.learn(new)
        number = self._numbers[text]
        self._by_key[key] = number, self[number]
        return number, self[number], 2 * new  # a damaged description would take every frame of its layout with it


def seal(kind: int, layout: int, payload: bytes) -> bytes:
    """Return a record: header with checksum, and payload."""
    head = HEAD.pack(0, MAGIC, kind, layout, len(payload))[4:]
    return struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + head + payload


def check(record: bytes) -> tuple[int, int]:
    """(kind, layout number) of a record whose checksum is right.

    Raises:
        DamagedFileError: if it is not. FormatVersionError: a whole record of a newer format.
    """
    if len(record) < HEAD.size:
        raise DamagedFileError("a record is truncated")
    crc, magic, kind, layout, length = HEAD.unpack_from(record)
    if length != len(record) - HEAD.size or zlib.crc32(memoryview(record)[4:]) != crc:
        raise DamagedFileError("the checksum of a record does not match its bytes")
    if magic != MAGIC:
        raise FormatVersionError(f"a record of format {magic[2]}, this mlipfm reads {FORMAT}", hint="upgrade mlipfm-interfaces")
    return kind, layout


def frame_index(record: bytes) -> int | None:
    """Index of the provenance of a frame whose record is whole."""
    index = FIXED.unpack_from(record, HEAD.size)[4]
    return None if index == _NONE64 else int(index)


def reindexed(record: bytes, index: int | None) -> bytes:
    """Return the record of the same frame whose provenance has another index.

    Raises:
        DamagedFileError: the checksum does not match.
    """
    kind, number = check(record)
    payload = bytearray(record[HEAD.size :])
    struct.pack_into("<q", payload, FIXED.size - 8, _NONE64 if index is None else index)  # the last of FIXED
    return seal(kind, number, bytes(payload))


def encode(structure: Structure, dynamics: Dynamics | None, layouts: Layouts, single: bool = False) -> tuple[bytes, bytes]:
    """(record, layout records to be written before it, mostly b"").

    Args:
        single: store positions, velocities and the labels of atoms as float32. Energies, stresses, cells and companions of probes stay float64.

    Raises:
        ShapeError: velocities or masses that do not fit the atoms.
    """
    arrays = _arrays(structure, dynamics)
    p = structure.provenance
    pbc = tuple(structure.pbc.tolist())
    shared = (pbc, structure.level, p.source, p.sampling, p.licence, dynamics is None, single)
    key = (*shared, *((slot, value.ndim) for slot, value in arrays.items()))
    number, layout, new = layouts.number(key, lambda: _describe(structure, dynamics, arrays, single))
    text = (p.group or "").encode()
    charge = _NONE32 if structure.total_charge is None else structure.total_charge
    multiplicity = _NONE32 if structure.spin_multiplicity is None else structure.spin_multiplicity
    parts = [FIXED.pack(len(structure), charge, multiplicity, len(text), _NONE64 if p.index is None else p.index)]
    if dynamics is not None:
        parts.append(MOTION.pack(dynamics.time, dynamics.step))
    parts += [*_values(layout, arrays), structure.atomic_numbers.astype("u1").tobytes(), text]
    return seal(FRAME, number, b"".join(parts)), new


def decode(record: bytes, layouts: Layouts) -> tuple[Structure, Dynamics | None]:
    """Return the frame in a record; arrays are read-only. Values stored as float32 come back as float64.

    Raises:
        DamagedFileError: the checksum does not match, or it is no frame.
    """
    kind, number = check(record)
    if kind != FRAME:
        raise DamagedFileError(f"a record of kind {kind} where a frame is wanted")
    try:
        return _decode(record, layouts[number])
    except (ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
        raise DamagedFileError(f"a record that does not fit its layout: {error}") from error


def encode_labels(
    key: str, level: str, labels: Mapping[str, Array], layouts: Layouts, source: str | None = None, licence: str | None = None
) -> tuple[bytes, bytes]:
    """Labels alone, to be joined by (structure key, level): (record, layout records to be written before it).

    Args:
        source, licence: of the labels, where they are of others than the structure's.
    """
    arrays = {f"label:{name}": np.asarray(value, dtype=np.float64) for name, value in labels.items()}
    blocks = [[slot, "<f8", [_FREE] * value.ndim] for slot, value in sorted(arrays.items())]
    origin = {"source": source, "sampling": None, "licence": licence}
    named = (level, source, licence, *((slot, value.ndim) for slot, value in arrays.items()))
    number, layout, new = layouts.number(named, lambda: {"blocks": blocks, "moving": False, "pbc": [False] * 3, "level": level} | origin)
    text = bytes.fromhex(key)
    parts = [FIXED.pack(0, _NONE32, _NONE32, len(text), _NONE64), *_values(layout, arrays), text]
    return seal(LABELS, number, b"".join(parts)), new


def decode_labels(record: bytes, layouts: Layouts) -> tuple[str, str | None, dict[str, Array]]:
    """(structure key, level, labels) of a record of labels.

    Raises:
        DamagedFileError: the checksum does not match, or it holds no labels.
    """
    kind, number = check(record)
    if kind != LABELS:
        raise DamagedFileError(f"a record of kind {kind} where labels are wanted")
    layout = layouts[number]
    arrays, end = _read_values(record, layout, 0, HEAD.size + FIXED.size)
    return record[end:].hex(), layout.level, {slot.removeprefix("label:"): value for slot, value in arrays.items()}


def _arrays(s: Structure, dynamics: Dynamics | None) -> dict[str, Array]:
    arrays: dict[str, Array] = {"positions": s.positions}
    if s.cell.any():
        arrays["cell"] = s.cell
    if s.external_field is not None:
        arrays["field"] = s.external_field
    for key, value in s.labels.items():
        arrays[f"label:{key}"] = value
    for key, value in s.label_std.items():
        arrays[f"std:{key}"] = value
    if dynamics is not None:
        arrays["velocities"] = np.asarray(dynamics.velocities, dtype=np.float64)
        arrays["masses"] = np.asarray(dynamics.masses, dtype=np.float64)
        if arrays["velocities"].shape != (len(s), 3) or arrays["masses"].shape != (len(s),):
            raise ShapeError(f"dynamics of {len(s)} atoms need velocities [{len(s)}, 3] and masses [{len(s)}]")
    return arrays


def _describe(s: Structure, dynamics: Dynamics | None, arrays: Mapping[str, Array], single: bool) -> dict[str, Any]:
    blocks = [(slot, "<f4" if single and _may_be_single(slot) else "<f8", _axes(slot, value.ndim)) for slot, value in arrays.items()]
    p = s.provenance
    return {
        "blocks": sorted(blocks, key=lambda block: (block[1] != "<f8", block[0])),
        "moving": dynamics is not None,
        "pbc": s.pbc.tolist(),
        "level": s.level,
        "source": p.source,
        "sampling": p.sampling,
        "licence": p.licence,
    }


def _axes(slot: str, ndim: int) -> list[int]:
    fixed = {"positions": [_ATOMS, 3], "velocities": [_ATOMS, 3], "masses": [_ATOMS], "cell": [3, 3], "field": [3]}
    if slot in fixed:
        return fixed[slot]
    kind = QUANTITIES.get(slot.partition(":")[2])
    if kind is not None and kind.layout in ("system", "atom"):
        return [*([_ATOMS] if kind.layout == "atom" else []), *kind.shape]
    return [_FREE] * ndim


def _may_be_single(slot: str) -> bool:
    kind = QUANTITIES.get(slot.partition(":")[2])
    return slot in ("positions", "velocities") or (kind is not None and kind.layout != "system")


def _values(layout: Layout, arrays: Mapping[str, Array]) -> list[bytes]:
    """Sizes of the free axes (padded to 8 bytes) and the values, in the order of the layout."""
    free = [n for block in layout.blocks for n, axis in zip(arrays[block.slot].shape, block.axes, strict=True) if axis == _FREE]
    sizes = struct.pack(f"<{len(free)}I", *free)
    parts = [sizes + bytes(-len(sizes) % 8)] if free else []
    parts += [arrays[block.slot].astype(block.dtype, copy=False).tobytes() for block in layout.blocks]
    return parts


def _decode(record: bytes, layout: Layout) -> tuple[Structure, Dynamics | None]:
    n, charge, multiplicity, n_text, index = FIXED.unpack_from(record, HEAD.size)
    start = HEAD.size + FIXED.size
    time, step = MOTION.unpack_from(record, start) if layout.moving else (0.0, 0)
    arrays, end = _read_values(record, layout, n, start + MOTION.size * layout.moving)
    numbers = np.frombuffer(record, "u1", n, end).astype(np.int64)
    numbers.setflags(write=False)
    group = record[end + n : end + n + n_text].decode() or None
    provenance = Provenance(group=group, index=None if index == _NONE64 else index, **layout.provenance)
    labels, label_std = {}, {}
    for slot, value in arrays.items():
        kind, _, key = slot.partition(":")
        if kind == "label":
            labels[key] = value
        elif kind == "std":
            label_std[key] = value
    structure = Structure.trusted(
        atomic_numbers=numbers,
        positions=arrays["positions"],
        cell=arrays.get("cell", _NO_CELL),
        pbc=layout.pbc,
        total_charge=None if charge == _NONE32 else charge,
        spin_multiplicity=None if multiplicity == _NONE32 else multiplicity,
        external_field=arrays.get("field"),
        level=layout.level,
        labels=MappingProxyType(labels),
        label_std=MappingProxyType(label_std),
        provenance=provenance,
    )
    return structure, Dynamics(arrays["velocities"], arrays["masses"], time, step) if layout.moving else None


def _read_values(record: bytes, layout: Layout, n: int, start: int) -> tuple[dict[str, Array], int]:
    """Arrays by slot, float64, and where the values end."""
    free: tuple[int, ...] = ()
    if layout.n_free:
        free = struct.unpack_from(f"<{layout.n_free}I", record, start)
        start += 4 * (layout.n_free + layout.n_free % 2)
    plan = layout.plan(n, free)
    values = np.frombuffer(record, "<f8", plan.n_double, start)
    end = start + 8 * plan.n_double + 4 * plan.n_single
    if plan.n_single:
        values = np.concatenate([values, np.frombuffer(record, "<f4", plan.n_single, end - 4 * plan.n_single)])
        values.setflags(write=False)
    return {slot: values[a:b].reshape(shape) for slot, a, b, shape in plan.slices}, end


_NO_CELL = np.zeros((3, 3))
_NO_CELL.setflags(write=False)
