"""The exact global loss: sums and counts are added over all ranks before they are divided.

A rank that averages its own systems first gives small batches the weight of large ones. Here the loss of a rank is local_sum x ranks / global
count, whose gradient, averaged over ranks as DDP and FSDP do, is that of one process with all systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..step import Step, StepTerms


def global_loss(step: Step, terms: StepTerms, world_size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to differentiate on this rank, and every term of all ranks as a mean (detached).

    Terms of `gather` objectives are collected with their gradients, in the order of ranks, and finished on every rank alike.
    """
    sums = {name: value for name, value in terms.items() if not step.gathers(name)}
    gathered = {name: gather_rows(tensor, int(count), world_size) for name, (tensor, count) in terms.items() if step.gathers(name)}
    totals = add_over_ranks(sums, world_size)
    loss = sum(
        (value * world_size / totals[name][1].clamp_min(1) for name, (value, _) in sums.items()), start=torch.zeros((), dtype=torch.float64)
    )
    means = {name: total / count.clamp_min(1) for name, (total, count) in totals.items()}
    for name, (value, count) in step.finish(gathered).items():
        means[name] = value.detach() / count.detach().clamp_min(1)
        loss = loss + value / count.clamp_min(1)
    return loss, means


def add_over_ranks(sums: Mapping[str, tuple[Tensor, Tensor]], world_size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and counts of all ranks, in float64, without graph, with one communication."""
    if not sums:
        return {}
    local = torch.stack(
        [torch.stack([value.detach().to(torch.float64), count.detach().to(torch.float64)]) for value, count in sums.values()]
    )
    if world_size > 1:
        dist.all_reduce(local)
    return {name: (row[0], row[1]) for name, row in zip(sums, local, strict=True)}


def gather_rows(tensor: Tensor, count: int, world_size: int) -> Tensor:
    """Return the first `count` rows of every rank's tensor, in the order of ranks; its gradient goes back to the rank each row came from."""
    rows = tensor[:count]
    return rows if world_size == 1 else _GatherRows.apply(rows, world_size)


class _GatherRows(torch.autograd.Function):
    """All-gather of different numbers of rows. Backward adds the gradients of all ranks, each of which computed the whole finished term."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world_size: int) -> Tensor:
        lengths = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size)]
        dist.all_gather(lengths, torch.tensor([len(rows)], device=rows.device))
        counts = [int(n) for n in lengths]
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(world_size)]
        dist.all_gather(parts, padded)
        rank = dist.get_rank()
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[ctx.own], None
