"""`mlipfm evaluate`: errors of a model on labelled stores, in and out of distribution, as a result record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces import metrics
from mlipfm_interfaces.errors import MissingLabelsError, RefusedFileError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.result_records import Record, make_record
from mlipfm_interfaces.structure import Structure

from .accuracy import Predictions, error_metrics, predict
from .opening import Opened

Split = Literal["id", "ood"]


@dataclass(frozen=True)
class LabelledSet:
    """Structures with energies and forces. digest: SHA-256 of the manifest of the store, which holds the hashes of its files."""

    name: str
    digest: str
    split: Split
    structures: list[Structure]


@dataclass(frozen=True)
class Evaluated:
    """One set with predictions.

    Attributes:
        figures: key -> Metric over the structures that were answered. elements: symbol -> force MAE.
        penalised: the same keys for MAE and RMSE, where a structure without an answer has the error of a model that knows nothing, or the mean
            of the others if that is larger.
        reasons: why structures were not answered -> how many.
    """

    set: LabelledSet
    predictions: Predictions
    figures: dict[str, Metric]
    elements: dict[str, Metric]
    penalised: dict[str, float]
    reasons: dict[str, int]


def open_sets(stores: Sequence[Path], ood: Sequence[Path], level: str | None = None) -> list[LabelledSet]:
    """Read stores, those of `ood` as out of distribution.

    Args:
        level: take the labels that overlays of this level give, where the store itself is of another.

    Raises:
        what `Store` raises; RefusedFileError: one store twice; MissingLabelsError: an empty one.
    """
    from mlipfm_data.store import Store
    from mlipfm_interfaces.files import sha256

    found: list[LabelledSet] = []
    wanted: list[tuple[Path, Split]] = [*((path, "id") for path in stores), *((path, "ood") for path in ood)]
    for path, split in wanted:
        with Store(path) as store:
            structures = [s if level in (None, s.level) else store.at_level(k, str(level)) for k, s in enumerate(store)]
        if not structures:
            raise MissingLabelsError("the store is empty", where=str(path))
        digest = sha256(path / "manifest.json")
        if digest in {known.digest for known in found}:
            raise RefusedFileError("the store is given twice", where=str(path), mend="a set is either in or out of distribution")
        names = {known.name for known in found}
        name = path.name if path.name not in names else str(path)
        found.append(LabelledSet(name, digest, split, structures))
    return found


def evaluate_set(
    model: Potential | Teacher, data: LabelledSet, *, level: str | None = None, progress: Callable[[int], None] | None = None
) -> Evaluated:
    """Predict and measure one set."""
    predictions = predict(model, data.structures, level=level, progress=progress)
    forces = [1000 * f for f in predictions.forces], [1000 * f for f in predictions.reference_forces]
    numbers = [s.atomic_numbers for s in data.structures]
    elements = metrics.per_element(*forces, numbers, predictions.groups, unit="meV/Å")
    reasons: dict[str, int] = {}
    for reason in predictions.failures.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return Evaluated(data, predictions, error_metrics(predictions), elements, penalised(predictions), reasons)


def penalised(predictions: Predictions) -> dict[str, float]:
    """MAE and RMSE over all structures, never below those over the answered ones.

    A structure without an answer counts with zero forces and the energy that its composition alone predicts (least squares on this very
    set), or with the mean error of the answers where that is larger: a model that is worse than knowing nothing gains nothing by refusing.
    """
    answered = np.array(
        [bool(np.isfinite(e) and np.isfinite(f).all()) for e, f in zip(predictions.energies, predictions.forces, strict=True)]
    )
    n = np.array([len(s) for s in predictions.structures])
    ignorant = composition_energies(predictions.structures, predictions.reference_energies)
    energies = np.where(answered, predictions.energies, ignorant)
    forces = [f if ok else np.zeros_like(f) for f, ok in zip(predictions.forces, answered, strict=True)]
    energy_errors = 1000 * (energies - predictions.reference_energies) / n
    force_errors = 1000 * np.concatenate([(a - b).ravel() for a, b in zip(forces, predictions.reference_forces, strict=True)])
    named = {"energy": (energy_errors, answered), "force": (force_errors, np.repeat(answered, 3 * n))}
    return {f"{what}_mae": _floored(np.abs(e), known) for what, (e, known) in named.items()} | {
        f"{what}_rmse": math.sqrt(_floored(e**2, known)) for what, (e, known) in named.items()
    }


def _floored(errors: np.ndarray, answered: np.ndarray) -> float:
    """Mean of errors, those that were not answered being at least the mean of those that were."""
    floor = float(errors[answered].mean()) if answered.any() else 0.0
    return float(np.where(answered, errors, np.maximum(errors, floor)).mean())


def composition_energies(structures: Sequence[Structure], energies: np.ndarray) -> np.ndarray:
    """[structures] eV: the best sum of one energy per element."""
    known = np.unique(np.concatenate([s.atomic_numbers for s in structures]))
    counts = np.array([[np.count_nonzero(s.atomic_numbers == z) for z in known] for s in structures], dtype=float)
    return np.asarray(counts @ np.linalg.lstsq(counts, energies, rcond=None)[0])


def ood_ratio(results: Sequence[Evaluated]) -> Metric | None:
    """Force MAE out of distribution over that in distribution, groups drawn from both; None without both."""
    sides = [[r for r in results if r.set.split == split] for split in ("id", "ood")]
    if not all(sides):
        return None
    sums, counts, side, groups = [], [], [], []
    for which, group in enumerate(sides):
        for r in group:
            p = r.predictions
            for a, b, name in zip(p.forces, p.reference_forces, p.groups, strict=True):
                sums.append(float(np.abs(a - b).sum()))
                counts.append(a.size)
                side.append(which)
                groups.append((which, name))
    total, size, where = np.array(sums), np.array(counts), np.array(side)

    def ratio(k: np.ndarray) -> float:
        means = [total[k[where[k] == which]].sum() / max(size[k[where[k] == which]].sum(), 1) for which in (0, 1)]
        return float(means[1] / means[0]) if means[0] > 0 and (where[k] == 1).any() else float("nan")

    return metrics.measure("force MAE, OOD over ID", "1", ratio, np.isfinite(total), groups)


def evaluation_record(model: Opened, results: Sequence[Evaluated], level: str | None = None) -> Record:
    """The result record of an evaluation: every figure with its set, split and, where it has one, element and penalised value."""
    rows: list[Mapping[str, Any]] = []
    for r in results:
        place = {"set": r.set.name, "split": r.set.split}
        rows += [m.as_dict() | place | {"key": key, "penalised": r.penalised.get(key)} for key, m in r.figures.items()]
        rows += [m.as_dict() | place | {"key": "force_mae", "element": symbol} for symbol, m in r.elements.items()]
    ratio = ood_ratio(results)
    if ratio is not None:
        rows.append(ratio.as_dict() | {"key": "ood_ratio"})
    failures = {r.set.name: r.reasons for r in results if r.reasons}
    groups = {r.set.name: len(set(r.predictions.groups)) for r in results}
    details = {"address": model.address, "level": level, "failures": failures, "groups": groups}
    return make_record(
        "evaluation", model.identity, passed=not failures, metrics=rows, data={r.set.name: r.set.digest for r in results}, details=details
    )
