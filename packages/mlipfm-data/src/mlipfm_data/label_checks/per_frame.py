"""Findings from what every frame passed through: states, sums of forces, zeros, copies, symmetry."""

from __future__ import annotations

import numpy as np

from .energies import lost_digits
from .findings import MOST, Finding, Severity
from .geometry import neighbors_of, unmasked_zeros
from .sample import Frame, FrameCount, LevelSample, SampleStatistics, subsample


def check_counts(level: str | None, sample: LevelSample, passing: SampleStatistics) -> list[Finding]:
    """All findings that need no comparison between frames."""
    found: list[Finding] = []
    _states(level, passing, found)
    _held(level, sample, passing, found)
    _labels(level, sample, passing, found)
    _sums(level, passing, found)
    return found


def _marked(
    code: str, severity: Severity, words: str, hint: str, mark: FrameCount, level: str | None, **figures: float | int | str
) -> Finding:
    return Finding(code, severity, words, hint, {"frames": mark.count, **figures}, level, tuple(sorted(mark.groups)), tuple(mark.indices))


def _states(level: str | None, passing: SampleStatistics, found: list[Finding]) -> None:
    if passing.not_finite.count:
        found.append(
            _marked("labels-not-finite", "fault", "labels are NaN or infinite", "drop these labels or frames", passing.not_finite, level)
        )
    if passing.unpaired.count and (passing.zeros or not passing.impossible.count):
        found.append(
            _marked(
                "multiplicity-counts-unpaired",
                "fault",
                "multiplicities count unpaired electrons: with one more, charge and electrons fit",
                "import with --spin-meaning unpaired",
                passing.unpaired,
                level,
                stated=passing.stated.count,
            )
        )
    elif passing.impossible.count or passing.unpaired.count:
        mark = passing.impossible if passing.impossible.count else passing.unpaired
        found.append(
            _marked(
                "impossible-state",
                "fault",
                "charge and multiplicity contradict the number of electrons",
                "correct charge or multiplicity",
                mark,
                level,
                stated=passing.stated.count,
            )
        )


def _labels(level: str | None, sample: LevelSample, passing: SampleStatistics, found: list[Finding]) -> None:
    zero = passing.zero_forces
    if zero.count:
        broken, asked = _without_symmetry(sample)
        if broken >= 2 and broken > 0.3 * asked:
            found.append(
                _marked(
                    "forces-zero",
                    "fault",
                    "forces are exactly zero where no symmetry makes them so: missing labels filled with zeros",
                    "leave these forces out",
                    zero,
                    level,
                    of=passing.with_forces,
                )
            )
    if passing.zero_stress.count > max(1, 0.02 * passing.with_stress):
        found.append(
            _marked(
                "stress-zero",
                "fault",
                "stress is exactly zero: missing labels filled with zeros",
                "leave this stress out",
                passing.zero_stress,
                level,
                of=passing.with_stress,
            )
        )
    if passing.asymmetric.count > 0.02 * passing.with_stress:
        found.append(
            _marked(
                "stress-asymmetric",
                "fault",
                "stress is not symmetric: components are in the wrong places",
                "check the order of components",
                passing.asymmetric,
                level,
                of=passing.with_stress,
            )
        )
    if passing.copied_forces.count > max(1, 0.005 * passing.with_forces):
        found.append(
            _marked(
                "forces-copied",
                "fault",
                "different geometries have the same forces to the last digit",
                "compute them again",
                passing.copied_forces,
                level,
                of=passing.with_forces,
            )
        )
    if passing.copied_energies.count > max(1.0, 0.01 * passing.with_energy) + 4 * _expected_copies(passing):
        found.append(
            _marked(
                "energies-copied",
                "fault",
                "different geometries have the same energy to the last digit",
                "compute them again",
                passing.copied_energies,
                level,
                of=passing.with_energy,
            )
        )
    if passing.contradictory.count:
        found.append(
            _marked(
                "contradictory-duplicates",
                "fault",
                "one geometry has different labels",
                "keep one of them, or give each its level",
                passing.contradictory,
                level,
                of=passing.frames,
            )
        )
    if passing.lone_forces.count:
        found.append(
            _marked("isolated-atom", "fault", "a lone atom has a force", "check positions, cell and labels", passing.lone_forces, level)
        )
    coarse = passing.decimals
    if coarse.total() >= 8 and sum(coarse[k] for k in range(3)) > 0.95 * coarse.total():
        places = max(k for k in range(3) if coarse[k])
        found.append(
            Finding(
                "forces-rounded",
                "fault",
                f"forces have {places} decimals",
                "read them from the calculation with all digits",
                {"step_eV_per_Angstrom": 10.0**-places},
                level,
            )
        )


def _pushed(level: str | None, passing: SampleStatistics, found: list[Finding]) -> None:
    """A few frames whose forces do not sum to zero among many that do."""
    if len(passing.pushed) < 20:
        return
    values = np.array([value for value, _ in passing.pushed])
    ordinary = float(np.quantile(values, 0.75))
    far = values > max(30 * ordinary, 0.3)
    if 0 < far.sum() <= 0.1 * len(values):
        indices = tuple(index for (_, index), is_far in zip(passing.pushed, far, strict=True) if is_far)
        figures: dict[str, float | int | str] = {"frames": int(far.sum()), "largest": float(values.max()), "ordinary": ordinary}
        found.append(
            Finding(
                "force-outliers",
                "fault",
                "forces of a few frames do not sum to zero as those of the others do: unconverged",
                "leave these frames out",
                figures,
                level,
                indices=indices[:MOST],
            )
        )


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
    """Whether the small gaps are whole multiples of the smallest: energies of few digits, or of single precision."""
    small = steps[steps < 10.5]
    return len(small) >= 5 and float(np.mean(np.abs(small - np.round(small)) < 0.05)) > 0.8


def _without_symmetry(sample: LevelSample) -> tuple[int, int]:
    """(frames with zero forces whose atoms see different things on opposite sides, frames with zero forces looked at)."""
    zeros = [
        f for _, frames in sample.with_labels("forces") for f in frames if len(f.structure) > 1 and not np.any(f.structure.labels["forces"])
    ]
    zeros = subsample(zeros, 40)
    return sum(bool(_lopsided(frame).any()) for frame in zeros), len(zeros)


def _lopsided(frame: Frame) -> np.ndarray:
    """[N] whether an atom sees different things on opposite sides, so that no symmetry makes its force zero."""
    near = neighbors_of(frame.structure, 4.0)
    if near is None or not len(near.i):
        return np.zeros(len(frame.structure), dtype=bool)
    weight = np.exp(-near.relative) / near.distance * frame.structure.atomic_numbers[near.j]
    pull = np.zeros((len(frame.structure), 3))
    np.add.at(pull, near.i, near.vectors * weight[:, None])
    whole = np.bincount(near.i, weights=weight * near.distance, minlength=len(frame.structure))
    return np.asarray(np.linalg.norm(pull, axis=1) > 0.004 * whole + 1e-9)


def _held(level: str | None, sample: LevelSample, passing: SampleStatistics, found: list[Finding]) -> None:
    """Atoms with forces of exactly zero beside others, where no symmetry makes them so."""
    frames = [f for _, family in sample.with_labels("forces") for f in family if unmasked_zeros(f.structure).any()]
    frames = subsample(frames, 40)
    zeros = [unmasked_zeros(f.structure) for f in frames]
    sure = [bool((zero & _lopsided(f)).any()) for f, zero in zip(frames, zeros, strict=True)]
    if not sum(sure) > 0.5 * len(sure):
        return
    counts = sorted({int(zero.sum()) for zero in zeros})
    atoms = f"{counts[0]} atom{'s' * (counts[0] > 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} atoms"
    where = "in all frames" if passing.held.count == passing.with_forces else f"in {passing.held.count} of {passing.with_forces} frames"
    words = f"forces of {atoms} are exactly zero {where}: held (constrained) atoms, whose forces are no labels"
    hint = "leave them out of the loss: import with --mask-zero-forces"
    found.append(_marked("constrained-forces", "doubt", words, hint, passing.held, level))


def _sums(level: str | None, passing: SampleStatistics, found: list[Finding]) -> None:
    if len(passing.net) >= 3:
        net = float(np.median(passing.net))
        if net > 0.01 and passing.partly_held.count > 0.5 * len(passing.net):
            words = (
                f"forces of some atoms are exactly zero along some axes, and all sum to {net:.2g} of their sizes: held (constrained) atoms"
            )
            hint = "leave these atoms out of the loss: a column forces_weight that is 0 for them"
            found.append(_marked("constrained-forces", "doubt", words, hint, passing.partly_held, level, net_over_sum=net))
        elif net > 0.05:
            found.append(
                Finding(
                    "net-force",
                    "fault",
                    f"forces sum to {net:.2g} of their sizes, not to zero: an external force, a drift or missing atoms",
                    "subtract the drift or look at the calculation",
                    {"net_over_sum": net, "frames": len(passing.net)},
                    level,
                )
            )
        elif net > 0.01:
            found.append(
                Finding(
                    "net-force",
                    "doubt",
                    f"forces sum to {net:.2g} of their sizes: a coarse grid",
                    "use a finer grid, or subtract the mean",
                    {"net_over_sum": net, "frames": len(passing.net)},
                    level,
                )
            )
    _pushed(level, passing, found)
    if len(passing.torque) >= 3:
        torque = float(np.median(passing.torque))
        if torque > 0.03:
            found.append(
                Finding(
                    "net-torque",
                    "fault",
                    f"forces turn free molecules by {torque:.2g} of |r||F|",
                    "look at how forces and positions were joined",
                    {"torque": torque, "frames": len(passing.torque)},
                    level,
                )
            )
