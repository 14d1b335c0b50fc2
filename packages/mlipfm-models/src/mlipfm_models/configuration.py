"""Configurations of models: typed dataclasses are the only schema; plain dicts are checked against them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypeVar

from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.reference_rank import UndeterminedReferences
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from ._conditioning import CONDITIONS
from ._heads import HEADS, NO_HEAD, Positive as Positive

__all__ = ["AssemblyConfig", "Cutoff", "Distances", "Layers", "Positive", "Radial", "Width"]

C = TypeVar("C")

#: Numbers of a backbone have upper bounds far above what anybody trains, so that a slip (or a file that means harm) is named and not tried.
Width = Annotated[int, Field(gt=0, le=16384)]
Layers = Annotated[int, Field(gt=0, le=256)]
Radial = Annotated[int, Field(gt=0, le=1024)]
Cutoff = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]  # Å: a sphere of a million atoms
Distances = dict[str, Cutoff]  # pair of elements -> Å

#: What a model may be conditioned on. The field is no part of the features: it acts on the dipole (`readouts.field_energy`).
KNOWN_CONDITIONS = (*CONDITIONS, "external_field")


@dataclass(frozen=True)
class AssemblyConfig:
    """Everything about a potential that is not its backbone.

    Attributes:
        elements: symbols (atomic numbers are accepted); others are refused.
        levels: ids of the levels of theory.
        backbone: options of the backbone.
        conditions: any of `total_charge`, `spin_multiplicity`, `external_field` (needs the head `dipole`).
        forces: `conservative` (minus the gradient of the energy) or `direct` (a head of their own).
        heads: quantity -> options of its head, see `_heads.HEADS`: `{"dipole": {}, "charges": {}, "band_gap": {"shift": 2.0, "scale": 0.5}}`.
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
