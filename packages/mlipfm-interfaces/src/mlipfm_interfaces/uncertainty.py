"""Predictions that say how sure they are, and what gives them: the contract between packages that estimate uncertainty and those that evaluate it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import MissingLabelsError, PropertyNotAvailableError
from .potential import Potential
from .structure import Structure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Uncertain:
    """One structure with its prediction and how sure it is.

    Attributes:
        energy: eV. energy_sigma: eV per atom. forces: [atoms, 3] eV/Å or None. force_sigma: of every component, as forces.
    """

    structure: Structure
    energy: float
    energy_sigma: float
    forces: Floats | None = None
    force_sigma: Floats | None = None

    @property
    def atom_sigma(self) -> Floats:
        """[atoms] eV/Å: root of the summed variances of the three components."""
        return np.asarray(np.linalg.norm(_given(self.force_sigma), axis=1), dtype=np.float64)

    def energy_error(self) -> float:
        """Prediction minus label, eV per atom.

        Raises:
            MissingLabelsError: no label.
        """
        return (self.energy - float(self._label("energy"))) / len(self.structure)

    def force_errors(self) -> Floats:
        """[atoms, 3] eV/Å: prediction minus label.

        Raises:
            MissingLabelsError: no label. PropertyNotAvailableError: no forces were predicted.
        """
        return np.asarray(_given(self.forces) - self._label("forces"), dtype=np.float64)

    def score(self, quantity: str) -> float:
        """|error| / sigma of the `energy`, or the largest |error of the force| / sigma of the atoms (`forces`)."""
        if quantity == "energy":
            return abs(self.energy_error()) / self.energy_sigma
        return float((np.linalg.norm(self.force_errors(), axis=1) / self.atom_sigma).max())

    def _label(self, key: str) -> Any:
        if key not in self.structure.labels:
            raise MissingLabelsError(f"needs the label {key!r}", where=self.structure.formula)
        return self.structure.labels[key]


class Uncertainty(Protocol):
    """What a plug-in of the group `uncertainties` has fitted for one model; the plug-in itself is a class with `fit` and `load` that give one.

    `fit(potential, digest, train, calibrate, *, details, progress)` and `load(path, digest)`, which refuses the file of another model.
    """

    @property
    def quantities(self) -> tuple[str, ...]:
        """`energy`, `forces` or both."""

    @property
    def details(self) -> Any:
        """JSON-ready: on what it was fitted."""

    def predict(self, potential: Potential, structures: Iterable[Structure]) -> Iterator[Uncertain]:
        """Predictions in the order of the structures."""

    def quantile(self, quantity: str, level: float = 0.9) -> float:
        """Return what sigma is multiplied with for an interval of this guaranteed coverage of a structure."""

    def save(self, path: Path | str) -> str:
        """Write one file; returns its digest."""


def errors_and_sigma(seen: Iterable[Uncertain], quantity: str) -> tuple[Floats, Floats]:
    """Errors and sigma end to end: eV per atom for each structure, or eV/Å for each force component."""
    if quantity == "energy":
        pairs = [(np.array([u.energy_error()]), np.array([u.energy_sigma])) for u in seen]
    else:
        pairs = [(u.force_errors().ravel(), _given(u.force_sigma).ravel()) for u in seen]
    return np.concatenate([e for e, _ in pairs]), np.concatenate([s for _, s in pairs])


def _given(value: Floats | None) -> Floats:
    if value is None:
        raise PropertyNotAvailableError("the uncertainty of forces was not fitted", hint="fit it for a conservative model")
    return value
