"""Heads: per-atom quantities from the features, in units of the model's one scale (eV, and eV/Å for forces)."""

from __future__ import annotations

from mlipfm_interfaces.potential import ParameterRole
from torch import Tensor, nn
from torch.nn.functional import silu


class EnergyHead(nn.Module):
    """Energy of each atom from its scalars."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, channels)
        self.outer = nn.Linear(channels, 1)

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Energies [atoms] and the last hidden layer [atoms, channels]."""
        hidden = silu(self.inner(s))
        return self.outer(hidden).squeeze(1), hidden


class ForceHead(nn.Module):
    """A force on each atom, directly: its vectors, mixed and weighted by gates that only invariants enter (equivariant, not conservative)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels, bias=False)
        self.inner = nn.Linear(channels, channels)
        self.outer = nn.Linear(channels, channels)

    def forward(self, s: Tensor, v: Tensor) -> Tensor:
        """Forces [atoms, 3] from scalars [atoms, channels] and vectors [atoms, 3, channels]."""
        gate = self.outer(silu(self.inner(s)))
        return (self.mix(v) * gate.unsqueeze(1)).sum(dim=2)


class Heads(nn.Module):
    """All heads of a model in one module: every forward runs the same sequence, whatever was asked."""

    def __init__(self, channels: int, direct_forces: bool) -> None:
        super().__init__()
        self.energy = EnergyHead(channels)
        self.forces = ForceHead(channels) if direct_forces else None

    def roles(self, depth: int) -> dict[str, ParameterRole]:
        """Role of every parameter, by its name in this module; `depth` is the number of blocks + 1."""
        return {name: _role(name, depth) for name, _ in self.named_parameters()}

    def forward(self, s: Tensor, v: Tensor) -> dict[str, Tensor]:
        """`energy` [atoms], `last_layer` [atoms, channels] and, of direct models, `forces` [atoms, 3]."""
        energy, last_layer = self.energy(s)
        out = {"energy": energy, "last_layer": last_layer}
        return out if self.forces is None else out | {"forces": self.forces(s, v)}

    def last_layers(self) -> list[str]:
        """Names of the parameters that every output is linear in: multiplying them multiplies what the heads give."""
        return [name for name, _ in self.named_parameters() if ".outer." in name]


def _role(name: str, depth: int) -> ParameterRole:
    _, linear, kind = name.split(".")
    if kind == "bias":
        return ParameterRole(depth, "vector", decay=False)
    if linear == "outer":
        return ParameterRole(depth, "output", decay=True, adaptable=True)
    return ParameterRole(depth, "hidden", decay=True, adaptable=True, irreps="1o" if linear == "mix" else "0e")
