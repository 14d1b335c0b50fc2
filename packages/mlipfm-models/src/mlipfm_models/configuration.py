"""Configurations of models: typed dataclasses are the only schema; plain dicts are checked against them at the border."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import RecipeError
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from .conditioning import CONDITIONS

C = TypeVar("C")

#: A finite number above zero.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class AssemblyConfig:
    """Everything about a potential that is not its backbone.

    Attributes:
        elements: symbols (atomic numbers are accepted); others are refused.
        levels: ids of the levels of theory.
        backbone: options of the backbone.
        conditions: any of `total_charge`, `spin_multiplicity`.
        forces: `conservative` (minus the gradient of the energy) or `direct` (a head of their own).
        short_range: `zbl` adds the screened repulsion of nuclei inside the sum of covalent radii (`short_range.py`); conservative models only.
        dtype: in which the network computes.
        scale: eV; one factor for energies and forces, best the root-mean-square force component of the training data in eV/Å.
        references: level -> element symbol -> eV. Levels that are left out have zero references.
        seed: of the initial weights.
    """

    elements: tuple[str | int, ...]
    levels: tuple[str, ...]
    backbone: dict[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    forces: Literal["conservative", "direct"] = "conservative"
    short_range: Literal["none", "zbl"] = "none"
    dtype: Literal["float32", "float64"] = "float32"
    scale: Positive = 1.0
    references: dict[str, dict[str, FiniteFloat]] = field(default_factory=dict)
    seed: int = 0

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
                f"unknown key {key!r}", where=where, mend=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )
    try:
        return TypeAdapter(schema).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        raise RecipeError(f"{first['msg']}, got {first['input']!r}", where=place) from None


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
        raise RecipeError(f"levels must be named once each, got {list(config.levels)}", where=f"{where}.levels")
    if config.short_range != "none" and config.forces == "direct":
        raise RecipeError(
            "a repulsion is an energy, and forces of their own do not follow it",
            where=f"{where}.short_range",
            mend="use conservative forces",
        )
    _members(config.conditions, CONDITIONS, f"{where}.conditions")
    _members(config.references, config.levels, f"{where}.references")
    for level in config.references.values():
        for name in level:
            number(name)
    return config


def _members(given: Any, known: Any, where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise RecipeError(
                f"{name!r} is not known here", where=where, mend=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )
