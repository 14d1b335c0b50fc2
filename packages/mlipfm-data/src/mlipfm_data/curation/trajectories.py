"""Frames of one trajectory: cut into blocks of time, and found on both sides of a split.

Neighbouring frames of a trajectory are alike. Dealt at random, validation frames lie between training frames, and errors on them say how well a
model interpolates in time, not what it does on a new trajectory. A trajectory is what has one source, one group and one list of atoms; its frames
are in the order of their index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, OptionError
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

from ..duplicates.fingerprints import distance_matrix
from .splits import OOD, Split, geometry_of

#: A frame lies beside a training frame if that is nearer than this times what frames of the trajectory usually are apart: correlation above 3/4.
ALIKE = 0.5
#: Frames that are looked at, training frames that each is compared with, and how many frames a statement needs.
LOOKED_AT, COMPARED, FEWEST = 200, 8, 5
#: Atoms whose distances describe a molecule.
ATOMS = 64

Trajectory = tuple[str | None, str | None, bytes]


@dataclass(frozen=True)
class Beside:
    """Held-out frames that lie beside training frames in time and in geometry: `count` of `looked_at` that share a trajectory with them."""

    count: int
    looked_at: int

    @property
    def matters(self) -> bool:
        """Whether most of them do."""
        return self.looked_at >= FEWEST and self.count > self.looked_at / 2


def time_split(structures: Sequence[Structure], fractions: Mapping[str, float], gap: int = 0) -> tuple[Split, list[int]]:
    """Cut every trajectory into contiguous blocks, one for each part in the order of `fractions`.

    A geometry that comes again stays where it came first. Trajectories with too few frames belong to the first part as a whole.

    Args:
        gap: frames that are dropped between two blocks.

    Returns:
        The split, and positions that are in no part.

    Raises:
        InvalidStructureError: a structure without an index. OptionError: fractions that cannot be, or no trajectory that can be cut.
    """
    if not all(share > 0 for share in fractions.values()) or not abs(sum(fractions.values()) - 1) <= 1e-6 or OOD in fractions:
        raise OptionError(
            f"fractions {dict(fractions)} are not positive numbers that add up to 1, without {OOD!r}", hint="train=0.8,valid=0.2"
        )
    trajectories = _trajectories(structures)
    names = [geometry_of(s) for s in structures]
    part_of: dict[str, str | None] = {}
    for positions in trajectories.values():
        new = [name for name in dict.fromkeys(names[k] for k in positions) if name not in part_of]
        part_of |= dict(zip(new, _blocks(len(new), fractions, gap), strict=True))
    parts = {part: [k for k, name in enumerate(names) if part_of[name] == part] for part in fractions}
    if not all(parts.values()):
        longest = max(map(len, trajectories.values()))
        raise OptionError(
            f"no trajectory can be cut into {len(fractions)} blocks with gaps of {gap}: the longest of {len(trajectories)} has {longest} frames",
            hint="frames of a trajectory have one source and one group (--group-key); if these are none, split by random, molecule or composition",
        )
    return Split("time", 0, parts, (), len(trajectories)), [k for k, name in enumerate(names) if part_of[name] is None]


def beside_training(train: Sequence[Structure], held_out: Sequence[Structure]) -> Beside:
    """Return how many of some held-out frames lie beside training frames of their trajectory; see the module."""
    trajectories: dict[Trajectory, list[int]] = defaultdict(list)
    for k, s in enumerate(train):
        if s.provenance.index is not None:
            trajectories[_trajectory(s)].append(k)
    count = looked_at = 0
    for k in np.unique(np.linspace(0, len(held_out) - 1, LOOKED_AT).astype(int)).tolist() if len(held_out) else []:
        frame = held_out[k]
        mates = trajectories.get(_trajectory(frame), [])
        if frame.provenance.index is None or len(mates) < COMPARED:
            continue
        looked_at += 1
        apart = [abs(int(train[m].provenance.index or 0) - frame.provenance.index) for m in mates]
        nearest = _difference(frame, train[mates[int(np.argmin(apart))]])
        spread = np.linspace(0, len(mates) - 1, COMPARED).astype(int)
        usual = float(np.median([_difference(frame, train[mates[m]]) for m in spread]))
        count += nearest < ALIKE * usual
    return Beside(count, looked_at)


def comparison_line(beside: Beside, where: str) -> str:
    """Return the warning, for people."""
    return (
        f"warning: {beside.count} of {beside.looked_at} {where} lie beside training structures of the same trajectory (neighbours in time, and "
        "alike): errors on them look smaller than on a new trajectory; `mlipfm data split STORE --by time --gap N --out PARTS` cuts blocks of time"
    )


def _trajectories(structures: Sequence[Structure]) -> dict[Trajectory, list[int]]:
    """Positions of the frames of each trajectory, in the order of their index."""
    found: dict[Trajectory, list[int]] = defaultdict(list)
    for k, s in enumerate(structures):
        if s.provenance.index is None:
            raise InvalidStructureError("gives no index in its source, so there is no order of time", where=f"structure {k}")
        found[_trajectory(s)].append(k)
    order = {k: int(s.provenance.index or 0) for k, s in enumerate(structures)}
    return {key: sorted(found[key], key=order.__getitem__) for key in sorted(found, key=repr)}


def _trajectory(s: Structure) -> Trajectory:
    return s.provenance.source, s.provenance.group, s.atomic_numbers.tobytes()


def _blocks(n: int, fractions: Mapping[str, float], gap: int) -> list[str | None]:
    """Part of each of `n` frames in the order of time; None in a gap."""
    parts = list(fractions)
    kept = n - gap * (len(parts) - 1)
    ends = np.round(np.cumsum(list(fractions.values())) * kept).astype(int) if kept > 0 else np.zeros(len(parts), dtype=int)
    sizes = np.diff(ends, prepend=0)
    if min(sizes) < 1:
        return [parts[0]] * n
    blocks: list[str | None] = []
    for part, size in zip(parts, sizes.tolist(), strict=True):
        blocks += [None] * (gap if blocks else 0) + [part] * size
    return blocks


def _difference(a: Structure, b: Structure) -> float:
    """Å, root mean square: of displacements in a crystal, of distances between atoms in a molecule, which do not know how it lies."""
    if not a.pbc.any():
        first, second = (distance_matrix(s.positions[:ATOMS]) for s in (a, b))
        return float(np.sqrt(np.mean((first - second) ** 2)))
    moved: NDArray[np.float64] = b.positions - a.positions
    if abs(np.linalg.det(a.cell)) > 1e-9:
        scaled = moved @ np.linalg.inv(a.cell)
        moved = moved - np.where(a.pbc, np.round(scaled), 0.0) @ a.cell
    moved = moved - moved.mean(axis=0)
    return float(np.sqrt(np.mean(moved**2)))
