"""`Step`: the potential and its objectives in one module. Every derivative is taken inside it, and the potential is called exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential, Prediction
from mlipfm_interfaces.protocols import Objective
from mlipfm_interfaces.quantities import quantity
from torch import Tensor, nn

from .adaptation import LowRank
from .selection import select
from .views import StepBatch

#: Terms of a step: `objective/term` -> (tensor, count).
StepTerms = dict[str, tuple[Tensor, Tensor]]
Evaluate = Callable[[Potential, Batch, Sequence[str], bool], Prediction]


def learned(objectives: Mapping[str, Objective]) -> tuple[str, ...]:
    """Return the quantities that are trained on their labels. Others are asked of the potential for its features, or to be like each other."""
    return tuple(sorted({key for o in objectives.values() for key in o.outputs if key in o.requires}))


class Step(nn.Module):
    """One training step up to its local terms.

    Attributes:
        potential: what is trained and exported.
        auxiliary: modules of the objectives, by objective name; trained, never exported.
        adapter: low-rank changes of the potential, merged when it is exported.
        evaluate: asks the potential; strategies that share a structure among ranks put theirs here.
    """

    def __init__(self, potential: Potential, objectives: Mapping[str, Objective], adapter: LowRank | None = None) -> None:
        super().__init__()
        self.potential = potential
        self.objectives = dict(objectives)
        self.auxiliary = nn.ModuleDict({name: o.module for name, o in objectives.items() if o.module is not None})
        self.adapter = adapter
        self.evaluate: Evaluate = lambda potential, batch, outputs, create_graph: potential(batch, outputs, create_graph=create_graph)
        self.outputs = tuple(sorted({key for o in objectives.values() for key in o.outputs}))
        self.learned = learned(objectives)
        self._companions = {key: quantity(key).companion for key in self.outputs}
        for name in objectives:
            if "/" in name or "." in name:
                raise RecipeError(f"an objective cannot be named {name!r}", hint="use letters, digits and hyphens")

    def forward(self, step_batch: StepBatch) -> StepTerms:
        """Return local terms of all objectives, `objective/term` -> (weighted sum, count), or (tensor, count) for terms that an objective gathers.

        Every parameter takes part with weight zero: distributed engines need a gradient of each parameter on each rank in each step.
        """
        batch = replace(step_batch.batch.with_leaves(strain="stress" in self.outputs), mask_undefined=True)
        batch = self._with_node_input(batch)
        prediction = self._predict(batch)
        terms: StepTerms = {}
        for name, objective in self.objectives.items():
            own_prediction, own_batch = prediction, batch
            if len(self.objectives) > 1 or len(step_batch.groups[name]) != batch.n_systems:  # a single objective made all systems
                own_prediction, own_batch = select(prediction, batch, step_batch.groups[name])
            terms.update({f"{name}/{key}": value for key, value in objective.terms(own_prediction, own_batch).items()})
        nothing = sum((p.sum() * 0.0 for p in self.parameters() if p.requires_grad), start=torch.zeros((), device=batch.positions.device))
        first = next(iter(terms))
        terms[first] = (terms[first][0] + nothing.to(terms[first][0].dtype), terms[first][1])
        return terms

    def finish(self, gathered: Mapping[str, Tensor]) -> StepTerms:
        """Return global terms of tensors gathered over all ranks (keys as in `forward`)."""
        terms: StepTerms = {}
        for name, objective in self.objectives.items():
            own = {key: gathered[f"{name}/{key}"] for key in objective.gather}
            if own:
                terms.update({f"{name}/{key}": value for key, value in objective.finish(own).items()})
        return terms

    def gathers(self, term: str) -> bool:
        """Return whether the term `objective/term` is a tensor to be gathered, and not a sum."""
        name, key = term.split("/", 1)
        return key in self.objectives[name].gather

    def _predict(self, batch: Batch) -> Prediction:
        asked, graph = self._asked(batch), torch.is_grad_enabled()
        if self.adapter is not None:
            return self.adapter.call(self.potential, batch, asked, graph)
        return self.evaluate(self.potential, batch, asked, graph)

    def _with_node_input(self, batch: Batch) -> Batch:
        """Return the batch with what objectives hide from the potential or add to its atoms (`Batch.node_input`)."""
        parts = [o.node_input(batch) for o in self.objectives.values() if hasattr(o, "node_input")]
        if not parts:
            return batch
        keep, added = parts[0]
        for more_keep, more in parts[1:]:
            keep, added = keep * more_keep, added + more
        return replace(batch, node_input=(keep, added))

    def _asked(self, batch: Batch) -> tuple[str, ...]:
        """Outputs of this step. Which Hessian rows or probes is said by labels: a rank whose systems have none does not ask."""
        return tuple(key for key, companion in self._companions.items() if companion is None or companion in batch.labels)
