"""Density: invariants of the smooth density of the neighbours and a small network, on padded blocks [atoms, K]: the fast student.

Around atom i stands the density rho_ic(r) = sum_j w_jc f_c(r_ij) delta(r/r - u_ij): every neighbour j adds to channel c a weight w_jc of its own
scalars (element, charge, level) times a radial function, in its direction u_ij. Its coefficients in real spherical harmonics,
A_iclm = sum_j w_jc f_c(r_ij) Y_lm(u_ij), are one matrix product per atom, [harmonics, K] x [K, channels]. The products sum_m A_lm A'_lm do not
change when the system turns: they are the power spectrum of the smooth overlap of atomic positions (arXiv:1209.3140, equation 28), here between
pairs of learned mixtures of channels instead of all pairs. A network of two layers turns them into new scalars.

Blocks in the order of use: `radial_basis`, `harmonics`, `DensityBlock`, `Density`. Axes: A atoms, K slots, C channels, M harmonics.
Nothing has a corner: densities are sums of smooth functions that vanish with two derivatives at the cutoff, invariants are polynomials in them
(no norm, no square root), so second derivatives are finite and continuous also at symmetric sites. Padded slots lie at twice the cutoff.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from mlipfm_interfaces.batch import Batch
from torch import Tensor, nn
from torch.nn.functional import silu

from ..configuration import Cutoff, Layers, Positive, Radial, Width
from ..parameter_roles import InputLinear
from ._harmonics import harmonics_table
from .backbone import DenseBackbone, envelope

__all__ = ["Density", "DensityConfig"]


@dataclass(frozen=True)
class DensityConfig:
    """Options of the backbone.

    Attributes:
        channels: of the density, and width of the node scalars.
        layers: densities in sequence. One describes the neighbours and the angles between them; in a second one the neighbours' weights come from
            what they saw, at twice the cost.
        cutoff: Å.
        radial: number of Bessel functions.
        degree: highest degree l of the spherical harmonics.
        mean_neighbors: densities are divided by its square root; take the mean of the training data.
        mixed: width of each of the two mixtures of channels whose products are the invariants; None: `channels`. Most of the cost is there: a
            quarter of 64 channels costs half and loses nothing, a quarter of 16 loses a third (decisions/0013). Node vectors are the second mixture
            if it has as many channels, else the density itself, of degree 1.
    """

    channels: Width = 64
    layers: Layers = 1
    cutoff: Cutoff = 5.0
    radial: Radial = 8
    degree: Literal[1, 2, 3] = 3
    mean_neighbors: Positive = 12.0
    mixed: Width | None = None


def radial_basis(r: Tensor, config: DensityConfig) -> Tensor:
    """[A, K, radial + 1] of distances [A, K, 1]: sqrt(2/r_c) sin(n pi r/r_c)/r and a one, all times the envelope / sqrt(mean_neighbors)."""
    x = r / config.cutoff
    n = torch.arange(1, config.radial + 1, dtype=r.dtype, device=r.device)
    bessel = torch.sin(x * (n * math.pi)) * (math.sqrt(2.0 / config.cutoff) / r)
    return torch.cat([bessel, torch.ones_like(r)], dim=-1) * (envelope(x) * config.mean_neighbors**-0.5)


def harmonics(u: Tensor, table: Tensor, degree: int) -> Tensor:
    """[A, K, M] real spherical harmonics up to `degree` of unit vectors [A, K, 3]: few large operations instead of many small ones."""
    powers = [torch.ones_like(u[..., :1]), u]
    for _ in range(degree - 1):
        powers.append((powers[-1].unsqueeze(-1) * u.unsqueeze(-2)).flatten(-2))
    return torch.cat(powers, dim=-1) @ table


class DensityBlock(nn.Module):
    """One density: its coefficients, their invariants, and new scalars."""

    degrees: Tensor

    def __init__(self, config: DensityConfig) -> None:
        super().__init__()
        c, n, m = config.channels, config.degree + 1, config.mixed or config.channels
        self.species = nn.Linear(c, c, bias=False)
        self.filter = InputLinear(config.radial + 1, c, bias=False)
        self.mix = nn.Linear(c, 2 * m, bias=False)
        self.inner = nn.Linear(2 * c + n * m, c)
        self.outer = nn.Linear(c, c)
        ell = torch.arange(n).repeat_interleave(2 * torch.arange(n) + 1)
        self.register_buffer("degrees", (ell == torch.arange(n)[:, None]).double(), persistent=False)

    def forward(self, s: Tensor, radial: Tensor, angular: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """New scalars [A, C] and the vectors [A, 3, C] of the density, its coefficients of degree 1. Tensors in, tensors out."""
        weight = self.species(s).index_select(0, index.flatten()).unflatten(0, index.shape)
        density = torch.bmm(angular.mT, self.filter(radial) * weight)  # [A, M, C]
        one, two = self.mix(density).chunk(2, dim=-1)
        spectrum = self.degrees @ (one * two)  # [A, degrees, mixed]: sums over m
        seen = torch.cat([s, density[:, 0], spectrum.flatten(1)], dim=1)
        vectors = two if two.shape == density.shape else density
        return s + self.outer(silu(self.inner(seen))), vectors[:, 1:4]


class Density(DenseBackbone):
    """The backbone: node scalars in, node scalars [A, C] and equivariant node vectors [A, 3, C] out."""

    Config = DensityConfig
    has_kernels = True
    table: Tensor

    def __init__(self, config: DensityConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(DensityBlock(config) for _ in range(config.layers))
        self.constant("table", harmonics_table(config.degree))

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features from the initial scalars `s` [A, C]; the geometry is worked out once for all layers."""
        view, d, r = self.geometry(batch)
        radial, angular = radial_basis(r, self.config), harmonics(d / r, self.table, self.config.degree)
        for block in self.layers:
            s, v = block(s, radial, angular, view.index)
        return s, v
