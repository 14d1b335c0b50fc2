"""What `inspect` keeps of a stream: a bounded sample of every level of theory, in which neighbouring frames stay together.

Frames of one family (group, composition in its order, charge, multiplicity, periodic directions) that follow each other are a block of at most
`BLOCK`. Of each level at most `FRAMES` frames and `ATOMS` atoms are kept: a random block of the largest family leaves first, and when every family is
down to `BLOCK` frames, the family whose key hashes highest leaves as a whole. So a store of one trajectory and a shuffled store of a million
molecules are both sampled evenly, and frames of one molecule are kept together. Deterministic: the same stream gives the same sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from mlipfm_interfaces.structure import Structure

#: Frames that follow each other and are kept or dropped together; frames and atoms kept of each level.
BLOCK, FRAMES, ATOMS = 12, 288, 40_000

FamilyKey = tuple[str | None, bytes, int | None, int | None, bytes]


@dataclass(frozen=True)
class Frame:
    """A structure with its position in the stream."""

    index: int
    structure: Structure


@dataclass
class _Block:
    priority: float
    frames: list[Frame] = field(default_factory=list)


@dataclass
class Family:
    """Frames of one group and composition.

    Attributes:
        rank: hash of the key in [0, 1): which families stay when there are too many. blocks: runs of neighbouring frames, in the stream's order.
    """

    rank: float
    blocks: list[_Block] = field(default_factory=list)

    @property
    def frames(self) -> list[Frame]:
        return [frame for block in self.blocks for frame in block.frames]


class LevelSample:
    """The bounded sample of one level of theory."""

    def __init__(self) -> None:
        self.families: dict[FamilyKey, Family] = {}
        self.seen = 0
        self._rng = np.random.default_rng(0)
        self._count = self._atoms = 0
        self._last: FamilyKey | None = None
        self._limit = 1.0  # families that hash above it have left and do not come back

    def add(self, index: int, structure: Structure) -> None:
        self.seen += 1
        key = family_key(structure)
        family = self.families.get(key)
        if family is None:
            rank = _rank(key)
            if rank >= self._limit:
                self._last = key
                return
            family = self.families.setdefault(key, Family(rank))
        if key != self._last or not family.blocks or len(family.blocks[-1].frames) >= BLOCK:
            family.blocks.append(_Block(float(self._rng.random())))
        family.blocks[-1].frames.append(Frame(index, structure))
        self._last = key
        self._count, self._atoms = self._count + 1, self._atoms + len(structure)
        while (self._count > FRAMES or self._atoms > ATOMS) and self._count > BLOCK:
            self._drop()

    def _drop(self) -> None:
        key, largest = max(self.families.items(), key=lambda item: sum(len(block.frames) for block in item[1].blocks))
        if len(largest.blocks) > 1 and sum(len(block.frames) for block in largest.blocks) > BLOCK:
            gone = max(largest.blocks[:-1], key=lambda block: block.priority)
            largest.blocks.remove(gone)
            frames = gone.frames
        else:
            key = max(self.families, key=lambda name: self.families[name].rank)
            self._limit = self.families[key].rank
            frames = self.families.pop(key).frames
        self._count -= len(frames)
        self._atoms -= sum(len(frame.structure) for frame in frames)

    def frames(self) -> list[Frame]:
        """All frames of the sample, in the order of the stream."""
        return sorted((frame for family in self.families.values() for frame in family.frames), key=lambda frame: frame.index)

    def with_labels(self, *quantities: str) -> Iterator[tuple[FamilyKey, list[Frame]]]:
        """Families with their frames that carry all of these labels."""
        for key, family in self.families.items():
            frames = [frame for frame in family.frames if all(name in frame.structure.labels for name in quantities)]
            if frames:
                yield key, frames


def family_key(structure: Structure) -> FamilyKey:
    """What frames must share to be compared: group, atoms in their order, charge, multiplicity and periodic directions."""
    s = structure
    return s.provenance.group, s.atomic_numbers.tobytes(), s.total_charge, s.spin_multiplicity, s.pbc.tobytes()


def _rank(key: FamilyKey) -> float:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def thinned(frames: list[Frame], count: int) -> list[Frame]:
    """At most `count` frames, evenly spread."""
    if len(frames) <= count:
        return frames
    return [frames[k] for k in np.linspace(0, len(frames) - 1, count).astype(int)]
