"""Findings about energies among themselves: lost digits, two levels under one name, energies of other frames, outliers."""

from __future__ import annotations

import numpy as np

from .energies import Referenced, confirmed, jumps, lost_digits, referenced, two_heaps
from .findings import MOST, Finding
from .naming import Reading
from .passing import Passing
from .sampling import LevelSample
from .work import Comparison


def judge_energies(
    level: str | None,
    sample: LevelSample,
    passing: Passing,
    comparison: Comparison,
    slope: float,
    reading: Reading | None,
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
        figures: dict[str, float | int | str] = {
            "offset_eV_per_atom": seen.offset,
            "pairs_that_jump": seen.part,
            "typical_eV": seen.typical,
        }
        return [
            Finding(
                "mixed-levels",
                "fault",
                f"energies of near frames jump by {seen.offset:.3g} eV per atom, always the same, which the forces do not "
                "explain: two levels of theory or two zeros",
                "give each its own level",
                figures,
                level,
                indices=seen.outliers[:MOST],
            )
        ]
    few = seen is not None and len(seen.outliers) > 0 and seen.part < 0.4 and seen.agreement > 0.6
    if (
        rest is not None
        and (reading is None or (reading.energy == "eV" and not comparison.energy_forces().tells))
        and rest.growth < 0.3
        and rest.compositions >= 4
        and rest.per_atom > max(0.6, rest.explained + 0.2)
    ):
        words = "energies do not grow with the number of atoms: they are per atom"
        figures = {"growth": rest.growth, "compositions": rest.compositions, "explained": rest.per_atom}
        return [Finding("energy-per-atom", "fault", words, "multiply by the number of atoms", figures, level)]
    shuffled = [] if few else _shuffled(level, comparison, rest, slope)
    if shuffled:
        return shuffled
    if seen is not None and seen.outliers and seen.agreement > 0.3:
        figures = {"frames": len(seen.outliers), "largest_eV": seen.largest, "typical_eV": seen.typical}
        return [
            Finding(
                "energy-outliers",
                "fault",
                "energies far from what near frames and forces say: unconverged, or of another calculation",
                "leave these frames out",
                figures,
                level,
                indices=seen.outliers[:MOST],
            )
        ]
    return [] if rest is None else _referenced(level, rest, sample, slope)


def _shuffled(level: str | None, comparison: Comparison, rest: Referenced | None, slope: float) -> list[Finding]:
    found = comparison.energy_forces()
    figures: dict[str, float | int | str] = {"fit": found.fit, "closure": comparison.closure, "pairs": found.pairs}
    words = "the forces of near frames agree with each other, but energies do not follow them: energies of other frames"
    if found.fit < 0.15 and comparison.closure > 0.75 and comparison.unrelated(slope):
        return [Finding("energies-shuffled", "fault", words, "join energies and geometries by frame again", figures, level)]
    if rest is not None and rest.sizes > 1.5 and rest.explained < 0.3 and rest.compositions >= 6 and found.fit < 0.3:
        figures = {"explained_by_composition": rest.explained, "compositions": rest.compositions}
        words = "energies have nothing to do with the composition of their structures: energies of other frames"
        return [Finding("energies-shuffled", "fault", words, "join energies and geometries by frame again", figures, level)]
    return []


def _referenced(level: str | None, rest: Referenced, sample: LevelSample, slope: float) -> list[Finding]:
    """What energies without their composition say: two heaps, far ones."""
    split = two_heaps(rest.rest)
    if split is not None and split.distance > max(5 * split.spread, 0.05):
        figures: dict[str, float | int | str] = {
            "distance_eV_per_atom": split.distance,
            "spread_eV_per_atom": split.spread,
            "smaller_part": split.part,
        }
        return [
            Finding(
                "mixed-levels",
                "fault",
                f"energies without their composition lie in two heaps, {split.distance:.3g} eV per atom apart: two levels "
                "of theory or two zeros",
                "give each its own level",
                figures,
                level,
            )
        ]
    middle = float(np.median(rest.rest))
    deviation = np.abs(rest.rest - middle)
    wide = max(float(np.quantile(deviation, 0.9)), 0.02)
    return _far(level, rest, deviation, wide, sample, slope)


def _far(level: str | None, rest: Referenced, deviation: np.ndarray, wide: float, sample: LevelSample, slope: float) -> list[Finding]:
    """A few energies far from what the composition explains: a fault where the work from the nearest frame confirms it."""
    far = np.flatnonzero(deviation > 5 * wide)
    if not len(far) or len(far) > 0.1 * len(deviation):
        return []
    sure = confirmed(sample, set(rest.index[far].tolist()), slope)
    if sure:
        figures: dict[str, float | int | str] = {
            "frames": len(sure),
            "largest_eV": max(abs(size) for _, size in sure),
            "ordinary_eV_per_atom": wide,
        }
        return [
            Finding(
                "energy-outliers",
                "fault",
                "energies far from what their composition, the nearest frame and forces say: unconverged, or of another calculation",
                "leave these frames out",
                figures,
                level,
                indices=tuple(index for index, _ in sure[:MOST]),
            )
        ]
    far = np.flatnonzero(deviation > 15 * wide)
    strained = _strongly_pulled(sample)
    far = far[[int(index) not in strained for index in rest.index[far]]] if len(far) else far
    if not len(far) or len(deviation) < 4 * rest.elements:  # so many energies of elements explain single frames to the last digit
        return []
    figures = {"frames": len(far), "largest_eV_per_atom": float(deviation.max()), "ordinary_eV_per_atom": wide}
    return [
        Finding(
            "energy-outliers",
            "doubt",
            "a few energies far from what their composition explains",
            "look at these frames",
            figures,
            level,
            indices=tuple(rest.index[far][:MOST].tolist()),
        )
    ]


def _strongly_pulled(sample: LevelSample) -> set[int]:
    """Frames with forces three times as large as usual: their energies are high because of their geometries."""
    sizes = {
        frame.index: float(np.abs(frame.structure.labels["forces"]).max()) for _, frames in sample.with_labels("forces") for frame in frames
    }
    usual = float(np.median(list(sizes.values()))) if sizes else 0.0
    return {index for index, size in sizes.items() if size > 3 * usual}


def _rounded(level: str | None, passing: Passing) -> list[Finding]:
    lost = lost_digits(passing)
    if lost is None:
        return []
    step, per_atom = lost.step, lost.step / float(np.median([record.atoms for record in passing.records[:2000]]))
    coarse = per_atom >= 1e-3 or (step >= 0.009 and per_atom >= 1e-4)
    if not coarse and not (lost.single and step >= 2e-3):
        return []
    words = f"energies have single precision, steps of {step:.2g} eV" if lost.single else f"energies are whole multiples of {step:g} eV"
    mend = "read them from the calculation with all digits" + (
        ", or subtract the energies of atoms before they are stored" if lost.single else ""
    )
    figures: dict[str, float | int | str] = {"step_eV": step, "step_eV_per_atom": per_atom}
    return [Finding("energy-rounded", "fault" if coarse else "doubt", words, mend, figures, level)]
