"""Heads: which there are, what they need, and what each atom says. What becomes of it for a system is in `_readouts.py`.

Each head belongs to a row of the table of quantities, which says its shape, its layout and its unit. A head says what it requires of the backbone
and of the model's conditions, a backbone what it provides. What does not fit is refused when the model is built, with the list of what would.

The modules work per atom, in the dtype of the network and without units: `energy` and direct `forces` are multiplied by the model's one scale,
the others by the scale of their own options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import ParameterRole
from mlipfm_interfaces.quantities import QUANTITIES, Quantity
from pydantic import Field, FiniteFloat
from torch import Tensor, nn
from torch.nn.functional import silu

from ._neighbor_tensors import SHAPES
from .parameter_roles import OutputLinear, VectorLinear, roles_of

#: A finite number above zero, of the size of numbers in eV, Å and e.
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


@dataclass(frozen=True)
class Scaled:
    """Options of vectors, tensors and charges.

    Attributes:
        scale: in the unit of the quantity, the size of what is predicted; best the root-mean-square component of the training data.
    """

    scale: Positive = 1.0


@dataclass(frozen=True)
class Shifted(Scaled):
    """Options of a number for each system: shift + scale x what the network says, best mean and standard deviation of the training data."""

    shift: FiniteFloat = 0.0


@dataclass(frozen=True)
class ShiftedByElement(Scaled):
    """Options of a number for each atom: `shift` is by element symbol, for all elements of the model or for none."""

    shift: dict[str, FiniteFloat] = field(default_factory=dict)


#: What a part of a head gives for each atom: a number, two, a vector, or a symmetric tensor.
Form = Literal["number", "pair", "vector", "tensor"]


@dataclass(frozen=True)
class HeadKind:
    """One kind of head.

    Attributes:
        what: for people. parts: per-atom outputs of the network it is made of (heads share those of one name), and their forms.
        options: schema of its configuration. condition: what the model must be conditioned on.
    """

    what: str
    parts: Mapping[str, Form]
    options: type[Scaled] = Scaled
    condition: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Of `scalars`, `vectors`: what the backbone must provide."""
        return ("scalars", "vectors") if {"vector", "tensor"} & set(self.parts.values()) else ("scalars",)


_SPECIAL = {
    "charges": HeadKind("partial charges that add up to the total charge", {"charges": "pair"}, Scaled, "total_charge"),
    "spin_charges": HeadKind("spin charges that add up to the unpaired electrons", {"spin_charges": "pair"}, Scaled, "spin_multiplicity"),
    "dipole": HeadKind("charges times positions, and atomic dipoles", {"dipole": "vector", "charges": "pair"}, Scaled, "total_charge"),
    "quadrupole": HeadKind(
        "charges and atomic dipoles with their positions, and atomic quadrupoles",
        {"quadrupole": "tensor", "dipole": "vector", "charges": "pair"},
        Scaled,
        "total_charge",
    ),
    "polarizability": HeadKind("sum of atomic tensors", {"polarizability": "tensor"}),
    "stress": HeadKind("sum of atomic tensors over the volume", {"stress": "tensor"}),
}
#: Why a quantity of the table has no head of its own.
NO_HEAD = {
    "energy": "every model has it",
    "atomic_energies": "every model has them",
    "forces": "they are minus the gradient of the energy, or a head with `forces: direct`",
    "hessian_rows": "they are derivatives of the forces",
    "hvp": "it is a derivative of the forces",
    "born_charges": "they are derivatives of the dipole: take the head 'dipole'",
    "bond_orders": "no head for pairs exists yet",
    **{key: "it says how labels count or how atoms may move" for key, q in QUANTITIES.items() if not q.target},
}


def kind_of(q: Quantity) -> HeadKind | None:
    """Return the head of a quantity; None if there is none (`NO_HEAD` says why)."""
    if q.key in NO_HEAD:
        return None
    if q.key in _SPECIAL:
        return _SPECIAL[q.key]
    if q.layout == "atom" and q.shape == ():
        return HeadKind("a number for each atom", {q.key: "number"}, ShiftedByElement)
    if q.layout == "atom" and q.shape == (3,):
        return HeadKind("a vector for each atom", {q.key: "vector"})
    if q.layout == "system" and q.shape == () and not q.extensive:
        return HeadKind("a number for each system, pooled by attention", {q.key: "pair"}, Shifted)
    return None


#: Every head by the key of its quantity.
HEADS: dict[str, HeadKind] = {key: kind for key, q in QUANTITIES.items() if (kind := kind_of(q)) is not None}


def parts_of(heads: Mapping[str, Any]) -> dict[str, Form]:
    """Per-atom parts of all heads, each once, by name in the order of the alphabet."""
    parts = {name: form for key in heads for name, form in HEADS[key].parts.items()}
    return dict(sorted(parts.items()))


def check_heads(
    heads: Mapping[str, Any], conditions: Sequence[str], forces: str, provides: Sequence[str], elements: Sequence[int], where: str
) -> None:
    """Refuse heads that do not fit the backbone, the conditions or the kind of forces.

    Raises:
        RecipeError: naming the head, what is missing, and what would fit.
    """
    if forces == "direct" and "vectors" not in provides:
        raise RecipeError(
            "direct forces need vectors, which the backbone does not provide", where=f"{where}.forces", hint="use conservative forces"
        )
    for key, options in heads.items():
        kind, place = HEADS[key], f"{where}.heads.{key}"
        lacking = [name for name in kind.needs if name not in provides]
        if lacking:
            fitting = [other for other, k in HEADS.items() if set(k.needs) <= set(provides)]
            what = f"{key!r} needs {' and '.join(lacking)}, which the backbone does not provide"
            raise RecipeError(what, where=place, hint=f"with this backbone fit: {', '.join(fitting) or 'none'}")
        if kind.condition is not None and kind.condition not in conditions:
            raise RecipeError(f"{key!r} depends on {kind.condition!r}", where=place, hint=f"add {kind.condition!r} to `conditions`")
        shift = options.get("shift")
        missing = [symbol(z) for z in elements if isinstance(shift, Mapping) and shift and symbol(z) not in shift]
        if missing:
            raise RecipeError(f"no shift for {', '.join(missing)}", where=place, hint="give one for every element, or none at all")
    if "stress" in heads and forces == "conservative":
        raise RecipeError(
            "the stress of a conservative model is a derivative of its energy", where=f"{where}.heads.stress", hint="leave it out"
        )
    if "external_field" in conditions:
        _check_field(heads, forces, f"{where}.conditions")


def _check_field(heads: Mapping[str, Any], forces: str, where: str) -> None:
    if "dipole" not in heads:
        hint = "add the head 'dipole', and 'polarizability' for the response of second order"
        raise RecipeError("a field acts through the dipole, which this model does not have", where=where, hint=hint)
    if forces == "direct":
        raise RecipeError(
            "a field is a term of the energy, and forces of their own do not follow it", where=where, hint="use conservative forces"
        )


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
