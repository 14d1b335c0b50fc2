"""Energies against forces and stress along pairs of near frames: slope, agreement, and whether the forces close around loops of three frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .held import unknown_forces
from .internal import MOST_ATOMS, Work, distance_profile, inverse_distances, work, work_inside
from .sampling import Frame, LevelSample

#: Frames compared in each family, fewer when there are many families; pairs of each level at most.
PER_FAMILY, PAIRS = 72, 300
#: Å; in crystals and liquids frames further apart than this are not compared.
FAR = 0.6
#: Root mean square difference (1/Å or fractional) below which two frames are one geometry: energies differ by noise only.
SAME = 2e-5


@dataclass(frozen=True)
class Pair:
    """Two near frames: their positions in the stream, the energy difference in eV, the work, the number of atoms, and a number for their family."""

    a: int
    b: int
    energy: float
    work: Work
    atoms: int
    family: int


@dataclass(frozen=True)
class Agreement:
    """How differences y follow predictions x through the origin.

    Attributes:
        slope: weighted median of y/x. fit: 1 - mean |y - slope x| / mean |y|, without wild frames; 1 is perfect, 0 says nothing. pairs: how many.
        error: relative uncertainty of the slope, from the spread of the ratios.
    """

    slope: float = float("nan")
    fit: float = 0.0
    pairs: int = 0
    error: float = float("inf")

    @property
    def tells(self) -> bool:
        """Whether the slope means something."""
        return self.error < 0.25 and ((self.pairs >= 6 and self.fit >= 0.35) or (self.pairs >= 30 and self.fit >= 0.2))


@dataclass
class Comparison:
    """All pairs of one level and what they say.

    Attributes:
        pairs: with energies and forces. loops: (i, j, k) sums of work around three frames and of its absolute values, eV.
        untestable: pairs left out because atoms move whose forces are not known.
    """

    pairs: list[Pair] = field(default_factory=list)
    loops: list[tuple[float, float]] = field(default_factory=list)
    untestable: int = 0

    def energy_forces(self, per_atom: bool = False) -> Agreement:
        """dE against the work of forces (and stress where the cell changes), eV; `per_atom` multiplies dE by the number of atoms first."""
        kept = [pair for pair in self.pairs if pair.work.strained < 1e-4]
        x = np.array([pair.work.forces for pair in kept])
        y = np.array([pair.energy * (pair.atoms if per_atom else 1) for pair in kept])
        return agreement(x, y, self.weights(kept))

    def energy_stress(self, slope: float = 1.0) -> Agreement:
        """dE without the work of forces (times `slope`) against the work of stress, over pairs whose cells differ."""
        kept = [pair for pair in self.pairs if pair.work.strained > 1e-4 and np.isfinite(pair.work.strain)]
        x = np.array([pair.work.strain for pair in kept])
        y = np.array([pair.energy - slope * pair.work.forces for pair in kept])
        return agreement(x, y, self.weights(kept))

    def above(self, least: float) -> Comparison:
        """Only the pairs between which forces do work of at least `least` eV."""
        return Comparison([pair for pair in self.pairs if abs(pair.work.forces) >= least], self.loops, self.untestable)

    def among(self, indices: set[int]) -> Comparison:
        """Only the pairs of these frames."""
        return Comparison([pair for pair in self.pairs if pair.a in indices and pair.b in indices], self.loops)

    @staticmethod
    def weights(pairs: list[Pair]) -> np.ndarray:
        """Less for steps at whose ends the forces differ much: the trapezoid is exact to second order, its error grows with the third."""
        if not pairs:
            return np.zeros(0)
        size = np.array([abs(pair.work.forces) for pair in pairs])
        bend = np.array([pair.work.bend for pair in pairs])
        floor = np.median(size) * 0.1 + 1e-12
        return 1.0 / (floor + size * 0.2 + bend)

    @property
    def closure(self) -> float:
        """1 - mean |sum of work around a loop of three frames| / mean sum of |work|: near 1 for forces that belong to the geometries."""
        if len(self.loops) < 6:
            return float("nan")
        open_, whole = np.array(self.loops).T
        return float(1 - np.sum(np.abs(open_)) / max(float(np.sum(whole)), 1e-300))


def agreement(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Agreement:
    """Robust slope through the origin; see `Agreement`."""
    kept = np.isfinite(x) & np.isfinite(y) & (np.abs(x) > 1e-12)
    x, y, weights = x[kept], y[kept], weights[kept]
    if len(x) < 3 or not np.any(y):
        return Agreement(pairs=len(x))
    ratio, mass = y / x, np.abs(x) * weights
    slope = _weighted_median(ratio, mass)
    size = weights * np.abs(y)
    most = 4 * float(np.quantile(size, 0.75))  # a few wild frames must not decide
    miss = float(np.sum(np.minimum(weights * np.abs(y - slope * x), most)) / max(float(np.sum(np.minimum(size, most))), 1e-300))
    effective = float(mass.sum() ** 2 / np.sum(mass**2))
    spread = _weighted_median(np.abs(ratio - slope), mass) / max(abs(slope), 1e-300)
    return Agreement(slope, 1 - miss, len(x), 1.5 * spread / np.sqrt(effective))


def _weighted_median(values: np.ndarray, mass: np.ndarray) -> float:
    order = np.argsort(values)
    heap = np.cumsum(mass[order])
    return float(values[order][np.searchsorted(heap, heap[-1] / 2)])


def compare(sample: LevelSample) -> Comparison:
    """Pairs of near frames of every family of the sample."""
    families = [frames for _, frames in sample.with_labels("energy", "forces") if len(frames) > 1 and len(frames[0].structure) > 1]
    result = Comparison()
    budget = max(4, min(PER_FAMILY, 2 * PAIRS // max(1, len(families))))
    for number, frames in enumerate(sorted(families, key=len, reverse=True)[:PAIRS]):
        _compare_family(_spread_of_blocks(frames, budget), result, number)
        if len(result.pairs) >= PAIRS:
            break
    return result


def _spread_of_blocks(frames: list[Frame], count: int) -> list[Frame]:
    """At most `count` frames; runs of neighbours are kept whole, because near frames are what is compared."""
    if len(frames) <= count:
        return frames
    run = 6
    starts = np.unique(np.linspace(0, len(frames) - run, max(1, count // run)).astype(int))
    chosen = sorted({k for start in starts for k in range(start, start + run)})
    return [frames[k] for k in chosen]


def _compare_family(frames: list[Frame], result: Comparison, family: int) -> None:
    frames = [frame for frame in frames if np.isfinite(frame.structure.labels["forces"]).all()]
    first = frames[0].structure if frames else None
    if first is None or len(frames) < 2:
        return
    inside = not first.pbc.any() and len(first) <= MOST_ATOMS and not any(unknown_forces(frame.structure).any() for frame in frames)
    profiles = np.array([distance_profile(frame.structure) for frame in frames])
    near = _nearest(profiles, periodic=bool(first.pbc.any()))
    internals = [inverse_distances(frame.structure) for frame in frames] if inside else []

    def between(i: int, j: int) -> Work | None:
        a, b = frames[i].structure, frames[j].structure
        return work_inside(internals[i], internals[j], float("nan")) if inside else work(a, b)

    known: dict[tuple[int, int], Work] = {}
    for i, j in near:
        found = between(i, j)
        if found is None:
            result.untestable += 1
        elif inside or found.step < FAR:
            known[i, j] = found
            a, b = frames[i].structure, frames[j].structure
            energy = float(b.labels["energy"]) - float(a.labels["energy"])
            result.pairs.append(Pair(frames[i].index, frames[j].index, energy, found, len(a), family))
    _loops(known, between, result, inside)


def nearest_pair(frame: Frame, others: list[Frame]) -> Pair | None:
    """A frame with the nearest of the others, of the same atoms; None if there is none, or if its work is not known."""
    if not others:
        return None
    s = frame.structure
    mine = distance_profile(s)
    steps = [distance_profile(other.structure) - mine for other in others]
    if s.pbc.any():
        steps = [step - np.round(step) for step in steps]
    other = others[int(np.argmin([float(step @ step) for step in steps]))]
    inside = not s.pbc.any() and len(s) <= MOST_ATOMS and not (unknown_forces(s) | unknown_forces(other.structure)).any()
    found = work_inside(inverse_distances(other.structure), inverse_distances(s), float("nan")) if inside else work(other.structure, s)
    if found is None:
        return None
    return Pair(other.index, frame.index, float(s.labels["energy"]) - float(other.structure.labels["energy"]), found, len(s), -1)


def _nearest(profiles: np.ndarray, periodic: bool) -> list[tuple[int, int]]:
    """Each frame with its two nearest, each pair once."""
    n = len(profiles)
    distance = np.full((n, n), np.inf)
    for k in range(n - 1):
        step = profiles[k + 1 :] - profiles[k]
        if periodic:
            step = step - np.round(step)
        distance[k, k + 1 :] = distance[k + 1 :, k] = np.sqrt(np.mean(step**2, axis=1))
    distance[distance < SAME] = np.inf
    pairs = set()
    for k in range(n):
        for other in np.argsort(distance[k])[:2]:
            if np.isfinite(distance[k, other]):
                pairs.add((min(k, int(other)), max(k, int(other))))
    return sorted(pairs)


def _loops(known: dict[tuple[int, int], Work], between: Callable[[int, int], Work | None], result: Comparison, inside: bool) -> None:
    """Triangles of near frames: two pairs that share a frame, closed by the third side."""
    by_frame: dict[int, list[int]] = {}
    for i, j in known:
        by_frame.setdefault(i, []).append(j)
        by_frame.setdefault(j, []).append(i)
    for middle, others in list(by_frame.items())[:40]:
        if len(others) < 2:
            continue
        i, j = others[0], others[1]
        sides = [_signed(known, i, middle), _signed(known, middle, j)]
        key = (min(i, j), max(i, j))
        third = known.get(key) or between(*key)
        if third is None:
            continue
        sides.append(third.forces if (j, i) == key else -third.forces)
        if inside or third.step < 2 * FAR:
            result.loops.append((float(sum(sides)), float(sum(abs(side) for side in sides))))


def _signed(known: dict[tuple[int, int], Work], i: int, j: int) -> float:
    return known[i, j].forces if (i, j) in known else -known[j, i].forces
