"""Shallow ensembles: one backbone, many last layers, drawn from the distribution that LLPR says they have (arXiv:2403.02251, section 2.4).

Energies and forces of a member are consistent with each other up to the two scales alpha; M members cost M backward passes instead of one for every
channel, and carry uncertainty on to whatever is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from mlipfm_interfaces.errors import ShapeError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from torch import Tensor

from ._features import in_batches, observe
from .llpr import Llpr

__all__ = ["Members", "predict_members"]


@dataclass(frozen=True)
class Members:
    """One structure as all members see it.

    Attributes:
        energies: [members] eV. forces: [members, atoms, 3] eV/Å, or None. Their mean is the model's prediction as members grow in number.
    """

    structure: Structure
    energies: np.ndarray
    forces: np.ndarray | None


def draw_heads(llpr: Llpr, members: int, seed: int = 0) -> Tensor:
    """[members, channels] deviations of the last layer, L^-T z with z normal, before alpha; they add up to zero.

    Raises:
        ShapeError: fewer than two members.
    """
    if members < 2:
        raise ShapeError(f"an ensemble needs two members or more, got {members}")
    z = torch.randn(len(llpr.factor), members, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    heads = torch.linalg.solve_triangular(llpr.factor.T, z, upper=True).T
    # Centred, so that the mean of the members is the model; the lost degree of freedom is given back to the variance.
    return (heads - heads.mean(dim=0)) * (members / (members - 1)) ** 0.5


def predict_members(
    llpr: Llpr, potential: Potential, structures: Iterable[Structure], members: int = 16, seed: int = 0
) -> Iterator[Members]:
    """Yield the predictions of all members, in order; the same members for one seed."""
    heads, forces = draw_heads(llpr, members, seed), "forces" in llpr.quantities
    for chunk in in_batches(structures):
        seen = observe(potential, chunk, forces=forces, combine=heads)
        sizes = torch.tensor(seen.sizes, dtype=torch.float64)
        energies = seen.energy[:, None] + llpr.alpha["energy"] * sizes[:, None] * (seen.energy_features @ heads.T)
        if seen.forces is None or seen.force_features is None:
            yield from (Members(s, e.numpy(), None) for s, e in zip(chunk, energies, strict=True))
            continue
        pulls = seen.forces[:, :, None] + llpr.alpha["forces"] * seen.force_features
        for s, e, f in zip(chunk, energies, pulls.permute(2, 0, 1).split(seen.sizes, dim=1), strict=True):
            yield Members(s, e.numpy(), f.numpy())
