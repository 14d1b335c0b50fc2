"""How much the labels of a structure count: the labels `weight` (of the structure) and `forces_weight` (of the force on each atom)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .structure import Structure


def structure_weight(structure: Structure) -> float:
    """Return the label `weight`; 1 where there is none."""
    return float(structure.labels.get("weight", 1.0))


def is_defined(structure: Structure, key: str) -> bool:
    """Whether a structure has the quantity `key` at all, as `Batch.defined` says: stress with three periodic directions, a dipole without any."""
    if key == "stress":
        return bool(structure.pbc.all())
    return key not in ("dipole", "quadrupole", "born_charges") or not structure.pbc.any()


def force_weights(structure: Structure) -> NDArray[np.float64]:
    """[atoms] the label `forces_weight`; 1 where there is none."""
    return np.asarray(structure.labels.get("forces_weight", np.ones(len(structure))), dtype=np.float64)
