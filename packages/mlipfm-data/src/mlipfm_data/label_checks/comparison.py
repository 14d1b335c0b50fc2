"""Energies, forces and stress of one level over pairs of near frames: slope, agreement, and whether the forces close around loops of three frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from mlipfm_interfaces.structure import Structure

from .geometry import unknown_forces, with_forces
from .pair_potential import Potential, fitted_potential
from .sample import Frame, LevelSample
from .work import MOST_ATOMS, Work, distance_profile, inverse_distances, work, work_inside

#: Frames compared in each family, fewer when there are many families; pairs of each level at most.
PER_FAMILY, PAIRS = 72, 300
#: Å; in crystals and liquids frames further apart than this are not compared.
FAR = 0.6
#: eV: frames between which energy and work change by less are equal by symmetry (single atoms displaced in one lattice), and say nothing.
STILL = 1e-4
#: Å; pairs of atoms nearer than this are bonds.
BOND = 1.8
#: Bend over work from which on the trapezoid is helped by a fitted potential, if its forces correlate this well with the labels.
BENT, EXPLAINED = 0.3, 0.7
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
        error: relative uncertainty of the slope, from the spread of the ratios. bending: `Comparison.bending`, which says how far the trapezoid may
        be off in one direction.
    """

    slope: float = float("nan")
    fit: float = 0.0
    pairs: int = 0
    error: float = float("inf")
    bending: float = 0.0

    @property
    def tells(self) -> bool:
        """Whether the slope means something."""
        return self.error < 0.25 and ((self.pairs >= 6 and self.fit >= 0.35) or (self.pairs >= 30 and self.fit >= 0.2))


@dataclass
class Comparison:
    """All pairs of one level and what they say.

    Attributes:
        pairs: with energies and forces. scaled: pairs of one arrangement in cells of other shapes or sizes, for the stress alone.
        loops: (i, j, k) sums of work around three frames and of its absolute values, eV.
        untestable: pairs left out because atoms move whose forces are not known.
        curvature: sum of the curves over that of the bends, of the forces as they are: -1 where the energy curves upwards along every step,
        near 0 for forces of other frames.
    """

    pairs: list[Pair] = field(default_factory=list)
    loops: list[tuple[float, float]] = field(default_factory=list)
    untestable: int = 0
    curvature: float = float("nan")
    scaled: list[Pair] = field(default_factory=list)

    def energy_forces(self, per_atom: bool = False) -> Agreement:
        """dE against the work of forces (and stress where the cell changes), eV; `per_atom` multiplies dE by the number of atoms first."""
        kept = [pair for pair in self.pairs if pair.work.strained < 1e-4]
        x = np.array([pair.work.forces for pair in kept])
        y = np.array([pair.energy * (pair.atoms if per_atom else 1) for pair in kept])
        return replace(agreement(x, y, self.weights(kept)), bending=self.bending)

    def energy_stress(self, slope: float = 1.0) -> Agreement:
        """dE without the work of forces (times `slope`) against the work of stress, over pairs whose cells differ."""
        kept = [pair for pair in [*self.pairs, *self.scaled] if pair.work.strained > 1e-4 and np.isfinite(pair.work.strain)]
        x = np.array([pair.work.strain for pair in kept])
        y = np.array([pair.energy - slope * pair.work.forces for pair in kept])
        return agreement(x, y, self.weights(kept))

    def above(self, least: float) -> Comparison:
        """Only the pairs between which forces do work of at least `least` eV."""
        kept = [pair for pair in self.pairs if abs(pair.work.forces) >= least]
        return Comparison(kept, self.loops, self.untestable, self.curvature, self.scaled)

    def among(self, indices: set[int]) -> Comparison:
        """Only the pairs of these frames."""
        kept, scaled = ([pair for pair in pairs if pair.a in indices and pair.b in indices] for pairs in (self.pairs, self.scaled))
        return Comparison(kept, self.loops, curvature=self.curvature, scaled=scaled)

    @staticmethod
    def weights(pairs: list[Pair]) -> np.ndarray:
        """Less for steps at whose ends the forces differ much: the trapezoid is exact to second order, its error grows with the third."""
        if not pairs:
            return np.zeros(0)
        size = np.array([abs(pair.work.forces) for pair in pairs])
        bend = np.array([pair.work.bend for pair in pairs])
        floor = np.median(size) * 0.1 + 1e-12
        return 1.0 / (floor + size * 0.2 + bend)

    def unrelated(self, slope: float = 1.0) -> bool:
        """Return whether energies and work have nothing to do with each other, in a way that right labels cannot show.

        Signs of dE and of the work agree no more often than by chance, and dE lies outside of what the forces at both ends allow (for a force that is
        monotone along the step, `bend` on either side of the trapezoid) in many pairs, or there are many pairs. Or it lies outside in most pairs
        although the forces close around loops to a tenth and change little along the steps.
        """
        kept = [pair for pair in self.pairs if pair.work.strained < 1e-4]
        if len(kept) < 12:
            return False
        energy, work, bend = np.array([(pair.energy, slope * pair.work.forces, abs(slope) * pair.work.bend) for pair in kept]).T
        outside = float(np.mean(np.abs(energy - work) > 1.5 * bend + 0.3 * np.abs(work)))
        precise = self.closure > 0.9 and self.bending < 0.1
        return (np.sign(slope) * self.signs < 0.35 and (outside > 0.3 or len(kept) >= 40)) or (precise and outside > 0.7)

    @property
    def signs(self) -> float:
        """Mean product of the signs of dE and of the work: 1 where all agree, 0 by chance."""
        kept = [pair for pair in self.pairs if pair.work.strained < 1e-4]
        return float(np.mean([np.sign(pair.energy * pair.work.forces) for pair in kept])) if kept else float("nan")

    @property
    def bending(self) -> float:
        """Mean bend over mean work of the pairs, with their weights: near 0 for steps that are short, 1 and more where the trapezoid says little."""
        kept = [pair for pair in self.pairs if pair.work.strained < 1e-4]
        weights = self.weights(kept)
        work = float(np.sum(weights * np.array([abs(pair.work.forces) for pair in kept])))
        return float(np.sum(weights * np.array([pair.work.bend for pair in kept]))) / max(work, 1e-300) if kept else 0.0

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
    spread = _weighted_median(np.abs(ratio - slope), mass, 0.683) / max(abs(slope), 1e-300)
    return Agreement(slope, 1 - miss, len(x), spread / np.sqrt(effective))


def _weighted_median(values: np.ndarray, mass: np.ndarray, part: float = 0.5) -> float:
    order = np.argsort(values)
    heap = np.cumsum(mass[order])
    return float(values[order][np.searchsorted(heap, heap[-1] * part)])


def compare(sample: LevelSample) -> Comparison:
    """Pairs of near frames of every family of the sample.

    Where the forces at both ends of the steps differ much, the trapezoid is wrong by tens of percent, and always in one direction: rattled crystals
    give slopes of 0.5 to 1. There a potential is fitted to the forces and integrated exactly; the trapezoid is used for what it does not explain.
    """
    plain = _compare(sample, None)
    curves = np.array([pair.work.curve for pair in plain.pairs if pair.work.strained < 1e-4])
    plain.curvature = float(curves.sum() / np.abs(curves).sum()) if np.any(curves) else float("nan")
    if plain.bending < BENT:
        return plain
    potential = fitted_potential([frame.structure for _, frames in sample.with_labels("energy", "forces") for frame in frames])
    if potential is None or potential.quality < EXPLAINED:
        return plain
    smooth = replace(_compare(sample, potential), curvature=plain.curvature)
    return smooth if smooth.bending < plain.bending else plain


def _compare(sample: LevelSample, potential: Potential | None) -> Comparison:
    families = [frames for _, frames in sample.with_labels("energy", "forces") if len(frames) > 1 and _moves(frames[0].structure)]
    result = Comparison()
    budget = max(4, min(PER_FAMILY, 2 * PAIRS // max(1, len(families))))
    for number, frames in enumerate(sorted(families, key=len, reverse=True)[:PAIRS]):
        _compare_family(_spread_of_blocks(frames, budget), result, number, potential)
        if len(result.pairs) >= PAIRS:
            break
    return result


def _moves(s: Structure) -> bool:
    """Return whether frames of it may differ: in places of several atoms, or in the cell of one."""
    return len(s) > 1 or bool(s.pbc.all())


def _spread_of_blocks(frames: list[Frame], count: int) -> list[Frame]:
    """Return at most `count` frames; runs of neighbours are kept whole, because near frames are what is compared."""
    if len(frames) <= count:
        return frames
    run = 6
    starts = np.unique(np.linspace(0, len(frames) - run, max(1, count // run)).astype(int))
    chosen = sorted({k for start in starts for k in range(start, start + run)})
    return [frames[k] for k in chosen]


def _compare_family(frames: list[Frame], result: Comparison, family: int, potential: Potential | None) -> None:
    frames = [frame for frame in frames if np.isfinite(frame.structure.labels["forces"]).all()]
    if len(frames) < 2:
        return
    structures = [frame.structure for frame in frames]
    profiles, periodic = np.array([distance_profile(s) for s in structures]), bool(structures[0].pbc.any())
    near = _nearest(profiles, periodic)
    inside = _inside(structures)
    between = _way(structures, inside, potential)
    known: dict[tuple[int, int], Work] = {}
    for i, j in near:
        found = between(i, j)
        if found is None:
            result.untestable += not inside
        elif inside or found.step < FAR:
            energy = float(structures[j].labels["energy"]) - float(structures[i].labels["energy"])
            if abs(energy) < STILL and abs(found.forces) < STILL and found.strained < 1e-4:
                continue
            known[i, j] = found
            result.pairs.append(Pair(frames[i].index, frames[j].index, energy, found, len(structures[i]), family))
    _loops(known, between, result, inside)
    if periodic:
        for i, j in _scaled(profiles, [abs(float(np.linalg.det(s.cell))) for s in structures]):
            found = work(structures[i], structures[j])
            if found is not None and found.strained > 1e-4 and np.isfinite(found.strain):
                energy = float(structures[j].labels["energy"]) - float(structures[i].labels["energy"])
                result.scaled.append(Pair(frames[i].index, frames[j].index, energy, found, len(structures[i]), family))


def _scaled(profiles: np.ndarray, volumes: list[float]) -> list[tuple[int, int]]:
    """Frames of one arrangement, such as those of an equation of state: each with the next larger one."""
    pairs = []
    order = np.argsort(volumes, kind="stable").tolist()
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            step = profiles[j] - profiles[i]
            if np.sqrt(np.mean((step - np.round(step)) ** 2)) < SAME:
                pairs.append((i, j))
                break
    return pairs


def _inside(structures: list[Structure]) -> bool:
    """Return whether work is taken in inverse distances: of molecules of which all forces are known."""
    first = structures[0]
    return not first.pbc.any() and len(first) <= MOST_ATOMS and not any(unknown_forces(s).any() for s in structures)


def _way(structures: list[Structure], inside: bool, potential: Potential | None) -> Callable[[int, int], Work | None]:
    """Work from one frame to another, by their numbers."""
    parts = None if potential is None else [potential(s) for s in structures]
    energies = np.zeros(len(structures))
    rest = structures
    if parts is not None and all(part is not None for part in parts):
        energies = np.array([part[0] for part in parts if part is not None])
        rest = [
            with_forces(s, np.where(unknown_forces(s)[:, None], 0.0, s.labels["forces"] - part[1]))
            for s, part in zip(structures, parts, strict=True)
            if part is not None
        ]
    internals = [inverse_distances(s) for s in rest] if inside else []

    def between(i: int, j: int) -> Work | None:
        if inside and _too_far(internals[i][0], internals[j][0]):
            return None
        if inside:
            found: Work | None = work_inside(internals[i], internals[j], float("nan"))
        else:
            found = work(rest[i], rest[j])
            if found is not None and found.strained > 1e-4:
                return work(structures[i], structures[j])
        return None if found is None else replace(found, forces=found.forces + float(energies[j] - energies[i]))

    return between


def _too_far(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a bond (below `BOND` Å in one of two frames, given by inverse distances) changes by more than half: its force has a maximum between."""
    bonds = np.maximum(a, b) > 1 / BOND
    return bool(np.any(np.abs(b - a)[bonds] > 0.25 * (a + b)[bonds]))


def nearest_pair(frame: Frame, others: list[Frame]) -> Pair | None:
    """Return a frame with the nearest of the others, of the same atoms; None if there is none, or if its work is not known."""
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
