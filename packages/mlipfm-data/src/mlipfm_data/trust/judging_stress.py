"""Findings about stress: order of components, sign, unit."""

from __future__ import annotations

from dataclasses import replace

from .findings import Finding
from .naming import ENERGY, FORCES, UNEXPLAINED, Reading, StressReading
from .sampling import LevelSample
from .stress import StressVerdict, chemical_systems, judge_stress
from .work import Comparison


def judge_stresses(level: str | None, sample: LevelSample, comparison: Comparison, slope: float, reading: Reading | None) -> list[Finding]:
    """Of each chemical system; what several of them say is said once, with their names."""
    said: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    systems = chemical_systems(sample)
    energy = 1.0 if reading is None else ENERGY.get(reading.energy, (1.0, 0))[0]
    forces = 1.0 if reading is None else FORCES[reading.forces][0] * reading.sign
    for name, frames in systems:
        verdict = judge_stress(frames, comparison, slope, energy, forces)
        for finding in [] if verdict is None else _of_verdict(level, verdict):
            said.setdefault((finding.code, finding.mend), []).append((name, finding))
    found = []
    for parts in said.values():
        finding = max((part for _, part in parts), key=lambda part: float(part.figures.get("frames", 0)))
        names = ", ".join(sorted(name for name, _ in parts if name))
        where = "" if len(parts) == len(systems) or not names else f" (in {names})"
        found.append(replace(finding, words=finding.words + where))
    return found


def _of_verdict(level: str | None, verdict: StressVerdict) -> list[Finding]:
    found = []
    if verdict.order is not None:
        order, now, then = verdict.order
        found.append(
            Finding(
                "stress-order",
                "fault",
                f"shear components agree with the forces only in the order {order}",
                f"import with --stress-order {order}",
                {"agreement": now, "agreement_mended": then},
                level,
            )
        )
    if verdict.trace is None or not verdict.readings:
        return found
    best, trace = verdict.readings[0], verdict.trace
    figures: dict[str, float | int | str] = {
        "true_over_label": trace.ratio,
        "agreement": trace.fit,
        "frames": trace.count,
        "against": trace.source,
    }
    if best.cost > UNEXPLAINED + 6:
        if not found:
            found.append(
                Finding(
                    "stress-mismatch",
                    "doubt",
                    f"the stress is {1 / trace.ratio:.3g} times what {trace.source} say, which no known unit explains",
                    "look at how the labels were made",
                    figures,
                    level,
                )
            )
        return found
    for reading in [item for item in verdict.readings[:4] if item.cost < best.cost + 1.5]:
        if best.clean or reading.clean:
            break
        for item in _stress_said(level, reading, figures):
            same = next((k for k, other in enumerate(found) if other.code == item.code), None)
            if same is None:
                found.append(item)
            elif item.mend not in found[same].mend:
                found[same] = replace(
                    found[same], words=f"{found[same].words}, or {item.words}", mend=f"{found[same].mend}, or {item.mend}"
                )
    return found


def _stress_said(level: str | None, reading: StressReading, figures: dict[str, float | int | str]) -> list[Finding]:
    source = figures["against"]
    if reading.unit == "virial":
        return [
            Finding(
                "stress-is-virial",
                "fault",
                f"the stress is an energy, {'minus ' if reading.sign < 0 else ''}volume times stress, judged by {source}",
                "import with --virial-key",
                figures,
                level,
            )
        ]
    found = []
    if reading.sign < 0:
        found.append(
            Finding(
                "stress-sign",
                "fault",
                f"stress is positive under compression, judged by {source}",
                "import with --stress-sign -1",
                figures,
                level,
            )
        )
    if reading.unit != "eV/Angstrom^3":
        found.append(
            Finding(
                "stress-unit",
                "fault",
                f"stress is in {reading.unit}, judged by {source}",
                f"import with --stress-unit {reading.unit}",
                figures | {"unit": reading.unit},
                level,
            )
        )
    return found
