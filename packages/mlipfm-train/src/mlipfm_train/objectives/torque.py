"""Equigrad: the energy does not change when a structure is rotated, so that its derivative by a rotation, the torque of all forces, is zero.

For molecules dE/dG at x -> exp(G - G^T) x is -sum_i (F_i r_i^T - r_i F_i^T): the penalty of Orb-v3 (arXiv:2504.06231) from the forces that are there,
without a derivative of its own. Backbones whose energy is invariant have none to lose; unconstrained ones and direct forces learn it.
"""

from __future__ import annotations

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure
from torch import Tensor

from .additive import AdditiveObjective


class Torque(AdditiveObjective):
    """See the module. Systems with a periodic direction count 0: their rotation turns the cell as well, which forces do not know.

    Args:
        weight: of the mean Frobenius norm of dE/dG in eV. Orb-v3 takes a thousandth of the weight of the other terms.

    Raises:
        RecipeError: a weight that is not positive.
    """

    def __init__(self, weight: float = 1e-3) -> None:
        if not weight > 0:
            raise RecipeError(f"weight must be positive, got {weight:g}", where="torque")
        self.weight = weight
        self.outputs: tuple[str, ...] = ("forces",)
        self.requires: tuple[str, ...] = ()
        self.has_views = False

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure itself."""
        return [structure]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`torque`: over the systems that are open in all directions."""
        norms = torch.linalg.matrix_norm(rotation_gradient(prediction["forces"], batch))
        open_ones = ~batch.pbc.any(dim=1)
        return {"torque": (self.weight * norms[open_ones].sum(), open_ones.sum().to(torch.float64))}


def rotation_gradient(forces: Tensor, batch: Batch) -> Tensor:
    """Return dE/dG [systems, 3, 3] in eV, about the centre of each system, from forces [atoms, 3] in eV/Å. It is antisymmetric."""
    n = len(batch.n_atoms)
    centre = torch.zeros(n, 3, dtype=torch.float64, device=forces.device).index_add(0, batch.system, batch.positions.detach())
    r = batch.positions.detach() - (centre / batch.n_atoms[:, None])[batch.system]
    outer = forces.to(torch.float64)[:, :, None] * r[:, None, :]
    moments = torch.zeros(n, 3, 3, dtype=torch.float64, device=forces.device).index_add(0, batch.system, outer)
    return moments.transpose(1, 2) - moments
