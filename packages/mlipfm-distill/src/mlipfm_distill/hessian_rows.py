"""Objective: match rows of a teacher's Hessian (energy-Hessian distillation, arXiv:2501.09009).

Teacher rows are labels (`hessian_rows` with `hessian_rows_index`); every view takes a few of them at random, and one vector-Jacobian product per
row gives the student's. The label is +d2E/dr dr, so a teacher that stores force Jacobians must change the sign.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.losses import structure_weights
from torch import Tensor, nn


class HessianRows:
    """Mean over structures' atoms of the distance between student and teacher rows, eV/Å².

    Args:
        weight: factor of the term.
        rows: how many of the stored rows each view takes, without replacement.
        outlier: rows whose teacher label has an entry above this (eV/Å²) count with weight 1e-8.

    Raises:
        RecipeError: a weight or outlier that is not positive, or no rows.
    """

    outputs = ("hessian_rows",)
    requires = ("hessian_rows",)
    module: nn.Module | None = None
    gather: tuple[str, ...] = ()

    def __init__(self, weight: float = 1.0, rows: int = 1, outlier: float = 1e4) -> None:
        if not (weight > 0 and rows >= 1 and outlier > 0):
            raise RecipeError(
                f"weight={weight}, rows={rows}, outlier={outlier} cannot be",
                where="hessian-rows",
                hint="the weight and outlier are > 0, rows >= 1",
            )
        self.weight, self.rows, self.outlier = weight, rows, outlier

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """Return the structure with `rows` of its stored rows; unchanged if it has none."""
        stored = structure.labels.get("hessian_rows")
        if stored is None or len(stored) <= self.rows:
            return [structure]
        chosen = rng.choice(len(stored), self.rows, replace=False)
        picked = {"hessian_rows": stored[chosen], "hessian_rows_index": structure.labels["hessian_rows_index"][chosen]}
        values = {name: getattr(structure, name) for name in Structure.__dataclass_fields__}
        return [Structure.trusted(**(values | {"labels": {**structure.labels, **picked}}))]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """Return `hessian_rows`: (sum over atoms of the rows' distances, averaged over each structure's rows; number of those atoms).

        The label `weight` of a structure multiplies its distances."""
        if "hessian_rows" not in batch.labels:
            zero = batch.positions.new_zeros(())
            return {"hessian_rows": (zero, zero)}
        label, mask, weights = batch.labels["hessian_rows"], batch.label_mask["hessian_rows"], structure_weights(batch)
        mask = mask if weights is None else mask & (weights > 0)
        distance = (prediction["hessian_rows"] - label).to(torch.float64).square().sum(-1).add(1e-24).sqrt()  # [rows, atoms]
        largest = torch.zeros(mask.shape, dtype=label.dtype, device=label.device)
        largest = largest.scatter_reduce(1, batch.system.expand(len(label), -1), label.abs().amax(-1), "amax")
        share = mask * torch.where(largest > self.outlier, largest.new_tensor(1e-8), largest.new_tensor(1.0)) / mask.sum(0).clamp_min(1)
        share = share if weights is None else share * weights
        atoms = batch.n_atoms[mask.any(0)].sum().to(torch.float64)
        return {"hessian_rows": (self.weight * (distance * share[:, batch.system]).sum(), atoms)}

    def finish(self, gathered: Mapping[str, Tensor]) -> Terms:
        """Return nothing: all terms are additive."""
        return {}
