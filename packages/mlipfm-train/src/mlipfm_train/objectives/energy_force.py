"""Energies per atom, forces and stress against labels: the objective of supervised training.

Errors are in eV per atom, eV/Å and eV/Å³; each term is weight x sum of losses over labelled entries, and its count is their number. The labels
`weight` of a structure and `forces_weight` of an atom multiply its losses; entries of weight 0 are not counted, nor is the stress of molecules and
slabs.

Nothing is normalised by scales of its own: a conservative model whose energies and forces are scaled differently would have to give forces that are
not the gradient of its energies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure
from torch import Tensor

from ..augmentation import Augmentation, augmented, check_augmentation
from .additive import AdditiveObjective
from .idle_options import refuse_idle
from .losses import LOSSES, Loss, counted, losses_of, weighted


class EnergyForce(AdditiveObjective):
    """See the module. A weight of 0 switches its quantity off: it is neither predicted nor counted.

    Args:
        energy_weight, forces_weight, stress_weight: of the mean loss of each quantity.
        energy_loss: on the energy per atom. forces_loss: `norm` is the length of the error vector of each atom, the others act on components.
        huber_delta: eV/Å (or eV per atom, eV/Å³): where `huber` turns from square to linear.
        augment: `rotations` shows each structure in a new orientation in each epoch, mirrored in half of them, with labels rotated: what
            unconstrained models learn the symmetry of space from. Equivariant ones gain nothing by it.
    """

    def __init__(
        self,
        energy_weight: float = 1.0,
        forces_weight: float = 10.0,
        stress_weight: float = 0.0,
        energy_loss: Loss = "mae",
        forces_loss: Loss = "norm",
        stress_loss: Loss = "mae",
        huber_delta: float = 0.01,
        augment: Augmentation = "none",
    ) -> None:
        self.weights = {"energy": energy_weight, "forces": forces_weight, "stress": stress_weight}
        self.losses: dict[str, Loss] = {"energy": energy_loss, "forces": forces_loss, "stress": stress_loss}
        self.delta = huber_delta
        self.augment: Augmentation = augment
        _check(self.weights, self.losses, huber_delta)
        if "huber" not in self.losses.values():
            refuse_idle("energy-force", {"huber_delta": (huber_delta, 0.01)}, "a loss huber")
        check_augmentation(augment, "energy-force")
        self.outputs = tuple(key for key, weight in self.weights.items() if weight > 0)
        self.requires = self.outputs
        self.has_views = augment != "none"

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        return [augmented(structure, self.augment, rng)]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """Return `energy`, `forces`, `stress`: those with a weight. Systems without the label count 0."""
        return {key: self._term(key, prediction[key].to(torch.float64), batch) for key in self.outputs}

    def _term(self, key: str, predicted: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        if key not in batch.labels:
            return predicted.sum() * 0.0, torch.zeros((), dtype=torch.float64, device=predicted.device)
        mask = counted(key, batch)
        error = predicted - batch.labels[key]
        if key == "energy":
            error = error / batch.n_atoms
        loss = losses_of(error[mask].reshape(int(mask.sum()), -1), self.losses[key], self.delta)
        count = torch.tensor(float(loss.numel()), dtype=torch.float64, device=loss.device)
        return self.weights[key] * weighted(loss, key, batch, mask).sum(), count


def _check(weights: Mapping[str, Any], losses: Mapping[str, str], delta: float) -> None:
    if not all(0 <= weight < math.inf for weight in weights.values()) or max(weights.values()) == 0:
        raise RecipeError(
            f"weights {dict(weights)} teach nothing", where="energy-force", hint="weights are finite, >= 0 and one of them > 0"
        )
    for key, loss in losses.items():
        if loss not in LOSSES:
            raise RecipeError(f"{key}_loss {loss!r} is unknown", where="energy-force", hint=f"known: {', '.join(LOSSES)}")
    if not 0 < delta < math.inf:
        raise RecipeError(f"huber_delta must be positive, got {delta}", where="energy-force")
