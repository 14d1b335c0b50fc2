"""Objectives of pairs of atoms: their distances before noise was added, and their bond orders.

The readout of pairs (`PairReadout`) reads the node scalars of both atoms and their distance; it is trained with the model and not exported.
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
from .losses import LOSSES, Loss, losses_of, structure_weights
from .potential_features import PairReadout, node_channels, pairs_within, scalars_of


class PairDistances(AdditiveObjective):
    """Predict the distances of neighbours before noise was added to the atoms, from the noisy structure (Uni-Mol2, arXiv:2406.14969). No labels.

    The readout gives the change of each distance in units of sigma. Far from each other, two atoms change theirs by sigma sqrt(2) times a normal
    number: predicting no change then costs 2 / sqrt(pi) = 1.128 with the loss `mae`, and 2 with `mse`.

    Args:
        sigma: Å, standard deviation of each component. cutoff: Å, of the pairs that count; that of the potential limits it.
        loss: `mae`, `mse` or `huber` of the change in units of sigma. weight: of their mean.

    Raises:
        RecipeError: a value that cannot be.
    """

    def __init__(self, sigma: float = 0.1, cutoff: float = 4.0, loss: Loss = "mae", weight: float = 1.0) -> None:
        if not 0 < sigma <= 1 or not 0.5 <= cutoff <= 100 or not weight > 0:
            raise RecipeError(
                f"sigma={sigma:g}, cutoff={cutoff:g}, weight={weight:g} cannot be",
                where="pair-distances",
                hint="0 < sigma <= 1 Å, cutoff from 0.5 Å (no two atoms are nearer), weight above 0",
            )
        _check_loss(loss, "pair-distances")
        self.sigma, self.cutoff, self.loss, self.weight = sigma, cutoff, loss, weight
        self.outputs: tuple[str, ...] = ("energy",)  # features come with it
        self.requires: tuple[str, ...] = ()
        self.module: PairReadout | None = None

    def prepare(self, potential: Potential, elements: Mapping[int, int]) -> None:
        """Make the readout of pairs."""
        self.module = PairReadout(node_channels(potential), self.cutoff)

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure with noise on its atoms, which is its only label."""
        noise = rng.normal(scale=self.sigma, size=(len(structure), 3))
        return [structure.replace(positions=structure.positions + noise, labels={"noise": noise}, label_std={})]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`distance`: over ordered pairs, each pair twice."""
        assert self.module is not None
        i, j, d, r = pairs_within(batch, self.cutoff)
        noise = batch.labels["noise"]
        before = torch.linalg.vector_norm(d - (noise[j] - noise[i]), dim=1)
        predicted = self.module(scalars_of(prediction, self.module.outer.weight), i, j, r).to(torch.float64)
        loss = losses_of((predicted - (before - r) / self.sigma)[:, None], self.loss, 1.0)
        return {"distance": (self.weight * loss.sum(), torch.tensor(float(len(i)), dtype=torch.float64, device=loss.device))}


class BondOrders(AdditiveObjective):
    """Predict the bond orders of neighbours, a label that GFN1-xTB and GFN2-xTB give (`mlipfm data label --method gfn2-xtb-rich`).

    Pairs of periodic systems do not count: an atom has several images there, and their bond orders are one number.

    Args:
        cutoff: Å, of the pairs that count; beyond 3 Å nothing is bonded. loss: `mae`, `mse` or `huber`. weight: of its mean.

    Raises:
        RecipeError: a value that cannot be.
    """

    def __init__(self, cutoff: float = 3.0, loss: Loss = "mae", weight: float = 1.0) -> None:
        if not 0.5 <= cutoff <= 100 or not weight > 0:
            raise RecipeError(
                f"cutoff={cutoff:g}, weight={weight:g} cannot be", where="bond-orders", hint="cutoff from 0.5 Å, weight above 0"
            )
        _check_loss(loss, "bond-orders")
        self.cutoff, self.loss, self.weight = cutoff, loss, weight
        self.outputs: tuple[str, ...] = ("energy",)  # features come with it
        self.requires: tuple[str, ...] = ("bond_orders",)
        self.module: PairReadout | None = None
        self.has_views = False

    def prepare(self, potential: Potential, elements: Mapping[int, int]) -> None:
        """Make the readout of pairs."""
        self.module = PairReadout(node_channels(potential), self.cutoff)

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure itself."""
        return [structure]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`bond_orders`: over ordered pairs of labelled systems, times the weights of structures."""
        assert self.module is not None
        i, j, _, r = pairs_within(batch, self.cutoff)
        s = scalars_of(prediction, self.module.outer.weight)
        if "bond_orders" not in batch.labels:
            return {"bond_orders": (s.sum().to(torch.float64) * 0.0, torch.zeros((), dtype=torch.float64, device=s.device))}
        labelled = batch.label_mask["bond_orders"][batch.system[i]]
        i, j, r = i[labelled], j[labelled], r[labelled]
        first = torch.cumsum(batch.n_atoms, 0) - batch.n_atoms
        wanted = batch.labels["bond_orders"][i, j - first[batch.system[i]]]
        loss = losses_of((self.module(s, i, j, r).to(torch.float64) - wanted)[:, None], self.loss, 1.0)
        weights = structure_weights(batch)
        if weights is not None:
            loss = loss * weights[batch.system[i]][:, None]
        return {"bond_orders": (self.weight * loss.sum(), torch.tensor(float(len(i)), dtype=torch.float64, device=loss.device))}


def _check_loss(loss: str, where: str) -> None:
    if loss not in LOSSES or loss == "norm":
        raise RecipeError(
            f"loss {loss!r} is unknown", where=where, hint=f"known: {', '.join(known for known in LOSSES if known != 'norm')}"
        )
