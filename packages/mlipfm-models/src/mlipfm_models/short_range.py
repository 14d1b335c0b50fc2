"""Short-range repulsion: what no data set shows, and every simulation at high temperature or pressure meets.

The screened nuclear repulsion of Ziegler, Biersack and Littmark (The Stopping and Range of Ions in Solids, 1985), switched off smoothly where the
atoms stand a bond apart, so that it says nothing about bonded matter. It has no parameters to train.
"""

from __future__ import annotations

import torch
from mlipfm_interfaces.batch import Batch, GraphSpec
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.neighbors import PairView
from mlipfm_interfaces.units import BOHR, COULOMB
from torch import Tensor

from .backbones.radial import envelope
from .constants import ExactConstants

#: Universal screening function: sum of c exp(-d r / a), a = 0.8854 Bohr / (Z_i^0.23 + Z_j^0.23).
SCREENING = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))


class Repulsion(ExactConstants):
    """Half of each pair's repulsion for either atom: envelope(r / (R_i + R_j))² Z_i Z_j e²/(4 pi eps0 r) phi(r / a), R the covalent radii.

    The envelope is squared: bonds often have just this length, and there five derivatives are zero.
    """

    radii: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.constant("radii", torch.tensor(COVALENT_RADII, dtype=torch.float64))

    def forward(self, batch: Batch, graph: GraphSpec) -> Tensor:
        """[atoms] float64, eV. Pairs beyond the sum of their covalent radii, or beyond the cutoff of the graph, give exactly zero."""
        view, z = batch.views[graph], batch.atomic_numbers
        radii = self.radii.to(torch.float64)[z]
        with torch.no_grad():  # few pairs are this near: derivatives of all the others would cost more than those of a fast backbone
            all_r = torch.linalg.vector_norm(batch.displacements(graph), dim=-1)
            centre = view.i if isinstance(view, PairView) else torch.arange(len(z), device=z.device)[:, None].expand(all_r.shape)
            neighbour = view.j if isinstance(view, PairView) else view.index
            near = (all_r < (radii[centre] + radii[neighbour]).clamp_max(graph.cutoff)).nonzero(as_tuple=True)
            i, j = centre[near], neighbour[near]
        r = torch.linalg.vector_norm(batch.displacements(graph, near).to(torch.float64), dim=-1)
        reach = (radii[i] + radii[j]).clamp_max(graph.cutoff)
        pairs = 0.5 * screened(r, z[i], z[j]) * envelope(r / reach) ** 2
        return torch.zeros(len(z), dtype=torch.float64, device=r.device).index_add(0, i, pairs)


def screened(r: Tensor, z_i: Tensor, z_j: Tensor) -> Tensor:
    """Screened nuclear repulsion in eV at distances `r` in Å of atomic numbers `z_i` and `z_j`, all of one shape."""
    a = 0.8854 * BOHR / (z_i.to(r.dtype) ** 0.23 + z_j.to(r.dtype) ** 0.23)
    phi = sum((c * torch.exp(-d * r / a) for c, d in SCREENING), torch.zeros_like(r))
    return COULOMB * z_i * z_j / r * phi
