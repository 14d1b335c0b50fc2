"""The smooth descriptor of DeePMD: an environment matrix, a learned weight of each neighbour, and products that keep what rotations leave.

Deep Potential - Smooth Edition, arXiv:1805.09003; the switch of s(r) is that of its code, a polynomial whose second derivative is continuous. Of the
two ways to tell elements apart, this takes the type embedding: the network that weighs a neighbour gets s(r) and the initial scalars of both,
so that the number of parameters does not grow with that of elements. N_c of the paper, the fixed number of neighbours, is `mean_neighbors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from mlipfm_interfaces.batch import Batch
from torch import Tensor, nn
from torch.nn.functional import silu

from ..configuration import Cutoff, Positive, Width
from ..parameter_roles import GeometryLinear, InputLinear, VectorInputLinear
from .backbone import DenseBackbone

__all__ = ["DeepPotSe", "DeepPotSeConfig"]


@dataclass(frozen=True)
class DeepPotSeConfig:
    """Options of the backbone.

    Attributes:
        channels: width of the node scalars and of the fitting network.
        embedding: widths of the network that weighs neighbours; its last is the M of the paper.
        axis: how many of the weights enter on the right, M_< of the paper.
        cutoff, switch: Å. s(r) is 1/r up to `switch` and goes to zero smoothly at the cutoff.
        mean_neighbors: constant that sums over neighbours are divided by; take the mean of the training data.
    """

    channels: Width = 128
    embedding: tuple[Width, ...] = (32, 64, 64)
    axis: Width = 16
    cutoff: Cutoff = 5.0
    switch: Positive = 0.5
    mean_neighbors: Positive = 12.0


def switched_inverse(r: Tensor, config: DeepPotSeConfig) -> Tensor:
    """s(r) in 1/Å: 1/r for r < switch, then (1/r) (x³ (-6 x² + 15 x - 10) + 1), x = (r - switch) / (cutoff - switch), and 0 beyond the cutoff."""
    x = ((r - config.switch) / (config.cutoff - config.switch)).clamp(0.0, 1.0)
    return (x**3 * (-6 * x**2 + 15 * x - 10) + 1) / r


class DeepPotSe(DenseBackbone):
    """The backbone: node scalars and equivariant node vectors."""

    Config = DeepPotSeConfig

    def __init__(self, config: DeepPotSeConfig) -> None:
        super().__init__(config)
        self.descriptor = Descriptor(config)

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return scalars [A, channels] and vectors [A, 3, channels] from the initial scalars."""
        view, d, _ = self.geometry(batch)
        r = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
        inverse = switched_inverse(r, self.config)
        environment = torch.cat([inverse, inverse * d / r], dim=-1)  # the rows s(r) (1, x/r, y/r, z/r) of the paper
        return self.descriptor(s, environment, view.index)


class Descriptor(nn.Module):
    """Embedding of neighbours, descriptor, and the fitting network up to its last layer.

    Networks see numbers of size one: s(r) less its mean and over its spread, both of 1/r in a uniform gas (3/2 and sqrt(3)/2 over the cutoff), where
    the paper's code takes those of the data; and D times `mean_neighbors`. Without, bonds that vibrate change the embedding too little to be learned.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, config: DeepPotSeConfig) -> None:
        super().__init__()
        c, widths = config.channels, (1, *config.embedding)
        self.config = config
        self.register_buffer("mean", torch.tensor(1.5 / config.cutoff))  # kept with the weights, which mean nothing without them
        self.register_buffer("spread", torch.tensor(0.75**0.5 / config.cutoff))
        self.centre = nn.Linear(c, widths[1], bias=False)
        self.neighbour = nn.Linear(c, widths[1], bias=False)
        self.embedding = nn.ModuleList(GeometryLinear(a, b) for a, b in pairwise(widths))
        self.axis = min(config.axis, widths[-1])
        self.fit = InputLinear(widths[-1] * self.axis, c)  # what comes in does not grow with `channels`
        self.inner = nn.Linear(c, c)
        self.vectors = VectorInputLinear(widths[-1], c, bias=False)

    def forward(self, s: Tensor, environment: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """`environment` [A, K, 4], rows of zeros where there is no neighbour; `index` [A, K]."""
        weights = self.weights(s, environment[..., :1], index)
        moments = weights.mT @ environment / self.config.mean_neighbors  # [A, M, 4]
        descriptor = moments @ moments[:, : self.axis].mT
        hidden = s + silu(self.fit(self.config.mean_neighbors * descriptor.flatten(1)) + s)
        return hidden + silu(self.inner(hidden)), self.vectors(moments[:, :, 1:].mT)

    def weights(self, s: Tensor, inverse: Tensor, index: Tensor) -> Tensor:
        """Return the matrix G of the paper, [A, K, M]."""
        g = torch.tanh(self.embedding[0]((inverse - self.mean) / self.spread) + self.centre(s)[:, None] + self.neighbour(s)[index])
        for layer in self.embedding[1:]:
            new = torch.tanh(layer(g))
            wider = new.shape[-1] // g.shape[-1]
            g = new + torch.cat([g] * wider, dim=-1) if g.shape[-1] * wider == new.shape[-1] else new
        return g
