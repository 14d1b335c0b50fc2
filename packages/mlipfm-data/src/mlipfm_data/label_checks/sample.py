"""Statistics and a bounded sample of the frames of each level of theory, in which neighbouring frames stay together.

Frames of one family (group, composition in its order, charge, multiplicity, periodic directions) that follow each other are a block of at most
`BLOCK`. Of each level at most `FRAMES` frames and `ATOMS` atoms are kept: a random block of the largest family leaves first, and when every family is
down to `BLOCK` frames, the family whose key hashes highest leaves as a whole. So a store of one trajectory and a shuffled store of a million
molecules are both sampled evenly, and frames of one molecule are kept together. Deterministic: the same stream gives the same sample.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from mlipfm_interfaces.structure import Structure

from .findings import MOST
from .geometry import fixed_along, unknown_forces, unmasked_zeros

# Checks that every frame passes through on its own, in constant memory per level: states, sums of forces, zeros, symmetry, rounding, copies.

#: Keys and label digests remembered of each level, and light records of energies. Beyond that, frames are not looked for copies any more.
REMEMBERED = 200_000
#: Frames whose decimals are counted.
ROUNDED = 2_000
#: eV/Å: smaller components are zero by symmetry, and do not tell how many decimals were written.
TELLING = 1e-4
#: eV and eV/Å: labels of one geometry that differ by more than this contradict each other.
SAME_ENERGY, SAME_FORCE = 1e-3, 1e-2


@dataclass
class FrameCount:
    """Frames with one property: how many, and the first of them."""

    count: int = 0
    indices: list[int] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)

    def add(self, index: int, structure: Structure | None = None) -> None:
        self.count += 1
        if len(self.indices) < MOST:
            self.indices.append(index)
        if structure is not None and structure.provenance.group is not None and len(self.groups) < MOST:
            self.groups.add(structure.provenance.group)


@dataclass
class Record:
    """Energy of one frame, eV, with its index, the number of its composition, and its number of atoms."""

    index: int
    composition: int
    atoms: int
    energy: float


class SampleStatistics:
    """Counts of the frames of one level of theory, updated by `add` with one frame at a time.

    Attributes:
        frames, with_energy, with_forces, with_stress: numbers of frames.
        not_finite: frames with NaN or infinite labels; nothing else of them is counted.
        with_multiplicity: frames with a spin multiplicity. zero_multiplicities: number of those below 1.
        unpaired_counts: frames whose multiplicity fits the number of electrons if it is a number of unpaired electrons.
        impossible: frames whose charge and multiplicity contradict the number of electrons either way.
        incomplete_state: molecules with one of charge and multiplicity, which cannot be neutral, or singlets, as the other would be assumed.
        zero_forces, zero_stress: frames whose forces or stress are exactly zero.
        asymmetric: frames whose stress is not symmetric.
        fixed: frames in which some forces are exactly zero, and no weight of 0 leaves them out.
        fixed_along_axes: frames in which forces of some atoms are exactly zero along some axes.
        contradictory: frames whose geometry was there before with other labels.
        copied_forces, copied_energies: frames whose labels are those of another geometry, to the last digit.
        isolated_forces: isolated atoms with a force.
        net_forces: (size of the net force over the square root of the number of atoms, eV/Å; index) of frames.
        net_over_sum: size of the net force over the sum of the sizes of the forces, of frames without fixed atoms.
        torques: `mean_torque` of molecules.
        decimals: numbers of frames by the decimals of their forces.
        records: energies of the first `REMEMBERED` frames.
        compositions: a number for each composition with its charge and multiplicity.
    """

    def __init__(self) -> None:
        self.frames = self.with_energy = self.with_forces = self.with_stress = self.zero_multiplicities = 0
        self.not_finite, self.unpaired_counts, self.impossible = FrameCount(), FrameCount(), FrameCount()
        self.with_multiplicity, self.incomplete_state = FrameCount(), FrameCount()
        self.zero_forces, self.zero_stress, self.asymmetric = FrameCount(), FrameCount(), FrameCount()
        self.fixed, self.fixed_along_axes, self.contradictory = FrameCount(), FrameCount(), FrameCount()
        self.copied_forces, self.copied_energies = FrameCount(), FrameCount()
        self.isolated_forces = FrameCount()
        self.net_over_sum: list[float] = []
        self.net_forces: list[tuple[float, int]] = []
        self.torques: list[float] = []
        self.decimals: Counter[int] = Counter()
        self.records: list[Record] = []
        self.compositions: dict[tuple[bytes, int | None, int | None], int] = {}
        self._geometries: dict[str, tuple[float, float]] = {}
        self._forces: dict[bytes, str] = {}
        self._energies: dict[tuple[int, float], tuple[float, float]] = {}

    def add(self, index: int, structure: Structure) -> None:
        self.frames += 1
        if not all(np.isfinite(value).all() for value in structure.labels.values()):
            self.not_finite.add(index, structure)
            return
        self._state(index, structure)
        energy, forces, stress = (structure.labels.get(name) for name in ("energy", "forces", "stress"))
        if energy is not None:
            self._energy(index, structure, float(energy))
        if forces is not None:
            self._force(index, structure, forces)
        if stress is not None:
            self._stress(index, structure, stress)
        if energy is not None or forces is not None:
            self._copies(index, structure, energy, forces)

    def _state(self, index: int, structure: Structure) -> None:
        charge, multiplicity = structure.total_charge, structure.spin_multiplicity
        if (charge is None) != (multiplicity is None) and not structure.pbc.any():
            electrons = int(structure.atomic_numbers.sum()) - (charge or 0)
            if (electrons - (multiplicity or 1) + 1) % 2:
                self.incomplete_state.add(index, structure)
        if multiplicity is None:
            return
        self.with_multiplicity.add(index)
        if multiplicity < 1:
            self.zero_multiplicities += 1
            self.unpaired_counts.add(index, structure)
            return
        if charge is None:
            return
        electrons = int(structure.atomic_numbers.sum()) - charge
        if electrons < 0 or multiplicity - 1 > electrons or (electrons - multiplicity + 1) % 2:
            # a 1 may be either: one electron without partner, or a singlet with the wrong charge; files that count electrons have zeros
            counts = electrons >= 0 and 1 < multiplicity <= electrons and (electrons - multiplicity) % 2 == 0
            (self.unpaired_counts if counts else self.impossible).add(index, structure)

    def _energy(self, index: int, structure: Structure, energy: float) -> None:
        self.with_energy += 1
        if len(self.records) < REMEMBERED:
            key = (np.sort(structure.atomic_numbers).astype(np.uint8).tobytes(), structure.total_charge, structure.spin_multiplicity)
            number = self.compositions.setdefault(key, len(self.compositions))
            self.records.append(Record(index, number, len(structure), energy))

    def _force(self, index: int, structure: Structure, forces: np.ndarray) -> None:
        self.with_forces += 1
        sizes = np.sqrt(np.einsum("na,na->n", forces, forces))
        total = float(sizes.sum())
        if len(structure) == 1:
            if total > 0.02 and structure.external_field is None:
                self.isolated_forces.add(index, structure)
            return
        if total == 0.0:
            self.zero_forces.add(index, structure)
            return
        plain = forces[np.abs(forces) > TELLING][:30]
        if self.with_forces < ROUNDED and len(plain) >= 3:
            self.decimals[decimals(plain)] += 1
        unknown = unknown_forces(structure)
        held = int(unknown.sum())
        if unmasked_zeros(structure).any():
            self.fixed.add(index, structure)
        if structure.external_field is not None or len(self.net_forces) >= REMEMBERED:
            return
        push = math.hypot(*forces.sum(axis=0).tolist())
        if held == 0 or push < 0.01 * total:  # else fixed atoms may take up the sum
            self.net_forces.append((push / math.sqrt(len(structure)), index))
        if total / len(structure) < 0.02:
            return
        if held:
            return
        self.net_over_sum.append(push / total)
        if fixed_along(forces).any():
            self.fixed_along_axes.add(index, structure)
        if not structure.pbc.any() and len(structure) > 2:
            self.torques.append(mean_torque(structure.positions, forces))

    def _stress(self, index: int, structure: Structure, stress: np.ndarray) -> None:
        self.with_stress += 1
        size = float(np.abs(stress).max())
        if size == 0.0:
            self.zero_stress.add(index, structure)
        elif np.abs(stress - stress.T).max() > 0.02 * size:
            self.asymmetric.add(index, structure)

    def _copies(self, index: int, structure: Structure, energy: np.ndarray | None, forces: np.ndarray | None) -> None:
        if len(self._geometries) >= REMEMBERED:
            return
        key = structure.key
        value = float("nan") if energy is None else float(energy)
        spread = float("nan") if forces is None else float(forces.ravel() @ _probe(forces.size))
        if key in self._geometries:
            before = self._geometries[key]
            if abs(before[0] - value) > SAME_ENERGY or abs(before[1] - spread) > SAME_FORCE * np.sqrt(
                forces.size if forces is not None else 1
            ):
                self.contradictory.add(index, structure)
            return
        self._geometries[key] = (value, spread)
        if forces is not None and len(structure) > 1 and np.abs(forces).max() > 1e-3:
            digest = hashlib.blake2b(forces.tobytes(), digest_size=8).digest()
            if digest in self._forces:
                self.copied_forces.add(index, structure)
            self._forces.setdefault(digest, key)
        if energy is not None and len(structure) > 1:
            self._copied_energy(index, structure, value, forces)

    def _copied_energy(self, index: int, structure: Structure, energy: float, forces: np.ndarray | None) -> None:
        """Equal to the last digit although the geometry differs in a way that is no symmetry: the sizes of forces, or of the system, differ too."""
        slot = (len(structure), energy)
        profile = _profile(structure, forces)
        known = self._energies.get(slot)
        if known is None:
            if len(self._energies) < REMEMBERED // 4:
                self._energies[slot] = profile
            return
        if any(abs(a - b) > 0.04 * (0.01 + abs(a)) for a, b in zip(profile, known, strict=True)):
            self.copied_energies.add(index, structure)


def _profile(structure: Structure, forces: np.ndarray | None) -> tuple[float, float]:
    """Mean square and largest force (without forces: distance from the centre): equal for geometries that symmetry makes equal."""
    rows = forces if forces is not None else structure.positions - structure.positions.mean(axis=0)
    squares = np.einsum("na,na->n", rows, rows)
    return float(squares.mean()), float(squares.max())


@lru_cache(64)
def _probe(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size)


def mean_torque(positions: np.ndarray, forces: np.ndarray) -> float:
    """|sum r x F| / sum |r||F|, about the centre: 0 for a free molecule, about 1/sqrt(N) for forces that do not belong to it."""
    arms = positions - positions.mean(axis=0)
    whole = float(np.sqrt(np.einsum("na,na->n", arms, arms)) @ np.sqrt(np.einsum("na,na->n", forces, forces)))
    moment = arms.T @ forces
    torque = math.hypot(moment[1, 2] - moment[2, 1], moment[2, 0] - moment[0, 2], moment[0, 1] - moment[1, 0])
    return torque / max(whole, 1e-300)


def decimals(values: np.ndarray) -> int:
    """Fewest decimals (0 to 6) that hold all values; 7: more than that."""
    return next((places for places in range(7) if _whole(values, places)), 7) if _whole(values, 6) else 7


def _whole(values: np.ndarray, places: int) -> bool:
    scaled = values * 10.0**places
    return bool(np.abs(scaled - np.rint(scaled)).max() < 1e-6 * max(1.0, 10.0 ** (places - 4)))


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
        key = _family_key(structure)
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
        """Return all frames of the sample, in the order of the stream."""
        return sorted((frame for family in self.families.values() for frame in family.frames), key=lambda frame: frame.index)

    def with_labels(self, *quantities: str) -> Iterator[tuple[FamilyKey, list[Frame]]]:
        """Families with their frames that carry all of these labels."""
        for key, family in self.families.items():
            frames = [frame for frame in family.frames if all(name in frame.structure.labels for name in quantities)]
            if frames:
                yield key, frames


def _family_key(structure: Structure) -> FamilyKey:
    """Return what frames must share to be compared: group, atoms in their order, charge, multiplicity and periodic directions."""
    s = structure
    return s.provenance.group, s.atomic_numbers.tobytes(), s.total_charge, s.spin_multiplicity, s.pbc.tobytes()


def _rank(key: FamilyKey) -> float:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def subsample(frames: list[Frame], count: int) -> list[Frame]:
    """Return at most `count` frames, evenly spread."""
    if len(frames) <= count:
        return frames
    return [frames[k] for k in np.linspace(0, len(frames) - 1, count).astype(int)]
