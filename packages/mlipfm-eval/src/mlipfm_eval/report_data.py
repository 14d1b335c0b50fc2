"""What a report shows, read from the folder of a quickstart: events of training runs, models, test sets, result records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.errors import MlipfmError, UnreadableFileError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.result_records import Record, read_record
from mlipfm_interfaces.structure import Structure

from .accuracy import Predictions, error_metrics, predict

#: Order of the runs of a quickstart; others follow by name.
TITLES = {
    "pretrained": "pre-trained",
    "finetuned": "fine-tuned",
    "scratch": "from scratch",
    "student": "student",
    "student-without-rows": "student without rows",
    "student-without-teacher": "student without teacher",
}
_ORDER = tuple(TITLES)


@dataclass(frozen=True)
class TrainingRun:
    """Curves of one run: [steps] loss of the steps; validation figure -> [validations] steps and values."""

    name: str
    steps: np.ndarray
    loss: np.ndarray
    validation: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Tried:
    """A model on the test set. microseconds: per atom, in batches, energy and forces."""

    name: str
    predictions: Predictions
    figures: dict[str, Metric]
    microseconds: float


@dataclass(frozen=True)
class Content:
    """Everything of one report. notes: what is missing, and why."""

    folder: Path
    summary: Mapping[str, Any]
    runs: list[TrainingRun]
    tried: list[Tried]
    manifests: dict[str, Mapping[str, Any]]
    records: list[Record]
    notes: list[str] = field(default_factory=list)

    @property
    def titles(self) -> dict[str, str]:
        """What models are called, by the names of their folders."""
        return TITLES


def collect(folder: Path, progress: Callable[[str], None] = lambda what: None) -> Content:
    """Read the folder (of a quickstart, of runs, or of one run) and ask every model that has the level of the test set for its predictions.

    Raises:
        UnreadableFileError: if the folder holds no training run.
    """
    found = [path.parent for path in (folder / "events.jsonl", *folder.glob("*/events.jsonl")) if path.is_file()]
    if not found:
        mend = "give the folder of `mlipfm quickstart`, of a run of `mlipfm train`, or of several such runs"
        raise UnreadableFileError("holds no training run", where=str(folder), mend=mend)
    found.sort(key=lambda path: (_ORDER.index(path.name) if path.name in _ORDER else len(_ORDER), path.name))
    progress("training curves")
    runs = [_run(path) for path in found]
    notes: list[str] = []
    test = _test_set(folder, notes)
    tried: list[Tried] = []
    manifests: dict[str, Mapping[str, Any]] = {}
    for path in found:
        title = _title(path)
        progress(f"predictions, {title}")
        checkpoint = next((path / name for name in ("best.safetensors", "last.safetensors") if (path / name).exists()), None)
        if checkpoint is None:
            notes.append(f"{title}: the run has left no model yet")
            continue
        model, manifests[title] = load_model(checkpoint)
        if test and not {s.level for s in test} <= set(model.spec.levels):
            notes.append(f"{title}: not on the test set, which is at another level of theory ({test[0].level}) than the model's")
        elif test:
            tried.append(_try(title, model, test))
    return Content(folder, _summary(folder), runs, tried, manifests, _records(folder, notes), notes)


def _title(run: Path) -> str:
    """What a run is called: by its folder."""
    name = run.resolve().name
    return TITLES.get(name, name)


def _run(path: Path) -> TrainingRun:
    events = list(_events(path / "events.jsonl"))
    steps = [(e["step"], e["values"].get("loss")) for e in events if e["kind"] == "step"]
    curves: dict[str, dict[int, float]] = {}
    for e in events:
        for metric in e["values"].get("metrics", []) if e["kind"] == "validation" else []:
            if metric["value"] is not None:
                curves.setdefault(f"{metric['name']}, {metric['unit'].replace('meV/A', 'meV/Å')}", {})[e["step"]] = metric["value"]
    kept = {step: value for step, value in steps if isinstance(value, (int, float))}  # a step that was repeated after a kill counts once
    validation = {name: (np.array(list(c)), np.array(list(c.values()))) for name, c in curves.items()}
    return TrainingRun(_title(path), np.array(list(kept)), np.array(list(kept.values()), dtype=float), validation)


def _events(path: Path) -> list[dict[str, Any]]:
    """Whole lines of an event log; a last line that was cut by a kill is left out."""
    events = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and {"kind", "step", "values"} <= event.keys():
            events.append(event)
    return events


def _test_set(folder: Path, notes: list[str]) -> list[Structure]:
    from mlipfm_data.store.store import Store

    path = folder / "data" / "test"
    try:
        with Store(path) as store:
            return list(store)
    except MlipfmError as error:
        notes.append(f"no test set: {error}")
        return []


def _try(title: str, model: Potential, test: list[Structure]) -> Tried:
    predict(model, test[:4])  # the first call pays for start-up
    start = time.perf_counter()
    predictions = predict(model, test)
    seconds = time.perf_counter() - start
    return Tried(title, predictions, error_metrics(predictions), 1e6 * seconds / sum(len(s) for s in test))


def _summary(folder: Path) -> Mapping[str, Any]:
    """`quickstart.json`; empty if the run has not come so far."""
    path = folder / "quickstart.json"
    found = json.loads(path.read_bytes()) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def _records(folder: Path, notes: list[str]) -> list[Record]:
    """Result records in the folder, in `records` and beside the models, that are whole."""
    records = []
    for path in sorted({*folder.glob("*.json"), *folder.glob("records/**/*.json"), *folder.glob("*/*.json")}):
        if path.name in ("quickstart.json", "plan.json", "bench.json"):
            continue
        try:
            records.append(read_record(path))
        except UnreadableFileError as error:
            if path.parent.name == "records":
                notes.append(str(error))
        except MlipfmError as error:
            notes.append(str(error))
    return records
