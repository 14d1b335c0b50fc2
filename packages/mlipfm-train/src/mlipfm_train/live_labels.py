"""`live`: training structures are displaced at random and labelled as they come, so that no two batches are equal and no labels are stored.

What a batch is depends on the seed and its number alone: a resumed run computes the same labels again. A labeller of milliseconds (GFN2-xTB of small
molecules) keeps up with training; one of seconds belongs into `mlipfm data label`, and a trained model into `mlipfm distill label`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import LabelingError, RecipeError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Labeler
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level

from .sources import SourceContext

__all__ = ["LiveLabels"]

log = logging.getLogger(__name__)
#: Draws for one structure before the run stops: a displaced structure may not converge, many in a row mean that something is wrong.
TRIES = 10


class LiveLabels:
    """See the module.

    Args:
        labeler: plug-in of the group `mlipfm.labelers` that computes the labels; its level must be one of the training data.
        structures: in each batch of each rank. sigma: Å, standard deviation of the displacement of each component; 0 labels them as they are.

    Attributes:
        batches: so far. refused: structures that could not be labelled and were drawn anew.

    Raises:
        RecipeError: values that cannot be, no training structures, or a level of the labeller that they do not have.
    """

    uses_potential = False

    def __init__(self, context: SourceContext, labeler: str = "gfn2-xtb", structures: int = 8, sigma: float = 0.05) -> None:
        if not 1 <= structures <= 100_000 or not 0 <= sigma <= 1:
            what = f"structures={structures}, sigma={sigma:g} cannot be"
            raise RecipeError(what, where="the source 'live'", hint="structures from 1, 0 <= sigma <= 1 Å")
        if not context.frames:
            raise RecipeError("the source 'live' needs training structures to displace", where="data.train", hint="name a store")
        self.context, self.structures, self.sigma = context, structures, sigma
        self.labeler: Labeler = plugins.load("labelers", labeler)()
        levels = sorted({str(s.level) for s in context.frames[:1000]})
        if find_level(self.labeler.level, levels) is None:
            raise RecipeError(
                f"the labeller gives labels of level {self.labeler.level}, the training data are at {', '.join(levels)}",
                where="data.source.labeler",
                hint="energies of two levels are no energies of one: label some structures at that level first",
            )
        self.batches = self.refused = 0

    def describe(self) -> list[str]:
        """Return what preflight says, with the time of one label."""
        begin = time.perf_counter()
        self.labeler.label(self.context.frames[0])
        took = 1000 * (time.perf_counter() - begin)
        return [f"labels of {self.labeler.level} as training goes, {self.structures} in a batch; the first took {took:.0f} ms"]

    def next_batch(self, potential: Potential | None) -> list[Structure]:
        """Return this rank's structures of the next step, labelled; `potential` is not used."""
        rng = stream(self.context.seed, "live", self.batches, self.context.rank)
        self.batches += 1
        return [self._labelled(rng) for _ in range(self.structures)]

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact continuation needs."""
        return {"batches": self.batches, "refused": self.refused}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.batches, self.refused = int(state["batches"]), int(state["refused"])

    def _labelled(self, rng: np.random.Generator) -> Structure:
        for _ in range(TRIES):
            start = self.context.frames[int(rng.integers(len(self.context.frames)))]
            moved = start.positions + rng.normal(scale=self.sigma, size=start.positions.shape) if self.sigma else start.positions
            try:
                return self.labeler.label(start.replace(positions=moved, labels={}, label_std={}))
            except LabelingError as error:
                self.refused += 1
                log.warning("a displaced structure could not be labelled, another is drawn: %s", error)
                last = error
        raise LabelingError(
            f"{TRIES} structures in a row could not be labelled, the last: {last.what}", where="the source 'live'", hint=last.hint
        )
