"""Configurations of models: typed dataclasses are the only schema; plain dicts are checked against them.

Each head belongs to a row of the table of quantities, which says its shape, its layout and its unit. A head says what it requires of the backbone
and of the model's conditions, a backbone what it provides. What does not fit is refused when the model is built, with the list of what would.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypeVar

from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.quantities import QUANTITIES, Quantity
from mlipfm_interfaces.reference_rank import UndeterminedReferences
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

__all__ = ["AssemblyConfig", "Cutoff", "Distances", "Layers", "Positive", "Radial", "Width"]

C = TypeVar("C")

#: Numbers of a backbone have upper bounds far above what anybody trains, so that a slip (or a file that means harm) is named and not tried.
Width = Annotated[int, Field(gt=0, le=16384)]
Layers = Annotated[int, Field(gt=0, le=256)]
Radial = Annotated[int, Field(gt=0, le=1024)]
Cutoff = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]  # Å: a sphere of a million atoms
Distances = dict[str, Cutoff]  # pair of elements -> Å
#: A finite number above zero, of the size of numbers in eV, Å and e.
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]

#: What a model may be conditioned on, with the number of signs each can have.
CONDITIONS = {"total_charge": 2, "spin_multiplicity": 1}
#: The same with the field, which is no part of the features: it acts on the dipole (`readouts.field_energy`).
KNOWN_CONDITIONS = (*CONDITIONS, "external_field")


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


@dataclass(frozen=True)
class AssemblyConfig:
    """Everything about a potential that is not its backbone.

    Attributes:
        elements: symbols (atomic numbers are accepted); others are refused.
        levels: ids of the levels of theory.
        backbone: options of the backbone.
        conditions: any of `total_charge`, `spin_multiplicity`, `external_field` (needs the head `dipole`).
        forces: `conservative` (minus the gradient of the energy) or `direct` (a head of their own).
        heads: quantity -> options of its head, see `HEADS`: `{"dipole": {}, "charges": {}, "band_gap": {"shift": 2.0, "scale": 0.5}}`.
        level_readout: of the energy, `shared` by all levels (they differ by their embedding), or `stacked`: one for each level, in one parameter.
        short_range: `zbl` adds the screened repulsion of nuclei inside the sum of covalent radii (`assembly.Repulsion`), `none` leaves it out.
            Default: `zbl`, and `none` where forces are direct: they do not follow an energy.
        dtype: in which the network computes.
        scale: eV; one factor for energies and forces, best the root-mean-square force component of the training data in eV/Å.
        references: level -> element symbol -> eV. Levels that are left out have zero references.
        seed: of the initial weights.
        undetermined: level -> what its training data leave open of the references, `mlipfm_interfaces.reference_rank.UndeterminedReferences` as JSON.
    """

    elements: tuple[str | int, ...]
    levels: tuple[str, ...]
    backbone: dict[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    forces: Literal["conservative", "direct"] = "conservative"
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    level_readout: Literal["shared", "stacked"] = "shared"
    short_range: Literal["none", "zbl"] | None = None
    dtype: Literal["float32", "float64"] = "float32"
    scale: Positive = 1.0
    references: dict[str, dict[str, FiniteFloat]] = field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    undetermined: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Atomic numbers of `elements`, ascending. Raises `UnknownElementError`."""
        return tuple(sorted({number(e) if isinstance(e, str) else number(symbol(e)) for e in self.elements}))


def parse(schema: type[C], values: Mapping[str, Any], where: str) -> C:
    """`values` as a `schema` (a dataclass).

    Raises:
        RecipeError: for an unknown key (with the nearest known one), a missing one, or a value of the wrong kind.
    """
    known = [item.name for item in fields(schema)]  # type: ignore[arg-type]  # schema is a dataclass
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise RecipeError(
                f"unknown key {key!r}", where=where, hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )
    try:
        return TypeAdapter(schema).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        raise RecipeError(f"{first['msg']}, got {_short(first['input'])}", where=place) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def parse_assembly(values: Mapping[str, Any], where: str) -> AssemblyConfig:
    """`values` as an AssemblyConfig whose parts fit each other.

    Raises:
        RecipeError: as `parse`; also for no element or level, a level twice, an unknown condition, or references of a level that is not there.
        UnknownElementError: for an element that does not exist.
    """
    config = parse(AssemblyConfig, values, where)
    if not config.atomic_numbers:
        raise RecipeError("a potential needs at least one element", where=f"{where}.elements")
    if not config.levels or len(set(config.levels)) < len(config.levels):
        raise RecipeError(f"levels must be named once each, got {_short(list(config.levels))}", where=f"{where}.levels")
    if config.short_range is None:
        config = replace(config, short_range="none" if config.forces == "direct" else "zbl")
    if config.short_range != "none" and config.forces == "direct":
        raise RecipeError(
            "a repulsion is an energy, and forces of their own do not follow it",
            where=f"{where}.short_range",
            hint="use conservative forces",
        )
    if len(set(config.conditions)) < len(config.conditions):
        raise RecipeError(f"conditions must be named once each, got {_short(list(config.conditions))}", where=f"{where}.conditions")
    _members(config.conditions, KNOWN_CONDITIONS, f"{where}.conditions")
    _members(config.references, config.levels, f"{where}.references")
    _members(config.undetermined, config.levels, f"{where}.undetermined")
    for level in config.references.values():
        for name in level:
            number(name)
    for name, left in config.undetermined.items():
        try:
            UndeterminedReferences.from_json(left)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise RecipeError(f"{left!r} names no combinations of elements", where=f"{where}.undetermined.{name}") from None
    return replace(config, heads=_heads(config.heads, f"{where}.heads"))


def _heads(heads: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, dict[str, Any]]:
    """Options of every head with all defaults, in the order of the table of quantities."""
    for name in heads:
        if name in NO_HEAD:
            raise RecipeError(f"there is no head {name!r}: {NO_HEAD[name]}", where=where)
    _members(heads, HEADS, where)
    return {key: asdict(parse(HEADS[key].options, heads[key], f"{where}.{key}")) for key in QUANTITIES if key in heads}


def _members(given: Any, known: Any, where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise RecipeError(
                f"{name!r} is not known here", where=where, hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )


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
