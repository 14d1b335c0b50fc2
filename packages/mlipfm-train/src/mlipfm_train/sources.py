"""`StoreSource`: every structure of the training stores once an epoch, in batches of equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlipfm_data.batches import plan_batches
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .frames import frame_costs


@dataclass(frozen=True)
class SourceContext:
    """What a Source plug-in is built from, before the options of the recipe.

    Attributes:
        frames: training structures (may be empty for a Source that makes its own). budget: cost of one batch. cutoff: Å, of the potential.
    """

    frames: Sequence[Structure]
    budget: float
    cutoff: float
    seed: int
    rank: int
    world_size: int


class StoreSource:
    """See the module. The order of an epoch depends on the seed and the epoch only.

    Resumed with another number of ranks in the middle of an epoch, what is left of the epoch is planned anew: nothing is repeated or lost.

    Attributes:
        epoch: of the next batch.
        uses_potential: False: the loop need not hand over the current potential.
    """

    uses_potential = False

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._costs = frame_costs(context.frames, context.cutoff, context.seed)
        self.epoch = 0
        self._segments = [[context.world_size, 0]]  # number of ranks and steps done with it, in this epoch
        self._plan = self._make_plan()

    def next_batch(self, potential: Potential | None) -> list[Structure]:
        """This rank's structures of the next step; `potential` is not used."""
        world, done = self._segments[-1]
        if done * world >= len(self._plan):
            self.epoch, self._segments, done = self.epoch + 1, [[world, 0]], 0
            self._plan = self._make_plan()
        self._segments[-1][1] += 1
        return [self._context.frames[k] for k in self._plan[done * world + self._context.rank]]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "segments": [list(segment) for segment in self._segments]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = int(state["epoch"])
        self._segments = [[int(world), int(done)] for world, done in state["segments"]]
        if self._segments[-1][0] != self._context.world_size:
            self._segments.append([self._context.world_size, 0])
        self._plan = self._make_plan()

    def _make_plan(self) -> list[list[int]]:
        """Batches of the last segment: what the earlier segments of the epoch left over, planned for its number of ranks."""
        left = np.arange(len(self._costs))
        plan: list[list[int]] = []
        for n, (world, done) in enumerate(self._segments):
            rng = stream(self._context.seed, "data", self.epoch, n)
            plan = (
                [[int(left[k]) for k in batch] for batch in plan_batches(self._costs[left], self._context.budget, rng, world)]
                if len(left)
                else []
            )
            left = np.array(sorted(k for batch in plan[done * world :] for k in batch), dtype=np.int64)
        return plan
