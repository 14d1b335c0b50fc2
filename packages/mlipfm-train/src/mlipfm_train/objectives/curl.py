"""Curl penalty: forces that are the gradient of an energy have a symmetric Jacobian J, and direct forces learn to have one.

Along a random vector v of +1 and -1, J v is a central difference of the forces and J^T v a vector-Jacobian product; the mean of |J v - J^T v|² over
such vectors is |J - J^T|² (Hutchinson). A structure costs three systems in a step, one of them with a second derivative.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential, Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure

from .additive import AdditiveObjective


class Curl(AdditiveObjective):
    """See the module. Conservative forces have no curl, and are refused.

    Args:
        weight: of |J - J^T|² / (4 x 3N) of each structure, (eV/Å²)². displacement: Å, of the central difference.

    Raises:
        RecipeError: a value that cannot be; by `prepare`, a potential whose forces are a gradient.
    """

    def __init__(self, weight: float = 1e-3, displacement: float = 0.01) -> None:
        if not (weight > 0 and 1e-5 <= displacement <= 0.1):
            raise RecipeError(
                f"weight={weight:g}, displacement={displacement:g} cannot be",
                where="curl",
                hint="weight > 0, displacement of 1e-5 to 0.1 Å",
            )
        self.weight, self.displacement = weight, displacement
        self.outputs: tuple[str, ...] = ("forces", "hvp")
        self.requires: tuple[str, ...] = ()

    def prepare(self, potential: Potential, elements: Mapping[int, int]) -> None:
        """Refuse a potential that has no curl to lose."""
        if potential.spec.kind == "conservative":
            hint = "leave the objective out, or give the potential `forces: direct`"
            raise RecipeError("the forces of this potential are the gradient of its energy and have no curl", where="curl", hint=hint)

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure with a random vector, and displaced along it in both directions."""
        vector = rng.choice([-1.0, 1.0], (len(structure), 3))
        bare = structure.replace(labels={}, label_std={})
        asked = bare.replace(labels={"hvp": np.zeros((1, len(structure), 3)), "hvp_probe": vector[None]})
        moved = (structure.positions + sign * self.displacement * vector for sign in (1, -1))
        return [asked, *(bare.replace(positions=positions) for positions in moved)]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`curl`: over the structures."""
        role = torch.arange(len(batch.n_atoms), device=batch.system.device)[batch.system] % 3
        forward, backward = (prediction["forces"][role == k].to(torch.float64) for k in (1, 2))
        along = (forward - backward) / (2 * self.displacement)  # J v
        across = -prediction["hvp"][0][role == 0].to(torch.float64)  # J^T v
        atoms = batch.n_atoms[::3]
        structure = torch.repeat_interleave(torch.arange(len(atoms), device=atoms.device), atoms)
        squares = torch.zeros(len(atoms), dtype=torch.float64, device=along.device)
        squares = squares.index_add(0, structure, (along - across).square().sum(dim=1))
        return {"curl": (self.weight * (squares / (12 * atoms)).sum(), atoms.new_tensor(len(atoms), dtype=torch.float64))}
