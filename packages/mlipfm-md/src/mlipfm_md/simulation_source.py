"""Source: train on structures that the current potential visits itself, labelled as they come (on-policy data).

Each batch takes some training structures, runs short Langevin dynamics from them with the potential as it is now, and labels where they end. What a
batch is depends on the seed, its number and the potential alone, so a resumed run has the same batches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import LabelingError, RecipeError, SimulationError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Labeler
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from ._first_velocities import temperatures_of
from .ensembles import Langevin
from .initial_state import unlabelled
from .simulation import Settings, simulate_frames

__all__ = ["SimulationSource"]

log = logging.getLogger(__name__)


class Context(Protocol):
    """What a Source is built from; train's `SourceContext` has it."""

    @property
    def frames(self) -> Sequence[Structure]: ...

    @property
    def seed(self) -> int: ...

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...


class SimulationSource:
    """`structures` labelled end points of `steps` steps of dynamics in every batch of every rank.

    Args:
        labeler: plug-in that labels them; its level must be that of the run. temperature: K. dt: fs. friction: 1/fs.

    An end point that cannot be labelled (atoms met, no convergence) is replaced by its labelled start, and logged.
    """

    uses_potential = True

    def __init__(
        self,
        context: Context,
        labeler: str = "gfn2-xtb",
        structures: int = 4,
        steps: int = 20,
        temperature: float = 300.0,
        dt: float = 0.5,
        friction: float = 0.02,
    ) -> None:
        if not context.frames:
            raise RecipeError("the source 'simulation' needs training structures to start from", where="data.train")
        if structures < 1 or steps < 1:
            raise RecipeError(f"structures={structures} and steps={steps} must be at least 1", where="the source 'simulation'")
        self.context, self.structures = context, structures
        self.labeler: Labeler = plugins.load("labelers", labeler)()
        self.settings = Settings(dt=dt, steps=steps, temperature=temperature, every=max(steps, 1))
        self.ensemble = Langevin(temperature, friction)
        self.batches = 0
        self.replaced = 0

    def next_batch(self, potential: Potential | None) -> list[Structure]:
        """Return the labelled structures of this rank's next step.

        Raises:
            SimulationError: if no potential is given.
        """
        if potential is None:
            raise SimulationError("the source 'simulation' needs the current potential")
        rng = stream(self.context.seed, "source", self.batches, self.context.rank)
        chosen = rng.integers(len(self.context.frames), size=self.structures)
        batch = [self._visited(potential, self.context.frames[int(k)], int(rng.integers(2**62))) for k in chosen]
        self.batches += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact continuation needs."""
        return {"batches": self.batches, "replaced": self.replaced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.batches, self.replaced = int(state["batches"]), int(state["replaced"])

    def _visited(self, potential: Potential, start: Structure, seed: int) -> Structure:
        plain = unlabelled(start)
        training = potential.training
        try:
            run, _ = simulate_frames(potential, plain, self.ensemble, replace(self.settings, seed=seed))
        finally:
            potential.train(training)
        origin = replace(start.provenance, sampling=f"on-policy-{temperatures_of(self.ensemble, self.settings, 1)[0]:g}K")
        try:
            return self.labeler.label(plain.replace(positions=run.state.positions, provenance=origin))
        except LabelingError as error:
            self.replaced += 1
            log.warning("a structure of the simulation could not be labelled, its start is used: %s", error)
            return self.labeler.label(plain)
