"""Atoms whose force is no label: of weight 0, or written as exactly zero because a constraint held them.

The work of such an atom is not known. Tests of energies against forces use a pair of frames only if these atoms rest, and all tests of forces leave
these atoms out.
"""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.structure import Structure

#: Å that a held atom may move between two frames (digits of files) without doing work that matters.
AT_REST = 2e-3


def unknown_forces(structure: Structure) -> np.ndarray:
    """[N] true where the force is no label: `forces_weight` is 0, or the force is exactly zero and that of another atom is not."""
    zero = zero_forces(structure)
    if zero.all():
        zero = np.zeros(len(structure), dtype=bool)
    weight = structure.labels.get("forces_weight")
    return zero if weight is None else zero | (np.asarray(weight) == 0)


def zero_forces(structure: Structure) -> np.ndarray:
    """[N] true where all three components are exactly zero."""
    return ~np.any(structure.labels["forces"], axis=1)


def unmasked_zeros(structure: Structure) -> np.ndarray:
    """[N] true where a force is exactly zero, another is not, and no weight of 0 leaves it out."""
    zero = zero_forces(structure)
    if zero.all():
        return np.zeros(len(structure), dtype=bool)
    weight = structure.labels.get("forces_weight")
    return zero if weight is None else zero & (np.asarray(weight) != 0)


def held_along(forces: np.ndarray) -> np.ndarray:
    """[N, 3] true where a component is exactly zero, others of the atom are not, and those of other atoms along that axis are not either."""
    zero = forces == 0
    return np.asarray(zero & ~zero.all(axis=0) & ~zero.all(axis=1)[:, None])


def known_forces(structure: Structure) -> np.ndarray:
    """[N, 3] forces, zero where they are not known."""
    return np.where(unknown_forces(structure)[:, None], 0.0, structure.labels["forces"])
