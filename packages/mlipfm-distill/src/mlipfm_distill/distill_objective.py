"""The objective `distill`: energies, forces and the Hessian in a few directions, on one view of each structure (arXiv:2501.09009)."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.additive import AdditiveObjective
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.objectives.idle_options import refuse_idle

from .hessian_objectives import HessianProducts, HessianRows


class Distill(AdditiveObjective):
    """`energy-force`, `hessian-rows` and `hessian-products` of the same systems.

    As objectives of their own they would have views of their own, one with all that is stored and others with what is drawn: two or three times the
    systems, and a vector-Jacobian product for everything that is stored.

    Args:
        energy_weight: of the mean absolute error of the energy per atom. forces_weight: of the mean length of the force error.
        stress_weight: of the mean absolute error of the stress, 0: not trained.
        hessian_weight: of the mean length of the error of a row on an atom; 0 switches the rows off.
        rows: drawn of each structure in each epoch. outlier: see `HessianRows`.
        products_weight: of the mean length of the error of a product of the Hessian with a random vector on an atom; 0 switches products off.
        products: drawn of each structure in each epoch.
    """

    def __init__(
        self,
        energy_weight: float = 5.0,
        forces_weight: float = 100.0,
        hessian_weight: float = 400.0,
        rows: int = 1,
        outlier: float = 1e4,
        stress_weight: float = 0.0,
        products_weight: float = 0.0,
        products: int = 1,
    ) -> None:
        if min(hessian_weight, products_weight) < 0 or min(rows, products) < 1 or outlier <= 0:
            raise RecipeError(
                f"hessian_weight={hessian_weight}, rows={rows}, products_weight={products_weight}, products={products}, outlier={outlier} cannot be",
                where="distill",
                hint="weights are >= 0, rows and products >= 1, outlier > 0",
            )
        if hessian_weight == 0:
            refuse_idle("distill", {"rows": (rows, 1)}, "a hessian_weight above 0")
        if products_weight == 0:
            refuse_idle("distill", {"products": (products, 1)}, "a products_weight above 0")
        if hessian_weight == products_weight == 0:
            refuse_idle("distill", {"outlier": (outlier, 1e4)}, "a hessian_weight or products_weight above 0")
        self.labels = EnergyForce(energy_weight, forces_weight, stress_weight)
        self.hessian: list[HessianRows | HessianProducts] = []
        if hessian_weight > 0:
            self.hessian.append(HessianRows(hessian_weight, rows, outlier))
        if products_weight > 0:
            self.hessian.append(HessianProducts(products_weight, products, outlier))
        self.outputs = self.labels.outputs + tuple(key for part in self.hessian for key in part.outputs)
        self.requires = self.outputs

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """Return the structure with the drawn ones of its rows and products."""
        for part in self.hessian:
            (structure,) = part.views(structure, rng)
        return [structure]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """Return `energy`, `forces`, `stress`, `hessian_rows`, `hvp`: those with a weight."""
        found = dict(self.labels.terms(prediction, batch))
        for part in self.hessian:
            found |= part.terms(prediction, batch)
        return found
