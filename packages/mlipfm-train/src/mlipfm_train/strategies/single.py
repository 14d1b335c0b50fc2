"""One process: the reference that every other strategy equals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mlipfm_interfaces.errors import RecipeError
from torch import Tensor

from ..optimizers import StepOptimizer
from ..step import Step, StepTerms
from ..views import StepBatch
from .process_group import device_of_rank
from .reduction import global_loss


class SingleProcess:
    """Forward, exact global loss, backward, clip, update; a step whose gradient is not finite is skipped.

    Other strategies derive from it and change where parameters live, never what a step computes.

    Args:
        clip: largest norm of the gradient of all parameters; None for no clipping.
        device: where the step runs.

    Raises:
        RecipeError: if there is no such device.
    """

    def __init__(self, clip: float | None = None, device: str = "cpu") -> None:
        self.clip = clip
        self.device = _device(device)
        self.rank, self.world_size = 0, 1

    @property
    def share(self) -> tuple[int, int]:
        """Return which of how many batches of each step this process computes: each rank its own."""
        return self.rank, self.world_size

    def check(self, step: Step) -> None:
        """Refuse, before anything is written, what this strategy cannot train.

        Raises:
            RecipeError: with the reason and another strategy.
        """

    def setup(self, step: Step, make_optimizer: Callable[[Step], StepOptimizer]) -> None:
        """Place the step module and build its optimiser on the placed parameters."""
        self.module = step.to(self.device)
        self.wrapped: Callable[[StepBatch], StepTerms] = self._place(self.module)
        self.optimizer = make_optimizer(self.module)

    def step(self, batch: StepBatch, learning_rate: float) -> dict[str, float]:
        """One optimisation step; the global terms, `loss`, `gradient_norm` and `skipped` (1.0 if nothing was changed).

        Loss and norm are the same numbers on all ranks, and so is the decision to skip.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_factor", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss, means = global_loss(self.module, self._forward(batch), self.share[1])
        self._backward(loss)
        norm = self._gradient_norm()
        finite = bool(torch.isfinite(norm)) and all(bool(torch.isfinite(value)) for value in means.values())
        if finite:
            self._update(norm)
        else:
            self._discard()
        total = sum(float(value) for value in means.values())
        return {"loss": total, **{k: float(v) for k, v in means.items()}, "gradient_norm": float(norm), "skipped": float(not finite)}

    def live_parameters(self) -> dict[str, Tensor]:
        """Return what this process holds of each parameter, as plain tensors that share its memory: all of it, or its shard."""
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole copies on the CPU of tensors that lie like `live_parameters`. All ranks must call it."""
        return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}

    def scatter(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the opposite of `gather`: what this process holds of whole tensors."""
        return {name: value.to(self.device, copy=True) for name, value in tensors.items()}

    def full_parameters(self) -> dict[str, Tensor]:
        return self.gather(self.live_parameters())

    def state_dict(self) -> dict[str, Any]:
        """Parameters, buffers and optimiser state, whole and on the CPU, by parameter names: independent of strategy and number of ranks."""
        return {"parameters": self.full_parameters(), "buffers": _copies(self._buffers()), "optimizer": self._optimizer_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        live = self.live_parameters()
        for name, value in self.scatter(state["parameters"]).items():
            live[name].copy_(value)
        for name, buffer in self._buffers().items():
            buffer.copy_(state["buffers"][name])
        self._load_optimizer_state(state["optimizer"])

    def _optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """State of the optimiser by key and parameter name, whole, on the CPU. All ranks must call it."""
        moments: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                moments.setdefault(key, {})[name] = self._local(value)
        return {key: self.gather(values) if key != "step" else _copies(values) for key, values in moments.items()}

    def _load_optimizer_state(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        parameters = dict(self.module.named_parameters())
        for key, values in states.items():
            placed = _copies(values) if key == "step" else self.scatter(values)
            for name, value in placed.items():
                mine = self.optimizer.state.setdefault(parameters[name], {})
                mine[key] = value if key == "step" else self._like(parameters[name], value)

    def collect(self, value: Any) -> list[Any]:
        """Return the `value` of every rank, in the order of ranks. All ranks must call it."""
        return [value]

    def close(self) -> None:
        """One process keeps nothing open."""

    def _buffers(self) -> dict[str, Tensor]:
        saved = self.module.state_dict().keys()
        return {name: buffer for name, buffer in self.module.named_buffers() if name in saved}

    def _place(self, step: Step) -> Callable[[StepBatch], StepTerms]:
        return step

    def _forward(self, batch: StepBatch) -> StepTerms:
        return self.wrapped(batch)

    def _backward(self, loss: Tensor) -> None:
        """Gradients of the parameters alone: positions are leaves as well, and theirs would be a tenth of the work."""
        loss.backward(inputs=[parameter for parameter in self.module.parameters() if parameter.requires_grad])

    def _gradient_norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])

    def _update(self, norm: Tensor) -> None:
        """Clip and take the step, where the gradient of norm `norm` is finite."""
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.module.parameters(), self.clip, norm)
        self.optimizer.step()

    def _discard(self) -> None:
        """Forget gradients that are not finite: the next step begins with none anyway."""

    def _local(self, value: Tensor) -> Tensor:
        """Return what this process holds of a tensor that lies like a parameter."""
        return value

    def _like(self, parameter: Tensor, value: Tensor) -> Tensor:
        """Return the local `value` as a tensor that lies like `parameter`."""
        return value


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # unknown name, torch without it, or no such card
        raise RecipeError(
            f"there is no device {name!r} here: {str(error).splitlines()[0]}", where="strategy.device", hint="use cpu"
        ) from None
    return device_of_rank(torch.device(name))


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
