"""Which labelled entries a loss counts, and how much: what has a label, can have the quantity at all, and the weights of structures and atoms."""

from __future__ import annotations

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.quantities import quantity
from torch import Tensor


def counted(key: str, batch: Batch) -> Tensor:
    """[systems] or, for an atom quantity, [atoms] bool: entries that are labelled, defined (`Batch.defined`) and of a weight above 0."""
    mask = batch.label_mask[key] & batch.defined(key)
    mask = mask[batch.system] if quantity(key).layout == "atom" else mask
    weights = entry_weights(key, batch)
    return mask if weights is None else mask & (weights > 0)


def weighted(loss: Tensor, key: str, batch: Batch, mask: Tensor) -> Tensor:
    """Losses of the entries in `mask` times their weights. Counts stay: a weight of 0.5 halves a loss and does not double the others."""
    weights = entry_weights(key, batch)
    return loss if weights is None else loss * weights[mask].reshape(-1, *[1] * (loss.dim() - 1))


def entry_weights(key: str, batch: Batch) -> Tensor | None:
    """[systems] or, for an atom quantity, [atoms]: the label `weight`, for forces times `forces_weight`; 1 where there is none, None if nowhere."""
    weights = structure_weights(batch)
    if quantity(key).layout != "atom":
        return weights
    weights = None if weights is None else weights[batch.system]
    own = _stated("forces_weight", batch) if key == "forces" else None
    return weights if own is None else own if weights is None else weights * own


def structure_weights(batch: Batch) -> Tensor | None:
    """[systems] the label `weight`, 1 where a structure has none; None if no structure has one."""
    return _stated("weight", batch)


def _stated(key: str, batch: Batch) -> Tensor | None:
    if key not in batch.labels:
        return None
    mask = batch.label_mask[key]
    return torch.where(mask[batch.system] if quantity(key).layout == "atom" else mask, batch.labels[key], 1.0)
