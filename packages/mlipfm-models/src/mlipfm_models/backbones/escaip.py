"""EScAIP, efficiently scaled attention interatomic potential: attention over the neighbours of each atom (arXiv:2410.24169).

The neighbourhood of an atom is a sequence: slot 0 is the atom itself, its class token, and slots 1..K are its neighbours. Sequences are short, there
are as many as atoms, and nothing is ever scattered. Directions enter where attention compares two neighbours: their angle at the atom.

Blocks in the order of use: `legendre`, `bond_order`, `EscaipInput`, `Attention`, `EscaipBlock`, `Escaip`.
Axes: A atoms, K slots of neighbours, T = K + 1 slots with the atom's own, C channels, H heads.

What differs from the paper, each so that energies are twice continuously differentiable everywhere, or because it is exact and cheaper:

- The one envelope is that of the distance, added to the logits of attention as its logarithm; a neighbour at the cutoff has the weight 0. The paper's
  choice of the k nearest neighbours from both sides is left out: its soft ranks have curvature that jumps, it cuts the list of ranks off, and
  without dropping slots it saves nothing. All neighbours within the cutoff attend; more than a given capacity raise `CapacityExceeded`.
- Bond-orientational order weighs each neighbour by the envelope. A mean over a hard list of neighbours jumps when one enters it.
- The harmonics of the angular encoding are summed in closed form: sum_m Y_lm(u) Y_lm(v) = P_l(u v), so that only Legendre polynomials are needed.
- Edges and messages are products of what the edge is and what its two atoms are, not linear maps of all three, so that every pair of elements has
  radial functions of its own (decisions/0006).
- Readouts are taken once a block and added up, which is the linear map of their concatenation.
- Node vectors are sum_j w_ij u_ij with the attention weights and values of the last block as w_ij [C], hence equivariant. The paper's direct
  forces multiply by three numbers w_ij component by component, which depends on the orientation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from mlipfm_interfaces.batch import Batch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from ..configuration import Cutoff, Layers, Radial, Width
from ..parameter_roles import InputLinear
from ._attention import FeedForward, log_envelope, of_neighbors, rms_norm
from .backbone import DenseBackbone, bessel, envelope

__all__ = ["Escaip", "EscaipConfig"]


@dataclass(frozen=True)
class EscaipConfig:
    """Options of the backbone.

    Attributes:
        channels: width of nodes and edges.
        layers: blocks of attention; atoms further apart than (layers + 1) x cutoff cannot feel each other.
        cutoff: Å.
        radial: number of Bessel functions.
        degree: highest degree l of the angular encoding and of the bond-orientational order.
        heads: of attention. Each splits its channels evenly over the degrees 0..degree.
        expansion: width of the hidden layer of the feed-forward networks, in channels.
    """

    channels: Width = 64
    layers: Layers = 2
    cutoff: Cutoff = 5.0
    radial: Radial = 16
    degree: Annotated[int, Field(ge=0, le=16)] = 3
    heads: Width = 4
    expansion: Width = 2

    def __post_init__(self) -> None:
        if self.channels % (self.heads * (self.degree + 1)):
            raise ValueError(f"channels must be a multiple of heads x (degree + 1) = {self.heads * (self.degree + 1)}")


def legendre(u: Tensor, degree: int) -> list[Tensor]:
    """P_l of the cosines between neighbours, u [A, K, 3], for l = 1..degree, each [A, T, T]; 1 where one of the two is the atom itself."""
    cosine = pad(u @ u.mT, (1, 0, 1, 0), value=1.0)
    before, polynomials = torch.ones_like(cosine), [cosine]
    for n in range(2, degree + 1):  # Bonnet's recursion
        polynomials.append(((2 * n - 1) * cosine * polynomials[-1] - (n - 1) * before) / n)
        before = polynomials[-2]
    return polynomials[:degree]


def bond_order(weight: Tensor, polynomials: list[Tensor]) -> Tensor:
    """[A, degree + 1]: sqrt(sum_m |sum_j g_j Y_lm(u_j)|² + 0.01), g_j = f_j / (1 + sum_k f_k), of envelopes f [A, T], which are 0 in slot 0.

    This is Steinhardt's Q_l (Phys. Rev. B 28, 784), smooth also where the last neighbour leaves (the 1) and at symmetric sites (the 0.01,
    see decisions/0002).
    """
    share = weight / (1.0 + weight.sum(dim=1, keepdim=True))
    squares = [share.sum(dim=1).square()]
    squares += [(share * (p @ share.unsqueeze(2)).squeeze(2)).sum(dim=1) for p in polynomials]
    return (torch.stack(squares, dim=1) + 1e-2).sqrt()


class EscaipInput(nn.Module):
    """First nodes and edges."""

    def __init__(self, config: EscaipConfig) -> None:
        super().__init__()
        c = config.channels
        self.order = InputLinear(config.degree + 1, c, bias=False)
        self.radial = InputLinear(config.radial, c, bias=False)
        self.source = nn.Linear(c, c, bias=False)
        self.target = nn.Linear(c, c)
        self.outer = nn.Linear(c, c)

    def forward(self, s: Tensor, order: Tensor, radial: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes [A, C] and edges [A, K, C] from the initial scalars, bond order [A, degree + 1] and radial functions [A, K, R]."""
        h = s + self.order(order)
        e = self.radial(radial) * (of_neighbors(self.source(h), index) + self.target(h).unsqueeze(1))
        return h, self.outer(silu(e))


class Attention(nn.Module):
    """Attention among the slots of an atom. Logits are sum_c q_c k_c P_l(c)(cos) / (2 sqrt(channels of a head)) + log envelope of the key."""

    def __init__(self, config: EscaipConfig, last: bool) -> None:
        super().__init__()
        c = config.channels
        self.heads, self.degrees, self.last = config.heads, config.degree + 1, last
        self.query = nn.Linear(c, c)
        self.key_value = nn.Linear(c, 2 * c)
        self.outer = nn.Linear(c, c)

    def forward(self, x: Tensor, bias: Tensor, polynomials: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """New values [A, T, C] (of slot 0 alone in the last block), weights [A, H, T, T] and values [A, H, T, C/H]."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        weights = torch.softmax(self.logits(self.query(x[:, :1] if self.last else x), key, polynomials) + bias, dim=-1)
        value = value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.outer((weights @ value).transpose(1, 2).flatten(2)), weights, value

    def logits(self, query: Tensor, key: Tensor, polynomials: list[Tensor]) -> Tensor:
        """[A, H, T, T] from queries and keys [A, T, C], whose channels are ordered by degree, then head."""
        degrees = 1 if self.last else self.degrees  # the atom itself gets every polynomial as 1
        q, k = (x.unflatten(-1, (degrees, self.heads, -1)).permute(2, 0, 3, 1, 4) for x in (query, key))
        q = q * ((q.shape[-1] * degrees) ** -0.5 / 2)  # slots are products of a map and a sum of two: their variance is 2 at the start
        total = q[0] @ k[0].mT
        for p, q_l, k_l in zip(polynomials, q[1:], k[1:], strict=False):
            total = torch.addcmul(total, q_l @ k_l.mT, p.unsqueeze(1))
        return total


class EscaipBlock(nn.Module):
    """Messages, attention, feed-forward networks for nodes and edges, and a readout. The last block updates no edges: nothing would read them."""

    def __init__(self, config: EscaipConfig, last: bool) -> None:
        super().__init__()
        c = config.channels
        self.own = nn.Linear(c, c)
        self.edge = nn.Linear(c, c, bias=False)
        self.source = nn.Linear(c, c, bias=False)
        self.target = nn.Linear(c, c)
        self.attention = Attention(config, last)
        self.node_network = FeedForward(c, config.expansion)
        self.edge_network = None if last else FeedForward(c, config.expansion)
        self.readout = nn.Linear(c, c)

    def forward(
        self, h: Tensor, e: Tensor, out: Tensor, bias: Tensor, polynomials: list[Tensor], u: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Nodes [A, C], edges [A, K, C], readouts so far [A, C], and the vectors [A, 3, C] of slot 0: u [A, T, 3] weighted like the values."""
        n = rms_norm(h)
        x = self.edge(rms_norm(e)) * (of_neighbors(self.source(n), index) + self.target(n).unsqueeze(1))
        new, weights, values = self.attention(torch.cat([self.own(n).unsqueeze(1), x], dim=1), bias, polynomials)
        h = self.node_network(h + new[:, 0])
        if self.edge_network is not None:
            e = self.edge_network(e + new[:, 1:])
        vectors = (weights[:, :, :1] * u.mT.unsqueeze(1)) @ values  # [A, H, 3, C/H]
        return h, e, out + self.readout(rms_norm(h)), vectors.transpose(1, 2).flatten(2)


class Escaip(DenseBackbone):
    """The backbone: node scalars in, node scalars [A, C] and equivariant node vectors [A, 3, C] out."""

    Config = EscaipConfig

    def __init__(self, config: EscaipConfig) -> None:
        super().__init__(config)
        self.input = EscaipInput(config)
        self.layers = nn.ModuleList(EscaipBlock(config, last=n == config.layers - 1) for n in range(config.layers))

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features by the blocks of figure 3 of arXiv:2410.24169; the geometry is worked out once for all."""
        view, d, r = self.geometry(batch)
        u = d / r
        polynomials = legendre(u, self.config.degree)
        weight = envelope(r.squeeze(2) / self.config.cutoff)
        bias = pad(log_envelope(weight), (1, 0))[:, None, None]
        h, e = self.input(s, bond_order(pad(weight, (1, 0)), polynomials), bessel(r, self.config.radial, self.config.cutoff), view.index)
        out, v = torch.zeros_like(h), d.new_zeros(0)
        for block in self.layers:
            h, e, out, v = block(h, e, out, bias, polynomials, pad(u, (0, 0, 1, 0)), view.index)
        return out, v
