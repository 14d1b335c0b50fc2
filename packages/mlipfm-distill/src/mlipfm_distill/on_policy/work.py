"""What every stage of a distillation needs, and how it has frames labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlipfm_data.store.store import Store
from mlipfm_interfaces.structure import Structure

from .label_folder import Labels
from .request import DistillationRequest
from .teacher import DistillationTeacher

Say = Callable[[str], None]

#: Starts around which the work of a teacher with direct forces is measured.
FLOOR_STARTS = 4
#: Frames that are kept of the dynamics of one start to choose from.
FRAMES = 60


@dataclass
class Work:
    """What every stage needs."""

    request: DistillationRequest
    teacher: DistillationTeacher
    labels: Labels
    starts: list[Structure]
    dt: float
    say: Say
    interrupted: Callable[[], bool]

    @property
    def out(self) -> Path:
        return self.request.out

    def stop_if_asked(self) -> None:
        """Raise KeyboardInterrupt after Ctrl-C: everything that was done is on disk."""
        if self.interrupted():
            raise KeyboardInterrupt

    def label(self, part: str, frames: Sequence[Structure], advance: Callable[[int], None] = lambda count: None) -> None:
        """Have the teacher label frames into the store `part`; those that it has are not labelled again."""

        def done(count: int) -> None:
            advance(1)
            self.stop_if_asked()

        self.labels.add(part, frames, done)

    def labelled_among(self, frames: Sequence[Structure], parts: Sequence[str]) -> list[Structure]:
        """Return the structures of the stores `parts` that are among the frames, with their labels."""
        keys = {s.key for s in frames}
        return [s for part in parts for s in self.labels.read(part) if s.key in keys]


def stored(path: Path) -> list[Structure]:
    """Return all structures of a store."""
    with Store(path) as store:
        return list(store)
