"""Result records of every model: errors on the same sets in and out of distribution, and the outcome of its check.

A record that an earlier run left of the same model and data is used again; it is the evidence by which a registry promotes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.result_records import Record, read_record, write_record

if TYPE_CHECKING:
    from mlipfm_eval.evaluation import LabelledSet

#: Predicted energies [structures] eV and forces [atoms, 3] eV/Å of each structure.
Answers = tuple[np.ndarray, list[np.ndarray]]


@dataclass(frozen=True)
class Judged:
    """The record of an evaluation, and set -> predictions, for comparing models structure by structure."""

    record: Record
    answers: dict[str, Answers]


def evaluate_one(model: str, inside: Sequence[Path], outside: Sequence[Path], path: Path) -> Judged:
    """Evaluate a model on sets in and out of distribution; its record goes to `path`. Runs in a worker."""
    import torch
    from mlipfm_eval.accuracy import predict
    from mlipfm_eval.evaluation import evaluate_set, evaluation_record, open_sets
    from mlipfm_eval.opening import opened

    torch.set_num_threads(1)
    sets = open_sets(inside, outside)
    with opened(model) as subject:
        record = _earlier(path, subject.identity, sets)
        if record is not None:
            found = {data.name: predict(subject.model, data.structures) for data in sets}
            return Judged(record, {name: (p.energies, p.forces) for name, p in found.items()})
        results = [evaluate_set(subject.model, data, manifest=subject.manifest) for data in sets]
        record = evaluation_record(subject, results)
    path.parent.mkdir(exist_ok=True)
    write_record(path, record)
    return Judged(record, {r.set.name: (r.predictions.energies, r.predictions.forces) for r in results})


def check_one(model: str, path: Path) -> Record:
    """Check that a model is fit to drive dynamics, whether it promises conservative forces or not; its record goes to `path`. Runs in a worker."""
    import torch
    from mlipfm_eval.check import check_model, check_record, held_to
    from mlipfm_eval.opening import opened

    torch.set_num_threads(1)
    with opened(model) as subject:
        record = _earlier(path, subject.identity, [])
        if record is None:
            record = check_record(subject, held_to(check_model(subject.model, quick=True), "conservative"), ["conservative"])
            path.parent.mkdir(exist_ok=True)
            write_record(path, record)
    return record


def _earlier(path: Path, model: str, sets: Sequence[LabelledSet]) -> Record | None:
    """The record of an earlier run, if it is of this model and these data."""
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except MlipfmError:
        return None
    return record if record["model"] == model and record["data"] == {data.name: data.digest for data in sets} else None
