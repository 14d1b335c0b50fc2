"""Atom replacement: some atoms get the element of another; find them, and name their own element. It needs no labels.

After Sakai et al. (2023) and ELECTRA (arXiv:2003.10555): the new elements are drawn with the frequencies of the training data. A head that is not
exported tells from the node scalars of every atom whether it was replaced, and of the replaced ones what they were. In a random alloy of equal
parts nothing can be found (detection at the level of chance), in rock salt everything.
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
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from .additive import AdditiveObjective
from .masked import ElementHead
from .potential_features import node_channels, scalars_of


class Replacement(AdditiveObjective):
    """See the module. A view states neither charge nor multiplicity: those of the structure do not belong to other elements.

    Args:
        fraction: of the atoms, drawn anew in each epoch, whose element is drawn; some draws give the element that was there, which counts as not
            replaced. In each structure one atom at least is replaced.
        weight: of the mean loss of the detection. element_weight: of that of the elements; 0 leaves it out.

    Raises:
        RecipeError: a value that cannot be; by `prepare`, data of one element.
    """

    def __init__(self, fraction: float = 0.15, weight: float = 1.0, element_weight: float = 1.0) -> None:
        if not 0 < fraction < 1 or not weight > 0 or not element_weight >= 0:
            raise RecipeError(
                f"fraction={fraction:g}, weight={weight:g}, element_weight={element_weight:g} cannot be",
                where="replacement",
                hint="0 < fraction < 1, weight above 0, element_weight >= 0",
            )
        self.fraction, self.weight, self.element_weight = fraction, weight, element_weight
        self.outputs: tuple[str, ...] = ("energy",)  # features come with it
        self.requires: tuple[str, ...] = ()
        self.module: ElementHead | None = None

    def prepare(self, potential: Potential, elements: Mapping[int, int]) -> None:
        """Make the head, and keep the frequencies of the elements."""
        if len(elements) < 2:
            raise RecipeError("training data of one element have nothing to replace it by", where="replacement", hint="another objective")
        self.module = ElementHead(node_channels(potential), potential.spec.elements, numbers=1)
        self._numbers = np.array(sorted(elements))
        self._frequency = np.array([elements[z] for z in sorted(elements)], dtype=float) / sum(elements.values())

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        """The structure with some elements replaced and the original ones as its only label."""
        original = structure.atomic_numbers
        drawn = rng.choice(self._numbers, size=len(original), p=self._frequency)
        numbers = np.where(rng.random(len(original)) < self.fraction, drawn, original)
        if (numbers == original).all():
            k = int(rng.integers(len(original)))
            others = np.where(self._numbers == original[k], 0.0, self._frequency)
            numbers[k] = rng.choice(self._numbers, p=others / others.sum())
        labels = {"original_element": original.astype(np.float64)}
        return [structure.replace(atomic_numbers=numbers, total_charge=None, spin_multiplicity=None, labels=labels, label_std={})]

    def terms(self, prediction: Prediction, batch: Batch) -> Terms:
        """`replaced`: binary cross-entropy over all atoms, nats; `element`: cross-entropy over the replaced ones."""
        assert self.module is not None
        original = batch.labels["original_element"].long()
        replaced = original != batch.atomic_numbers
        logits = self.module.logits(scalars_of(prediction, self.module.logits.weight)).to(torch.float64)
        detection = binary_cross_entropy_with_logits(logits[:, -1], replaced.to(torch.float64), reduction="sum")
        found = cross_entropy(logits[replaced, :-1], self.module.rows[original[replaced]], reduction="sum")
        terms = {"replaced": (self.weight * detection, torch.tensor(float(len(original)), dtype=torch.float64, device=detection.device))}
        if self.element_weight:
            terms["element"] = (self.element_weight * found, replaced.sum().to(torch.float64))
        return terms
