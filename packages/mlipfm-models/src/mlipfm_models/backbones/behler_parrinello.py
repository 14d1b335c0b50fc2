"""The Behler-Parrinello backbone: symmetry functions of radial shells and angles, and a network for each element.

Phys. Rev. Lett. 98 (2007) 146401; J. Chem. Phys. 134 (2011) 074106. Radial functions are Gaussians on shells, as in ANI-1 (Chem. Sci. 8 (2017)
3192); angular functions are G4 of the 2011 paper. Each element of the neighbours, and each pair of elements, has functions of its own: their number
grows with the square of the number of elements, which is why this line ended with a few elements.

Deviations: the cutoff function is the polynomial of `radial.envelope`, whose second derivative is continuous (the cosine jumps there); functions are
divided by what a uniform gas of `mean_neighbors` gives instead of being standardised on the data; level, charge and spin enter the first layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from mlipfm_interfaces.batch import Batch
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from ..configuration import Cutoff, Positive, Radial, Width
from ._element_linear import ElementLinear, grouped
from .backbone import DenseBackbone, envelope

__all__ = ["BehlerParrinello", "BehlerParrinelloConfig"]


@dataclass(frozen=True)
class BehlerParrinelloConfig:
    """Options of the backbone.

    Attributes:
        channels: width of the networks.
        cutoff: Å. cutoff_function: `polynomial`, or the original `cosine`, whose forces have a kink at the cutoff.
        shells: radial Gaussians, evenly from `first_shell` Å to the cutoff, exp(-(r - r_s)² / spacing²).
        zetas, widths: of the angular functions: powers of (1 ± cos), and 1/Å² of the Gaussians of the three distances; one function for each
            pair and sign.
        mean_neighbors: for scaling; take the mean of the training data.
    """

    channels: Width = 64
    cutoff: Cutoff = 5.0
    cutoff_function: Literal["polynomial", "cosine"] = "polynomial"
    shells: Radial = 16
    first_shell: Positive = 0.8
    zetas: tuple[Radial, ...] = (1, 4, 16)
    widths: tuple[Positive, ...] = (0.01, 0.1)
    mean_neighbors: Positive = 12.0


class BehlerParrinello(DenseBackbone):
    """The backbone: node scalars only."""

    Config = BehlerParrinelloConfig
    element_resolved = True
    provides = ("scalars",)
    rows: Tensor

    def __init__(self, config: BehlerParrinelloConfig, elements: tuple[int, ...]) -> None:
        super().__init__(config)
        self.n_elements = len(elements)
        pairs = self.n_elements * (self.n_elements + 1) // 2
        functions = self.n_elements * config.shells + pairs * 2 * len(config.zetas) * len(config.widths)
        self.network = ElementNetworks(self.n_elements, functions, config.channels)
        rows = torch.full((119,), 0)
        rows[list(elements)] = torch.arange(self.n_elements)
        self.register_buffer("rows", rows, persistent=False)
        self.scales = _uniform_gas(config)

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return scalars [A, channels] from the initial ones; no vectors: [A, 3, 0]."""
        view, d, _ = self.geometry(batch)
        element = self.rows[batch.atomic_numbers]
        kinds = one_hot(element[view.index], self.n_elements).to(d.dtype) * view.mask[..., None]
        functions = torch.cat(self.symmetry_functions(d, kinds, view.mask), dim=1)
        return self.network(functions, s, element), s.new_zeros(len(s), 3, 0)

    def symmetry_functions(self, d: Tensor, kinds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return radial [A, elements x shells] and angular [A, pairs of elements x functions].

        `d` [A, K, 3] are the vectors to the neighbours, `kinds` [A, K, elements] says which element they are.
        """
        r = torch.linalg.vector_norm(d, dim=-1)
        radial = torch.einsum("akn,aks->asn", radial_functions(r, self.config) / self.scales[0].to(r), kinds)
        angular = torch.einsum("ajs,ajkn,akt->astn", kinds, angular_functions(d, r, mask, self.config) / self.scales[1].to(r), kinds)
        first, second = torch.triu_indices(self.n_elements, self.n_elements)
        same = (first == second).to(r)[:, None]
        return radial.flatten(1), (angular[:, first, second] * (1 - same / 2)).flatten(1)


def cutoff_function(r: Tensor, config: BehlerParrinelloConfig) -> Tensor:
    """1 at r = 0, 0 from the cutoff on."""
    x = r / config.cutoff
    return envelope(x) if config.cutoff_function == "polynomial" else 0.5 * (torch.cos(math.pi * x.clamp_max(1.0)) + 1.0)


def radial_functions(r: Tensor, config: BehlerParrinelloConfig) -> Tensor:
    """Terms of G2, exp(-eta (r - r_s)²) f_c(r): [..., shells] of distances [...]."""
    centres = torch.linspace(config.first_shell, config.cutoff, config.shells, dtype=r.dtype, device=r.device)
    spacing = (config.cutoff - config.first_shell) / max(1, config.shells - 1)
    return torch.exp(-(((r[..., None] - centres) / spacing) ** 2)) * cutoff_function(r, config)[..., None]


def angular_functions(d: Tensor, r: Tensor, mask: Tensor, config: BehlerParrinelloConfig) -> Tensor:
    """Terms of G4 for all ordered pairs of neighbours, [A, K, K, functions]; zero for a neighbour with itself.

    2^(1-zeta) (1 + lambda cos)^zeta exp(-eta (r_ij² + r_ik² + r_jk²)) f_c(r_ij) f_c(r_ik) f_c(r_jk); functions run over widths, zetas, signs.
    """
    u = d / r[..., None]
    cosine = u @ u.mT
    squares = r**2
    pair = mask[:, :, None] & mask[:, None, :] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    between = torch.where(pair, squares[:, :, None] + squares[:, None, :] - 2 * cosine * r[:, :, None] * r[:, None, :], 1.0)
    f = cutoff_function(r, config)
    weight = torch.where(pair, f[:, :, None] * f[:, None, :] * cutoff_function(between.sqrt(), config), 0.0)
    total = squares[:, :, None] + squares[:, None, :] + between
    angles = [2 * ((1 + sign * cosine) / 2) ** zeta for zeta in config.zetas for sign in (1, -1)]
    gaussians = [torch.exp(-eta * total) * weight for eta in config.widths]
    return torch.stack([gaussian * angle for gaussian in gaussians for angle in angles], dim=-1)


def _uniform_gas(config: BehlerParrinelloConfig) -> tuple[Tensor, Tensor]:
    """Return what each function would be in a uniform gas with `mean_neighbors`, at least 1: [shells] and [functions]."""
    r = torch.linspace(0, config.cutoff, 401, dtype=torch.float64)[1:]
    measure = config.mean_neighbors * 3 * r**2 / config.cutoff**3 * (config.cutoff / 400)
    radial = (radial_functions(r, config) * measure[:, None]).sum(0)
    f = cutoff_function(r, config)
    angular = []
    for eta in config.widths:  # the third distance is left out: an upper bound
        one = float((torch.exp(-eta * r**2) * f * measure).sum())
        angular += [one**2 / (zeta + 1) for zeta in config.zetas for _ in (1, -1)]
    return radial.clamp_min(1.0), torch.tensor(angular, dtype=torch.float64).clamp_min(1.0)


class ElementNetworks(nn.Module):
    """Two hidden layers for each element; level and state enter the first through a map that elements share."""

    def __init__(self, n_elements: int, functions: int, channels: int) -> None:
        super().__init__()
        self.n_elements = n_elements
        self.first = ElementLinear(n_elements, functions, channels, scaling="input")
        self.second = ElementLinear(n_elements, channels, channels)
        self.state = nn.Linear(channels, channels, bias=False)

    def forward(self, functions: Tensor, s: Tensor, element: Tensor) -> Tensor:
        """[A, channels] from symmetry functions [A, functions], initial scalars and elements [A]."""
        groups = grouped(element, self.n_elements)
        hidden = silu(self.first(functions, groups) + self.state(s))
        return silu(self.second(hidden, groups))
