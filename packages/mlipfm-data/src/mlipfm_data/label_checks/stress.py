"""Stress against energies of strained cells, virials of molecules in a box and a fitted pair potential: order of components, sign, unit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.structure import Structure

from .comparison import Comparison
from .findings import Figures, Finding, doubt, fault
from .force_assignment import cosine
from .geometry import neighbors_of, unknown_forces
from .pair_potential import fitted_virials
from .sample import Frame, LevelSample
from .units import ENERGY, FORCES, STRESS, UNEXPLAINED, StressUnitGuess, UnitGuess, stress_unit_guesses

# Stress against energies of strained cells, forces of molecules in a box, and a potential fitted to the forces: unit, sign, order.

#: Å of vacuum on every side of a molecule in a box, so that its stress is its own virial; eV/Å³ beyond which no matter at these densities is.
VACUUM, HUGE = 4.0, 3.0
#: Frames from which a chemical system is checked on its own, and how many systems are.
ALONE, SYSTEMS = 12, 8
#: Part of the changes of the virial that forces must determine before the stress is taken from a fitted potential.
DETERMINED = 0.8
#: Frames with shear from which, in each half of them, an order of components is found.
SHEARED = 5
#: Shear beside the largest from which on a frame tells the order: one cell that is sheared far must not leave out all others.
TELLING = 0.03
STRAINED, BY_SIZE = "energies of strained cells", "the size of the numbers alone"
#: Order of components as ASE writes six of them, and the names in it.
_SIX = ("xx", "yy", "zz", "yz", "xz", "xy")
_OFF = ((1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Trace:
    """True stress over the label: a ratio, how well it holds (0 to 1), where it comes from, how sure the ratio is."""

    ratio: float
    fit: float
    source: str
    error: float
    count: int


@dataclass(frozen=True)
class StressCheck:
    """Explanations by unit and sign, cheapest first, with the trace they rest on; the order of components, if it is another."""

    trace: Trace | None
    unit_guesses: list[StressUnitGuess]
    order: tuple[str, float, float] | None
    volumes: np.ndarray


def _chemical_systems(sample: LevelSample) -> list[tuple[str, list[Frame]]]:
    """Frames with stress by their set of elements: systems of `ALONE` frames and more on their own, the rest together."""
    systems: dict[str, list[Frame]] = {}
    for frame in sample.frames():
        if "stress" in frame.structure.labels and np.any(frame.structure.labels["stress"]):
            name = "-".join(symbol(z) for z in sorted(set(frame.structure.atomic_numbers.tolist())))
            systems.setdefault(name, []).append(frame)
    large = sorted((name for name in systems if len(systems[name]) >= ALONE), key=lambda name: -len(systems[name]))[:SYSTEMS]
    rest = [frame for name, frames in systems.items() if name not in large for frame in frames]
    return [(name, systems[name]) for name in large] + ([("", rest)] if rest else [])


def check_stress(
    frames: list[Frame], comparison: Comparison, forces_slope: float, energy_factor: float = 1.0, forces_factor: float = 1.0
) -> StressCheck | None:
    """Return what is known about the stress of some frames, of fewer than three only whether it is absurd; None if nothing is.

    Args:
        forces_slope: of energies against forces, as the numbers have it. energy_factor, forces_factor: that bring the numbers to eV and eV/Å.
    """
    structures = [frame.structure for frame in frames]
    volumes = np.array([abs(np.linalg.det(s.cell)) for s in structures])
    if len(structures) < 3:
        absurd = _by_size(structures)
        return None if absurd is None else StressCheck(absurd, stress_unit_guesses(absurd.ratio, volumes, absurd.error), None, volumes)
    comparison = comparison.among({frame.index for frame in frames})
    free = _free_virials(structures)
    fitted = fitted_virials(structures)
    traces = [_from_strain(comparison, forces_slope)]
    order = None
    if free is not None:
        traces.append(_trace(free[0], free[1], "forces of molecules in a box", 0.05, whole=True))
        order = better_order(free[0], free[1])
    if fitted is not None and fitted.quality > 0.6 and fitted.determined > DETERMINED:
        traces.append(_trace(fitted.given, fitted.fitted, "a potential fitted to the forces", 0.4, whole=False))
        order = order or better_order(fitted.given, fitted.fitted)
    known = [_in_units(trace, energy_factor, forces_factor) for trace in traces if trace is not None]
    best = max(known, key=lambda trace: (trace.source != "a potential fitted to the forces", trace.fit), default=None)
    best = best or _by_size(structures)
    unit_guesses = [] if best is None else stress_unit_guesses(best.ratio, volumes, max(best.error, 0.06))
    return StressCheck(best, unit_guesses, order, volumes)


def _in_units(trace: Trace, energy_factor: float, forces_factor: float) -> Trace:
    return replace(trace, ratio=trace.ratio * (energy_factor if trace.source == STRAINED else forces_factor))


def _from_strain(comparison: Comparison, forces_slope: float) -> Trace | None:
    found = comparison.energy_stress(forces_slope)
    if found.pairs < 6 or found.fit < 0.45 or found.error > 0.2:
        return None
    return Trace(found.slope, found.fit, STRAINED, max(found.error, 0.06, 0.5 * (1 - found.fit)), found.pairs)


def _free_virials(structures: list[Structure]) -> tuple[np.ndarray, np.ndarray] | None:
    """(volume times label, minus sum of r F) [structures, 3, 3] of molecules with vacuum around them in their box."""
    given, own = [], []
    for s in structures:
        if "forces" not in s.labels or len(s) < 2 or len(s) > 100 or not s.pbc.all() or unknown_forces(s).any():
            continue
        near = neighbors_of(s, VACUUM)
        if near is None or near.shift.any():
            continue
        arms = s.positions - s.positions.mean(axis=0)
        virial = -arms.T @ s.labels["forces"]
        given.append(s.labels["stress"] * abs(np.linalg.det(s.cell)))
        own.append((virial + virial.T) / 2)
        if len(given) >= 60:
            break
    return (np.array(given), np.array(own)) if len(given) >= 4 else None


def _trace(given: np.ndarray, own: np.ndarray, source: str, error: float, whole: bool) -> Trace | None:
    """Ratio own/given; of the traceless part, or of everything."""
    a, b = (given, own) if whole else (_traceless(given), _traceless(own))
    x, y = a.ravel(), b.ravel()
    if not np.any(x) or not np.any(y):
        return None
    correlation = float(x @ y / np.sqrt((x @ x) * (y @ y)))
    if abs(correlation) < 0.6 or (not whole and correlation * _common(a, b) < 0.36):
        return None
    ratio = float(np.sign(correlation) * np.sqrt((y @ y) / (x @ x)))
    return Trace(ratio, abs(correlation), source, error, len(given))


def _common(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the changes from frame to frame: what all frames share is one value, however many they are."""
    x, y = (matrices - matrices.mean(axis=0) for matrices in (a, b))
    return cosine(x, y)


def _traceless(matrices: np.ndarray) -> np.ndarray:
    trace = np.trace(matrices, axis1=1, axis2=2)[:, None, None] / 3
    return matrices - trace * np.eye(3)


def _by_size(structures: list[Structure]) -> Trace | None:
    """Without anything to compare with, only the absurd is reported: condensed matter of these densities is below 500 GPa."""
    size = float(np.median([np.abs(s.labels["stress"]).max() for s in structures]))
    if size < HUGE:
        return None
    return Trace(0.02 / size, 0.0, BY_SIZE, 1.2, len(structures))


def better_order(given: np.ndarray, own: np.ndarray) -> tuple[str, float, float] | None:
    """(order in which the six numbers were written, agreement as read, agreement in that order), if another order fits much better.

    It must do so in both halves of the frames that have shear, each of `SHEARED` and more: a few strained cells have one order by chance.
    """
    label = np.array([[m[p] for p in _OFF] for m in given])
    truth = np.array([[m[p] for p in _OFF] for m in own])
    if len(label) < 6 or not np.any(label) or not np.any(truth):
        return None
    spread = np.sqrt(np.mean(truth**2, axis=0))
    if spread.min() < 0.01 * spread.max():
        return None
    now = cosine(label, truth)
    fits = {perm: cosine(label[:, perm], truth) for perm in itertools.permutations(range(3))}
    best = max(fits, key=lambda perm: abs(fits[perm]))
    moved = [k for k in range(3) if best[k] != k]  # of the others both orders say the same
    if not moved:
        return None
    read, mended, right = label[:, moved], label[:, [best[k] for k in moved]], truth[:, moved]
    sizes = np.linalg.norm(read, axis=1)
    order = np.argsort(-sizes)
    telling = order[sizes[order] > TELLING * sizes.max()]
    if len(telling) < 2 * SHEARED or not all(_clear(read[half], mended[half], right[half]) for half in (telling[::2], telling[1::2])):
        return None
    names = [""] * 3
    for place, written in enumerate(best):
        names[written] = _SIX[3 + place]
    return ",".join((*_SIX[:3], *names)), now, float(fits[best])


def _clear(read: np.ndarray, mended: np.ndarray, truth: np.ndarray) -> bool:
    """Return whether the components agree much better in the other order; every frame counts alike."""
    size, own = np.linalg.norm(read, axis=1, keepdims=True), np.linalg.norm(truth, axis=1, keepdims=True)
    read, mended, truth = read / size, mended / size, truth / np.maximum(own, 1e-300)
    now, then = abs(cosine(read, truth)), abs(cosine(mended, truth))
    return then > 0.6 and (then > now + 0.3 or (then > 0.95 and now < 0.85))


def check_stresses(
    level: str | None, sample: LevelSample, comparison: Comparison, slope: float, reading: UnitGuess | None
) -> list[Finding]:
    """Of each chemical system; what several of them say is said once, with their names."""
    said: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    systems = _chemical_systems(sample)
    energy = 1.0 if reading is None else ENERGY.get(reading.energy, (1.0, 0))[0]
    forces = 1.0 if reading is None else FORCES[reading.forces][0] * reading.sign
    for name, frames in systems:
        verdict = check_stress(frames, comparison, slope, energy, forces)
        for finding in [] if verdict is None else _of_verdict(level, verdict):
            said.setdefault((finding.code, finding.hint), []).append((name, finding))
    found = []
    for parts in said.values():
        finding = max((part for _, part in parts), key=lambda part: float(part.figures.get("frames", 0)))
        names = ", ".join(sorted(name for name, _ in parts if name))
        where = "" if len(parts) == len(systems) or not names else f" (in {names})"
        found.append(replace(finding, words=finding.words + where))
    return found


def _of_verdict(level: str | None, verdict: StressCheck) -> list[Finding]:
    found = []
    if verdict.order is not None:
        order, now, then = verdict.order
        words, hint = f"shear components agree with the forces only in the order {order}", f"import with --stress-order {order}"
        found.append(fault("stress-order", words, hint, level, {"agreement": now, "agreement_corrected": then}))
    if verdict.trace is None or not verdict.unit_guesses:
        return found
    best, trace = verdict.unit_guesses[0], verdict.trace
    figures: Figures = {"true_over_label": trace.ratio, "agreement": trace.fit, "frames": trace.count, "against": trace.source}
    if best.cost > UNEXPLAINED + 6:
        words = f"the stress is {1 / trace.ratio:.3g} times what {trace.source} say, which no known unit explains"
        return found or [doubt("stress-mismatch", words, "look at how the labels were made", level, figures)]
    for reading in [item for item in verdict.unit_guesses[:4] if item.cost < best.cost + 1.5]:
        if best.clean or reading.clean:
            break
        for item in _stress_said(level, reading, figures):
            same = next((k for k, other in enumerate(found) if other.code == item.code), None)
            if same is None:
                found.append(item)
            elif item.hint not in found[same].hint:
                found[same] = replace(
                    found[same], words=f"{found[same].words}, or {item.words}", hint=f"{found[same].hint}, or {item.hint}"
                )
    return found


def _stress_said(level: str | None, reading: StressUnitGuess, figures: Figures) -> list[Finding]:
    source = figures["against"]
    if reading.unit == "virial":
        words = f"the stress is an energy, {'minus ' if reading.sign < 0 else ''}volume times stress, measured by {source}"
        return [fault("stress-is-virial", words, "import with --virial-key", level, figures)]
    found = []
    if reading.sign < 0:
        words = f"stress is positive under compression, measured by {source}"
        times = STRESS[reading.unit][0] / abs(float(figures["true_over_label"]))
        if not 0.5 < times < 2:
            words += f", and {times:.2g} times what it says, which no known unit explains: look at how the labels were made"
        hint = "import with --stress-sign -1"
        if "forces" in str(source):  # which may be gradients: nothing tells which of the two is wrong
            hint += ", or with --forces-sign -1 if it is the forces that are wrong"
        found.append(fault("stress-sign", words, hint, level, figures))
    if reading.unit != "eV/Angstrom^3":
        words, hint = f"stress is in {reading.unit}, measured by {source}", f"import with --stress-unit {reading.unit}"
        found.append(fault("stress-unit", words, hint, level, {**figures, "unit": reading.unit}))
    return found
