"""Masked atoms: hide the element of some atoms and predict it from the structure around them, which needs no labels.

After the masked tokens of Uni-Mol2 (arXiv:2406.14969): 15 % of the atoms get one learned vector in place of the embedding of their element, and a
head that is not exported tells their element from their node scalars. The loss is the cross-entropy, in nats; predicting the frequencies of the
elements costs their entropy.
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
from torch.nn.functional import cross_entropy

from .additive import AdditiveObjective
from .potential_features import node_channels, node_scalars, scalars_of


class ElementHead(nn.Module):
    """A linear map from node scalars to one number for each of the `elements`; `rows` [119] is the place of each atomic number among them."""

    rows: Tensor

    def __init__(self, channels: int, elements: tuple[int, ...], numbers: int = 0) -> None:
        """`numbers`: further outputs after those of the elements."""
        super().__init__()
        self.logits = nn.Linear(channels, len(elements) + numbers)
        rows = torch.full((119,), -1)
        rows[list(elements)] = torch.arange(len(elements))
        self.register_buffer("rows", rows, persistent=False)


class MaskedHead(ElementHead):
    """The head of elements, and the vector that masked atoms get."""

    def __init__(self, channels: int, elements: tuple[int, ...]) -> None:
        super().__init__(channels, elements)
        self.mask = nn.Embedding(1, channels)
        nn.init.zeros_(self.mask.weight)


class Masked(AdditiveObjective):
    """See the module.

    Args:
        fraction: of the atoms, drawn anew in each epoch, whose element is hidden; in each structure one at least. weight: of the mean loss.

    Raises:
        RecipeError: a value that cannot be; or, by `prepare`, a potential of one element, or one from whose backbone elements cannot be hidden.
    """

    def __init__(self, fraction: float = 0.15, weight: float = 1.0) -> None:
        if not 0 < fraction < 1 or not weight > 0:
            raise RecipeError(
                f"fraction={fraction:g}, weight={weight:g} cannot be", where="masked", hint="0 < fraction < 1 and weight above 0"
            )
        self.fraction, self.weight = fraction, weight
        self.outputs: tuple[str, ...] = ("energy",)  # features come with it
        self.requires: tuple[str, ...] = ()
        self.module: MaskedHead | None = None

    def prepare(self, potential: Potential, elements: Mapping[int, int]) -> None:
        """Make the head, and check that the node scalars of a masked atom do not depend on its element."""
        known = potential.spec.elements
        if len(known) < 2:
            raise RecipeError("a potential of one element has no element to predict", where="masked", hint="take another objective")
        self.module = MaskedHead(node_channels(potential), known)
        hidden = torch.ones(2, 1), torch.zeros(2, node_channels(potential))
        hidden[0][0] = 0.0
        far = 0.9 * potential.spec.graphs[0].cutoff  # beyond the shortest distances of the training data, which depend on the elements
        pair = [Structure(np.array([z, known[0]]), np.array([[0, 0, 0], [0, 0, far]])) for z in known[:2]]
        first, second = (node_scalars(potential, [s], hidden) for s in pair)
        if not torch.equal(first, second):
            raise RecipeError(
                f"{potential.plugin!r} has parameters for each element, which shows the element of a masked atom",
                where="masked",
                hint="`replacement` works with every backbone",
            )

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure with a mark on the atoms to hide, its only label."""
        masked = rng.random(len(structure)) < self.fraction
        masked[rng.integers(len(structure))] |= not masked.any()
        return [structure.replace(labels={"masked": masked.astype(np.float64)}, label_std={})]

    def node_input(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The embedding of a masked atom is the learned vector."""
        assert self.module is not None
        masked = batch.labels["masked"][:, None].to(self.module.mask.weight.dtype)
        return 1 - masked, masked * self.module.mask(torch.zeros_like(batch.system))

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`element`: cross-entropy over the masked atoms, nats."""
        assert self.module is not None
        masked = batch.labels["masked"] > 0
        logits = self.module.logits(scalars_of(prediction, self.module.mask.weight)[masked]).to(torch.float64)
        loss = cross_entropy(logits, self.module.rows[batch.atomic_numbers[masked]], reduction="sum")
        return {"element": (self.weight * loss, masked.sum().to(torch.float64))}
