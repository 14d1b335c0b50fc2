"""FSDP2: parameters, gradients and optimiser state are sharded over the ranks, block by block.

The backward of the forces comes before that of the loss and needs the same parameters. By default they are freed after the first backward,
and the second finds storage of size 0. So nothing is freed until the loss is differentiated (decisions/0001).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..step import Step, StepTerms
from ..views import StepBatch
from .process_group import collect, join, leave
from .single import SingleProcess


class Fsdp2(SingleProcess):
    """See the module.

    Args:
        timeout: seconds that a rank waits for another.
    """

    def __init__(self, clip: float | None = None, device: str = "cpu", timeout: float = 600.0) -> None:
        super().__init__(clip, device)
        self._joined = join("fsdp2", timeout, self.device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.mesh = init_device_mesh(self.device.type, (self.world_size,))

    def collect(self, value: Any) -> list[Any]:
        return collect(value, self.world_size)

    def close(self) -> None:
        leave(self._joined)

    def live_parameters(self) -> dict[str, Tensor]:
        return {name: self._local(parameter.detach()) for name, parameter in self.module.named_parameters()}

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameters = dict(self.module.named_parameters())
        return {name: self._like(parameters[name], value).full_tensor().detach().to("cpu", copy=True) for name, value in tensors.items()}  # type: ignore[attr-defined]  # a DTensor

    def scatter(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameters = dict(self.module.named_parameters())
        placed = {name: distribute_tensor(value.to(self.device), self.mesh, parameters[name].placements) for name, value in tensors.items()}  # type: ignore[attr-defined]
        return {name: value.to_local().clone() for name, value in placed.items()}

    def _place(self, step: Step) -> Callable[[StepBatch], StepTerms]:
        for block in step.potential.blocks():
            fully_shard(block, mesh=self.mesh, reshard_after_forward=False)
        return fully_shard(step, mesh=self.mesh, reshard_after_forward=False)  # type: ignore[return-value]  # adds FSDPModule to the module's class

    def _forward(self, batch: StepBatch) -> StepTerms:
        self._root.set_reshard_after_backward(False)
        with warnings.catch_warnings():  # blocks may return views: nobody writes into them
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            return self.wrapped(batch)

    def _backward(self, loss: Tensor) -> None:
        self._root.set_reshard_after_backward(True)
        loss.backward()

    def _gradient_norm(self) -> Tensor:
        norm = super()._gradient_norm()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @property
    def _root(self) -> FSDPModule:
        assert isinstance(self.wrapped, FSDPModule)
        return self.wrapped

    def _local(self, value: Tensor) -> Tensor:
        return value.to_local() if isinstance(value, DTensor) else value

    def _like(self, parameter: Tensor, value: Tensor) -> Tensor:
        assert isinstance(parameter, DTensor)
        with torch.no_grad():
            return DTensor.from_local(value, self.mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride())
