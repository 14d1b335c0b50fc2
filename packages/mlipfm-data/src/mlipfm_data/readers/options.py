"""The options of `read`: which key is which label, and units, signs and orders; the user's take precedence over the file's and its format's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, OptionError, UnitError
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.units import factor

VOIGT_ASE = "xx,yy,zz,yz,xz,xy"

#: Conventions of a file: what is assumed where neither the user, the file nor its layout gives them, which is what is used inside.
ASSUMED: dict[str, Any] = {
    "energy_unit": "eV", "length_unit": "Angstrom", "forces_unit": "eV/Angstrom", "stress_unit": "eV/Angstrom^3", "dipole_unit": "e Angstrom",
    "polarizability_unit": "e^2 Angstrom^2/eV",
    "forces_sign": 1, "stress_sign": 1, "stress_order": VOIGT_ASE, "spin_meaning": "multiplicity",
}  # fmt: skip

#: Quantities whose unit is an option; others have `factors`.
HAS_UNIT_OPTION = {
    "energy": "energy_unit",
    "atomic_energies": "energy_unit",
    "forces": "forces_unit",
    "stress": "stress_unit",
    "dipole": "dipole_unit",
    "polarizability": "polarizability_unit",
}

#: Options that `mlipfm data import` has under their own names; others are given with `--option`.
_NAMED = ("level", "energy_key", "forces_key", "stress_key", "virial_key", "dipole_key", "charges_key", "charge_key", "spin_key", "group_key",
          "mask_zero_forces", "accept_unconverged", "licence", "sampling")  # fmt: skip


@dataclass(frozen=True)
class ReadOptions:
    """How to interpret a file. None: not given. Keys left out are found by the spellings of `conventions`.

    Units, signs, orders and `spin_meaning` that are not given are those of the file or its layout, else `ASSUMED`; `options_from` merges them.

    Attributes:
        level: level of theory of all labels, if the file does not say it.
        energy_key, forces_key, stress_key, virial_key, dipole_key, charges_key, charge_key, spin_key, group_key: use this key and no other.
        keys: quantity -> key, for any quantity of the table. factors: quantity -> internal units in one unit of the file, where no unit option is.
        energy_unit, length_unit, forces_unit, stress_unit, dipole_unit, polarizability_unit: see `units`; a virial has that of the energy.
        forces_sign: -1 if the file's forces are gradients. stress_sign: -1 if its stress is positive under compression; of a file that
            gives virials and no stress: if they are negative under compression.
        stress_order: order of six components, by name.
        spin_meaning: `multiplicity` (2S+1) or `unpaired` (number of unpaired electrons).
        total_charge, spin_multiplicity: of all frames of a file that does not give them; a frame that gives another value is refused.
        periodic: False drops the cell and the periodicity that a file gives for molecules in vacuum.
        ignore: keys that are not read, whatever they are called.
        mask_zero_forces: give the weight 0 to forces that are exactly zero, in frames where others are not.
        accept_unconverged: take labels although the file says that their calculation did not converge, or that a model predicted them.
        require: labels without which a frame is refused.
        group: of all frames, if no key says it.
        source, sampling, licence: provenance of all frames.
        origins: name of an option -> who gives it, in words, as `options_from` fills it in.
    """

    level: str | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    virial_key: str | None = None
    dipole_key: str | None = None
    charges_key: str | None = None
    charge_key: str | None = None
    spin_key: str | None = None
    group_key: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    energy_unit: str | None = None
    length_unit: str | None = None
    forces_unit: str | None = None
    stress_unit: str | None = None
    dipole_unit: str | None = None
    polarizability_unit: str | None = None
    forces_sign: Literal[1, -1] | None = None
    stress_sign: Literal[1, -1] | None = None
    stress_order: str | None = None
    spin_meaning: Literal["multiplicity", "unpaired"] | None = None
    total_charge: int | None = None
    spin_multiplicity: int | None = None
    periodic: Literal[False] | None = None
    ignore: tuple[str, ...] = ()
    mask_zero_forces: bool | None = None
    accept_unconverged: bool | None = None
    require: tuple[str, ...] = ()
    group: str | None = None
    source: str | None = None
    sampling: str | None = None
    licence: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for dimension in ("energy", "length", "forces", "stress", "dipole", "polarizability"):
            self.unit(dimension)
        for name in ("forces_sign", "stress_sign"):
            if self.convention(name) not in (1, -1):
                raise UnitError(f"`{name}` must be 1 or -1, got {getattr(self, name)!r}")
        components = ["".join(sorted(name)) for name in self.convention("stress_order").split(",")]
        if sorted(components) != sorted(VOIGT_ASE.split(",")):
            raise UnitError(f"`stress_order` {self.stress_order!r} does not name six components", hint=f"for instance {VOIGT_ASE!r}")
        for name in ("total_charge", "spin_multiplicity"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
                raise InvalidStructureError(f"`{name}` must be a whole number, got {value!r}")
        for name in ("ignore", "require"):
            if isinstance(getattr(self, name), str):
                raise InvalidStructureError(f"`{name}` must be a sequence of names, got the text {getattr(self, name)!r}")
        for name in (*self.keys, *self.factors, *self.require):
            quantity(name)
        for name in self.factors:
            if name in HAS_UNIT_OPTION:
                raise UnitError(f"`factors` holds {name!r}, which has a unit option", hint=f"use {option_words(HAS_UNIT_OPTION[name])}")
        if self.convention("spin_meaning") not in ("multiplicity", "unpaired"):
            raise InvalidStructureError(f"`spin_meaning` must be 'multiplicity' or 'unpaired', got {self.spin_meaning!r}")
        if self.periodic not in (None, False):
            raise InvalidStructureError(
                f"`periodic` can only be False or left out, got {self.periodic!r}", hint="the file must have its cell"
            )

    @cached_property
    def stated_by_user(self) -> frozenset[str]:
        """Options of the user that can be without effect: conventions, `factors` and `ignore`, the last two with what they are for."""
        mine = {name for name, who in self.origins.items() if who.startswith("given by you")}
        parts = {f"{name} {key}" for name in mine & {"factors", "ignore"} for key in getattr(self, name)}
        return frozenset(mine & {*ASSUMED, "mask_zero_forces", "accept_unconverged"} | parts)

    def convention(self, name: str) -> Any:
        """Return the unit, sign, order or meaning in force: what is given, else what is assumed."""
        value = getattr(self, name)
        return ASSUMED[name] if value is None else value

    def unit(self, dimension: str) -> float:
        """Return internal units in one unit of the file. Raises `UnitError` for a unit that is not known."""
        return factor(self.convention(f"{dimension}_unit"), dimension)


def options_from(
    user: Mapping[str, Any], *, file: Mapping[str, Any] | None = None, layout: Mapping[str, Any] | None = None, name: str = "format"
) -> ReadOptions:
    """`ReadOptions` from what the user, the file and its layout give: the first of them that gives an option is followed. None gives nothing.

    Args:
        name: of the layout, for the report.

    Raises:
        OptionError: for an option that does not exist, with the nearest that does. UnitError: for an unknown unit.
    """
    known = option_names()
    for option in user:
        if option not in known:
            raise unknown_option(option, known)
    said = {"given by you": _stated(user), "given in the file": _stated(file or {}), f"layout {name}": _stated(layout or {})}
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for who, values in said.items():
        for option, value in values.items():
            if option not in merged:
                merged[option], origins[option] = value, who
            elif merged[option] != value and "says" not in origins[option]:
                origins[option] += f"; {'the file' if who.endswith('file') else f'the {who}'} says {value}"
    return ReadOptions(**merged, origins=origins)


def option_names() -> list[str]:
    """Options that every reader takes."""
    return [item.name for item in fields(ReadOptions) if item.name != "origins"]


def unknown_option(name: str, known: Sequence[str]) -> OptionError:
    """Return the error for an option that no reader, or not this one, has."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known)}"
    return OptionError(f"readers have no option {name!r}", hint=hint)


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def option_words(name: str) -> str:
    """Return an option as the command line and Python spell it."""
    if name.partition(" ")[0] not in (*ASSUMED, *_NAMED):
        return (
            f"--option {name.partition(' ')[0]}=... for {name.partition(' ')[2]!r}"
            if " " in name
            else f"--option {name}=... (in Python `{name}`)"
        )
    return f"--{name.replace('_', '-')} (in Python `{name}`)"
