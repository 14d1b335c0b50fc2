"""Errors of energies, forces and stresses against the labels that are there, with intervals over molecules, trajectories or blocks of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces import metrics
from mlipfm_interfaces.errors import DensityError, ForeignModelError, LevelError, MissingLabelsError, OverlapError, UnknownElementError
from mlipfm_interfaces.label_weights import force_weights, structure_weight
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential, evaluate, not_finite
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.reference_rank import warn_if_undetermined
from mlipfm_interfaces.resampling import time_blocks
from mlipfm_interfaces.structure import Structure

#: Atoms evaluated in one batch.
_BATCH_ATOMS = 512

#: Errors of energies above this, meV/atom, that constants of the elements divide by this or more are those of another zero of energy.
_OFFSET, _OFFSET_RATIO = 20.0, 10.0

#: Name of the error of `Predictions.energies_less_constants`.
LESS_CONSTANTS = "energy MAE less constants of elements"

_Quantity = Literal["energy", "forces", "stress"]
_QUANTITIES: tuple[_Quantity, ...] = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Cases:
    """The structures that have one label, with predictions; units of a report (meV/atom, meV/Å, meV/Å³).

    Attributes:
        rows: [cases] index of each among the structures. predicted, reference: of each, an energy per atom, [atoms, 3] or [3, 3]; forces of atoms
            with `forces_weight` 0 are left out. atomic_numbers: of each, of the atoms that are kept.
    """

    rows: list[int]
    predicted: list[np.ndarray]
    reference: list[np.ndarray]
    atomic_numbers: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def errors(self) -> np.ndarray:
        """Return the mean absolute error of each case, [cases]; NaN without a prediction."""
        return np.array([float(np.abs(a - b).mean()) for a, b in zip(self.predicted, self.reference, strict=True)])


@dataclass(frozen=True)
class Predictions:
    """Predictions for labelled structures; one that the model failed on has NaN.

    Attributes:
        structures: with labels, any of energy, forces and stress. energies: [structures] eV. forces: list of [atoms, 3] eV/Å.
        failures: index of a structure without a prediction -> the reason. stresses: list of [3, 3] eV/Å³, NaN where none was asked.
        microseconds: time per atom, the median of all batches; NaN if it was not measured.
    """

    structures: list[Structure]
    energies: np.ndarray
    forces: list[np.ndarray]
    failures: dict[int, str] = field(default_factory=dict)
    stresses: list[np.ndarray] = field(default_factory=list)
    microseconds: float = float("nan")

    @property
    def groups(self) -> list[str]:
        """The molecule or trajectory of each structure."""
        return [metrics.group_of(s) for s in self.structures]

    @property
    def reference_energies(self) -> np.ndarray:
        """[structures] eV, NaN where there is no label."""
        return np.array([float(s.labels.get("energy", np.nan)) for s in self.structures])

    @cached_property
    def cases(self) -> dict[_Quantity, Cases]:
        """What can be compared, by label. Structures of weight 0 are left out."""
        return {key: cases for key in _QUANTITIES if len(cases := self._cases(key))}

    def _cases(self, key: _Quantity) -> Cases:
        rows, predicted, reference, numbers = [], [], [], []
        for k, s in enumerate(self.structures):
            if key not in s.labels or structure_weight(s) == 0 or (key == "stress" and not self._has_stress(k)):
                continue
            kept = force_weights(s) > 0 if key == "forces" else np.ones(len(s), dtype=bool)
            if not kept.any():
                continue
            label = np.asarray(s.labels[key], dtype=np.float64)
            if key == "energy":
                pair = self.energies[k] / len(s), label / len(s)
            elif key == "forces":
                pair = self.forces[k][kept], label[kept]
            else:
                pair = self.stresses[k], label
            rows.append(k)
            predicted.append(1000 * np.asarray(pair[0]))
            reference.append(1000 * np.asarray(pair[1]))
            numbers.append(s.atomic_numbers[kept])
        return Cases(rows, predicted, reference, numbers)

    def _has_stress(self, k: int) -> bool:
        """Return whether a stress was asked of the structure: it is periodic, and the model has one."""
        return bool(self.stresses) and (k in self.failures or bool(np.isfinite(self.stresses[k]).all()))

    @cached_property
    def energies_less_constants(self) -> list[np.ndarray] | None:
        """`energies_less_fit`; None where that hardly helps.

        Two levels of theory, codes or zeros of energy differ by such constants, and their forces do not.
        """
        cases, fitted = self.cases.get("energy"), self.energies_less_fit
        if cases is None or fitted is None:
            return None
        before, after = (float(np.nanmean(np.abs(np.subtract(p, cases.reference)))) for p in (cases.predicted, fitted))
        return None if before < _OFFSET or before < _OFFSET_RATIO * after else fitted

    @cached_property
    def energies_less_fit(self) -> list[np.ndarray] | None:
        """Of the cases with an energy, meV/atom: predictions less one constant of each element, fitted to their errors; None for too few cases."""
        cases = self.cases.get("energy")
        if cases is None:
            return None
        structures = [self.structures[k] for k in cases.rows]
        errors = np.array([float(a - b) for a, b in zip(cases.predicted, cases.reference, strict=True)])
        known = np.unique(np.concatenate([s.atomic_numbers for s in structures]))
        shares = np.array([[np.mean(s.atomic_numbers == z) for z in known] for s in structures])
        answered = np.isfinite(errors)
        constants, _, rank, _ = np.linalg.lstsq(shares[answered], errors[answered], rcond=None)
        if answered.sum() <= 2 * rank:
            return None
        return [np.asarray(p - f) for p, f in zip(cases.predicted, shares @ constants, strict=True)]

    @cached_property
    def resampled(self) -> list[Hashable]:
        """What an interval draws as a whole: molecules or trajectories; blocks of time where there is only one of these."""
        groups: list[Hashable] = list(self.groups)
        if len(set(groups)) > 1 or not self.cases:
            return groups
        order = np.argsort(
            [s.provenance.index if s.provenance.index is not None else k for k, s in enumerate(self.structures)], kind="stable"
        )
        blocks = None
        for cases in self.cases.values():
            error = np.full(len(self.structures), np.nan)
            error[cases.rows] = cases.errors()
            found = time_blocks(error[order])
            if found is None:
                return groups
            blocks = found if blocks is None or found.max() < blocks.max() else blocks
        if blocks is None:
            return groups
        named = np.empty(len(order), dtype=np.int64)
        named[order] = blocks
        return list(named.tolist())

    @property
    def interval_over(self) -> str:
        """In words, what an interval draws, or why there is none."""
        predicted = [k for k in range(len(self.structures)) if k not in self.failures]
        groups, drawn = ({names[k] for k in predicted} for names in (self.groups, self.resampled))
        if len(groups) > 1:
            return f"intervals over {len(groups)} molecules or trajectories"
        if drawn != groups:
            length = round(len(self.structures) / len(drawn))
            return (
                f"intervals over {len(drawn)} blocks of about {length} frames in a row, each longer than two correlation times: all frames are "
                "of one molecule or trajectory, and the interval says nothing about another"
            )
        return (
            "no intervals, which need two molecules or trajectories or more, or one that is long against the correlation time of its errors"
        )


def predict(
    model: Potential | Teacher, structures: Sequence[Structure], *, level: str | None = None, progress: Callable[[int], None] | None = None
) -> Predictions:
    """Predict energies and forces of structures that have labels, and the stress of those that have a label of it.

    Args:
        progress: called with the number of structures done.

    Raises:
        MissingLabelsError: if no structure has an energy, forces or a stress.
        LevelError: if labels are of a level that the model does not have, and no `level` says that they shall be compared all the same.
    """
    if isinstance(model, Potential) and level is None:
        _check_levels(model, structures)
    if isinstance(model, Potential):
        warn_if_undetermined(model, [s for s in structures if "energy" in s.labels], level)  # of all compositions at once
    if not any(key in s.labels for s in structures for key in _QUANTITIES):
        have = sorted({key for s in structures for key in s.labels})
        raise MissingLabelsError(
            f"no structure has energy, forces or stress to compare with; there are: {', '.join(have) or 'no labels'}",
            hint="name the keys of the labels when the file is imported (mlipfm data import)",
        )
    offered = model.spec.outputs if isinstance(model, Potential) else model.outputs
    energies: list[float] = []
    forces: list[np.ndarray] = []
    stresses: list[np.ndarray] = []
    failures: dict[int, str] = {}
    times: list[float] = []
    for chunk, outputs in _chunks(structures, with_stress="stress" in offered):
        start = time.perf_counter()
        rows = _rows(model, chunk, outputs, level)
        times.append(1e6 * (time.perf_counter() - start) / sum(map(len, chunk)))
        for row, s in zip(rows, chunk, strict=True):
            if "failure" in row or not all(np.isfinite(row[key]).all() for key in outputs):
                failures[len(energies)] = row["failure"] if "failure" in row else _no_number(model)
                row = {"energy": np.nan, "forces": np.full((len(s), 3), np.nan)}  # half a prediction is none
            energies.append(float(row["energy"]))
            forces.append(np.asarray(row["forces"]).reshape(len(s), 3))
            stresses.append(np.asarray(row["stress"]).reshape(3, 3) if "stress" in row else np.full((3, 3), np.nan))
        if progress is not None:
            progress(len(energies))
    return Predictions(list(structures), np.array(energies), forces, failures, stresses, float(np.median(times)))


def error_metrics(predictions: Predictions) -> dict[str, Metric]:
    """Return MAE and RMSE of energy (meV/atom), forces (meV/Å; also 99th percentile and cosine) and stress (meV/Å³), of the labels that are there.

    `n_total` of each figure is the number of structures with its label.
    """
    found: dict[str, Metric] = {}
    for key, cases in predictions.cases.items():
        groups = [predictions.resampled[k] for k in cases.rows]
        name, unit = {"energy": ("energy", "meV/atom"), "forces": ("force", "meV/Å"), "stress": ("stress", "meV/Å³")}[key]
        both = cases.predicted, cases.reference
        found[f"{name}_mae"] = metrics.mae(*both, groups, name=f"{name} MAE", unit=unit)
        found[f"{name}_rmse"] = metrics.rmse(*both, groups, name=f"{name} RMSE", unit=unit)
        if key == "energy" and predictions.energies_less_constants and (shifted := error_less_constants(predictions)):
            found["energy_mae_shifted"] = shifted
        if key == "forces":
            found["force_p99"] = metrics.percentile(*both, 99, groups, name="force error P99", unit=unit)
            found["force_cosine"] = metrics.force_cosine(*both, groups)
    return found


def error_less_constants(predictions: Predictions) -> Metric | None:
    """Return the MAE of `Predictions.energies_less_fit`, meV/atom; None where there are none."""
    cases, fitted = predictions.cases.get("energy"), predictions.energies_less_fit
    if cases is None or fitted is None:
        return None
    return metrics.mae(fitted, cases.reference, [predictions.resampled[k] for k in cases.rows], name=LESS_CONSTANTS, unit="meV/atom")


def force_error_ratio(first: Predictions, second: Predictions) -> Metric:
    """Return the force MAE of `first` over that of `second` on the same structures, paired: an interval below 1 says that `first` is better."""
    a, b = first.cases["forces"], second.cases["forces"]
    return metrics.compare(a.predicted, b.predicted, a.reference, [first.resampled[k] for k in a.rows], name="force MAE ratio")


#: What one structure can do to a model: it is a failed case. Anything else is a mistake of the caller and is raised.
_FAILURES = (OverlapError, DensityError, UnknownElementError, ForeignModelError)


def _no_number(model: Potential | Teacher) -> str:
    """Why a prediction is not finite, as far as the weights show it."""
    weights = not_finite(model)
    return f"the prediction is not finite: {weights}" if weights else "the prediction is not finite"


def _check_levels(model: Potential, structures: Sequence[Structure]) -> None:
    for k, s in enumerate(structures):
        if s.level is not None and s.level not in model.spec.levels:
            raise LevelError(
                f"the labels are of level {s.level!r}, the model predicts {', '.join(model.spec.levels)}",
                where=f"structure {k}",
                hint="give `level` to compare across levels",
            )


def _rows(model: Potential | Teacher, chunk: list[Structure], outputs: tuple[str, ...], level: str | None) -> list[dict[str, Any]]:
    try:
        if isinstance(model, Potential):
            return list(evaluate(model, chunk, outputs, level=level))
        return list(model.evaluate(chunk, outputs))
    except _FAILURES as error:
        if len(chunk) > 1:
            return [row for s in chunk for row in _rows(model, [s], outputs, level)]
        return [{"energy": np.nan, "forces": np.full((len(chunk[0]), 3), np.nan), "failure": error.what}]


def _chunks(structures: Sequence[Structure], *, with_stress: bool) -> list[tuple[list[Structure], tuple[str, ...]]]:
    """Structures in their order, in batches that are asked the same: the stress only where a periodic structure has a label of it."""
    chunks: list[tuple[list[Structure], tuple[str, ...]]] = []
    atoms = 0
    for s in structures:
        stress = with_stress and "stress" in s.labels and bool(s.pbc.all())
        outputs = ("energy", "forces", "stress") if stress else ("energy", "forces")
        if not chunks or chunks[-1][1] != outputs or atoms + len(s) > _BATCH_ATOMS:
            chunks.append(([], outputs))
            atoms = 0
        chunks[-1][0].append(s)
        atoms += len(s)
    return chunks
