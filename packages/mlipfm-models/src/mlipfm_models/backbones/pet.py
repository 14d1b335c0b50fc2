"""PET, point edge transformer: attention over raw edge vectors, unconstrained (arXiv:2305.19302).

Every neighbour of an atom is a token made of its vector x, y, z as it is, its scalars, and a message: what the same pair became at the other atom.
Nothing here turns with the system. Energies are exactly invariant under translations and permutations only; rotations have to
be learned: train with the augmentation `rotations` (every structure rotated and mirrored at random in every step), and measure what is left of the
violation (`invariant` is False, so that checks measure it instead of asserting zero).

Blocks in the order of use: `PetAttention`, `PetBlock`, `Pet`.
Axes: A atoms, K slots of neighbours, T = K + 1 with the atom's own, C channels, H heads.
The cutoff multiplies attention weights (as a bias of logits, before they are normalised) and whatever is summed over neighbours, so that
energies are twice continuously differentiable where neighbours come and go. No token is compared with zero length: there is no norm of a vector
that can vanish.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mlipfm_interfaces.batch import Batch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from ..configuration import Cutoff, Layers, Positive, Radial, Width
from ..parameter_roles import GeometryLinear
from ._attention import FeedForward, log_envelope, of_neighbors, rms_norm
from .backbone import DenseBackbone, bessel, envelope

__all__ = ["Pet", "PetConfig"]


@dataclass(frozen=True)
class PetConfig:
    """Options of the backbone.

    Attributes:
        channels: width of tokens.
        layers: exchanges of messages, plus one; atoms further apart than layers x cutoff cannot feel each other.
        attention_layers: layers of attention between two exchanges.
        cutoff: Å.
        radial: number of Bessel functions of the distance that stand beside x, y, z.
        heads: of attention.
        expansion: width of the hidden layer of the feed-forward networks, in channels.
        mean_neighbors: sums over neighbours are divided by its square root; take the mean of the training data.
    """

    channels: Width = 64
    layers: Layers = 2
    attention_layers: Layers = 2
    cutoff: Cutoff = 5.0
    radial: Radial = 8
    heads: Width = 4
    expansion: Width = 2
    mean_neighbors: Positive = 12.0

    def __post_init__(self) -> None:
        if self.channels % self.heads:
            raise ValueError(f"channels must be a multiple of heads = {self.heads}")


class PetAttention(nn.Module):
    """Attention among the tokens of an atom, and a feed-forward network, each added to what was there."""

    def __init__(self, config: PetConfig) -> None:
        super().__init__()
        c = config.channels
        self.heads = config.heads
        self.mix = nn.Linear(c, 3 * c)
        self.outer = nn.Linear(c, c)
        self.network = FeedForward(c, config.expansion)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Tokens [A, T, C]; `bias` [A, 1, 1, T] is the log envelope of the key."""
        q, k, v = self.mix(rms_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT + bias, dim=-1)
        return self.network(x + self.outer((weights @ v).transpose(1, 2).flatten(2)))


class PetBlock(nn.Module):
    """Tokens from edges and messages, attention, readouts. The first block has no messages."""

    def __init__(self, config: PetConfig, first: bool) -> None:
        super().__init__()
        c = config.channels
        self.edge = GeometryLinear(3 + config.radial, c, bias=False)
        self.neighbor = nn.Linear(c, c)
        self.message = None if first else nn.Linear(c, c, bias=False)
        self.outer = nn.Linear(c, c)
        self.center = nn.Linear(c, c)
        self.attention = nn.ModuleList(PetAttention(config) for _ in range(config.attention_layers))
        self.node_readout = nn.Linear(c, c)
        self.edge_readout = nn.Linear(c, c, bias=False)

    def forward(self, h: Tensor, s: Tensor, message: Tensor | None, edge: Tensor, bias: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """New nodes [A, C] and edges [A, K, C], and readouts of both; from nodes, initial scalars, messages and features of edges."""
        token = self.edge(edge) + of_neighbors(self.neighbor(s), index)
        if message is not None and self.message is not None:
            token = token + self.message(rms_norm(message))
        x = torch.cat([self.center(rms_norm(h)).unsqueeze(1), self.outer(silu(token))], dim=1)
        for layer in self.attention:
            x = layer(x, bias)
        h, e = x[:, 0], x[:, 1:]
        return h, e, self.node_readout(rms_norm(h)), self.edge_readout(rms_norm(e))


class Pet(DenseBackbone):
    """The backbone: node scalars in; node scalars [A, C] and node vectors [A, 3, C] out, neither of which turns exactly with the system."""

    Config = PetConfig
    invariant = False

    def __init__(self, config: PetConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(PetBlock(config, first=n == 0) for n in range(config.layers))

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features; messages are swapped between the atoms of a pair; vectors are sum_j f_ij u_ij w_ij with the edges' readouts w_ij [C]."""
        view, d, r = self.geometry(batch)
        edge = torch.cat([d, bessel(r, self.config.radial, self.config.cutoff)], dim=-1)
        weight = envelope(r / self.config.cutoff)
        bias = pad(log_envelope(weight.squeeze(2)), (1, 0))[:, None, None]
        reverse = view.reverse.flatten()
        h, message, nodes, edges = s, None, torch.zeros_like(s), torch.zeros_like(weight)
        for block in self.layers:
            h, e, node, read = block(h, s, message, edge, bias, view.index)
            swapped = e.flatten(0, 1).index_select(0, reverse).view_as(e)
            message = swapped if message is None else message + swapped
            nodes, edges = nodes + node, edges + read
        edges = edges * (weight * self.config.mean_neighbors**-0.5)
        return nodes + edges.sum(dim=1), (d / r).mT @ edges
