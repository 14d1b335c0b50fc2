"""Which heads there are: each belongs to a row of the table of quantities, which says its shape, its layout and its unit.

A head says what it requires of the backbone and of the model's conditions, a backbone what it provides. What does not fit is refused when the
model is built, with the list of what would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.quantities import QUANTITIES, Quantity
from pydantic import Field, FiniteFloat

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
    """The head of a quantity; None if there is none (`NO_HEAD` says why)."""
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
