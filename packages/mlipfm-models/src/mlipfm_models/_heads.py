"""Heads: what each atom says, from its features. What becomes of it for a system (sums, charges that add up, averages) is in `_readouts.py`.

Everything here is per atom, in the dtype of the network and without units: `energy` and direct `forces` are multiplied by the model's one scale,
the others by the scale of their own options.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mlipfm_interfaces.potential import ParameterRole
from torch import Tensor, nn
from torch.nn.functional import silu

from ._head_kinds import Form
from ._neighbor_tensors import SHAPES
from .parameter_roles import OutputLinear, VectorLinear, roles_of


class StackedReadout(nn.Module):
    """One linear map to a number for each level of theory, as one parameter [levels, channels]: rows are picked, nothing branches."""

    scaling, adaptable = "output", True

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(levels, channels))
        self.bias = nn.Parameter(torch.zeros(levels))

    def forward(self, hidden: Tensor, level: Tensor) -> Tensor:
        """[atoms] from [atoms, channels] and the level [atoms] of each atom."""
        return (hidden * self.weight[level]).sum(dim=1) + self.bias[level]


class EnergyHead(nn.Module):
    """Energy of each atom from its scalars; `levels` gives every level of theory a readout of its own."""

    def __init__(self, channels: int, levels: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, channels)
        self.outer = OutputLinear(channels, 1) if levels is None else StackedReadout(levels, channels)

    def forward(self, s: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Energies [atoms] and the last hidden layer [atoms, channels]."""
        hidden = silu(self.inner(s))
        return self.outer(hidden, level) if isinstance(self.outer, StackedReadout) else self.outer(hidden).squeeze(1), hidden


class VectorHead(nn.Module):
    """A vector of each atom: its vectors, mixed and weighted by gates that only invariants enter (equivariant; as forces not conservative)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = VectorLinear(channels, channels, bias=False)
        self.inner = nn.Linear(channels, channels)
        self.outer = OutputLinear(channels, channels)

    def forward(self, s: Tensor, v: Tensor) -> Tensor:
        """[atoms, 3] from scalars [atoms, channels] and vectors [atoms, 3, channels]."""
        gate = self.outer(silu(self.inner(s)))
        return (self.mix(v) * gate.unsqueeze(1)).sum(dim=2)


class ScalarHead(nn.Module):
    """Some numbers of each atom from its scalars: one for atom quantities, (value, logit) for pooling, (charge, softness) for charges."""

    def __init__(self, channels: int, numbers: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, channels)
        self.outer = OutputLinear(channels, numbers)

    def forward(self, s: Tensor) -> Tensor:
        """[atoms, numbers]."""
        return self.outer(silu(self.inner(s)))


class TensorHead(nn.Module):
    """A symmetric tensor of each atom: isotropic parts, tensors of the neighbours, and products of pairs of vectors, weighted by invariants.

    Products of vectors alone are zero wherever every atom sits at an inversion centre, however the crystal is strained: hence the neighbours.
    """

    def __init__(self, channels: int, alone: bool) -> None:
        """`alone`: whether an atom without neighbours has a tensor (it has a polarizability, but no stress)."""
        super().__init__()
        self.left = VectorLinear(channels, channels, bias=False)
        self.right = VectorLinear(channels, channels, bias=False)
        self.inner = nn.Linear(channels, channels)
        self.outer = OutputLinear(channels, channels + 2 * SHAPES + alone)
        self.split = [channels, SHAPES, SHAPES, int(alone)]

    def forward(self, s: Tensor, v: Tensor, shape: Tensor) -> Tensor:
        """[atoms, 3, 3] from scalars, vectors and tensors of the neighbours [atoms, shapes, 3, 3]."""
        gate, deviation, trace, alone = self.outer(silu(self.inner(s))).split(self.split, dim=1)
        pairs = (self.left(v) * gate.unsqueeze(1)) @ self.right(v).mT
        isotropic = (trace * shape.diagonal(dim1=2, dim2=3).sum(dim=2)).sum(dim=1) + alone.sum(dim=1)
        eye = torch.eye(3, dtype=s.dtype, device=s.device)
        return (pairs + pairs.mT) / 2 + torch.einsum("ak,akxy->axy", deviation, shape) + isotropic[:, None, None] * eye


def _module(key: str, form: Form, channels: int) -> nn.Module:
    if form == "vector":
        return VectorHead(channels)
    if form == "tensor":
        return TensorHead(channels, alone=key != "stress")
    return ScalarHead(channels, 1 if form == "number" else 2)


class Heads(nn.Module):
    """All heads of a model in one module: every forward runs the same sequence, whatever was asked."""

    def __init__(self, channels: int, direct_forces: bool, parts: Mapping[str, Form] | None = None, levels: int | None = None) -> None:
        """`parts`: outputs beside energy and forces, see `head_kinds`; `levels`: of a readout for each level of theory."""
        super().__init__()
        self.energy = EnergyHead(channels, levels)
        self.forces = VectorHead(channels) if direct_forces else None
        self.parts = nn.ModuleDict({key: _module(key, form, channels) for key, form in (parts or {}).items()})

    def roles(self, depth: int) -> dict[str, ParameterRole]:
        """Role of every parameter, by its name in this module; `depth` is the number of blocks + 1."""
        return roles_of(self, [self], depth)

    @property
    def reads_shapes(self) -> bool:
        """Whether a head reads the tensors of the neighbours."""
        return any(isinstance(module, TensorHead) for module in self.parts.values())

    def forward(self, s: Tensor, v: Tensor, level: Tensor, shape: Tensor | None = None) -> dict[str, Tensor]:
        """`energy` [atoms], `last_layer` [atoms, channels], of direct models `forces` [atoms, 3], and the parts by name.

        `level` [atoms] is the level of each atom, `shape` [atoms, shapes, 3, 3] the tensors of its neighbours.
        """
        energy, last_layer = self.energy(s, level)
        out = {"energy": energy, "last_layer": last_layer}
        if self.forces is not None:
            out["forces"] = self.forces(s, v)
        for key, module in self.parts.items():
            out[key] = module(s) if isinstance(module, ScalarHead) else module(s, v, *([shape] if isinstance(module, TensorHead) else []))
        return out

    def last_layers(self) -> dict[str, str]:
        """Parameters that an output is linear in, and which output (`energy` stands for all that have the model's one scale)."""
        names = [name for name, _ in self.named_parameters() if ".outer." in name]
        return {name: name.split(".")[1] if name.startswith("parts.") else "energy" for name in names}
