"""What backbones of attention over the neighbours of an atom share: the envelope as a bias of logits, norms, feed-forward networks.

Everything is written in plain matrix products, so that it can be differentiated as often as Hessian rows and their training need (three times).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


def log_envelope(weight: Tensor) -> Tensor:
    """Logarithm of envelopes: minus infinity where they are 0, from the cutoff on, and there no gradient passes.

    Added to the logits of softmax it multiplies the weights by the envelope before they are normalised.
    """
    inside = weight > 0
    return torch.where(inside, torch.where(inside, weight, 1.0).log(), float("-inf"))


def rms_norm(x: Tensor) -> Tensor:
    """x over the root of its mean square over the last axis (arXiv:1910.07467), without gain: the linear map behind it has one."""
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-3).rsqrt()


def of_neighbors(x: Tensor, index: Tensor) -> Tensor:
    """[A, K, C]: rows of x [A, C]."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape)


class FeedForward(nn.Module):
    """x + outer(silu(inner(norm(x))))."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, expansion * channels)
        self.outer = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(silu(self.inner(rms_norm(x))))
