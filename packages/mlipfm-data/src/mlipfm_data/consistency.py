"""Do the labels belong together? Along a path the energy changes by minus force times displacement, and with the volume by the stress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from mlipfm_interfaces.structure import Structure

#: Å. Over longer steps the mean of two forces is no good estimate: relaxations of OC20 give slope 1.00 up to 0.05 Å, and 0.41 with their first jumps.
LONGEST_STEP = 0.05


@dataclass(frozen=True)
class Slope:
    """Regression through the origin of energy differences on what the gradients predict.

    Attributes:
        slope: 1 if units and signs fit, about -1 if forces are gradients. nan without pairs.
        correlation: of the two; below about 0.9 the pairs are too far apart to tell.
        pairs: number of pairs compared.
    """

    slope: float
    correlation: float
    pairs: int


def energy_against_forces(structures: Sequence[Structure], longest: float = LONGEST_STEP) -> Slope:
    """Compare E(b) - E(a) with -(F_a + F_b)/2 . (r_b - r_a) for neighbours in the sequence.

    A pair counts if both have the same atoms, cell and level, and no atom moved more than `longest` Å.
    """
    measured, predicted = [], []
    for a, b in pairwise(structures):
        if not _comparable(a, b):
            continue
        step = b.positions - a.positions
        if np.abs(step).max() > longest:
            continue
        measured.append(float(b.labels["energy"] - a.labels["energy"]))
        predicted.append(-float(np.sum((a.labels["forces"] + b.labels["forces"]) * step)) / 2)
    return _regress(np.array(predicted), np.array(measured))


def _comparable(a: Structure, b: Structure) -> bool:
    labelled = all(key in s.labels for s in (a, b) for key in ("energy", "forces"))
    return labelled and a.level == b.level and np.array_equal(a.atomic_numbers, b.atomic_numbers) and np.array_equal(a.cell, b.cell)


def _regress(x: np.ndarray, y: np.ndarray) -> Slope:
    if len(x) < 2 or not x.any() or not y.any():
        return Slope(float("nan"), float("nan"), len(x))
    return Slope(float(x @ y / (x @ x)), float(x @ y / np.sqrt((x @ x) * (y @ y))), len(x))
