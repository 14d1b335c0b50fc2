"""Rules that act on the weights after a step: the exponential moving average, and none."""

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
