"""What a reader hands over for interpretation: one frame as the file spells it, the user's options, and a record of every decision taken."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnitError, UnknownQuantityError
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.units import factor

VOIGT_ASE = "xx,yy,zz,yz,xz,xy"


@dataclass
class RawFrame:
    """One frame as the file spells it, nothing interpreted yet.

    Attributes:
        index: position in the file, from 0. where: words for messages (`water.xyz: frame 7 (line 205)`). source: name of the file.
        numbers: [N]. positions: [N, 3] and cell: [3, 3] in the file's length unit. pbc: [3].
        info: per-system values by key, as text or as numbers. arrays: per-atom values by key.
        group: what must not be split, where the format says it: a molecule, a trajectory.
        results: values of a stored calculator (ASE moves plain `energy`, `forces`, `stress` there since 3.23).
    """

    index: int
    where: str
    source: str
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    info: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None

    def find(self, key: str) -> Any:
        """Value stored under `key` (per system, per atom, calculator: the first that has it), or None. `key:1` is its second column."""
        for place in (self.info, self.arrays, self.results):
            if place.get(key) is not None:
                return place[key]
        name, _, column = key.rpartition(":")
        whole = self.find(name) if name and column.isdecimal() else None
        if whole is None:
            return None
        values = np.asarray(whole)
        return values[..., int(column)] if values.ndim and int(column) < values.shape[-1] else None

    def found(self) -> list[str]:
        """All keys that carry values, for messages; a calculator's are marked."""
        return [*self.info, *self.arrays, *(f"{key} (calculator)" for key in self.results)]


@dataclass(frozen=True)
class ReadOptions:
    """How to interpret a file. Keys left out are found by the spellings of `conventions`.

    Attributes:
        level: level of theory of all labels, if the file does not say it.
        energy_key, forces_key, stress_key, virial_key, dipole_key, charges_key, charge_key, spin_key, group_key: use this key and no other.
        keys: quantity -> key, for any quantity of the table. factors: quantity -> internal units in one unit of the file, where no unit option is.
        energy_unit, length_unit, forces_unit, stress_unit, dipole_unit: units in the file (`units` lists them). A virial has the energy's unit.
        forces_sign: -1 if the file's forces are gradients. stress_sign: -1 if its stress is positive under compression.
        stress_order: order of six components, by name.
        spin_meaning: `multiplicity` (2S+1) or `unpaired` (number of unpaired electrons).
        total_charge, spin_multiplicity: of all frames of a file that does not state them; a frame that states another value is refused.
        periodic: False drops the cell and the periodicity that a file states for molecules in vacuum.
        ignore: keys that are not read, whatever they are called.
        require: labels without which a frame is refused.
        group: of all frames, if no key says it.
        source, sampling, licence: provenance of all frames.
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
    energy_unit: str = "eV"
    length_unit: str = "Angstrom"
    forces_unit: str = "eV/Angstrom"
    stress_unit: str = "eV/Angstrom^3"
    dipole_unit: str = "e Angstrom"
    forces_sign: int = 1
    stress_sign: int = 1
    stress_order: str = VOIGT_ASE
    spin_meaning: Literal["multiplicity", "unpaired"] = "multiplicity"
    total_charge: int | None = None
    spin_multiplicity: int | None = None
    periodic: Literal[False] | None = None
    ignore: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    group: str | None = None
    source: str | None = None
    sampling: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        for dimension in ("energy", "length", "forces", "stress", "dipole"):
            factor(getattr(self, f"{dimension}_unit"), dimension)
        for name in ("forces_sign", "stress_sign"):
            if getattr(self, name) not in (1, -1):
                raise UnitError(f"`{name}` must be 1 or -1, got {getattr(self, name)!r}")
        components = ["".join(sorted(name)) for name in self.stress_order.split(",")]
        if sorted(components) != sorted(VOIGT_ASE.split(",")):
            raise UnitError(f"`stress_order` {self.stress_order!r} does not name six components", mend=f"for instance {VOIGT_ASE!r}")
        for name in (*self.keys, *self.factors):
            quantity(name)
        if self.spin_meaning not in ("multiplicity", "unpaired"):
            raise InvalidStructureError(f"`spin_meaning` must be 'multiplicity' or 'unpaired', got {self.spin_meaning!r}")
        if self.periodic not in (None, False):
            raise InvalidStructureError(
                f"`periodic` can only be False or left out, got {self.periodic!r}", mend="the file must state its cell"
            )


def options_from(values: Mapping[str, Any]) -> ReadOptions:
    """`ReadOptions` from keyword arguments.

    Raises:
        UnknownQuantityError: for an option that does not exist, with the nearest that does. UnitError: for an unknown unit.
    """
    known = [item.name for item in fields(ReadOptions)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UnknownQuantityError(
                f"readers have no option {name!r}", mend=f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known)}"
            )
    return ReadOptions(**values)


@dataclass
class ReadReport:
    """Every decision a reader took, counted; `lines()` prints it.

    Attributes:
        frames: frames seen. accepted: frames that became Structures.
        used: quantity -> Counter of the keys it was read from.
        unused: Counter of keys that were found and not used. notes: Counter of remarks.
        refused: Counter of error codes.
    """

    frames: int = 0
    accepted: int = 0
    used: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def refuse(self, error: MlipfmError) -> None:
        self.refused[error.code] += 1

    def lines(self) -> list[str]:
        """One line per quantity (`energy <- REF_energy in 500 of 500 frames`), then what was left unread."""
        out = []
        for name, keys in self.used.items():
            said = ", ".join(f"{key} in {count}" for key, count in keys.most_common())
            out.append(f"{name} <- {said} of {self.accepted} accepted frames")
        out += [f"{name}: not stated" for name in ("level", "total_charge", "spin_multiplicity") if name not in self.used]
        out += [f"{note} ({count} frames)" for note, count in self.notes.most_common()]
        if self.unused:
            out.append("found and not used: " + ", ".join(sorted(self.unused)))
        return out
