"""Losses of single errors, and which labelled entries they count, and how much: shared by objectives."""

from __future__ import annotations

from typing import Literal, assert_never, get_args

import torch
from mlipfm_interfaces.batch import Batch
from torch import Tensor
from torch.nn.functional import huber_loss

Loss = Literal["mae", "mse", "huber", "norm"]
LOSSES: tuple[str, ...] = get_args(Loss)


def losses_of(error: Tensor, kind: Loss, delta: float) -> Tensor:
    """Losses of `error` [entries, components]: [entries] for `norm`, one per component otherwise."""
    if kind == "norm":
        return torch.linalg.vector_norm(error, dim=1)  # its gradient at zero is zero
    if kind == "mae":
        return error.abs()
    if kind == "mse":
        return error.square()
    if kind == "huber":
        return huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
    assert_never(kind)


def counted(key: str, batch: Batch) -> Tensor:
    """[systems] or, for an atom quantity, [atoms] bool: entries that are labelled, defined (`Batch.defined`) and of a weight above 0."""
    mask = _of_entries(batch.label_mask[key] & batch.defined(key), key, batch)
    weights = entry_weights(key, batch)
    return mask if weights is None else mask & (weights > 0)


def weighted(loss: Tensor, key: str, batch: Batch, mask: Tensor) -> Tensor:
    """Losses of the entries in `mask` times their weights. Counts stay: a weight of 0.5 halves a loss and does not double the others."""
    weights = entry_weights(key, batch)
    return loss if weights is None else loss * weights[mask].reshape(-1, *[1] * (loss.dim() - 1))


def entry_weights(key: str, batch: Batch) -> Tensor | None:
    """[systems] or, for an atom quantity, [atoms]: the label `weight`, for forces times `forces_weight`; 1 where there is none, None if nowhere."""
    weights = structure_weights(batch)
    weights = None if weights is None else _of_entries(weights, key, batch)
    own = _stated("forces_weight", batch) if key == "forces" else None
    return weights if own is None else own if weights is None else weights * own


def structure_weights(batch: Batch) -> Tensor | None:
    """[systems] the label `weight`, 1 where a structure has none; None if no structure has one."""
    return _stated("weight", batch)


def _stated(key: str, batch: Batch) -> Tensor | None:
    if key not in batch.labels:
        return None
    return torch.where(_of_entries(batch.label_mask[key], key, batch), batch.labels[key], 1.0)


def _of_entries(of_systems: Tensor, key: str, batch: Batch) -> Tensor:
    """Values of systems as those of the entries of a label: a label of atoms has a row for each atom (isolated atoms: both)."""
    return of_systems[batch.system] if len(batch.labels[key]) == len(batch.positions) else of_systems
