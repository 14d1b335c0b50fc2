"""What a report shows, read from a folder: result records, event logs of training runs, and the models beside those."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.errors import MlipfmError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.result_records import Record, read_record


@dataclass(frozen=True)
class TrainingRun:
    """Curves of one run: [steps] loss of the steps; validation figure -> [validations] steps and values."""

    name: str
    steps: np.ndarray
    loss: np.ndarray
    validation: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Found:
    """Everything of one report. manifests: run -> manifest of its checkpoint. notes: what is missing, and why."""

    name: str
    records: list[Record]
    runs: list[TrainingRun] = field(default_factory=list)
    manifests: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def model(self, record: Record) -> str:
        """Return what the model of a record is called: its run, or its address, or the first digits of its digest."""
        known = {manifest["digest"]: name for name, manifest in self.manifests.items()}
        return known.get(record["model"]) or str(record["details"].get("address") or record["model"][:16])

    def benchmark(self, name: str) -> list[Record]:
        """Return the records of one benchmark."""
        return [record for record in self.records if _benchmark_of(record) == name]


def _benchmark_of(record: Record) -> str:
    """Return the name of the benchmark that wrote a record: `accuracy`, `check`, or what its details say."""
    return str(record["details"].get("benchmark") or {"evaluation": "accuracy"}.get(record["kind"], record["kind"]))


def read_folder(folder: Path | str) -> Found:
    """Read every result record (`*.json`) below a folder, and the training runs in it: the folder itself, or folders in it with an `events.jsonl`.

    A JSON file that is no result record is passed over; one that was changed is noted.

    Raises:
        UnreadableFileError: the folder holds neither a record nor a run.
    """
    folder, notes = Path(folder), list[str]()
    records = list(_records(sorted(folder.rglob("*.json")), notes))
    paths = sorted(path.parent for path in (folder / "events.jsonl", *folder.glob("*/events.jsonl")) if path.is_file())
    if not paths and not records:
        hint = "give a folder with records of `mlipfm evaluate` or `mlipfm check` (--record), or with runs of `mlipfm train`"
        raise UnreadableFileError("holds neither a result record nor a training run", where=str(folder), hint=hint)
    manifests: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        checkpoint = next((path / name for name in ("best.safetensors", "last.safetensors") if (path / name).exists()), None)
        if checkpoint is None:
            notes.append(f"{path.resolve().name}: the run has left no model yet")
        else:
            manifests[path.resolve().name] = load_checkpoint(checkpoint)[0]
    return Found(folder.resolve().name, records, [_run(path) for path in paths], manifests, notes)


def _records(paths: Iterable[Path], notes: list[str]) -> Iterable[Record]:
    for path in paths:
        try:
            record = read_record(path)
        except RefusedFileError:  # some other JSON
            continue
        except MlipfmError as error:
            notes.append(str(error))
            continue
        yield record


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
    return TrainingRun(path.resolve().name, np.array(list(kept)), np.array(list(kept.values()), dtype=float), validation)


def _events(path: Path) -> Iterable[dict[str, Any]]:
    """Whole lines of an event log; a last line that was cut by a kill is left out."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and {"kind", "step", "values"} <= event.keys():
            yield event
