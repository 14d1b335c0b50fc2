"""Objectives: match a teacher's Hessian in a few directions, by its rows (arXiv:2501.09009) or its products with random vectors (arXiv:2603.04523).

What the teacher says is a label: `hessian_rows` with `hessian_rows_index`, or `hvp` with `hvp_probe`. Every view takes a few of them at random,
and one vector-Jacobian product for each gives the student's. Labels are of +d2E/dr dr: a teacher that stores force Jacobians must change the sign.
"""

from __future__ import annotations

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.additive import AdditiveObjective
from mlipfm_train.objectives.losses import structure_weights
from torch import nn


class _Directions(AdditiveObjective):
    """Mean over structures' atoms of the distance between what student and teacher say of the Hessian in one direction, eV/Å².

    Attributes:
        name: of the label. plural: of what is drawn, as the option is called.
    """

    name: str
    plural: str
    module: nn.Module | None = None
    gather: tuple[str, ...] = ()

    def __init__(self, weight: float, number: int, outlier: float) -> None:
        if not (weight > 0 and number >= 1 and outlier > 0):
            raise RecipeError(
                f"weight={weight}, {self.plural}={number}, outlier={outlier} cannot be",
                where=f"hessian-{self.plural}",
                hint=f"the weight and outlier are > 0, {self.plural} >= 1",
            )
        self.weight, self.number, self.outlier = weight, number, outlier
        self.outputs = self.requires = (self.name,)

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """Return the structure with as many of its stored directions as are drawn; unchanged if it has no more."""
        stored, companion = structure.labels.get(self.name), str(quantity(self.name).companion)
        if stored is None or len(stored) <= self.number:
            return [structure]
        chosen = rng.choice(len(stored), self.number, replace=False)
        picked = {key: structure.labels[key][chosen] for key in (self.name, companion)}
        return [structure.replace_trusted(labels={**structure.labels, **picked})]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """Return one term: (sum over atoms of the distances, averaged over each structure's directions; number of those atoms).

        The label `weight` of a structure multiplies its distances."""
        if self.name not in batch.labels:
            zero = batch.positions.new_zeros(())
            return {self.name: (zero, zero)}
        label, mask, weights = batch.labels[self.name], batch.label_mask[self.name], structure_weights(batch)
        mask = mask if weights is None else mask & (weights > 0)
        distance = (prediction[self.name] - label).to(torch.float64).square().sum(-1).add(1e-24).sqrt()  # [directions, atoms]
        largest = torch.zeros(mask.shape, dtype=label.dtype, device=label.device)
        largest = largest.scatter_reduce(1, batch.system.expand(len(label), -1), label.abs().amax(-1), "amax")
        share = mask * torch.where(largest > self.outlier, largest.new_tensor(1e-8), largest.new_tensor(1.0)) / mask.sum(0).clamp_min(1)
        share = share if weights is None else share * weights
        atoms = batch.n_atoms[mask.any(0)].sum().to(torch.float64)
        return {self.name: (self.weight * (distance * share[:, batch.system]).sum(), atoms)}


class HessianRows(_Directions):
    """Rows of the Hessian.

    Args:
        weight: factor of the term.
        rows: how many of the stored rows each view takes, without replacement.
        outlier: rows whose teacher label has an entry above this (eV/Å²) count with weight 1e-8.

    Raises:
        RecipeError: a weight or outlier that is not positive, or no rows.
    """

    name, plural = "hessian_rows", "rows"

    def __init__(self, weight: float = 1.0, rows: int = 1, outlier: float = 1e4) -> None:
        super().__init__(weight, rows, outlier)


class HessianProducts(_Directions):
    """Products of the Hessian with random vectors, which say something of every pair of atoms for the cost of a row.

    Args:
        weight: factor of the term. Of vectors with components of +1 and -1 a product is about as large as sqrt(3 atoms near it) rows.
        products: how many of the stored products each view takes, without replacement.
        outlier: products whose teacher label has an entry above this (eV/Å²) count with weight 1e-8.

    Raises:
        RecipeError: a weight or outlier that is not positive, or no products.
    """

    name, plural = "hvp", "products"

    def __init__(self, weight: float = 1.0, products: int = 1, outlier: float = 1e4) -> None:
        super().__init__(weight, products, outlier)
