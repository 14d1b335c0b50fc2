"""Coordinate denoising: predict the displacements that were added to the atoms of a structure, which needs no labels (arXiv:2206.00133).

At minima of the energy the displacement of an atom is, up to sign and scale, the force that pulls it back: with `predict: forces` the model learns
the force field -kT (x' - x) / sigma² by the forces it has, without a head of its own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.protocols import Terms
from mlipfm_interfaces.structure import Structure

from .additive import AdditiveObjective
from .idle_options import refuse_idle
from .losses import LOSSES, Loss, losses_of


class Denoise(AdditiveObjective):
    """See the module. The error is divided by sigma, so that predicting no noise has a mean square of 1.

    Where all atoms are displaced, their mean displacement is taken out: no model that ignores translations can know it. Labels of the structure do
    not belong to its noisy view and are not used.

    Args:
        sigma: Å, standard deviation of each component. fraction: of the atoms, drawn anew in each epoch, that are displaced and count.
        predict: `noise`, by the head of that name (`potential.heads: {noise: {}}`), or `forces`.
        kt: eV, of the harmonic force field where forces predict.
        loss: of errors in units of sigma: `norm` is the length of that of an atom, `mse` and `mae` act on components. weight: of their mean.

    Raises:
        RecipeError: a value that cannot be.
    """

    def __init__(
        self,
        sigma: float = 0.04,
        fraction: float = 1.0,
        predict: Literal["noise", "forces"] = "noise",
        kt: float = 0.025,
        loss: Loss = "mse",
        weight: float = 1.0,
    ) -> None:
        if not 0 < sigma <= 1 or not 0 < fraction <= 1 or not kt > 0 or not weight > 0 or loss not in LOSSES:
            raise RecipeError(
                f"sigma={sigma:g}, fraction={fraction:g}, kt={kt:g}, weight={weight:g}, loss={loss!r} cannot be",
                where="denoise",
                hint=f"0 < sigma <= 1 Å, 0 < fraction <= 1, kt and weight above 0, loss one of {', '.join(LOSSES)}",
            )
        if predict == "noise":
            refuse_idle("denoise", {"kt": (kt, 0.025)}, "predict: forces")
        self.sigma, self.fraction, self.kt = sigma, fraction, kt
        self.loss, self.weight = loss, weight
        self.outputs: tuple[str, ...] = (predict,)
        self.requires: tuple[str, ...] = ()

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure with noise on its atoms, which is its only label."""
        noise = rng.normal(scale=self.sigma, size=(len(structure), 3))
        if self.fraction < 1:
            noise[rng.random(len(structure)) >= self.fraction] = 0.0
        else:
            noise -= noise.mean(axis=0)
        return [structure.replace(positions=structure.positions + noise, labels={"noise": noise}, label_std={})]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`noise`: over the atoms that were displaced."""
        noise, predicted = batch.labels["noise"], prediction[self.outputs[0]].to(torch.float64)
        if self.outputs[0] == "forces":
            predicted = -predicted * self.sigma**2 / self.kt
        moved = (noise != 0).any(dim=1)
        loss = losses_of(((predicted - noise) / self.sigma)[moved], self.loss, 1.0)
        return {"noise": (self.weight * loss.sum(), torch.tensor(float(loss.numel()), dtype=torch.float64, device=loss.device))}
