"""SchNet (arXiv:1706.08566): continuous-filter convolutions of the scalars of atoms. Axes: A atoms, P pairs, C channels, G Gaussians.

Unlike in the paper, filters end smoothly at a cutoff: without that, energies jump where a neighbour enters.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_models import InputLinear, PairBackbone, envelope
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus


@dataclass(frozen=True)
class SchNetConfig:
    """Options: width, number of interactions, cutoff in Å, number of Gaussians (evenly from 0 to the cutoff)."""

    channels: int = 64
    layers: int = 3
    cutoff: float = 5.0
    gaussians: Annotated[int, Field(ge=2)] = 32


def ssp(x: Tensor) -> Tensor:
    """Shifted softplus, ln(e^x / 2 + 1 / 2): zero at zero and smooth everywhere."""
    return softplus(x) - math.log(2.0)


class Interaction(nn.Module):
    """Figure 2 of the paper: a convolution between atom-wise layers, added to what was there."""

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__()
        c = config.channels
        self.before = nn.Linear(c, c, bias=False)
        self.filter = nn.ModuleList([InputLinear(config.gaussians, c), nn.Linear(c, c)])
        self.after = nn.ModuleList([nn.Linear(c, c), nn.Linear(c, c)])

    def forward(self, x: Tensor, gaussians: Tensor, window: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """New scalars [A, C] from `gaussians` [P, G] and the envelope `window` [P, 1] of the pairs i, j [P]."""
        filters = ssp(self.filter[1](ssp(self.filter[0](gaussians)))) * window
        v = torch.zeros_like(x).index_add(0, i, self.before(x)[j] * filters)
        return x + self.after[1](ssp(self.after[0](v)))


class SchNet(PairBackbone):
    """The backbone: node scalars only, so no direct forces and no dipoles of atoms."""

    Config = SchNetConfig
    provides = ("scalars",)

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Interaction(config) for _ in range(config.layers))

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scalars [A, C] from the initial ones; no vectors: [A, 3, 0]."""
        view, _, r = self.geometry(batch)
        centers = torch.linspace(0.0, self.config.cutoff, self.config.gaussians, dtype=r.dtype, device=r.device)
        gaussians = torch.exp(-(((r - centers) / centers[1]) ** 2) / 2)
        window = envelope(r / self.config.cutoff)
        for layer in self.layers:
            s = layer(s, gaussians, window, view.i, view.j)
        return s, s.new_zeros(len(s), 3, 0)
