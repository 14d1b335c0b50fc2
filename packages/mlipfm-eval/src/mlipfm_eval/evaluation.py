"""`mlipfm evaluate`: errors of a model on labelled stores or files, in and out of distribution, as a result record."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces import metrics
from mlipfm_interfaces.errors import MissingLabelsError, RefusedFileError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.frame_hashes import Hashes, frame_hashes, seen_frames
from mlipfm_interfaces.label_weights import force_weights, structure_weight
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Teacher
from mlipfm_interfaces.result_records import Record, make_record
from mlipfm_interfaces.structure import Structure

from .accuracy import Predictions, error_metrics, predict
from .opening import Opened

Split = Literal["id", "ood"]

#: Groups whose errors a record lists; with more it lists none.
MOST_GROUPS = 5000


@dataclass(frozen=True)
class LabelledSet:
    """Structures with labels.

    Attributes:
        digest: SHA-256 of the file, or of the manifest of the store, which holds the hashes of its files. notes: how a file was read.
    """

    name: str
    digest: str
    split: Split
    structures: list[Structure]
    notes: tuple[str, ...] = ()

    @cached_property
    def hashes(self) -> Hashes:
        """[structures] of the geometries, see `frame_hashes`."""
        return frame_hashes(self.structures)


@dataclass(frozen=True)
class Evaluated:
    """One set with predictions.

    Attributes:
        figures: key -> Metric over the structures with the label that were answered. elements: symbol -> force MAE.
        penalised: the same keys for MAE and RMSE, where a structure without an answer has the error of a model that knows nothing, or the mean
            of the others if that is larger.
        reasons: why structures were not answered -> how many.
        seen: how many structures the model was trained on (`training`), was chosen by (`validation`), or a model that it starts from was trained
            on (`ancestors`).
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
        return sum(structure_weight(s) == 0 for s in self.set.structures)

    @property
    def masked_atoms(self) -> int:
        """Atoms whose forces are left out by `forces_weight` 0."""
        return sum(int((force_weights(s) == 0).sum()) for s in self.set.structures if "forces" in s.labels)


def open_sets(stores: Sequence[Path | str], ood: Sequence[Path | str], level: str | None = None, **reading: Any) -> list[LabelledSet]:
    """Read stores, or files as `mlipfm_data.read` does; those of `ood` are out of distribution.

    Args:
        level: take the labels that overlays of this level give, where the store itself is of another.
        reading: options of readers, for files: `energy_key`, `energy_unit`, ...

    Raises:
        what `Store` and `read_all` raise; RefusedFileError: one store twice; MissingLabelsError: an empty one.
    """
    found: list[LabelledSet] = []
    wanted: list[tuple[Path, Split]] = [*((Path(path), "id") for path in stores), *((Path(path), "ood") for path in ood)]
    for path, split in wanted:
        structures, digest, notes = _read_store(path, level) if (path / "manifest.json").is_file() else _read_file(path, reading)
        if not structures:
            raise MissingLabelsError("there are no structures", where=str(path))
        if digest in {known.digest for known in found}:
            raise RefusedFileError("the same data are given twice", where=str(path), mend="a set is either in or out of distribution")
        names = {known.name for known in found}
        name = path.name if path.name not in names else str(path)
        found.append(LabelledSet(name, digest, split, structures, notes))
    return found


def _read_store(path: Path, level: str | None) -> tuple[list[Structure], str, tuple[str, ...]]:
    from mlipfm_data.store.store import Store

    with Store(path) as store:
        structures = [s if level in (None, s.level) else store.at_level(k, str(level)) for k, s in enumerate(store)]
    return structures, sha256(path / "manifest.json"), ()


def _read_file(path: Path, reading: Mapping[str, Any]) -> tuple[list[Structure], str, tuple[str, ...]]:
    from mlipfm_data.readers.frame import ReadReport
    from mlipfm_data.readers.registry import read_all

    report = ReadReport()
    structures = read_all(path, require=(), report=report, **reading)
    parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if len(parts) == 1:
        digest = sha256(parts[0])
    else:
        digest = hashlib.sha256("".join(f"{p.relative_to(path)} {sha256(p)}\n" for p in parts).encode()).hexdigest()
    return structures, digest, tuple(report.lines())


def evaluate_set(
    model: Potential | Teacher,
    data: LabelledSet,
    *,
    level: str | None = None,
    progress: Callable[[int], None] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Evaluated:
    """Predict and measure one set.

    Args:
        manifest: of the model's checkpoint, which says what it was trained on.
    """
    predictions = predict(model, data.structures, level=level, progress=progress)
    forces, elements = predictions.cases.get("forces"), {}
    if forces is not None:
        groups = [predictions.resampled[k] for k in forces.rows]
        elements = metrics.per_element(forces.predicted, forces.reference, forces.atomic_numbers, groups, unit="meV/Å")
    reasons: dict[str, int] = {}
    for reason in predictions.failures.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return Evaluated(data, predictions, error_metrics(predictions), elements, penalised(predictions), reasons, seen(manifest or {}, data))


def seen(manifest: Mapping[str, Any], data: LabelledSet) -> dict[str, int]:
    """How many structures of the set a model knows, by the geometries that its checkpoint lists and by the hashes of its stores; see `Evaluated`."""
    extra = manifest.get("extra")
    if not isinstance(extra, Mapping):
        return {}
    found = seen_frames(extra, data.hashes)
    for kind, key in (("training", "data"), ("validation", "validation_data")):
        listed = extra.get(key)
        if any(
            isinstance(entry, Mapping) and entry.get("manifest") == data.digest for entry in (listed if isinstance(listed, list) else ())
        ):
            found[kind] = len(data.structures)
    return {kind: count for kind, count in found.items() if count}


def seen_text(result: Evaluated) -> str:
    """A sentence on data that the model knows already; empty if it knows none of it."""
    n, what = len(result.set.structures), {"training": "trained on", "validation": "chosen by", "ancestors": "pre-trained on"}
    counts = [f"{what[kind]} {count}" for kind, count in result.seen.items()]
    return f"the model was {', '.join(counts)} of these {n} structures: errors on them say little about new ones" if counts else ""


def penalised(predictions: Predictions) -> dict[str, float]:
    """MAE and RMSE over all structures with the label, never below those over the answered ones.

    A structure without an answer counts with zero forces (and zero stress) and the energy that its composition alone predicts (least squares on
    this very set), or with the mean error of the answers where that is larger: a model that is worse than knowing nothing gains nothing by refusing.
    """
    found: dict[str, float] = {}
    for key, cases in predictions.cases.items():
        answered = np.array([bool(np.isfinite(p).all()) for p in cases.predicted])
        if key == "energy":
            energies = np.array([predictions.reference_energies[k] for k in cases.rows])
            structures = [predictions.structures[k] for k in cases.rows]
            n = np.array([len(s) for s in structures])
            ignorant = list(1000 * composition_energies(structures, energies) / n)
        else:
            ignorant = [np.zeros_like(r) for r in cases.reference]
        filled = [p if ok else i for p, i, ok in zip(cases.predicted, ignorant, answered, strict=True)]
        errors = np.concatenate([np.ravel(a - b) for a, b in zip(filled, cases.reference, strict=True)])
        known = np.repeat(answered, [r.size for r in cases.reference])
        name = "force" if key == "forces" else key
        found |= {f"{name}_mae": _floored(np.abs(errors), known), f"{name}_rmse": math.sqrt(_floored(errors**2, known))}
    return found


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
    """Force MAE out of distribution over that in distribution, groups drawn from both; None without both, or without forces."""
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
    details = {
        "address": model.address,
        "level": level,
        "failures": failures,
        "groups": {r.set.name: len(set(r.predictions.groups)) for r in results},
        "intervals": {r.set.name: r.predictions.interval_over for r in results},
        "seen": {r.set.name: r.seen for r in results if r.seen},
        "errors": {r.set.name: group_errors(r.predictions) for r in results},
    }
    return make_record(
        "evaluation", model.identity, passed=not failures, metrics=rows, data={r.set.name: r.set.digest for r in results}, details=details
    )


def group_errors(predictions: Predictions) -> dict[str, dict[str, list[float]]]:
    """Label -> group -> [sum of absolute errors, number of components], over answered structures: enough to compare two models pairwise later."""
    found: dict[str, dict[str, list[float]]] = {}
    for key, cases in predictions.cases.items():
        sums: dict[str, list[float]] = {}
        for k, a, b in zip(cases.rows, cases.predicted, cases.reference, strict=True):
            if np.isfinite(a).all():
                entry = sums.setdefault(str(predictions.resampled[k]), [0.0, 0.0])
                entry[0] += float(np.abs(a - b).sum())
                entry[1] += float(np.size(a))
        found[key] = {group: [round(total, 6), count] for group, (total, count) in sums.items()} if len(sums) <= MOST_GROUPS else {}
    return found
