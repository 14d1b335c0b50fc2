"""`StoreSource`: every structure of the training stores once an epoch, or as often as a mixture says, in batches of equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlipfm_data.batches import CostModel, draw_epoch, draws, plan_batches, plan_quality, ratio_shares, temperature_shares
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .frames import PLAIN, frame_costs


@dataclass(frozen=True)
class SourceContext:
    """What a Source plug-in is built from, before the options of the recipe.

    Attributes:
        frames: training structures (may be empty for a Source that makes its own). budget: cost of one batch, by `cost`.
        cutoff: Å, of the potential. steps: of the run, None where it is not known.
    """

    frames: Sequence[Structure]
    budget: float
    cutoff: float
    seed: int
    rank: int
    world_size: int
    cost: CostModel = PLAIN
    steps: int | None = None


class StoreSource:
    """See the module. The order of an epoch depends on the seed and the epoch only.

    Args:
        temperature: draw the stores of the recipe in proportion to their sizes to the power 1/temperature; 1 is what they are.
        ratios: draw them in these proportions, one number for each store. With either, an epoch has every structure at least once, and the
            structures of stores that are wanted more often several times (see `mlipfm_data.batches`).

    Resumed with another number of ranks in the middle of an epoch, what is left of the epoch is planned anew: nothing is repeated or lost.

    Attributes:
        epoch: of the next batch.
        uses_potential: False: the loop need not hand over the current potential.

    Raises:
        RecipeError: temperature and ratios both given, or values that cannot be.
    """

    uses_potential = False

    def __init__(self, context: SourceContext, temperature: float | None = None, ratios: Sequence[float] | None = None) -> None:
        self._context = context
        self._costs = frame_costs(context.frames, context.cutoff, context.seed, context.cost)
        self._set_of, self._draws = _mixture(context.frames, temperature, ratios)
        self.epoch = 0
        self._segments = [[context.world_size, 0]]  # number of ranks and steps done with it, in this epoch
        self._plan = self._make_plan()

    def describe(self) -> list[str]:
        """Return what preflight says: shares of a mixture, and how well the batches of this epoch are filled."""
        lines = []
        if self._draws is not None:
            sizes = np.bincount(self._set_of)
            shown = ", ".join(
                f"{size} -> {drawn} ({100 * drawn / self._draws.sum():.1f} %)" for size, drawn in zip(sizes, self._draws, strict=True)
            )
            lines.append(f"mixture, structures of each store -> draws in an epoch: {shown}")
        costs, c = self._costs[self._items], self._context
        quality = plan_quality(self._plan, costs, c.budget, c.world_size, c.cost.per_batch)
        above = f"; {quality.oversize} structures above the budget are batches of their own" if quality.oversize else ""
        waiting = f", ranks wait {100 * quality.idle:.1f} % of the time" if c.world_size > 1 else ""
        lines.append(f"{quality.batches} batches an epoch, filled to {100 * quality.fill:.1f} % of the budget{waiting}{above}")
        return lines

    def next_batch(self, potential: Potential | None) -> list[Structure]:
        """Return this rank's structures of the next step; `potential` is not used."""
        world, done = self._segments[-1]
        if done * world >= len(self._plan):
            self.epoch, self._segments, done = self.epoch + 1, [[world, 0]], 0
            self._plan = self._make_plan()
        self._segments[-1][1] += 1
        return [self._context.frames[int(self._items[k])] for k in self._plan[done * world + self._context.rank]]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "segments": [list(segment) for segment in self._segments]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = int(state["epoch"])
        self._segments = [[int(world), int(done)] for world, done in state["segments"]]
        if self._segments[-1][0] != self._context.world_size:
            self._segments.append([self._context.world_size, 0])
        self._plan = self._make_plan()

    def _make_plan(self) -> list[list[int]]:
        """Batches of the last segment, as places in `_items`, the structures of this epoch: what the earlier segments left over, planned for its
        number of ranks."""
        c = self._context
        if self._draws is None:
            self._items = np.arange(len(self._costs))
        else:
            self._items = draw_epoch(self._set_of, self._draws, stream(c.seed, "mixture", self.epoch))
        costs, left = self._costs[self._items], np.arange(len(self._items))
        plan: list[list[int]] = []
        for n, (world, done) in enumerate(self._segments):
            rng = stream(c.seed, "data", self.epoch, n)
            planned = plan_batches(costs[left], c.budget, rng, world, c.cost.per_batch) if len(left) else []
            plan = [[int(left[k]) for k in batch] for batch in planned]
            left = np.array(sorted(k for batch in plan[done * world :] for k in batch), dtype=np.int64)
        return plan


def _mixture(
    frames: Sequence[Structure], temperature: float | None, ratios: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Store of each structure, and the draws of each store in an epoch; None without a mixture."""
    set_of: np.ndarray = getattr(frames, "set_of", np.zeros(len(frames), dtype=np.int64))
    if temperature is None and ratios is None:
        return set_of, None
    if temperature is not None and ratios is not None:
        raise RecipeError("a mixture has a temperature or ratios, not both", where="data.source")
    if isinstance(temperature, bool | str) or isinstance(ratios, str) or any(isinstance(r, bool | str) for r in ratios or ()):
        raise RecipeError(f"a mixture needs numbers, got {temperature if ratios is None else ratios!r}", where="data.source")
    stores = len(getattr(frames, "stores", [frames]))
    sizes = np.bincount(set_of, minlength=stores)
    shares = ratio_shares(sizes, ratios) if ratios is not None else temperature_shares(sizes, float(temperature or 0))
    return set_of, draws(sizes, shares)
