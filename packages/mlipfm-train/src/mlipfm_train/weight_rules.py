"""Rules that act on the weights after a step: the exponential moving average, the outer step of Reptile, and none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mlipfm_interfaces.errors import RecipeError
from torch import Tensor


class Ema:
    """Exponential moving average of all parameters, a <- d a + (1 - d) p with d = min(decay, (1 + n) / (10 + n)) after n updates.

    The warm-up of d lets the average forget the random start. Works on whole and on sharded parameters alike: it is elementwise.

    Raises:
        RecipeError: if `decay` is not in [0, 1): at 1 the average would never see a new weight, beyond it runs away from them.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise RecipeError(f"decay must be in [0, 1), got {decay:g}", where="weight_rule 'ema'", hint="for instance 0.999")
        self.decay = decay
        self.updates = 0
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        if not self._average:
            self._average = {name: value.detach().clone() for name, value in parameters.items()}
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = [self._average[name] for name in parameters]
        torch._foreach_lerp_(average, [value.detach() for value in parameters.values()], 1 - decay)
        self.updates += 1

    def averaged(self) -> Mapping[str, Tensor] | None:
        return self._average or None

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = int(state["updates"])
        self._average = {name: value.detach().clone() for name, value in state["average"].items()}


class Reptile:
    """Reptile (arXiv:1803.02999): weights from which every task is learned in few steps, theta <- theta + rate x mean over tasks (theta_t - theta).

    Each task starts from theta and takes the `inner` steps of the source `tasks`; after all tasks theta moves. What is exported is theta. Between
    tasks the weights return to theta, the moments of the optimiser stay. With one inner step it is training on all tasks together; with many,
    theta goes to the mean of their optima.

    Args:
        rate: of the outer step, in (0, 1].

    Attributes:
        inner, tasks: from the source, see `follow`.

    Raises:
        RecipeError: a rate that cannot be; by `follow`, another source.
    """

    def __init__(self, rate: float = 0.3) -> None:
        if not 0 < rate <= 1:
            raise RecipeError(f"rate must be in (0, 1], got {rate:g}", where="weight_rule 'reptile'", hint="for instance 0.3")
        self.rate, self.inner, self.tasks, self.steps = rate, 1, 1, 0
        self._start: dict[str, Tensor] = {}
        self._moves: dict[str, Tensor] = {}

    def follow(self, source: Any) -> None:
        """Take the number of tasks, and of steps of each, from the source."""
        if not hasattr(source, "inner") or not hasattr(source, "names"):
            raise RecipeError(
                "the weight rule 'reptile' takes its steps from tasks in turn",
                where="data.source",
                hint="data.source: {name: tasks, inner: 5, by: level}",
            )
        self.inner, self.tasks = int(source.inner), len(source.names)

    @torch.no_grad()
    def begin(self, parameters: Mapping[str, Tensor]) -> None:
        """Keep theta before the first step."""
        self._start = {name: value.detach().clone() for name, value in parameters.items()}
        self._moves = {name: torch.zeros_like(value) for name, value in self._start.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Return to theta after each task, and move it after all of them."""
        if not self._start:  # nobody has called `begin`: theta is what comes first
            self.begin(parameters)
            return
        self.steps += 1
        if self.steps % self.inner:
            return
        for name, value in parameters.items():
            self._moves[name] += value.detach() - self._start[name]
            if self.steps % (self.inner * self.tasks) == 0:
                self._start[name] += self.rate / self.tasks * self._moves[name]
                self._moves[name].zero_()
            value.copy_(self._start[name])

    def averaged(self) -> Mapping[str, Tensor] | None:
        return self._start or None

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "start": {name: value.clone() for name, value in self._start.items()},
            "moves": {name: value.clone() for name, value in self._moves.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = int(state["steps"])
        for kept, name in ((self._start, "start"), (self._moves, "moves")):
            kept.clear()
            kept.update({key: value.detach().clone() for key, value in state[name].items()})


class LiveWeights:
    """No rule: the live parameters are exported as they are."""

    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Nothing to do."""

    def averaged(self) -> Mapping[str, Tensor] | None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing was saved."""
