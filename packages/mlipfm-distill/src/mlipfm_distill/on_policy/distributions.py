"""Radial distributions of the teacher without its dynamics: frames of the student, each with its weight in the teacher's ensemble.

An average over the teacher's canonical ensemble is that over the student's with weights exp(-(E_teacher - E_student) / kT)
(Zwanzig, J. Chem. Phys. 22 (1954) 1420). Of N frames with weights w as many as N_eff = (sum w)^2 / sum w^2 count (Kish); where these are few,
the average says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import KB
from mlipfm_md.observables import TrajectoryData, radial_distribution

from .exploration import explore
from .student import predictions

#: Frames whose energies the teacher gives at first and at most, and the effective number of them below which nothing is resolved.
FIRST, MOST, RESOLVED = 20, 200, 50.0
#: ps of the dynamics that the frames are taken from, and bins of a distribution.
PS, BINS = 40.0, 60

Label = Callable[[str, Sequence[Structure]], list[Structure]]


def distributions(
    student: Path, start: Structure, temperatures: Sequence[float], dt: float, labels: int, label: Label, seed: int
) -> list[dict[str, Any]]:
    """Return g(r) of every pair of elements in the ensembles of student and teacher at each temperature.

    Args:
        labels: of the teacher, that may be spent on all temperatures. label: labels frames, given the name of their part; some may be missing.

    Returns:
        For each temperature `kelvin`, `frames`, `effective`, `needed` (frames for `RESOLVED`, where there are fewer) and `pairs`: name -> `r` Å,
        `student`, and, where it is resolved, `teacher`; or the `reason` why there is nothing. An empty list for what is not periodic in three
        directions, and where too few labels are left.
    """
    each = min(MOST, labels // len(temperatures))
    if not start.pbc.all() or each < FIRST:
        return []
    return [_at(student, start, kelvin, dt, each, label, seed) for kelvin in temperatures]


def _at(student: Path, start: Structure, kelvin: float, dt: float, most: int, label: Label, seed: int) -> dict[str, Any]:
    potential = load_potential(student)
    (run,) = explore(potential, [start], [kelvin], PS, dt, most * 4 // 3 + 1, seed)
    frames = run.frames[len(run.frames) // 4 :]  # the first quarter remembers the start
    found: dict[str, Any] = {"kelvin": kelvin, "frames": 0, "effective": 0.0, "pairs": {}}
    if len(frames) < FIRST:
        return found | {"reason": f"the dynamics ended after {run.reached:.2g} ps: {run.reason}"}
    few = FIRST
    known = label(f"distribution-{kelvin:g}K", frames[:: max(1, len(frames) // few)][:few])
    wanted = 1.2 * RESOLVED * len(known) / max(effective(_weights(student, known, kelvin)), 1.0)
    if known and few < wanted <= most:
        known = label(f"distribution-{kelvin:g}K", frames)
    weights = _weights(student, known, kelvin)
    n = effective(weights)
    found |= {"frames": len(known), "effective": n}
    if not known:
        return found | {"reason": "the teacher labels none of the frames"}
    if n < RESOLVED:
        found["needed"] = int(np.ceil(RESOLVED * len(known) / n))
    every = _trajectory(frames)
    some = _trajectory(known)
    for a, b in combinations_with_replacement(every.elements, 2):
        if a == b and len(every.atoms_of(a)) < 2:
            continue
        g = radial_distribution(every, a, b, bins=BINS)
        pair: dict[str, Any] = {"r": g.x.tolist(), "student": g.values.tolist()}
        if n >= RESOLVED:
            theirs = radial_distribution(some, a, b, bins=BINS, weights=weights)
            pair["teacher"] = theirs.values.tolist()
            pair["teacher_error"] = None if theirs.error is None else theirs.error.tolist()
        found["pairs"][g.name] = pair
    return found


def boltzmann_weights(teacher: np.ndarray, student: np.ndarray, kelvin: float) -> np.ndarray:
    """Return the weights of frames of the student's ensemble in the teacher's, the largest is 1; energies [frames] in eV."""
    exponent = -(teacher - student) / (KB * kelvin)
    return np.asarray(np.exp(exponent - exponent.max(initial=-np.inf)))


def effective(weights: np.ndarray) -> float:
    """Return Kish's effective number of frames, 0 of none."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def _weights(student: Path, known: Sequence[Structure], kelvin: float) -> np.ndarray:
    theirs = np.array([float(s.labels["energy"]) for s in known])
    return boltzmann_weights(theirs, np.array([float(p["energy"]) for p in predictions(student, known)]), kelvin)


def _trajectory(frames: Sequence[Structure]) -> TrajectoryData:
    first = frames[0]
    return TrajectoryData(
        times=np.arange(len(frames), dtype=np.float64),
        atomic_numbers=first.atomic_numbers,
        positions=np.stack([s.positions for s in frames]),
        cells=np.stack([s.cell for s in frames]),
        pbc=np.asarray(first.pbc),
        source="frames of the student",
    )
