"""Twins: two noisy views of one structure shall have the same features, and different features shall not repeat each other (Barlow Twins).

After Crystal Twins (doi:10.1038/s41524-022-00921-5) with the loss of arXiv:2103.03230: C is the correlation of features between both views over the
structures of a batch, L = sum_a (C_aa - 1)² + coupling sum_(a != b) C_ab². It needs no labels. Even perfect features keep a floor of about
coupling D (D - 1) / B for B structures and D features, so that losses of different batch sizes do not compare.
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
from torch import Tensor, nn

from .potential_features import node_channels

#: Added to variances: features that do not vary have no correlation, and no gradient that is not finite.
EPSILON = 1e-5


class Twins:
    """See the module. A projection of the mean node scalars is trained with the model and not exported.

    Args:
        channels: width of the node scalars; by default that of the potential. dimensions: D of the projection.
        sigma: Å, noise of each view. coupling: of different features. weight: of the whole.

    Raises:
        RecipeError: a value that cannot be.
    """

    def __init__(
        self, channels: int | None = None, dimensions: int = 64, sigma: float = 0.05, coupling: float = 0.0051, weight: float = 1.0
    ) -> None:
        if not (
            (channels is None or 1 <= channels <= 16384) and 2 <= dimensions <= 4096 and 0 < sigma <= 1 and coupling >= 0 and weight > 0
        ):
            raise RecipeError(
                f"channels={channels}, dimensions={dimensions}, sigma={sigma:g}, coupling={coupling:g}, weight={weight:g} cannot be",
                where="twins",
                hint="channels >= 1, dimensions >= 2, 0 < sigma <= 1 Å, coupling >= 0, weight > 0",
            )
        self.sigma, self.coupling, self.weight, self.dimensions = sigma, coupling, weight, dimensions
        self.outputs: tuple[str, ...] = ("energy",)  # features come with it
        self.requires: tuple[str, ...] = ()
        self.module: nn.Linear | None = None if channels is None else nn.Linear(channels, dimensions, bias=False)
        self.gather: tuple[str, ...] = ("pairs",)

    def prepare(self, potential: Potential, elements: Mapping[int, int]) -> None:
        """Make the projection if the recipe does not give its width."""
        if self.module is None:
            self.module = nn.Linear(node_channels(potential), self.dimensions, bias=False)

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure twice, with different noise on its atoms and without labels."""
        return [
            structure.replace(
                positions=structure.positions + rng.normal(scale=self.sigma, size=(len(structure), 3)), labels={}, label_std={}
            )
            for _ in range(2)
        ]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`pairs`: [structures, 2, D] features of both views, to be gathered."""
        scalars = prediction.features["node_scalar"].value
        assert self.module is not None
        channels = self.module.in_features
        if scalars.shape[1] != channels:
            raise RecipeError(f"the node scalars have {scalars.shape[1]} channels, not {channels}", where="twins.channels")
        n = len(batch.n_atoms)
        means = scalars.new_zeros(n, channels).index_add(0, batch.system, scalars) / batch.n_atoms[:, None].to(scalars.dtype)
        features = self.module(means.to(self.module.weight.dtype)).reshape(n // 2, 2, -1)
        return {"pairs": (features, torch.tensor(float(n // 2), dtype=torch.float64, device=features.device))}

    def finish(self, gathered: Mapping[str, Tensor]) -> Terms:
        """`twins`: the loss of one batch of all ranks."""
        first, second = gathered["pairs"].unbind(dim=1)
        loss = self.weight * barlow(first, second, self.coupling)
        return {"twins": (loss, torch.ones((), dtype=torch.float64, device=loss.device))}


def barlow(first: Tensor, second: Tensor, coupling: float) -> Tensor:
    """Return the loss of Barlow Twins of features [B, D] of both views: arXiv:2103.03230, equation 1, with batch normalisation without parameters."""
    a, b = (z.to(torch.float64) - z.to(torch.float64).mean(dim=0) for z in (first, second))
    a, b = (z / (z.square().mean(dim=0) + EPSILON).sqrt() for z in (a, b))
    correlation = a.T @ b / len(a)
    diagonal = torch.diagonal(correlation)
    return (diagonal - 1).square().sum() + coupling * (correlation.square().sum() - diagonal.square().sum())
