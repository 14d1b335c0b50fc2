"""DistributedDataParallel: every rank holds the whole model, gradients are averaged while backward still runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..step import Step, StepTerms
from ..views import StepBatch
from .process_group import collect, join, leave
from .single import SingleProcess


class Ddp(SingleProcess):
    """See the module. Forces are taken inside the wrapped forward; hooks fire only in the final backward, so that is exact.

    Args:
        timeout: seconds that a rank waits for another.
    """

    def __init__(self, clip: float | None = None, device: str = "cpu", timeout: float = 600.0) -> None:
        super().__init__(clip, device)
        self._joined = join("ddp", timeout, self.device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def collect(self, value: Any) -> list[Any]:
        return collect(value, self.world_size)

    def close(self) -> None:
        leave(self._joined)

    def _place(self, step: Step) -> Callable[[StepBatch], StepTerms]:
        with warnings.catch_warnings():  # its new name does not exist in all versions of torch that we accept
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            return DistributedDataParallel(step, broadcast_buffers=False, gradient_as_bucket_view=True)

    def _backward(self, loss: Tensor) -> None:
        with warnings.catch_warnings():  # strides of dimensions of size 1: the copy it warns of is correct
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            loss.backward()  # of all leaves: its hooks wait for that
