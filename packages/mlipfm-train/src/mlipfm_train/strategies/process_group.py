"""The process group of torchrun."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from mlipfm_interfaces.errors import RecipeError


def join(strategy: str, timeout: float) -> bool:
    """Join the group of this torchrun, if there is none yet; whether this call did.

    Args:
        timeout: seconds that a rank waits for another before it gives up.

    Raises:
        RecipeError: a timeout that cannot be, or if this process was not started by torchrun.
    """
    if not 0 < timeout <= 1e7:
        raise RecipeError(f"timeout must be above 0 and at most 1e7 s, got {timeout:g}", where=f"strategy {strategy!r}")
    if dist.is_initialized():
        return False
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        hint = "start it with `torchrun --nproc-per-node 2 --no-python mlipfm train ...`, or use strategy.name=single"
        raise RecipeError(f"strategy {strategy!r} needs several processes", hint=hint)
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    return True


def collect(value: Any, world_size: int) -> list[Any]:
    """The `value` of every rank of this torchrun, in the order of ranks."""
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values
