"""Which geometries a teacher may label: those of which it is as sure as of structures like its training data.

A teacher that was fine-tuned on few molecules labels others by extrapolation, and a student learns the errors as faithfully as the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.uncertainty import Uncertain, Uncertainty


@dataclass(frozen=True)
class Limits:
    """Largest sigma with which a label is accepted: energy in eV per atom, forces in eV/Å (of the worst atom; None without forces)."""

    energy: float
    forces: float | None

    def accept(self, answer: Uncertain) -> bool:
        """Return whether the teacher is sure enough of its energy and of the force on every atom."""
        return answer.energy_sigma <= self.energy and (self.forces is None or float(answer.atom_sigma.max()) <= self.forces)

    def as_dict(self) -> dict[str, float | None]:
        """JSON-ready."""
        return {"energy": self.energy, "forces": self.forces}


def limits_like(teacher: Potential, uncertainty: Uncertainty, like: Iterable[Structure], quantile: float = 0.95) -> Limits:
    """Limits by the `quantile` of sigma over structures like the teacher's training data: its validation data, or those it was calibrated on.

    Raises:
        MissingLabelsError: there are no structures.
    """
    seen = list(uncertainty.predict(teacher, like))
    if not seen:
        raise MissingLabelsError("there are no structures to compare the teacher's uncertainty with", hint="give its validation data")
    energy = float(np.quantile([u.energy_sigma for u in seen], quantile))
    forces = float(np.quantile([u.atom_sigma.max() for u in seen], quantile)) if "forces" in uncertainty.quantities else None
    return Limits(energy, forces)


def certain(teacher: Potential, uncertainty: Uncertainty, structures: Sequence[Structure], limits: Limits) -> list[bool]:
    """Of each structure, whether the teacher's labels are within the limits. Structures are at the level at which the teacher is asked."""
    return [limits.accept(answer) for answer in uncertainty.predict(teacher, structures)]
