"""Errors of energies and forces against labels, with intervals over molecules or trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mlipfm_interfaces import metrics
from mlipfm_interfaces.errors import DensityError, ForeignModelError, LevelError, MissingLabelsError, OverlapError, UnknownElementError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential, evaluate, not_finite
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.structure import Structure

#: Atoms evaluated in one batch.
BATCH_ATOMS = 512


@dataclass(frozen=True)
class Predictions:
    """Predicted and reference energies and forces of the same structures; a structure the model failed on has NaN.

    Attributes:
        structures: with labels. energies: [structures] eV. forces: list of [atoms, 3] eV/Å. groups: of each structure, for intervals.
        failures: index of a structure without an answer -> the reason.
    """

    structures: list[Structure]
    energies: np.ndarray
    forces: list[np.ndarray]
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        return [metrics.group_of(s) for s in self.structures]

    @property
    def reference_energies(self) -> np.ndarray:
        return np.array([float(s.labels["energy"]) for s in self.structures])

    @property
    def reference_forces(self) -> list[np.ndarray]:
        return [s.labels["forces"] for s in self.structures]


def predict(
    model: Potential | Teacher, structures: Sequence[Structure], *, level: str | None = None, progress: Callable[[int], None] | None = None
) -> Predictions:
    """Energies and forces of labelled structures.

    Args:
        progress: called with the number of structures done.

    Raises:
        MissingLabelsError: if a structure has no energy or force label.
        LevelError: if labels are of a level that the model does not have, and no `level` says that they shall be compared all the same.
    """
    if isinstance(model, Potential) and level is None:
        _check_levels(model, structures)
    for k, s in enumerate(structures):
        if not {"energy", "forces"} <= set(s.labels):
            raise MissingLabelsError(f"needs energy and forces, has {', '.join(s.labels) or 'no label'}", where=f"structure {k}")
    energies: list[float] = []
    forces: list[np.ndarray] = []
    failures: dict[int, str] = {}
    for chunk in _chunks(structures):
        for row, s in zip(_rows(model, chunk, level), chunk, strict=True):
            if "failure" in row or not (np.isfinite(row["energy"]).all() and np.isfinite(row["forces"]).all()):
                failures[len(energies)] = row["failure"] if "failure" in row else _no_number(model)
                row = {"energy": np.nan, "forces": np.full((len(s), 3), np.nan)}  # half an answer is none
            energies.append(float(row["energy"]))
            forces.append(np.asarray(row["forces"]).reshape(len(s), 3))
        if progress is not None:
            progress(len(energies))
    return Predictions(list(structures), np.array(energies), forces, failures)


def error_metrics(predictions: Predictions) -> dict[str, Metric]:
    """Energy MAE and RMSE (meV/atom), force MAE, RMSE and 99th percentile (meV/Å) and force cosine."""
    groups = predictions.groups
    n = np.array([len(s) for s in predictions.structures])
    per_atom = list(1000 * predictions.energies / n), list(1000 * predictions.reference_energies / n)
    forces = [1000 * f for f in predictions.forces], [1000 * f for f in predictions.reference_forces]
    return {
        "energy_mae": metrics.mae(*per_atom, groups, name="energy MAE", unit="meV/atom"),
        "energy_rmse": metrics.rmse(*per_atom, groups, name="energy RMSE", unit="meV/atom"),
        "force_mae": metrics.mae(*forces, groups, name="force MAE", unit="meV/Å"),
        "force_rmse": metrics.rmse(*forces, groups, name="force RMSE", unit="meV/Å"),
        "force_p99": metrics.percentile(*forces, 99, groups, name="force error P99", unit="meV/Å"),
        "force_cosine": metrics.force_cosine(*forces, groups),
    }


def force_error_ratio(first: Predictions, second: Predictions) -> Metric:
    """Force MAE of `first` over that of `second` on the same structures, paired: an interval below 1 says that `first` is better."""
    return metrics.compare(first.forces, second.forces, first.reference_forces, first.groups, name="force MAE ratio")


#: What one structure can do to a model: it is a failed case. Anything else is a mistake of the caller and is raised.
_FAILURES = (OverlapError, DensityError, UnknownElementError, ForeignModelError)


def _no_number(model: Potential | Teacher) -> str:
    """Why an answer is not finite, as far as the weights tell."""
    weights = not_finite(model)
    return f"the answer is not finite: {weights}" if weights else "the answer is not finite"


def _check_levels(model: Potential, structures: Sequence[Structure]) -> None:
    for k, s in enumerate(structures):
        if s.level is not None and s.level not in model.spec.levels:
            raise LevelError(
                f"the labels are of level {s.level!r}, the model predicts {', '.join(model.spec.levels)}",
                where=f"structure {k}",
                mend="give `level` to compare across levels",
            )


def _rows(model: Potential | Teacher, chunk: list[Structure], level: str | None) -> list[dict[str, Any]]:
    try:
        if isinstance(model, Potential):
            return list(evaluate(model, chunk, ("energy", "forces"), level=level))
        return list(model.evaluate(chunk, ("energy", "forces")))
    except _FAILURES as error:
        if len(chunk) > 1:
            return [row for s in chunk for row in _rows(model, [s], level)]
        return [{"energy": np.nan, "forces": np.full((len(chunk[0]), 3), np.nan), "failure": error.what}]


def _chunks(structures: Sequence[Structure]) -> list[list[Structure]]:
    chunks: list[list[Structure]] = [[]]
    atoms = 0
    for s in structures:
        if chunks[-1] and atoms + len(s) > BATCH_ATOMS:
            chunks.append([])
            atoms = 0
        chunks[-1].append(s)
        atoms += len(s)
    return [chunk for chunk in chunks if chunk]
