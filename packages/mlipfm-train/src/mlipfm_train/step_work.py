"""What one training step computes and keeps: floating-point operations of matrix products, with those of both backward passes, and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class StepWork:
    """Of one forward and backward pass.

    Attributes:
        flops: of matrix products and convolutions, as torch counts them; elementwise work is not in it.
        kept: bytes of tensors that the passes keep for derivatives. weights: bytes of parameters, gradients and two moments of AdamW.
    """

    flops: int
    kept: int
    weights: int

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.3g} GFLOP in matrix products, {(self.kept + self.weights) / 2**20:.0f} MiB for derivatives, weights and moments"


class _Operations(TorchDispatchMode):
    """Counts the operations of every matrix product by the formulas of torch. (`FlopCounterMode` also follows modules, by hooks that
    `torch.autograd.grad` inside a step does not allow.)"""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry

        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def count_work(module: nn.Module, loss: Callable[[], Tensor]) -> StepWork:
    """Count one pass of `loss` and its gradient, which is discarded; `module` holds the parameters."""
    sizes: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with _Operations() as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss().backward()
    module.zero_grad(set_to_none=True)
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in module.parameters())
    return StepWork(counter.flops, sum(sizes.values()), whole + 3 * trained)
