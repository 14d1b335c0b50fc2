"""Evaluation of a model on labelled data sets: errors in and out of distribution, and what a result record keeps of them."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mlipfm_interfaces import metrics
from mlipfm_interfaces.benchmark import BenchmarkResult, LabelledSet, OpenModel, benchmark_record
from mlipfm_interfaces.errors import MlipfmWarning
from mlipfm_interfaces.label_weights import force_weights, structure_weight
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential, ignored_conditions
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.result_records import Record
from mlipfm_interfaces.structure import Structure

from ._training_overlap import known_structures, overlap_text
from .prediction_errors import _QUANTITIES, Predictions, _Quantity, error_metrics, predict

#: Groups whose errors a record lists; with more it lists none.
_MOST_GROUPS = 5000
#: Points of a parity plot, and structures of the largest error, that a record keeps of each data set.
_PARITY_POINTS: dict[_Quantity, int] = {"energy": 300, "forces": 600, "stress": 300}
_WORST = 10
#: Words and unit of a parity plot, and its size in the unit of `Cases`.
_PARITY: dict[_Quantity, tuple[str, str, float]] = {
    "energy": ("energy per atom, less the same sum over the elements for both", "meV/atom", 1),
    "forces": ("forces", "eV/Å", 1000),
    "stress": ("stress", "eV/Å³", 1000),
}
_CONSTANTS_FITTED = "; predictions also less constants of the elements that are fitted to their errors"


@dataclass(frozen=True)
class Evaluation:
    """One set with predictions.

    Attributes:
        figures: key -> Metric over the structures with the label that were predicted. elements: symbol -> force MAE.
        penalised: the same keys for MAE and RMSE, where a structure without a prediction has the error of a model that knows nothing, or the mean
            of the others if that is larger.
        reasons: why structures were not predicted -> how many.
        seen: structures that the model was trained on, see `known_structures`.
    """

    set: LabelledSet
    predictions: Predictions
    figures: dict[str, Metric]
    elements: dict[str, Metric]
    penalised: dict[str, float]
    reasons: dict[str, int]
    seen: dict[str, int]

    @property
    def left_out(self) -> int:
        """Structures of weight 0, which count in no error."""
        return sum(structure_weight(s) == 0 for s in self.predictions.structures)

    @property
    def zero_of_energy(self) -> str:
        """A sentence if energies of labels and model have different zeros, else empty."""
        shifted = self.figures.get("energy_mae_shifted")
        if shifted is None:
            return ""
        cause = "look at the label errors first" if self.set.label_errors else "another level of theory, code or zero of energy"
        return (
            f"energies of the labels and of the model differ by a constant of each element: {cause}. "
            f"With the constants fitted to this set the energy MAE is {figure_text(shifted)} meV/atom"
        )

    @property
    def masked_atoms(self) -> int:
        """Atoms whose forces are left out by `forces_weight` 0."""
        return sum(int((force_weights(s) == 0).sum()) for s in self.predictions.structures if "forces" in s.labels)


def evaluate_set(
    model: Potential | Teacher,
    data: LabelledSet,
    *,
    level: str | None = None,
    progress: Callable[[int], None] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Predict one data set and compare with its labels.

    Args:
        manifest: of the model's checkpoint, which says what it was trained on.
    """
    if isinstance(model, Potential):
        _warn_of_ignored(data.structures, model.spec.conditions)
    predictions = predict(model, list(data.structures), level=level, progress=progress)
    forces, elements = predictions.cases.get("forces"), {}
    if forces is not None:
        groups = [predictions.resampled[k] for k in forces.rows]
        every = metrics.per_element(forces.predicted, forces.reference, forces.atomic_numbers, groups, unit="meV/Å")
        elements = {symbol: m for symbol, m in every.items() if m.n_ok}
    reasons: dict[str, int] = {}
    for reason in predictions.failures.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return Evaluation(
        data, predictions, error_metrics(predictions), elements, penalised(predictions), reasons, known_structures(manifest or {}, data)
    )


def _warn_of_ignored(structures: Sequence[Structure], conditions: Sequence[str]) -> None:
    """Warn of charges, multiplicities and fields that the model does not have."""
    found = Counter(text.partition(":")[0] for s in structures for text in ignored_conditions(s, conditions))
    for what, count in found.items():
        warnings.warn(
            f"{what}: that of {count} of {len(structures)} structures changes nothing in their predictions", MlipfmWarning, stacklevel=3
        )


def penalised(predictions: Predictions) -> dict[str, float]:
    """Return MAE and RMSE over all structures with the label, never below those over the predicted ones.

    A structure without a prediction counts with zero forces (and zero stress) and the energy that its composition alone predicts (least squares on
    this very set), or with the mean error of the predictions where that is larger: a model worse than knowing nothing gains nothing by refusing.
    Without any prediction there is none: of few structures their compositions explain every energy.
    """
    found: dict[str, float] = {}
    for key, cases in predictions.cases.items():
        answered = np.array([bool(np.isfinite(p).all()) for p in cases.predicted])
        if not answered.any():
            continue
        if key == "energy":
            energies = np.array([predictions.reference_energies[k] for k in cases.rows])
            structures = [predictions.structures[k] for k in cases.rows]
            n = np.array([len(s) for s in structures])
            ignorant = list(1000 * _composition_energies(structures, energies) / n)
        else:
            ignorant = [np.zeros_like(r) for r in cases.reference]
        filled = [p if ok else i for p, i, ok in zip(cases.predicted, ignorant, answered, strict=True)]
        errors = np.concatenate([np.ravel(a - b) for a, b in zip(filled, cases.reference, strict=True)])
        known = np.repeat(answered, [r.size for r in cases.reference])
        name = "force" if key == "forces" else key
        found |= {f"{name}_mae": _floored(np.abs(errors), known), f"{name}_rmse": math.sqrt(_floored(errors**2, known))}
    return found


def _floored(errors: np.ndarray, answered: np.ndarray) -> float:
    """Mean of errors, those that were not predicted being at least the mean of those that were."""
    floor = float(errors[answered].mean())
    return float(np.where(answered, errors, np.maximum(errors, floor)).mean())


def _composition_energies(structures: Sequence[Structure], energies: np.ndarray) -> np.ndarray:
    """Return the best sum of one energy per element, [structures] eV."""
    known = np.unique(np.concatenate([s.atomic_numbers for s in structures]))
    counts = np.array([[np.count_nonzero(s.atomic_numbers == z) for z in known] for s in structures], dtype=float)
    return np.asarray(counts @ np.linalg.lstsq(counts, energies, rcond=None)[0])


def ood_ratio(results: Sequence[Evaluation]) -> Metric | None:
    """Return the force MAE out of distribution over that in distribution, groups drawn from both; None without both, or without forces."""
    sides = [[r for r in results if r.set.split == split] for split in ("id", "ood")]
    if not all(sides):
        return None
    sums, counts, side, groups = [], [], [], []
    for which, group in enumerate(sides):
        for r in group:
            cases = r.predictions.cases.get("forces")
            if cases is None:
                return None
            for k, a, b in zip(cases.rows, cases.predicted, cases.reference, strict=True):
                sums.append(float(np.abs(a - b).sum()))
                counts.append(a.size)
                side.append(which)
                groups.append((which, r.predictions.resampled[k]))
    total, size, where = np.array(sums), np.array(counts), np.array(side)

    def ratio(k: np.ndarray) -> float:
        means = [total[k[where[k] == which]].sum() / max(size[k[where[k] == which]].sum(), 1) for which in (0, 1)]
        return float(means[1] / means[0]) if means[0] > 0 and (where[k] == 1).any() else float("nan")

    return metrics.measure("force MAE out of distribution over that in distribution", "1", ratio, np.isfinite(total), groups)


def evaluation_record(model: OpenModel, results: Sequence[Evaluation], level: str | None = None) -> Record:
    """Return the result record of an evaluation, as `mlipfm evaluate` writes it."""
    return benchmark_record("accuracy", _evaluation_result(results, level), model, [r.set for r in results])


def _evaluation_result(results: Sequence[Evaluation], level: str | None = None) -> BenchmarkResult:
    """Return every figure with its set, split and, where it has one, element and penalised value, and what a report shows beside them."""
    rows: list[Mapping[str, Any]] = []
    for r in results:
        place = {"set": r.set.name, "split": r.set.split}
        rows += [m.as_dict() | place | {"key": key, "penalised": r.penalised.get(key)} for key, m in r.figures.items()]
        rows += [m.as_dict() | place | {"key": "force_mae", "element": symbol} for symbol, m in r.elements.items()]
    ratio = ood_ratio(results)
    if ratio is not None:
        rows.append(ratio.as_dict() | {"key": "ood_ratio"})
    failures = {r.set.name: r.reasons for r in results if r.reasons}
    details = {
        "level": level,
        "structures": {r.set.name: len(r.set.structures) for r in results},
        "notes": {r.set.name: list(r.set.notes) for r in results if r.set.notes},
        "label_errors": {r.set.name: "; ".join(r.set.label_errors) for r in results if r.set.label_errors},
        "zero_of_energy": {r.set.name: r.zero_of_energy for r in results if r.zero_of_energy},
        "failures": failures,
        "groups": {r.set.name: len(set(r.predictions.groups)) for r in results},
        "intervals": {r.set.name: r.predictions.interval_over for r in results},
        "seen": {r.set.name: r.seen for r in results if r.seen},
        "known": {r.set.name: overlap_text(r.seen, len(r.set.structures)) for r in results if r.seen},
        "errors": {r.set.name: _group_errors(r.predictions) for r in results},
        "parity": {r.set.name: _parity_points(r.predictions) for r in results},
        "worst": {r.set.name: _worst_structures(r.predictions) for r in results},
        "microseconds_per_atom": {
            r.set.name: round(r.predictions.microseconds, 1) for r in results if np.isfinite(r.predictions.microseconds)
        },
    }
    return BenchmarkResult(rows, not failures, details)


def _parity_points(predictions: Predictions) -> dict[str, dict[str, Any]]:
    """Return up to `PARITY_POINTS` reference and predicted values of each label that were predicted, chosen at random with a fixed seed.

    Energies are per atom, less a sum over the elements (`composition_energies`): what is left is what models differ in. Where energies of labels and
    model have different zeros, predictions are `energies_less_constants`.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, cases in predictions.cases.items():
        what, unit, size = _PARITY[key]
        answers = cases.predicted
        if key == "energy" and predictions.energies_less_constants is not None:
            what, answers = what + _CONSTANTS_FITTED, predictions.energies_less_constants
        reference, predicted = (np.concatenate([np.ravel(v) for v in values]) / size for values in (cases.reference, answers))
        if key == "energy":
            structures = [predictions.structures[k] for k in cases.rows]
            n = np.array([len(s) for s in structures])
            base = _composition_energies(structures, reference * n) / n
            reference, predicted = reference - base, predicted - base
        known = np.flatnonzero(np.isfinite(predicted))
        shown = np.random.default_rng(0).permutation(known)[: _PARITY_POINTS[key]]
        values = {name: [float(f"{v:.6g}") for v in array[shown]] for name, array in (("reference", reference), ("predicted", predicted))}
        found[key] = {"what": what, "unit": unit, "of": len(known), **values}
    return found


def _worst_structures(predictions: Predictions) -> list[dict[str, Any]]:
    """Return the `WORST` structures of the largest mean force error (of the largest energy error without forces), those without a prediction first.

    Each with its frame, formula and group, and its errors of energy (meV/atom, less fitted constants of the elements where zeros of energy differ)
    and forces (meV/Å; None without a prediction or a label).
    """
    energy, forces = (predictions.cases.get(key) for key in _QUANTITIES[:2])
    if energy is not None and predictions.energies_less_constants is not None:
        energy = replace(energy, predicted=predictions.energies_less_constants)
    main = forces or energy
    if main is None:
        return []
    errors = [dict(zip(c.rows, c.errors().tolist(), strict=True)) if c else {} for c in (energy, forces)]
    rows = []
    for k in np.argsort(-np.nan_to_num(main.errors(), nan=np.inf), kind="stable")[:_WORST].tolist():
        row = main.rows[k]
        s = predictions.structures[row]
        both = (float(f"{e[row]:.6g}") if row in e and np.isfinite(e[row]) else None for e in errors)
        place = {
            "frame": s.provenance.index if s.provenance.index is not None else row,
            "formula": s.formula,
            "group": s.provenance.group or "",
        }
        rows.append(place | dict(zip(("energy", "forces"), both, strict=True)))
    return rows


def figure_text(metric: Metric | None) -> str:
    """Return `353.8 [293.3, 394.9]`; `-` without a metric or a value."""
    if metric is None or not math.isfinite(metric.value):
        return "-"
    if metric.ci95 is None:
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"


def _group_errors(predictions: Predictions) -> dict[str, dict[str, list[float]]]:
    """Label -> group -> [sum of absolute errors, number of components], over predicted structures: enough to compare two models pairwise later."""
    found: dict[str, dict[str, list[float]]] = {}
    for key, cases in predictions.cases.items():
        sums: dict[str, list[float]] = {}
        for k, a, b in zip(cases.rows, cases.predicted, cases.reference, strict=True):
            if np.isfinite(a).all():
                entry = sums.setdefault(str(predictions.resampled[k]), [0.0, 0.0])
                entry[0] += float(np.abs(a - b).sum())
                entry[1] += float(np.size(a))
        found[key] = {group: [round(total, 6), count] for group, (total, count) in sums.items()} if len(sums) <= _MOST_GROUPS else {}
    return found
