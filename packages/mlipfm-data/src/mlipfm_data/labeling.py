"""`label_all`: label many structures on a pool of processes, resumable at any moment.

Labels are appended to a log as they come, so a kill loses only those that were being computed. When all are there, they are written as a store in
the order of the input and moved into place at once: how often the work was interrupted, and how many processes did it, cannot be seen in the
result, which is equal to the last bit. Structures that cannot be labelled are counted with their reasons, in the report and in the store's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import LabelingError
from mlipfm_interfaces.files import atomic_write, canonical_json, fsync_folder, lock
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.protocols import Labeler
from mlipfm_interfaces.records import Layouts, encode, frame_index, reindexed
from mlipfm_interfaces.structure import Structure

from .parallel import labelled
from .store.writer import StoreWriter

#: In the store's folder: what was labelled, how, and what was refused.
RECORD = "labeling.json"
_AT_ONCE = 256  # records that are copied together


@dataclass(frozen=True)
class Refused:
    """A structure without labels: its position in the input, the error's code and its text."""

    index: int
    code: str
    text: str


@dataclass(frozen=True)
class LabelReport:
    """What became of the structures: total = labelled + len(refused).

    Attributes:
        path: the store. level: of the labels. resumed: labels found from an earlier, interrupted run. seconds: of this run.
    """

    path: Path
    level: str
    total: int
    labelled: int
    refused: tuple[Refused, ...]
    resumed: int
    seconds: float

    @property
    def reasons(self) -> Counter[str]:
        """Number of refusals by error code."""
        return Counter(item.code for item in self.refused)

    def lines(self) -> list[str]:
        """Return the report for people."""
        new = self.labelled - self.resumed
        rate = f", {new / self.seconds:.1f} labels/s" if new and self.seconds else ""
        found = f", {self.resumed} of them from an earlier run" if self.resumed else ""
        out = [
            f"{self.path}: {self.total} structures = {self.labelled} labelled at {self.level}{found} + {len(self.refused)} refused{rate}"
        ]
        for code, count in self.reasons.most_common():
            first = next(item for item in self.refused if item.code == code)
            out.append(f"  refused: {count} x {code}, first: structure {first.index}: {first.text}")
        return out


def label_all(
    structures: Sequence[Structure],
    labeler: Labeler,
    out: Path | str,
    *,
    workers: int = 2,
    executor: Executor | None = None,
    progress: bool = True,
) -> LabelReport:
    """Label `structures` and write the store `out`, in their order. Interrupted, it goes on where it stopped when it is called again.

    Args:
        labeler: picklable; gives the same bits in every process.
        out: folder of the new store. Until it is complete, the work is in `.NAME.labeling` beside it.
        workers: processes of a pool made here. In a script, call this under `if __name__ == "__main__":`.
        executor: used instead, for instance of a cluster; it must be able to pickle. `workers` is then the number of its processes.
        progress: show a bar on a terminal.

    Raises:
        LabelingError: `out` or the unfinished work is of another job; the labeller fails otherwise than by refusing a structure.
        LockedError: another process is at this job. UnwritableFileError: disk full, ...; what was labelled is kept.
    """
    from mlipfm_interfaces.console import counter

    start, out = time.monotonic(), Path(out)
    job = _job(structures, labeler)
    work = out.with_name(f".{out.name}.labeling")
    if (out / RECORD).exists() or (out.is_dir() and any(out.iterdir())):
        report = _finished(out, job)
        shutil.rmtree(work, ignore_errors=True)  # left by a kill after the last step
        return replace(report, seconds=time.monotonic() - start)
    _begin(work, job)
    with lock(work / "lock"), FrameLog(work / "labels.log") as log:
        log.open_to_append()
        done = _places(log)
        refused = list[Refused]()
        todo = [i for i in range(len(structures)) if i not in done]
        with counter(f"labels {labeler.level}", len(structures), done=len(done), show=progress) as advance:
            for answer in labelled(structures, todo, labeler, workers, executor):
                log.append_records(answer.records, answer.layouts)
                refused += [Refused(i, error.code, str(error)) for i, error in answer.errors.items()]
                advance(len(answer.records) + len(answer.errors))
        refused.sort(key=lambda item: item.index)
        places = _places(log) if todo else done
        _write(structures, log, places, refused, job, work / "store")
    os.replace(work / "store", out)
    fsync_folder(out.parent)
    shutil.rmtree(work)
    return LabelReport(out, labeler.level, len(structures), len(places), tuple(refused), len(done), time.monotonic() - start)


def _job(structures: Sequence[Structure], labeler: Labeler) -> dict[str, Any]:
    """Return what identifies the work: the labeller and every bit of the input."""
    digest, layouts = hashlib.sha256(), Layouts()
    for s in structures:
        record, new = encode(s, None, layouts)
        digest.update(new + record)
    settings = repr(labeler) if hasattr(labeler, "__dataclass_fields__") else type(labeler).__qualname__
    return {"level": labeler.level, "labeler": settings, "structures": len(structures), "sha256": digest.hexdigest()}


def _begin(work: Path, job: dict[str, Any]) -> None:
    """Make the folder of the unfinished work, or find it there."""
    if (work / "job.json").exists():
        known = json.loads((work / "job.json").read_bytes())
        if known == job:
            return
        if _labels(work):
            raise LabelingError(
                _difference(known, job), where=str(work), hint="finish that one first, remove the folder, or choose another"
            )
        shutil.rmtree(work)  # nothing is lost
    work.mkdir(parents=True, exist_ok=True)
    atomic_write(work / "job.json", canonical_json(job))


def _places(log: FrameLog) -> dict[int, int]:
    """Position in the input -> number of the frame in the log, of every whole frame; of a position that is there twice, the last."""
    found = {frame_index(log.record(k)): k for k, place in enumerate(log.places()) if place.good}
    return {i: k for i, k in found.items() if i is not None}


def _labels(work: Path) -> int:
    """Return how many labels an unfinished job has. Raises `LockedError` while it is running."""
    if not (work / "labels.log").exists():
        return 0
    with lock(work / "lock"), FrameLog(work / "labels.log") as log:
        log.open_to_append()
        return len(log)


def _finished(out: Path, job: dict[str, Any]) -> LabelReport:
    """Return the report of a store that is there already, if this very job wrote it."""
    if not (out / RECORD).exists():
        raise LabelingError("the folder is not empty", where=str(out), hint="choose another folder")
    record = json.loads((out / RECORD).read_bytes())
    if record["job"] != job:
        raise LabelingError(_difference(record["job"], job), where=str(out), hint="choose another folder")
    refused = tuple(Refused(**item) for item in record["refused"])
    total = job["structures"]
    return LabelReport(out, job["level"], total, total - len(refused), refused, total - len(refused), 0.0)


def _difference(known: dict[str, Any], job: dict[str, Any]) -> str:
    for key in ("level", "labeler", "structures"):
        if known.get(key) != job[key]:
            return f"holds labels of another job: {key} {known.get(key)}, now {job[key]}"
    return "holds labels of another job: the structures were different"


def _write(
    structures: Sequence[Structure], log: FrameLog, places: dict[int, int], refused: Sequence[Refused], job: dict[str, Any], folder: Path
) -> None:
    """The store, in the order of the input; the same bytes for the same labels."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    with StoreWriter(folder, name=job["level"]) as writer:
        order = sorted(places)
        for k in range(0, len(order), _AT_ONCE):
            block = [reindexed(log.record(places[i]), structures[i].provenance.index) for i in order[k : k + _AT_ONCE]]
            writer.add_records(block, log.layouts)
    atomic_write(folder / RECORD, canonical_json({"job": job, "refused": [asdict(item) for item in refused]}))
    (folder / "writer.lock").unlink()  # names the process that wrote, and when
