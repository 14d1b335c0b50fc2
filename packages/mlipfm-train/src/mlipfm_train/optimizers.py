"""AdamW, with weight decay where the potential's parameter roles allow it.

`torch.optim` would do the same (a test compares), but making one imports torch's compiler: seconds at the start of every process (decisions/0002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .recipe import Optimizer
from .step import Step


class StepOptimizer(Protocol):
    """What strategies ask of an optimiser; those of `torch.optim` have it."""

    param_groups: list[dict[str, Any]]
    state: Any

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def step(self) -> Any: ...


class AdamW:
    """Decoupled weight decay (arXiv:1711.05101, algorithm 2), all parameters of a group at once; elementwise, so shards work like whole tensors.

    Args:
        groups: dicts with `params` and `weight_decay`; `lr` is set before each step, that of the run times `lr_factor`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, **group} for group in groups]
        self.betas, self.eps = betas, eps
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if trained:
                self._update(trained, [p.grad for p in trained], group["lr"], group["weight_decay"])

    def _update(self, parameters: list[Tensor], grads: list[Tensor], lr: float, decay: float) -> None:
        for p in parameters:
            if not self.state.get(p):  # that of torch's optimisers makes an empty entry for whoever reads it
                self.state[p] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        first, second = ([self.state[p][key] for p in parameters] for key in ("exp_avg", "exp_avg_sq"))
        for p in parameters:
            self.state[p]["step"] += 1
        n = float(self.state[parameters[0]]["step"])
        a, b = self.betas
        if decay:
            torch._foreach_mul_(parameters, 1 - lr * decay)
        torch._foreach_lerp_(first, grads, 1 - a)
        torch._foreach_mul_(second, b)
        torch._foreach_addcmul_(second, grads, grads, 1 - b)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1 - b**n) ** 0.5)
        torch._foreach_add_(root, self.eps)
        torch._foreach_addcdiv_(parameters, first, root, -lr / (1 - a**n))


def adamw(options: Optimizer, factors: Mapping[str, float] | None = None) -> Callable[[Step], StepOptimizer]:
    """Return the builder of AdamW for a placed step: one group with weight decay, one without. Auxiliary modules have none.

    Args:
        factors: of the learning rate by parameter of the potential, see `adaptation.rate_factors`; each has groups of its own.

    With `options.width_ratio` the rates of hidden and output matrices are divided by it; their weight decay a step stays what it was.
    """

    def build(step: Step) -> StepOptimizer:
        roles = {f"potential.{name}": role for name, role in step.potential.parameter_roles().items()}
        members: dict[tuple[float, float], tuple[list[nn.Parameter], list[nn.Parameter]]] = {}
        for name, parameter in step.named_parameters():
            if parameter.requires_grad:
                factor = (factors or {}).get(name.removeprefix("potential."), 1.0)
                wide = name in roles and roles[name].scaling in ("hidden", "output")
                ratio = (options.width_ratio or 1.0) if wide else 1.0
                decayed, plain = members.setdefault((factor, ratio), ([], []))
                (decayed if name in roles and roles[name].decay else plain).append(parameter)
        groups = [
            {"params": some, "weight_decay": decay * ratio, "lr_factor": factor / ratio}
            for (factor, ratio), both in members.items()
            for some, decay in zip(both, (options.weight_decay, 0.0), strict=True)
        ]
        return AdamW(groups, options.lr, options.betas, options.eps)

    return build
