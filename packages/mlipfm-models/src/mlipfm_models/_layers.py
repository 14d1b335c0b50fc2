"""Trained layers on both sides of a backbone, and reference energies: `Conditioning` and `References` before it, `Heads` behind it.

Before its neighbours, an atom has initial scalars, made of its element, the level of theory, the total charge and the spin.

Size consistency decides the form. A vector that depends on the total charge and is added to every atom (the usual table of charges) makes a far
molecule feel the charge of another one, and eight cells of a crystal differ from eight times one cell. Here:

- element and level: one row of a table each, the same for every atom of the kind. Extensive.
- charge Q and unpaired electrons 2S are *shared out*: atom i gets Q w_i / sum_j w_j, with weights w_i > 0 from its element, and a map without
  bias makes a vector of it (after the electronic embedding of SpookyNet, arXiv:2105.00304). Q = 0 and singlets give exactly zero, so that
  neutral singlets are exactly size consistent; n copies of a cell with n Q are exactly n times the cell; an unseen charge is an
  extrapolation, not an untrained row of a table.
- *not given* is a learned token of its own, the same for every atom and therefore extensive too. It is neither zero charge nor a singlet.

What remains: A(+) and B far apart are not A(+) plus B, because B gets its part of the charge. The README gives a measured size.

Heads work per atom, in the dtype of the network and without units: `energy` and direct `forces` are multiplied by the model's one scale, the
others by the scale of their own options. Which heads there are and what they need is in `configuration.py`, what becomes of them for a system in
`_readouts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.elements import N_ELEMENTS, number, symbol
from mlipfm_interfaces.errors import LevelError, UnknownElementError
from mlipfm_interfaces.potential import ParameterRole
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from ._neighbor_tensors import SHAPES
from .configuration import CONDITIONS, Form
from .parameter_roles import OutputLinear, VectorLinear, roles_of


class ElectronicEmbedding(nn.Module):
    """Shares a whole number of electrons (charge, or unpaired electrons) out over the atoms of each system.

    Attributes:
        unstated_is_default: what is not given is zero electrons, also in training: the embedding of structures that do not give it has no effect.
    """

    unstated_is_default = False

    def __init__(self, channels: int, signs: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Embedding(signs, channels)
        self.value = nn.Embedding(signs, channels)
        self.inner = nn.Linear(channels, channels, bias=False)
        self.outer = nn.Linear(channels, channels, bias=False)
        self.unknown = nn.Embedding(1, channels)

    def forward(self, x: Tensor, number: Tensor, stated: Tensor, system: Tensor) -> Tensor:
        """[atoms, channels] from node scalars `x`; `number` and `stated` are [systems], and where not given the number must be 0."""
        sign = (number < 0).long()
        weight = softplus((self.query(x) * self.key(sign)[system]).mean(dim=1))
        total = torch.zeros(len(number), dtype=x.dtype, device=x.device).index_add(0, system, weight)
        share = number.abs().to(x.dtype)[system] * weight / total[system]
        e = share[:, None] * self.value(sign)[system]
        e = e + self.outer(silu(self.inner(e)))
        return e + (~stated & (not self.unstated_is_default))[system, None] * self.unknown.weight


class Conditioning(nn.Module):
    """Initial node scalars [atoms, channels]."""

    def __init__(self, channels: int, n_elements: int, n_levels: int, conditions: Sequence[str]) -> None:
        super().__init__()
        self.element = nn.Embedding(n_elements, channels)
        self.level = nn.Embedding(n_levels, channels)
        self.electronic = nn.ModuleDict({name: ElectronicEmbedding(channels, CONDITIONS[name]) for name in conditions})

    def roles(self) -> dict[str, ParameterRole]:
        """Role of every parameter, by its name in this module."""
        return roles_of(self, [self], 0)

    def forward(self, element: Tensor, level: Tensor, batch: Batch) -> Tensor:
        """`element` [atoms] and `level` [systems] are rows of the tables; see `Batch.node_input` for what pre-training hides or adds."""
        x = self.element(element)
        if batch.node_input is not None:
            keep, added = batch.node_input
            x = keep.to(x.dtype) * x + added.to(x.dtype)
        s = x + self.level(level)[batch.system]
        if "total_charge" in self.electronic:
            s = s + self.electronic["total_charge"](x, batch.total_charge, batch.charge_stated, batch.system)
        if "spin_multiplicity" in self.electronic:
            stated = batch.spin_multiplicity > 0
            unpaired = (batch.spin_multiplicity - 1).clamp_min(0)
            s = s + self.electronic["spin_multiplicity"](x, unpaired, stated, batch.system)
        return s


class References(nn.Module):
    """Reference energies [levels, 119] in eV, and the row of each element in the model's tables.

    A level without any entry has zero references. A level that gives some has *no* energy for the elements it does not state, and asking for
    them is an error: a zero beside -2000 eV would be an energy of another kind. The numbers come from the configuration and are no part of the
    state dict: there is one place that can be wrong.
    """

    energies: Tensor
    rows: Tensor

    def __init__(self, elements: Sequence[int], levels: Sequence[str], references: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__()
        self.elements, self.levels = tuple(elements), tuple(levels)
        rows = torch.full((N_ELEMENTS + 1,), -1)
        rows[list(self.elements)] = torch.arange(len(self.elements))
        energies = torch.zeros(len(self.levels), N_ELEMENTS + 1, dtype=torch.float64)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("energies", energies, persistent=False)
        for level, values in references.items():
            self.state(level, values)

    def state(self, level: str, values: Mapping[str, float]) -> None:
        """Set the references of one level: element symbol -> eV; elements left out have none."""
        row = torch.full_like(self.energies[0], torch.nan if values else 0.0)
        for name, energy in values.items():
            row[number(name)] = energy
        self.energies[self.levels.index(level)] = row

    def element_rows(self, atomic_numbers: Tensor) -> Tensor:
        """[atoms] row of each atom's element in the embedding table.

        Raises:
            UnknownElementError: for an element the model has no row for.
        """
        rows = self.rows[atomic_numbers]
        if bool((rows < 0).any()):
            stranger = int(atomic_numbers[rows < 0][0])
            known = " ".join(symbol(z) for z in self.elements)
            raise UnknownElementError(f"this model was not trained on {symbol(stranger)}", hint=f"it supports {known}")
        return rows

    def forward(self, atomic_numbers: Tensor, level: Tensor) -> Tensor:
        """[atoms] float64, eV; `level` [atoms] is the index of each atom's level.

        Raises:
            LevelError: for an element without a reference at its level.
        """
        energies = self.energies[level, atomic_numbers]
        missing = energies.isnan()
        if bool(missing.any()):
            z, at = int(atomic_numbers[missing][0]), self.levels[int(level[missing][0])]
            raise LevelError(
                f"level {at!r} has no reference energy for {symbol(z)}", hint="use another level or train with references for it"
            )
        return energies

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> References:
        """Moves with the model but is never rounded: `.float()` must not cost a total energy its last digits."""
        exact = self.energies
        super()._apply(fn, recurse)
        self.energies = exact.to(self.energies.device)
        return self


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
        """`parts`: outputs beside energy and forces, see `HeadKind`; `levels`: of a readout for each level of theory."""
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
