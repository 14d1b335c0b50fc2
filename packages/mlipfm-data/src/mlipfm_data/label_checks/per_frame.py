"""Findings from what every frame passed through: states, sums of forces, zeros, copies, symmetry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .energies import lost_digits
from .findings import Finding, Severity, doubt, fault
from .geometry import neighbors_of, unmasked_zeros
from .sample import Frame, FrameCount, LevelSample, SampleStatistics, subsample


def check_counts(level: str | None, sample: LevelSample, passing: SampleStatistics) -> list[Finding]:
    """Return all findings that need no comparison between frames."""
    return [
        *_states(level, passing),
        *_held(level, sample, passing),
        *_labels(level, sample, passing),
        *_sums(level, passing),
        *_pushed(level, passing),
        *_torques(level, passing),
    ]


def _marked(
    code: str, words: str, hint: str, mark: FrameCount, level: str | None, severity: Severity = "fault", **figures: float | int | str
) -> Finding:
    return Finding(code, severity, words, hint, {"frames": mark.count, **figures}, level, tuple(sorted(mark.groups)), tuple(mark.indices))


def _states(level: str | None, passing: SampleStatistics) -> Iterator[Finding]:
    stated = passing.with_multiplicity.count
    if passing.not_finite.count:
        yield _marked("labels-not-finite", "labels are NaN or infinite", "drop these labels or frames", passing.not_finite, level)
    if passing.unpaired_counts.count and (passing.zero_multiplicities or not passing.impossible.count):
        words = "multiplicities count unpaired electrons: with one more, charge and electrons fit"
        hint = "import with --spin-meaning unpaired"
        yield _marked("multiplicity-counts-unpaired", words, hint, passing.unpaired_counts, level, stated=stated)
    elif passing.impossible.count or passing.unpaired_counts.count:
        mark = passing.impossible if passing.impossible.count else passing.unpaired_counts
        words = "charge and multiplicity contradict the number of electrons"
        yield _marked("impossible-state", words, "correct charge or multiplicity", mark, level, stated=stated)
    if passing.incomplete_state.count:
        words = "one of charge and multiplicity is given, and with it the molecule can be no neutral one, or no singlet, for which it would be taken"
        yield _marked("impossible-state", words, "give both (--charge-key, --spin-key)", passing.incomplete_state, level, "doubt")


def _labels(level: str | None, sample: LevelSample, passing: SampleStatistics) -> Iterator[Finding]:
    p = passing
    broken, asked = _without_symmetry(sample) if p.zero_forces.count else (FrameCount(), 0)
    named = broken if asked == p.zero_forces.count else p.zero_forces  # all that there are, where only some were looked at
    copies = max(1.0, 0.01 * p.with_energy)
    if p.copied_energies.count > copies:
        copies += 4 * _expected_copies(p)
    # code, frames, of how many, whether they are too many, words, hint
    rules = (
        ("forces-zero", named, p.with_forces, broken.count >= 2 and broken.count > 0.3 * asked,
         "forces are exactly zero where no symmetry makes them so: missing labels filled with zeros", "leave these forces out"),
        ("stress-zero", p.zero_stress, p.with_stress, p.zero_stress.count > max(1, 0.02 * p.with_stress),
         "stress is exactly zero: missing labels filled with zeros", "leave this stress out"),
        ("stress-asymmetric", p.asymmetric, p.with_stress, p.asymmetric.count > 0.02 * p.with_stress,
         "stress is not symmetric: components are in the wrong places", "check the order of components"),
        ("forces-copied", p.copied_forces, p.with_forces, p.copied_forces.count > max(1, 0.005 * p.with_forces),
         "different geometries have the same forces to the last digit", "compute them again"),
        ("energies-copied", p.copied_energies, p.with_energy, p.copied_energies.count > copies,
         "different geometries have the same energy to the last digit", "compute them again"),
        ("contradictory-duplicates", p.contradictory, p.frames, p.contradictory.count > 0,
         "one geometry has different labels", "keep one of them, or give each its level"),
    )  # fmt: skip
    yield from (_marked(code, words, hint, mark, level, of=of) for code, mark, of, wrong, words, hint in rules if wrong)
    if p.isolated_forces.count:
        yield _marked("isolated-atom", "an isolated atom has a force", "check positions, cell and labels", p.isolated_forces, level)
    coarse = p.decimals
    if coarse.total() >= 8 and sum(coarse[k] for k in range(3)) > 0.95 * coarse.total():
        places = max(k for k in range(3) if coarse[k])
        hint = "read them from the calculation with all digits"
        yield fault("forces-rounded", f"forces have {places} decimals", hint, level, {"step_eV_per_Angstrom": 10.0**-places})


def _pushed(level: str | None, passing: SampleStatistics) -> Iterator[Finding]:
    """Yield a few frames whose forces do not sum to zero among many that do."""
    if len(passing.net_forces) < 20:
        return
    values = np.array([value for value, _ in passing.net_forces])
    ordinary = float(np.quantile(values, 0.75))
    far = values > max(30 * ordinary, 0.3)
    if 0 < far.sum() <= 0.1 * len(values):
        indices = [index for (_, index), is_far in zip(passing.net_forces, far, strict=True) if is_far]
        figures = {"frames": int(far.sum()), "largest": float(values.max()), "ordinary": ordinary}
        words = "forces of a few frames do not sum to zero as those of the others do: unconverged"
        yield fault("force-outliers", words, "leave these frames out", level, figures, indices)


def _expected_copies(passing: SampleStatistics) -> float:
    """Equal energies that the number of digits makes by chance: for each composition a tenth of the pairs that lie up to ten steps apart."""
    by_composition: dict[int, list[float]] = {}
    for record in passing.records[:20_000]:
        by_composition.setdefault(record.composition, []).append(record.energy)
    lost = lost_digits(passing)
    coarse = 0.0 if lost is None else lost.step
    total = 0.0
    for energies in by_composition.values():
        values = np.sort(energies)
        gaps = np.diff(values)
        step = max(float(gaps[gaps > 0].min()), coarse) if gaps.any() else coarse
        if coarse and values[-1] - values[0] < 10.01 * step:
            total += len(values) - len(set(energies))
        elif coarse or (step > 0 and _on_a_grid(gaps[gaps > 0.5 * step] / step)):
            near = np.searchsorted(values, values + 10.01 * step, side="right") - np.searchsorted(values, values + step * 0.5, side="left")
            total += float(near.sum()) / 10
    return total


def _on_a_grid(steps: np.ndarray) -> bool:
    """Return whether the small gaps are whole multiples of the smallest: energies of few digits, or of single precision."""
    small = steps[steps < 10.5]
    return len(small) >= 5 and float(np.mean(np.abs(small - np.round(small)) < 0.05)) > 0.8


def _without_symmetry(sample: LevelSample) -> tuple[FrameCount, int]:
    """(frames with zero forces whose atoms see different things on opposite sides, how many with zero forces were looked at)."""
    zeros = [
        f for _, frames in sample.with_labels("forces") for f in frames if len(f.structure) > 1 and not np.any(f.structure.labels["forces"])
    ]
    zeros = subsample(zeros, 40)
    found = FrameCount()
    for frame in sorted(zeros, key=lambda frame: frame.index):
        if _lopsided(frame).any():
            found.add(frame.index, frame.structure)
    return found, len(zeros)


def _lopsided(frame: Frame) -> np.ndarray:
    """[N] whether an atom has different surroundings on opposite sides, so that no symmetry makes its force zero."""
    near = neighbors_of(frame.structure, 4.0)
    if near is None or not len(near.i):
        return np.zeros(len(frame.structure), dtype=bool)
    weight = np.exp(-near.relative) / near.distance * frame.structure.atomic_numbers[near.j]
    pull = np.zeros((len(frame.structure), 3))
    np.add.at(pull, near.i, near.vectors * weight[:, None])
    whole = np.bincount(near.i, weights=weight * near.distance, minlength=len(frame.structure))
    return np.asarray(np.linalg.norm(pull, axis=1) > 0.004 * whole + 1e-9)


def _held(level: str | None, sample: LevelSample, passing: SampleStatistics) -> Iterator[Finding]:
    """Atoms with forces of exactly zero beside others, where no symmetry makes them so."""
    frames = [f for _, family in sample.with_labels("forces") for f in family if unmasked_zeros(f.structure).any()]
    frames = subsample(frames, 40)
    zeros = [unmasked_zeros(f.structure) for f in frames]
    sure = [bool((zero & _lopsided(f)).any()) for f, zero in zip(frames, zeros, strict=True)]
    if not sum(sure) > 0.5 * len(sure):
        return
    counts = sorted({int(zero.sum()) for zero in zeros})
    atoms = f"{counts[0]} atom{'s' * (counts[0] > 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} atoms"
    where = "in all frames" if passing.fixed.count == passing.with_forces else f"in {passing.fixed.count} of {passing.with_forces} frames"
    words = f"forces of {atoms} are exactly zero {where}: fixed (constrained) atoms, whose forces are no labels"
    hint = "leave them out of the loss: import with --mask-zero-forces"
    yield _marked("constrained-forces", words, hint, passing.fixed, level, "doubt")


def _sums(level: str | None, passing: SampleStatistics) -> Iterator[Finding]:
    if len(passing.net_over_sum) < 3:
        return
    net = float(np.median(passing.net_over_sum))
    figures = {"net_over_sum": net, "frames": len(passing.net_over_sum)}
    if net > 0.01 and passing.fixed_along_axes.count > 0.5 * len(passing.net_over_sum):
        words = f"forces of some atoms are exactly zero along some axes, and all sum to {net:.2g} of their sizes: fixed (constrained) atoms"
        hint = "leave these atoms out of the loss: a column forces_weight that is 0 for them"
        yield _marked("constrained-forces", words, hint, passing.fixed_along_axes, level, "doubt", net_over_sum=net)
    elif net > 0.05:
        words = f"forces sum to {net:.2g} of their sizes, not to zero: an external force, a drift or missing atoms"
        yield fault("net-force", words, "subtract the drift or look at the calculation", level, figures)
    elif net > 0.01:
        words = f"forces sum to {net:.2g} of their sizes: a coarse grid"
        yield doubt("net-force", words, "use a finer grid, or subtract the mean", level, figures)


def _torques(level: str | None, passing: SampleStatistics) -> Iterator[Finding]:
    torque = float(np.median(passing.torques)) if len(passing.torques) >= 3 else 0.0
    if torque > 0.03:
        words, hint = f"forces turn free molecules by {torque:.2g} of |r||F|", "look at how forces and positions were joined"
        yield fault("net-torque", words, hint, level, {"torque": torque, "frames": len(passing.torques)})
