"""Any quantities of systems and atoms against their labels: dipoles, charges, gaps, shieldings ... One term each, by the table of quantities.

The error of an extensive quantity of a system is divided by its number of atoms, and every error by the scale of its quantity, so that weights
compare alike things. Systems without the label count 0. Forces of a conservative model belong to `energy-force`: scaled apart from the energy they
would be asked to be something else than its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.structure import Structure
from torch import Tensor

from ..augmentation import Augmentation, augmented, check_augmentation
from .additive import AdditiveObjective
from .idle_options import refuse_idle
from .losses import LOSSES, Loss, counted, losses_of, weighted

ELSEWHERE = ("energy", "forces", "stress")


class Quantities(AdditiveObjective):
    """See the module.

    Args:
        weights: quantity -> weight of its mean loss, above 0. Nothing else is predicted.
        scales: quantity -> what its errors are divided by, in its unit (of an extensive one: per atom); 1 where none is given.
        loss: of the scaled errors; `norm` is the length of the error of one atom or system, the others act on components.
        huber_delta: of scaled errors, where `huber` turns from square to linear.
        augment: `rotations` as in `energy-force`, for unconstrained models.

    Raises:
        UnknownQuantityError: for a quantity that is not in the table. RecipeError: for one that is not of systems or atoms, or for a weight, scale
            or loss that cannot be.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        scales: Mapping[str, float] | None = None,
        loss: Loss = "mae",
        huber_delta: float = 1.0,
        augment: Augmentation = "none",
    ) -> None:
        self.weights, self.scales = dict(weights), dict(scales or {})
        self.loss, self.delta, self.augment = loss, huber_delta, augment
        check_augmentation(augment, "quantities")
        _check(self.weights, self.scales, loss, huber_delta)
        if loss != "huber":
            refuse_idle("quantities", {"huber_delta": (huber_delta, 1.0)}, "loss: huber")
        self.outputs = tuple(self.weights)
        self.requires = self.outputs

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        return [augmented(structure, self.augment, rng)]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """One term for each quantity, by its key."""
        return {key: self._term(key, prediction[key].to(torch.float64), batch) for key in self.outputs}

    def _term(self, key: str, predicted: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        if key not in batch.labels:
            return predicted.sum() * 0.0, torch.zeros((), dtype=torch.float64, device=predicted.device)
        kind, mask = quantity(key), counted(key, batch)
        error = (predicted - batch.labels[key]).flatten(1) if kind.shape else (predicted - batch.labels[key])[:, None]
        if kind.extensive:
            error = error / batch.n_atoms[:, None]
        loss = losses_of(error[mask] / self.scales.get(key, 1.0), self.loss, self.delta)
        count = torch.tensor(float(loss.numel()), dtype=torch.float64, device=loss.device)
        return self.weights[key] * weighted(loss, key, batch, mask).sum(), count


def _check(weights: Mapping[str, float], scales: Mapping[str, float], loss: str, delta: float) -> None:
    where = "quantities"
    if not weights or not all(weight > 0 for weight in weights.values()):
        raise RecipeError(f"weights {dict(weights)} teach nothing", where=where, hint="for instance weights: {dipole: 1.0}")
    for key in weights:
        if quantity(key).layout not in ("system", "atom"):
            raise RecipeError(f"{key!r} belongs to {quantity(key).layout}s, not to systems or atoms", where=where)
        if not quantity(key).target:
            raise RecipeError(f"no model predicts {key!r}: {quantity(key).meaning}", where=where)
        if key in ELSEWHERE:
            raise RecipeError(f"{key!r} is a term of the objective 'energy-force'", where=where, hint=f"take it there: {key}_weight")
    for key, scale in scales.items():
        if key not in weights or not scale > 0:
            raise RecipeError(f"scale {scale} of {key!r}", where=where, hint="scales are above 0, of quantities that have a weight")
    if loss not in LOSSES:
        raise RecipeError(f"loss {loss!r} is unknown", where=where, hint=f"known: {', '.join(LOSSES)}")
    if not delta > 0:
        raise RecipeError(f"huber_delta must be positive, got {delta}", where=where)
