"""Energies among themselves: lost digits, two levels under one name, energies of other frames, jumps and outliers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .comparison import Comparison, Pair, agreement, nearest_pair
from .findings import Finding, doubt, fault
from .sample import LevelSample, SampleStatistics
from .units import ENERGY, UnitGuess

# Energies among themselves: referenced to compositions, compared with the work between near frames, searched for jumps.

#: Part of the frames from which on they are a level of their own, not single ones that went wrong.
LEAST = 1 / 8
#: Pairs of the same system whose energies follow the forces, without which nothing is said of the others.
AGREEING = 3

# Words of several findings.
_TWO_LEVELS = "two levels of theory or two zeros"
_OUTLYING, _LEAVE_OUT = "unconverged, or of another calculation", "leave these frames out"


@dataclass(frozen=True)
class Jumps:
    """Pairs of near frames whose energies differ by much more than the work between them.

    Attributes:
        outliers: frames that most of their pairs single out. offset: eV per atom between two parts of the frames, if the jumps are all of one size.
        typical: eV, ordinary disagreement of energy and work. part: of the pairs that jump. largest: eV. agreement: fit of the other pairs.
        alone: whether the outliers, less than a third of the frames, are in nearly all jumps.
    """

    outliers: tuple[int, ...]
    offset: float | None
    typical: float
    part: float
    largest: float
    agreement: float
    alone: bool = False


def jumps(comparison: Comparison, slope: float, trusted_stress: bool = True) -> Jumps | None:
    """Energy differences against work (times `slope`), robustly; without pairs of different cells if the stress is not reliable."""
    pairs = [pair for pair in comparison.pairs if trusted_stress or pair.work.strained < 1e-4]
    if len(pairs) < 12:
        return None
    tolerance = np.array([_tolerance(pair, slope) for pair in pairs])
    rest = np.array([pair.energy - slope * _total(pair) for pair in pairs])
    typical = float(np.quantile(np.abs(rest), 0.35))  # of half of the pairs if the other half joins two levels
    usual = float(np.clip(np.quantile(np.abs(rest) / (tolerance + 1e-9), 0.4), 0.01, 0.5))
    atoms = np.array([pair.atoms for pair in pairs])
    bad = np.abs(rest) > max(16 * usual, 2.0) * tolerance + np.minimum(25 * typical, 0.02 * atoms) + 0.03 * atoms
    if not bad.any():
        return Jumps((), None, typical, 0.0, 0.0, 1.0)
    per_frame: dict[int, list[bool]] = {}
    for pair, is_bad in zip(pairs, bad, strict=True):
        per_frame.setdefault(pair.a, []).append(bool(is_bad))
        per_frame.setdefault(pair.b, []).append(bool(is_bad))
    sizes = np.abs(rest[bad]) / np.array([pair.atoms for pair, is_bad in zip(pairs, bad, strict=True) if is_bad])
    middle = float(np.median(sizes))
    even = _evenness(sizes, np.array([pair.family for pair, is_bad in zip(pairs, bad, strict=True) if is_bad]))
    agreeing = Counter(pair.family for pair, is_bad in zip(pairs, bad, strict=True) if not is_bad)
    family = {index: pair.family for pair in pairs for index in (pair.a, pair.b)}
    off = tuple(
        sorted(
            index
            for index, marks in per_frame.items()
            if len(marks) > 1 and sum(marks) > 0.6 * len(marks) and agreeing[family[index]] >= AGREEING
        )
    )
    part = float(bad.mean())
    moved, energies = np.array([_total(pair) for pair in pairs]), np.array([pair.energy for pair in pairs])
    rest_agrees = agreement(moved[~bad], energies[~bad], 1 / (tolerance[~bad] + typical + 1e-9))
    covered = np.mean([pair.a in off or pair.b in off for pair, is_bad in zip(pairs, bad, strict=True) if is_bad])
    few = (len(off) < LEAST * len(per_frame) and covered > 0.9) or _both_ways(pairs, rest, bad)  # single frames, not a part of them
    offset = middle if part > 0.2 and even > 0.7 and rest_agrees.fit > 0.3 and not few else None
    alone = bool(covered > 0.9 and 3 * len(off) < len(per_frame))
    return Jumps(off, offset, typical, part, float(np.abs(rest[bad]).max()), rest_agrees.fit, alone)


def _both_ways(pairs: list[Pair], rest: np.ndarray, bad: np.ndarray) -> bool:
    """Return whether some frames lie above and some below the middle of those they are connected with: another level of theory lies on one side."""
    number = {index: k for k, index in enumerate(sorted({index for pair in pairs for index in (pair.a, pair.b)}))}
    group, height = np.arange(len(number)), np.zeros(len(number))  # eV above the first frame of the group, joined by the best pairs first
    for k in np.argsort(np.abs(rest)):
        a, b = number[pairs[k].a], number[pairs[k].b]
        if group[a] != group[b]:
            joined = group == group[b]
            height[joined] += height[a] + rest[k] - height[b]
            group[joined] = group[a]
    least = 0.5 * float(np.median(np.abs(rest[bad])))
    for members in (group == name for name in np.unique(group)):
        off = height[members] - np.sort(height[members])[members.sum() // 2]  # one of them: of two halves the middle lies between
        if off.max() > least and off.min() < -least:
            return True
    return False


def _evenness(sizes: np.ndarray, families: np.ndarray) -> float:
    """Part of the jumps that are of the size usual in their family."""
    middles = {family: float(np.median(sizes[families == family])) for family in set(families.tolist())}
    usual = np.array([middles[family] for family in families.tolist()])
    counts = np.array([np.sum(families == family) for family in families.tolist()])
    several = counts > 2
    return float(np.mean(np.abs(sizes - usual)[several] < 0.2 * usual[several])) if several.sum() >= 4 else 0.0


def _total(pair: Pair) -> float:
    return pair.work.forces + (pair.work.strain if pair.work.strained > 1e-4 and np.isfinite(pair.work.strain) else 0.0)


def _tolerance(pair: Pair, slope: float) -> float:
    strain = abs(pair.work.strain) if np.isfinite(pair.work.strain) else (100.0 * pair.work.strained * pair.atoms)
    strain = strain if pair.work.strained > 1e-4 else 0.0
    return abs(slope) * (0.3 * abs(pair.work.forces) + pair.work.bend + 0.5 * strain)


@dataclass(frozen=True)
class Referenced:
    """Energies without what the composition explains.

    Attributes:
        rest: [frames] eV per atom. explained: part of the variance that composition explains. index: [frames] positions in the stream.
        compositions: number of different ones. sizes: ratio of the largest to the smallest number of atoms.
        elements: energies that were fitted. growth: slope of ln |E| against ln N. per_atom: as `explained`, if the numbers are energies per atom.
    """

    rest: np.ndarray
    explained: float
    index: np.ndarray
    compositions: int
    elements: int
    sizes: float
    growth: float
    per_atom: float


def referenced(passing: SampleStatistics) -> Referenced | None:
    """Robust fit of one energy per element over all recorded frames of one level; None where there is too little."""
    records = passing.records
    if len(records) < 16:
        return None
    keys = list(passing.compositions)
    number = np.array([record.composition for record in records])
    energy = np.array([record.energy for record in records])
    atoms = np.array([record.atoms for record in records])
    matrix = np.zeros((len(keys), 119))
    for row, (numbers, _, _) in enumerate(keys):
        matrix[row] = np.bincount(np.frombuffer(numbers, dtype=np.uint8), minlength=119)
    matrix = matrix[:, matrix.any(axis=0)]
    used = matrix[number] / atoms[:, None]
    target = energy / atoms
    fitted = _robust(used, target)
    rest = target - fitted
    total = float(np.sum(np.abs(energy - np.median(energy))))
    explained = 1 - float(np.sum(np.abs(rest * atoms))) / max(total, 1e-300)
    whole = energy * atoms  # if the numbers are energies per atom
    own = 1 - float(np.sum(np.abs(energy - _robust(used, energy)) * atoms)) / max(float(np.sum(np.abs(whole - np.median(whole)))), 1e-300)
    sizes = float(atoms.max() / atoms.min())
    index = np.array([record.index for record in records])
    # An ion is no other level: what charge and spin cost is not a distance of energies. Frames that give neither are neutral here.
    states = [_state(*key) for key in keys]
    state = np.array([states.index(one) for one in states])[number]
    if len(set(states)) > 1:
        for k in np.unique(state):
            rest[state == k] -= np.median(rest[state == k])
    return Referenced(rest, explained, index, len(keys), matrix.shape[1], sizes, _growth(energy, atoms), own)


def _robust(used: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least absolute deviations by reweighted least squares: what the columns explain."""
    weights, fitted = np.ones(len(target)), target
    for _ in range(6):
        root = np.sqrt(weights)
        fitted = used @ np.linalg.lstsq(used * root[:, None], target * root, rcond=1e-9)[0]
        miss = np.abs(target - fitted)
        weights = 1 / np.maximum(miss, np.median(miss) + 1e-9)
    return fitted


def _growth(energy: np.ndarray, atoms: np.ndarray) -> float:
    """Slope of ln |E| against ln N: 1 for totals, 0 for energies per atom; nan where sizes or signs do not allow it."""
    negative = energy < 0
    if negative.mean() < 0.95 or atoms.max() < 2 * atoms.min():
        return float("nan")
    x, y = np.log(atoms[negative]), np.log(-energy[negative])
    if x.std() < 0.15:
        return float("nan")
    return float(np.cov(x, y)[0, 1] / np.var(x, ddof=1))


@dataclass(frozen=True)
class EnergyClusters:
    """Two clusters of energies: distance and the larger spread inside, eV per atom; part of the frames in the smaller cluster."""

    distance: float
    spread: float
    part: float


def _confirmed(sample: LevelSample, indices: set[int], slope: float) -> list[tuple[int, float]]:
    """(frame, eV) of those of `indices` in the sample whose energy differs from its nearest frame's by far more than the work between them."""
    found = []
    for _, frames in sample.with_labels("energy", "forces"):
        for frame in frames:
            if frame.index in indices and len(frames) > 2 and len(frame.structure) > 1:
                pair = nearest_pair(frame, [other for other in frames if other.index not in indices])
                rest = float("nan") if pair is None else pair.energy - slope * _total(pair)
                if pair is not None and abs(rest) > 4 * _tolerance(pair, slope) + 0.05 * pair.atoms:
                    found.append((frame.index, rest))
    return found


def _state(numbers: bytes, charge: int | None, multiplicity: int | None) -> tuple[int, int]:
    """Charge and multiplicity of a composition; neutral and of the lowest multiplicity where they are not given."""
    electrons = sum(numbers) - (charge or 0)
    return charge or 0, multiplicity or 1 + electrons % 2


def energy_clusters(rest: np.ndarray) -> EnergyClusters | None:
    """Return the widest empty interval of the values, with at least an eighth of them, and eight, on either side."""
    values = np.sort(rest)
    n = len(values)
    least = max(8, int(LEAST * n))  # fewer lie together by chance
    if n < 2 * least:
        return None
    gaps = np.diff(values)[least - 1 : n - least]
    if not len(gaps):
        return None
    k = int(np.argmax(gaps)) + least
    low, high = values[:k], values[k:]
    spread = max(_spread(low), _spread(high))
    return EnergyClusters(float(np.median(high) - np.median(low)), spread, min(len(low), len(high)) / n) if gaps.max() > 0 else None


def _spread(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95) - np.quantile(values, 0.05))


def rounding(values: np.ndarray) -> float | None:
    """eV: the coarsest step of 1, 2.5 or 5 times a power of ten, at least 1e-4, of which all values are whole multiples; None if there is none."""
    if not len(values):
        return None
    for power in range(1, -5, -1):
        for lead in (5.0, 2.5, 1.0):
            step = lead * 10.0**power
            scaled = values / step
            if np.abs(scaled - np.round(scaled)).max() < 1e-4 * max(1.0, 1e-4 / step):
                return step
    return None


def single_precision_step(values: np.ndarray) -> float | None:
    """Return the spacing of single-precision numbers at the largest of these energies, eV, if all are such numbers in one unit of `units.ENERGY`.

    None if they have more digits, or so few (-10.5, -371.25) that they would be such numbers anyway.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    values = values[np.isfinite(values) & (values != 0)]
    for size, _ in ENERGY.values():
        plain = values / size
        single = plain.astype(np.float32).astype(np.float64)
        if not len(values) or np.any(np.abs(plain - single) > 4e-16 * np.abs(single)):
            continue
        step = np.spacing(np.abs(single).astype(np.float32)).astype(np.float64)
        if np.mean(np.rint(single / step) % 2) > 0.2:  # the last bit is used, as it is in half of all such numbers
            return float(step.max()) * size
    return None


@dataclass(frozen=True)
class LostDigits:
    """Energies that are whole multiples of `step` eV, because of single precision or because so many decimals were written."""

    step: float
    single: bool


def lost_digits(passing: SampleStatistics) -> LostDigits | None:
    """From the first recorded frames of a level; None if the energies have their digits."""
    energies = np.array([record.energy for record in passing.records[:2000]])
    step = single_precision_step(energies)
    if step is not None and len(energies) > 1:
        return LostDigits(step, True)
    step = rounding(energies)
    return None if step is None or len(energies) < 8 or len(set(energies.tolist())) < 2 else LostDigits(step, False)


def check_energies(
    level: str | None,
    sample: LevelSample,
    passing: SampleStatistics,
    comparison: Comparison,
    slope: float,
    reading: UnitGuess | None,
    trusted_stress: bool,
) -> list[Finding]:
    """Rounded, mixed, shuffled and outlying energies; energies per atom where there are no forces.

    Args:
        slope: of energies against forces, as the numbers have it. reading: what explains units, None if nothing does.
        trusted_stress: whether work of the stress may be used.
    """
    rest, seen = referenced(passing), jumps(comparison, slope, trusted_stress)
    rounded = _rounded(level, passing)
    if rounded:
        return rounded  # what the lost digits do to differences is no other fault
    if seen is not None and seen.offset is not None:
        jump = {"offset_eV_per_atom": seen.offset, "pairs_that_jump": seen.part, "typical_eV": seen.typical}
        words = f"energies of near frames jump by {seen.offset:.3g} eV per atom, always the same, which the forces do not explain: {_TWO_LEVELS}"
        return [fault("mixed-levels", words, "give each its own level", level, jump, seen.outliers)]
    few = (
        seen is not None and len(seen.outliers) > 0 and seen.agreement > 0.6 and (seen.part < 0.4 or (seen.alone and seen.agreement > 0.9))
    )
    if (
        rest is not None
        and (reading is None or (reading.energy == "eV" and not comparison.energy_forces().tells))
        and rest.growth < 0.3
        and rest.compositions >= 4
        and rest.per_atom > max(0.6, rest.explained + 0.2)
    ):
        words = "energies do not grow with the number of atoms: they are per atom"
        growth = {"growth": rest.growth, "compositions": rest.compositions, "explained": rest.per_atom}
        return [fault("energy-per-atom", words, "multiply by the number of atoms", level, growth)]
    shuffled = [] if few else _shuffled(level, comparison, rest, slope)
    if shuffled:
        return shuffled
    if seen is not None and seen.outliers and seen.agreement > 0.3:
        figures = {"frames": len(seen.outliers), "largest_eV": seen.largest, "typical_eV": seen.typical}
        words = f"energies far from what near frames and forces say: {_OUTLYING}"
        return [fault("energy-outliers", words, _LEAVE_OUT, level, figures, seen.outliers)]
    return [] if rest is None else _referenced(level, rest, sample, slope)


def _shuffled(level: str | None, comparison: Comparison, rest: Referenced | None, slope: float) -> list[Finding]:
    found = comparison.energy_forces()
    hint = "join energies and geometries by frame again"
    if found.fit < (0.15 if comparison.closure < 0.9 else 0.25) and comparison.closure > 0.75 and comparison.unrelated(slope):
        words = "the forces of near frames agree with each other, but energies do not follow them: energies of other frames"
        figures = {"fit": found.fit, "closure": comparison.closure, "pairs": found.pairs}
        return [fault("energies-shuffled", words, hint, level, figures)]
    if rest is not None and rest.sizes > 1.5 and rest.explained < 0.3 and rest.compositions >= 6 and found.fit < 0.3:
        words = "energies have nothing to do with the composition of their structures: energies of other frames"
        return [
            fault("energies-shuffled", words, hint, level, {"explained_by_composition": rest.explained, "compositions": rest.compositions})
        ]
    return []


def _referenced(level: str | None, rest: Referenced, sample: LevelSample, slope: float) -> list[Finding]:
    """Return what energies without their composition say: two clusters, far ones."""
    split = energy_clusters(rest.rest)
    if split is not None and split.distance > max(5 * split.spread, 0.05):
        figures = {"distance_eV_per_atom": split.distance, "spread_eV_per_atom": split.spread, "smaller_part": split.part}
        words = f"energies without their composition lie in two clusters, {split.distance:.3g} eV per atom apart: {_TWO_LEVELS}"
        return [fault("mixed-levels", words, "give each its own level", level, figures)]
    middle = float(np.median(rest.rest))
    deviation = np.abs(rest.rest - middle)
    wide = max(float(np.quantile(deviation, 0.9)), 0.02)
    return _far(level, rest, deviation, wide, sample, slope)


def _far(level: str | None, rest: Referenced, deviation: np.ndarray, wide: float, sample: LevelSample, slope: float) -> list[Finding]:
    """Return a few energies far from what the composition explains: a fault where the work from the nearest frame confirms it."""
    far = np.flatnonzero(deviation > 5 * wide)
    if not len(far) or len(far) > 0.1 * len(deviation):
        return []
    sure = _confirmed(sample, set(rest.index[far].tolist()), slope)
    if sure:
        largest = max(abs(size) for _, size in sure)
        figures = {"frames": len(sure), "largest_eV": largest, "ordinary_eV_per_atom": wide}
        words = f"energies far from what their composition, the nearest frame and forces say: {_OUTLYING}"
        return [fault("energy-outliers", words, _LEAVE_OUT, level, figures, [index for index, _ in sure])]
    far = np.flatnonzero(deviation > 15 * wide)
    strained = _strongly_pulled(sample)
    far = far[[int(index) not in strained for index in rest.index[far]]] if len(far) else far
    if not len(far) or len(deviation) < 4 * rest.elements:  # so many energies of elements explain single frames to the last digit
        return []
    figures = {"frames": len(far), "largest_eV_per_atom": float(deviation.max()), "ordinary_eV_per_atom": wide}
    words = "a few energies far from what their composition explains"
    return [doubt("energy-outliers", words, "look at these frames", level, figures, rest.index[far].tolist())]


def _strongly_pulled(sample: LevelSample) -> set[int]:
    """Frames with forces three times as large as usual: their energies are high because of their geometries."""
    sizes = {
        frame.index: float(np.abs(frame.structure.labels["forces"]).max()) for _, frames in sample.with_labels("forces") for frame in frames
    }
    usual = float(np.median(list(sizes.values()))) if sizes else 0.0
    return {index for index, size in sizes.items() if size > 3 * usual}


def _rounded(level: str | None, passing: SampleStatistics) -> list[Finding]:
    lost = lost_digits(passing)
    if lost is None:
        return []
    step, per_atom = lost.step, lost.step / float(np.median([record.atoms for record in passing.records[:2000]]))
    coarse = per_atom >= 1e-3 or (step >= 0.009 and per_atom >= 1e-4)
    if not coarse and not (lost.single and step >= 2e-3):
        return []
    words = f"energies have single precision, steps of {step:.2g} eV" if lost.single else f"energies are whole multiples of {step:g} eV"
    hint = "read them from the calculation with all digits" + (
        ", or subtract the energies of atoms before they are stored" if lost.single else ""
    )
    return [(fault if coarse else doubt)("energy-rounded", words, hint, level, {"step_eV": step, "step_eV_per_atom": per_atom})]
