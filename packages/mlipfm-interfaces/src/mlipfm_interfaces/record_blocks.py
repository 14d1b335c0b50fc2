"""Many records at once: `read_heads` reads what the records of frames say of composition and state, and nothing else of them.

Every record's checksum is verified.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import DamagedFileError, MlipfmError
from .records import _NONE32, FIXED, FRAME, HEAD, MAGIC, check

Array = NDArray[Any]

_PADDING = [bytes(n) for n in (0, 7, 6, 5, 4, 3, 2, 1)]  # by length modulo 8
_KIND = np.uint32(int.from_bytes(MAGIC + bytes([FRAME]), "little"))


class Heads(NamedTuple):
    """Composition and state of frames.

    Attributes:
        n_atoms: [frames] int64. atomic_numbers: [atoms] uint8, end to end.
        total_charge: [frames] int64, e; 0 where not given, and then `charge_stated` [frames] is False.
        spin_multiplicity: [frames] int64, 2S+1; 0 where not given.
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
    """Charges, whether they are given, and multiplicities, 0 where not given."""
    stated = block.charge != _NONE32
    return np.where(stated, block.charge, 0), stated, np.where(block.multiplicity == _NONE32, 0, block.multiplicity)


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


def _refuse(records: Sequence[bytes], wrong: Array) -> None:
    """The error that reading the first wrong record alone gives."""
    place = int(wrong[0])
    try:
        kind, _ = check(records[place])
    except MlipfmError as error:
        error.where = f"record {place}"
        raise
    raise DamagedFileError(f"a record of kind {kind} where a frame is wanted", where=f"record {place}")
