"""PaiNN, polarisable atom interaction network: equivariant message passing on scalars and vectors (arXiv:2102.03150).

Blocks in the order of use: `radial_basis`, `Message`, `Update`, `PainnBlock`, `Painn` (figure 2 of the paper). Axes: A atoms, P pairs, C channels.
The backbone turns initial node scalars into features; it knows nothing of energies, forces, levels or units beyond Å.

Three things differ from the paper, each so that second derivatives exist and are continuous everywhere:
the envelope multiplies the radial filter *after* its bias (otherwise neighbours jump at the cutoff), norms are sqrt(x² + epsilon) (finite
curvature at the zero vectors of symmetric sites), and the sum over neighbours is divided by a constant, never by the neighbours of an atom.
The first message has no vector-vector part, because all vectors are still zero: its weights would never be trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from mlipfm_interfaces.batch import Batch
from torch import Tensor, nn
from torch.nn.functional import silu

from ..configuration import Cutoff, Distances, Layers, Positive, Radial, Width
from ..parameter_roles import InputLinear, VectorLinear
from .backbone import PairBackbone, TrainedDistances, bessel, envelope

__all__ = ["Painn", "PainnConfig"]


@dataclass(frozen=True)
class PainnConfig:
    """Options of the backbone.

    Attributes:
        channels: width of the node scalars and vectors.
        layers: message passing steps; atoms further apart than layers x cutoff cannot feel each other.
        cutoff: Å.
        radial: number of Bessel functions.
        mean_neighbors: messages are divided by its square root; take the mean of the training data.
        norm_epsilon: of sqrt(|v|² + epsilon); see decisions/0002.
        shortest_distances: "C-H" -> Å: nearer pairs are given to the network as little nearer than this, see `TrainedDistances`; take the shortest
            of the training data.
    """

    channels: Width = 64
    layers: Layers = 3
    cutoff: Cutoff = 5.0
    radial: Radial = 16
    mean_neighbors: Positive = 12.0
    norm_epsilon: Positive = 1e-2
    shortest_distances: Distances = field(default_factory=dict)


def radial_basis(r: Tensor, config: PainnConfig) -> Tensor:
    """[P, radial + 1]: Bessel functions sqrt(2/r_c) sin(n pi r/r_c)/r and a one, all times the envelope / sqrt(mean_neighbors).

    A linear map without bias of this equals (linear map with bias of the Bessel functions) x envelope: the one carries the bias.
    """
    filters = bessel(r, config.radial, config.cutoff)
    return torch.cat([filters, torch.ones_like(r)], dim=1) * (envelope(r / config.cutoff) * config.mean_neighbors**-0.5)


class Message(nn.Module):
    """Sums over neighbours: scalars of j, vectors of j and directions to j, weighted by radial filters."""

    def __init__(self, config: PainnConfig, first: bool) -> None:
        super().__init__()
        c = config.channels
        self.inner = nn.Linear(c, c)
        self.outer = nn.Linear(c, (2 if first else 3) * c)
        self.filter_scalar = InputLinear(config.radial + 1, c, bias=False)
        self.filter_direction = InputLinear(config.radial + 1, c, bias=False)
        self.filter_vector = None if first else InputLinear(config.radial + 1, c, bias=False)

    def forward(self, s: Tensor, v: Tensor | None, radial: Tensor, direction: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of the scalars [A, C] and vectors [A, 3, C]; `direction` [P, 3, 1] are unit vectors from i to j.

        Arrays over pairs cost most: what can be multiplied per atom is, before it is spread over the pairs (decisions/0001).
        """
        phi = self.outer(silu(self.inner(s))).split(s.shape[1], dim=1)
        scalar = phi[0].index_select(0, j) * self.filter_scalar(radial)
        vector = direction * (phi[1].index_select(0, j) * self.filter_direction(radial)).unsqueeze(1)
        if v is not None and self.filter_vector is not None:
            weighted = (phi[2].unsqueeze(1) * v).index_select(0, j)
            vector = torch.addcmul(vector, weighted, self.filter_vector(radial).unsqueeze(1))
        ds = torch.zeros_like(s).index_add(0, i, scalar)
        return ds, vector.new_zeros(len(s), *vector.shape[1:]).index_add(0, i, vector)


class Update(nn.Module):
    """Mixes scalars and vectors of one atom."""

    def __init__(self, config: PainnConfig) -> None:
        super().__init__()
        c = config.channels
        self.epsilon = config.norm_epsilon
        self.mix = VectorLinear(c, 2 * c, bias=False)
        self.inner = nn.Linear(2 * c, c)
        self.outer = nn.Linear(c, 3 * c)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of the scalars [A, C] and vectors [A, 3, C]."""
        u_v, v_v = self.mix(v).chunk(2, dim=-1)
        norm = ((v_v * v_v).sum(dim=1) + self.epsilon).sqrt()
        a_ss, a_sv, a_vv = self.outer(silu(self.inner(torch.cat([s, norm], dim=1)))).chunk(3, dim=1)
        return a_ss + a_sv * (u_v * v_v).sum(dim=1), a_vv.unsqueeze(1) * u_v


class PainnBlock(nn.Module):
    """One message and one update, each added to what was there."""

    def __init__(self, config: PainnConfig, first: bool) -> None:
        super().__init__()
        self.message = Message(config, first)
        self.update = Update(config)

    def forward(self, s: Tensor, v: Tensor | None, radial: Tensor, direction: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Tensors in, tensors out: sharding wraps this module and nothing else."""
        ds, dv = self.message(s, v, radial, direction, i, j)
        s, v = s + ds, dv if v is None else v + dv
        ds, dv = self.update(s, v)
        return s + ds, v + dv


class Painn(PairBackbone):
    """The backbone: node scalars in, node scalars [A, C] and equivariant node vectors [A, 3, C] out."""

    Config = PainnConfig

    def __init__(self, config: PainnConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(PainnBlock(config, first=n == 0) for n in range(config.layers))
        self.trained_distances = TrainedDistances(config.shortest_distances)

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features from the initial scalars `s` [A, C]; blocks follow figure 2 of arXiv:2102.03150."""
        view, d, r = self.geometry(batch)
        trained = self.trained_distances(r, batch.atomic_numbers, view)
        radial, direction = radial_basis(trained, self.config), (d / r).unsqueeze(-1)
        s, v = self.layers[0](s, None, radial, direction, view.i, view.j)
        for block in self.layers[1:]:
            s, v = block(s, v, radial, direction, view.i, view.j)
        return s, v
