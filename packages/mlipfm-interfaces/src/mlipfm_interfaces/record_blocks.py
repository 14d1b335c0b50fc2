"""Many records at once: `decode_flat` turns the records of frames into `FlatStructures` with a dozen array operations for all of them.

Equal to decoding one by one and `flatten`, bit for bit; every record's checksum is verified. `read_heads` reads only what the records say of
composition and state.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import DamagedFileError, MlipfmError
from .flat import FlatStructures, flatten
from .quantities import QUANTITIES
from .records import _ATOMS, _NONE32, FIXED, FRAME, HEAD, MAGIC, MOTION, Layout, _decode, check

Array = NDArray[Any]

_PADDING = [bytes(n) for n in (0, 7, 6, 5, 4, 3, 2, 1)]  # by length modulo 8
_KEPT = ("positions", "cell", "field")
_KIND = np.uint32(int.from_bytes(MAGIC + bytes([FRAME]), "little"))


def decode_flat(records: Sequence[bytes], layouts: Sequence[Layout], which: Array, keys: Array) -> FlatStructures:
    """Frames in one set of arrays.

    Args:
        records: of frames, as they are in the file; at least one. layouts: of all of them. which: [records] place in `layouts` of each one's own.
        keys: [records] V16, `Structure.key` of each.

    Raises:
        DamagedFileError: a checksum does not match, or a record does not fit its layout; `where` is `record K` of those given.
    """
    text = keys.tobytes().hex()
    names = tuple([text[k : k + 32] for k in range(0, len(text), 32)])
    block = _Block(records)
    alike = bool((which == which[0]).all())
    used, which = (which[:1], np.zeros_like(which)) if alike else np.unique(which, return_inverse=True)
    layouts = [layouts[k] for k in used.tolist()]
    if any(layout.n_free for layout in layouts):  # labels of probes and pairs have a length of their own in each record
        return _one_by_one(records, layouts, which, names)
    groups: dict[Any, list[int]] = {}
    for k, layout in enumerate(layouts):
        groups.setdefault((layout.blocks, layout.moving), []).append(k)
    filled = _Filled(block)
    for members in groups.values():
        filled.add(layouts[members[0]], None if len(groups) == 1 else np.flatnonzero(np.isin(which, members)))
    pbc = np.array([layout.pbc for layout in layouts])[which]
    levels = [layout.level for layout in layouts]
    return filled.finish(pbc, tuple([levels[k] for k in which.tolist()]), names)


class Heads(NamedTuple):
    """Composition and state of frames.

    Attributes:
        n_atoms: [frames] int64. atomic_numbers: [atoms] uint8, end to end.
        total_charge: [frames] int64, e; 0 where not stated, and then `charge_stated` [frames] is False.
        spin_multiplicity: [frames] int64, 2S+1; 0 where not stated.
    """

    n_atoms: Array
    atomic_numbers: Array
    total_charge: Array
    charge_stated: Array
    spin_multiplicity: Array


def read_heads(records: Sequence[bytes]) -> Heads:
    """Composition and state of frames; nothing else of them is decoded.

    Args:
        records: of frames, as they are in the file; at least one.

    Raises:
        DamagedFileError: a checksum does not match, or a record is too short for its atoms; `where` is `record K` of those given.
    """
    block = _Block(records)
    behind = block.start + block.length - block.text  # the atomic numbers, the text of the provenance follows
    wrong = np.flatnonzero(behind - block.atoms < block.start + HEAD.size + FIXED.size)
    if len(wrong):
        raise DamagedFileError("a record that does not fit its layout", where=f"record {wrong[0]}")
    steps = np.arange(int(block.atoms.sum())) - np.repeat(np.cumsum(block.atoms), block.atoms)
    numbers = np.frombuffer(block.bytes_, "u1")[np.repeat(behind, block.atoms) + steps]
    return Heads(block.atoms, numbers, *_state(block))


def _state(block: _Block) -> tuple[Array, Array, Array]:
    """Charges, whether they are stated, and multiplicities, 0 where not stated."""
    stated = block.charge != _NONE32
    return np.where(stated, block.charge, 0), stated, np.where(block.multiplicity == _NONE32, 0, block.multiplicity)


def _one_by_one(records: Sequence[bytes], layouts: Sequence[Layout], which: Array, names: Sequence[str]) -> FlatStructures:
    structures = [_decode(record, layouts[k])[0] for record, k in zip(records, which.tolist(), strict=True)]
    for structure, name in zip(structures, names, strict=True):
        structure.__dict__["key"] = name
    return flatten(structures)


class _Block:
    """Records that passed their checksum, each at a multiple of 8 bytes of one buffer.

    Attributes:
        bytes_: the buffer. start: [records] where each begins. atoms, charge, multiplicity, length, text: [records], of their headers.
    """

    def __init__(self, records: Sequence[bytes]) -> None:
        parts = [b""] * (2 * len(records))
        parts[::2] = records
        parts[1::2] = [_PADDING[len(record) % 8] for record in records]
        self.bytes_ = b"".join(parts)
        self.length = np.fromiter(map(len, records), np.int64, len(records))
        padded = (self.length + 7) // 8 * 8
        self.start = np.cumsum(padded) - padded
        short = np.flatnonzero(self.length < HEAD.size + FIXED.size)
        if len(short):
            _refuse(records, short)
        found = np.array([zlib.crc32(memoryview(record)[4:]) for record in records], np.uint32)
        words = np.frombuffer(self.bytes_, "<u4")
        at = self.start // 4
        right = (words[at] == found) & (words[at + 1] == _KIND) & (words[at + 3] == self.length - HEAD.size)
        if not right.all():
            _refuse(records, np.flatnonzero(~right))
        self.atoms = words[at + 4].astype(np.int64)
        self.charge, self.multiplicity = (words[at + k].astype(np.int32).astype(np.int64) for k in (5, 6))
        self.text = words[at + 7].astype(np.int64)

    def runs(self, dtype: str, width: int) -> Array:
        """[places, width]: the `width` values from every place on, without a copy."""
        size = int(dtype[-1])
        return np.ndarray((len(self.bytes_) // size - width + 1, width), dtype, self.bytes_, strides=(size, size))


def _refuse(records: Sequence[bytes], wrong: Array) -> None:
    """The error that reading the first wrong record alone gives."""
    place = int(wrong[0])
    try:
        kind, _ = check(records[place])
    except MlipfmError as error:
        error.where = f"record {place}"
        raise
    raise DamagedFileError(f"a record of kind {kind} where a frame is wanted", where=f"record {place}")


class _Filled:
    """The flat arrays while groups of records with the same blocks are written into them."""

    def __init__(self, block: _Block) -> None:
        self.block = block
        self.total = int(block.atoms.sum())
        self.first = np.cumsum(block.atoms) - block.atoms  # of each system among the atoms
        self.arrays: dict[str, Array] = {}
        self.masks: dict[str, Array] = {}

    def add(self, layout: Layout, rows: Array | None) -> None:
        """Write the records `rows` (None: all), whose layouts have the blocks of this one."""
        block, every = self.block, slice(None)
        picked = every if rows is None else rows
        atoms, start = block.atoms[picked], block.start[picked]
        at = start + (HEAD.size + FIXED.size + MOTION.size * layout.moving)
        # Of each block: values per atom or per system, and bytes in each record.
        wide = [math.prod([axis for axis in item.axes if axis != _ATOMS]) for item in layout.blocks]
        sizes = [int(b.dtype[2]) * w * (atoms if _ATOMS in b.axes else 1) for b, w in zip(layout.blocks, wide, strict=True)]
        wrong = at + sum(sizes) + atoms + block.text[picked] != start + block.length[picked]
        if wrong.any():
            place = int(wrong.argmax()) if rows is None else int(rows[wrong.argmax()])
            raise DamagedFileError("a record that does not fit its layout", where=f"record {place}")
        firsts = np.cumsum(atoms) - atoms
        steps = np.arange(int(atoms.sum())) - np.repeat(firsts, atoms)  # of each atom in its own system
        of_atoms = every if rows is None else np.repeat(self.first[rows], atoms) + steps
        for item, w, size in zip(layout.blocks, wide, sizes, strict=True):
            if item.slot in _KEPT or item.slot.startswith("label:"):
                per_atom = _ATOMS in item.axes
                begin = at // int(item.dtype[2])
                values = block.runs(item.dtype, w)[np.repeat(begin, atoms) + w * steps if per_atom else begin]
                shape = tuple(axis for axis in item.axes if axis != _ATOMS)
                self._put(item.slot, of_atoms if per_atom else picked, values.reshape(len(values), *shape), per_atom)
                if item.slot.startswith("label:"):
                    self.masks.setdefault(item.slot, np.zeros(len(block.atoms), dtype=bool))[picked] = True
            at = at + size
        self._put("numbers", of_atoms, block.runs("u1", 1)[np.repeat(at, atoms) + steps, 0], True, np.int64)

    def _put(self, slot: str, target: Any, values: Array, per_atom: bool, dtype: Any = np.float64) -> None:
        if isinstance(target, slice):
            self.arrays[slot] = values.astype(dtype)
            return
        if slot not in self.arrays:
            self.arrays[slot] = np.zeros((self.total if per_atom else len(self.block.atoms), *values.shape[1:]), dtype)
        self.arrays[slot][target] = values

    def finish(self, pbc: Array, levels: tuple[str | None, ...], names: tuple[str, ...]) -> FlatStructures:
        block = self.block
        known = sorted(slot for slot in self.masks if slot.partition(":")[2] in QUANTITIES)
        charge, stated, multiplicity = _state(block)
        return FlatStructures(
            positions=self.arrays["positions"],
            atomic_numbers=self.arrays["numbers"],
            n_atoms=block.atoms,
            cell=self.arrays.get("cell", np.zeros((len(levels), 3, 3))),
            pbc=pbc,
            total_charge=charge,
            charge_stated=stated,
            spin_multiplicity=multiplicity,
            external_field=self.arrays.get("field", np.zeros((len(levels), 3))),
            levels=levels,
            keys=names,
            labels={slot.partition(":")[2]: self.arrays[slot] for slot in known},
            label_mask={slot.partition(":")[2]: self.masks[slot] for slot in known},
        )
