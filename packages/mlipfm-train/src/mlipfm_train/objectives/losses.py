"""Losses of single errors, shared by objectives."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

Loss = Literal["mae", "mse", "huber", "norm"]
LOSSES: tuple[str, ...] = get_args(Loss)


def losses_of(error: Tensor, kind: Loss, delta: float) -> Tensor:
    """Losses of `error` [entries, components]: [entries] for `norm`, one per component otherwise."""
    if kind == "norm":
        return torch.linalg.vector_norm(error, dim=1)  # its gradient at zero is zero
    if kind == "mae":
        return error.abs()
    if kind == "mse":
        return error.square()
    return huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
