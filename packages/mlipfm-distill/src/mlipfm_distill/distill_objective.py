"""The objective `distill`: energies, forces and rows of the Hessian on one view of each structure (arXiv:2501.09009)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.energy_force import EnergyForce
from torch import Tensor, nn

from .hessian_rows import HessianRows


class Distill:
    """`energy-force` and `hessian-rows` of the same systems.

    As two objectives they would have two views of each structure, one with all stored rows and one with the drawn ones: twice the systems, and a
    vector-Jacobian product for every stored row.

    Args:
        energy_weight: of the mean absolute error of the energy per atom. forces_weight: of the mean length of the force error.
        stress_weight: of the mean absolute error of the stress, 0: not trained.
        hessian_weight: of the mean length of the error of a row on an atom; 0 switches the rows off.
        rows: drawn of each structure in each epoch. outlier: see `HessianRows`.
    """

    def __init__(
        self,
        energy_weight: float = 5.0,
        forces_weight: float = 100.0,
        hessian_weight: float = 400.0,
        rows: int = 1,
        outlier: float = 1e4,
        stress_weight: float = 0.0,
    ) -> None:
        if hessian_weight < 0 or rows < 1 or outlier <= 0:
            raise RecipeError(
                f"hessian_weight={hessian_weight}, rows={rows}, outlier={outlier} cannot be",
                where="distill",
                hint="weights are >= 0, rows >= 1, outlier > 0",
            )
        self.labels = EnergyForce(energy_weight, forces_weight, stress_weight)
        self.curvature = HessianRows(hessian_weight, rows, outlier) if hessian_weight > 0 else None
        self.outputs = self.labels.outputs + (self.curvature.outputs if self.curvature else ())
        self.requires = self.outputs
        self.module: nn.Module | None = None
        self.gather: tuple[str, ...] = ()

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """Return the structure with the drawn ones of its rows."""
        return [structure] if self.curvature is None else self.curvature.views(structure, rng)

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """Return `energy`, `forces`, `hessian_rows`: those with a weight."""
        return {**self.labels.terms(prediction, batch), **(self.curvature.terms(prediction, batch) if self.curvature else {})}

    def finish(self, gathered: Mapping[str, Tensor]) -> Terms:
        """Return nothing: all terms are additive."""
        return {}
