"""What objectives of pre-training read of a potential besides its outputs: the width of its node scalars, pairs of atoms, a readout of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.neighbors import PairView
from mlipfm_interfaces.potential import Potential, Prediction
from mlipfm_interfaces.protocols import Objective
from mlipfm_interfaces.structure import Structure
from torch import Tensor, nn
from torch.nn.functional import silu


def prepare_objectives(objectives: Mapping[str, Objective], potential: Potential, numbers: np.ndarray) -> None:
    """Call `prepare` of the objectives that have it.

    Args:
        numbers: atomic numbers of all training atoms; of no atoms, every element of the potential counts once.

    Raises:
        RecipeError: an objective does not work with this potential.
    """
    found = np.bincount(numbers, minlength=119) if len(numbers) else np.bincount(potential.spec.elements, minlength=119)
    elements = {int(z): int(found[z]) for z in np.flatnonzero(found)}
    for objective in objectives.values():
        prepare = getattr(objective, "prepare", None)
        if prepare is not None:
            prepare(potential, elements)


def node_scalars(potential: Potential, structures: Sequence[Structure], node_input: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the node scalars [atoms, channels] of structures at the first level of the potential.

    Raises:
        RecipeError: the potential gives none.
    """
    at_level = [s.replace(level=potential.spec.levels[0]) for s in structures]
    batch = replace(collate(at_level, potential.spec.graphs, potential.spec.torch_dtype), node_input=node_input)
    with torch.no_grad():
        features = potential(batch, ("energy",)).features
    if "node_scalar" not in features:
        raise RecipeError(f"the potential {potential.plugin!r} gives no node scalars", where="objectives", hint="take another backbone")
    return features["node_scalar"].value


def node_channels(potential: Potential) -> int:
    """Return the width of the node scalars."""
    return node_scalars(potential, [Structure(np.array(potential.spec.elements[:1]), np.zeros((1, 3)))]).shape[1]


def scalars_of(prediction: Prediction, like: Tensor) -> Tensor:
    """Return the node scalars [atoms, channels] of a prediction in the dtype of a parameter of the objective."""
    return prediction.features["node_scalar"].value.to(like.dtype)


def pairs_within(batch: Batch, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the ordered pairs up to `cutoff` Å: atoms i and j [pairs], vectors [pairs, 3] float64 from i to j and distances [pairs], both in Å.

    They are those of the neighbour lists of the potential, whose cutoff limits them.
    """
    spec, view = next(iter(batch.views.items()))
    with torch.no_grad():
        vectors = batch.displacements(spec).to(torch.float64)
        r = torch.linalg.vector_norm(vectors, dim=-1)
        near = view.mask & (r < cutoff)
        if isinstance(view, PairView):
            return view.i[near], view.j[near], vectors[near], r[near]
        i = torch.arange(len(view.index), device=r.device)[:, None].expand(view.index.shape)
        return i[near], view.index[near], vectors[near], r[near]


def gaussians(x: Tensor, low: float, high: float, count: int) -> Tensor:
    """Return `count` Gaussians [..., count] of x [...] with centres evenly from `low` to `high` and their distance as width."""
    centres = torch.linspace(low, high, count, dtype=x.dtype, device=x.device)
    return torch.exp(-0.5 * ((x[..., None] - centres) * ((count - 1) / (high - low))).square())


def start_small(last: nn.Linear) -> None:
    """Make the last layer of a readout nearly zero: it begins as a guess of nothing, and its gradient reaches the model from the first step."""
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.zeros_(last.bias)


class PairReadout(nn.Module):
    """A number for each pair of atoms from the sum and product of their node scalars and their distance: symmetric, nearly zero at first."""

    RADIAL = 16

    def __init__(self, channels: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.inner = nn.Linear(2 * channels + self.RADIAL, channels)
        self.outer = nn.Linear(channels, 1)
        start_small(self.outer)

    def forward(self, s: Tensor, i: Tensor, j: Tensor, r: Tensor) -> Tensor:
        """[pairs] from node scalars [atoms, channels], pairs and distances [pairs] in Å."""
        radial = gaussians(r.to(s.dtype), 0.0, self.cutoff, self.RADIAL)
        hidden = self.inner(torch.cat([s[i] + s[j], s[i] * s[j], radial], dim=1))
        value: Tensor = self.outer(silu(hidden)).squeeze(1)
        return value
