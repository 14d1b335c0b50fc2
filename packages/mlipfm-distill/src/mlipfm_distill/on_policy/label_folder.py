"""The labels of a distillation on disk, each frame labelled once, whatever interrupts.

Stores: `train`, `valid`, `test-NN` and `outside-NN`, of the student after NN rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mlipfm_data.store.manifest import is_store
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.errors import ForeignModelError, LabelingError, MlipfmError, OverlapError, UnwritableFileError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.structure import Structure

from .teacher import DistillationTeacher

#: Failures one after another at which the teacher is taken to be broken, and not the frames.
FAILURES = 3


class Labels:
    """Stores of labelled frames in a folder.

    Args:
        known: a structure that the teacher has labelled before. Where it labels it still, frames that it cannot label are at fault, and not
            the teacher.
        rows, products: of the Hessian on frames of the part `train`, see `DistillationTeacher.label`.
    """

    def __init__(
        self, folder: Path, teacher: DistillationTeacher, known: Structure | None = None, rows: int = 0, products: int = 0
    ) -> None:
        self.folder, self.teacher, self.known = folder, teacher, known
        self.second = {"rows": rows, "products": products}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, part: str, frames: Sequence[Structure], done: Callable[[int], None] = lambda count: None) -> int:
        """Label those frames that are not labelled yet, each written before the next is begun, and return how many of `frames` have labels.

        A frame that the teacher cannot label is left out and listed in `refused.json`.

        Raises:
            LabelingError: the teacher failed `FAILURES` times one after another, and also for what it has labelled before.
            UnwritableFileError: the disk is full. No label is lost.
        """
        refused, row = self.refused, 0
        with StoreWriter(self.folder / part, name=part) as writer:
            for k, frame in enumerate(frames):
                wanted = self._named(frame)
                if not writer.has(wanted) and wanted.key not in refused:
                    try:
                        writer.add(self.teacher.label(wanted, **self.second if part == "train" else {}))
                        row = 0
                    except UnwritableFileError:
                        raise
                    except MlipfmError as error:
                        if not isinstance(error, OverlapError):
                            row += 1
                            self._check(error, row)
                        refused[wanted.key] = str(error)
                        atomic_write(self.folder / "refused.json", json.dumps(refused, indent=1).encode())
                done(k + 1)
            return sum(writer.has(self._named(frame)) for frame in frames)

    def read(self, part: str) -> list[Structure]:
        """Return the labelled frames of a part; none if there is no such part yet."""
        if not is_store(self.folder / part):
            return []
        with Store(self.folder / part) as store:
            return list(store)

    @property
    def refused(self) -> dict[str, str]:
        """Key of each frame that the teacher could not label -> why."""
        path = self.folder / "refused.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def _named(self, frame: Structure) -> Structure:
        origin = replace(frame.provenance, source=f"teacher:{self.teacher.digest[:12]}", licence=self.teacher.licence)
        return frame.replace(level=self.teacher.level, labels={}, label_std={}, provenance=origin)

    def _works(self) -> bool:
        """Return whether the teacher labels `known`."""
        try:
            return self.known is not None and bool(self.teacher.label(self.known))
        except MlipfmError:
            return False

    def _check(self, error: MlipfmError, row: int) -> None:
        if row % FAILURES or self._works():
            return
        broken = isinstance(error, ForeignModelError)
        hint = "the labels that were made are kept; see that the teacher runs, and give the same command again"
        raise LabelingError(
            f"the teacher failed for {row} frames one after another: {error.what}",
            where=self.teacher.uri,
            hint=hint if broken else f"{hint}, or start from structures like those the teacher was trained on",
        ) from error
