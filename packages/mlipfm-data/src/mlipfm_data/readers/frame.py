"""What a reader hands over for interpretation: one frame as the file spells it, the user's options, and a record of every decision taken."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, RefusedFileError, UnitError, UnknownQuantityError
from mlipfm_interfaces.quantities import quantity
from mlipfm_interfaces.units import factor

# Files that are never read: pickles, by whatever name they come.

_SUFFIXES = (".pkl", ".pickle", ".pckl", ".pckl.gzip", ".pkl.gz", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
#: Binary pickles begin with PROTO and a FRAME, a mark, an opcode of an empty container, or a global; text pickles with a mark or a global.
_BINARY = re.compile(rb"\x80[\x02-\x05][\x95(}\]\)cXKJMGN\x8a\x8c]", re.DOTALL)
_TEXT = re.compile(rb"(\(?[cild]\w*(copy_reg|copyreg|builtins|__builtin__|posix|os|nt|numpy|torch)[\w.]*\n)|\((lp|dp|i)\d*\n")


def refuse_pickle(path: Path) -> None:
    """Refuse a file that is a pickle by name or by its first bytes (torch archives are zip files with a `data.pkl`).

    Raises:
        RefusedFileError: always for pickles, however harmless they may be.
    """
    by_name = path.name.lower().endswith(_SUFFIXES)
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except OSError:
        head = b""
    zipped = head.startswith(b"PK\x03\x04") and b"data.pkl" in head
    if by_name or zipped or _BINARY.match(head) or _TEXT.match(head):
        raise RefusedFileError(
            "this is a pickle, and pickles are never read: they can run code",
            where=str(path),
            hint="export it as extxyz with the program that wrote it",
        )


VOIGT_ASE = "xx,yy,zz,yz,xz,xy"

#: Conventions of a file: what is assumed where neither the user, the file nor its layout states them, which is what is used inside.
ASSUMED: dict[str, Any] = {
    "energy_unit": "eV", "length_unit": "Angstrom", "forces_unit": "eV/Angstrom", "stress_unit": "eV/Angstrom^3", "dipole_unit": "e Angstrom",
    "forces_sign": 1, "stress_sign": 1, "stress_order": VOIGT_ASE, "spin_meaning": "multiplicity",
}  # fmt: skip

#: Quantities whose unit is an option; others have `factors`.
HAS_UNIT_OPTION = {
    "energy": "energy_unit",
    "atomic_energies": "energy_unit",
    "forces": "forces_unit",
    "stress": "stress_unit",
    "dipole": "dipole_unit",
}

#: Options that `mlipfm data import` has under their own names; others are given with `--option`.
_NAMED = ("level", "energy_key", "forces_key", "stress_key", "virial_key", "dipole_key", "charges_key", "charge_key", "spin_key", "group_key",
          "mask_zero_forces", "accept_unconverged", "licence", "sampling")  # fmt: skip

#: Spellings of keys that may hold forces or stresses, with the options that read them, and words that mean something else about them.
_LIKE = {"forces": (re.compile("force|gradient"), "--forces-key KEY, with --forces-unit and --forces-sign"),
         "stress": (re.compile("stress|virial"), "--stress-key KEY or --virial-key KEY, with --stress-unit and --stress-sign")}  # fmt: skip
_NO_LABEL = re.compile("abs|max|norm|rms|mean|const|weight|mask|unit|error|std|tol|field")

#: For layouts that keep these units and forces that are -dE/dr.
EV_ANGSTROM = {"energy_unit": "eV", "length_unit": "Angstrom", "forces_unit": "eV/Angstrom", "forces_sign": 1}

#: How `RawFrame.found` marks the results of a stored calculator; `find` takes the mark, too.
CALCULATOR = " (calculator)"
#: Columns of text that no header names: `column_5`, `columns_5-7`, counted from 1.
_COLUMNS = re.compile(r"columns?_(\d+)(?:-(\d+))?")


@dataclass
class RawFrame:
    """One frame as the file spells it, nothing interpreted yet.

    Attributes:
        index: position in the file, from 0. where: words for messages (`water.xyz: frame 7 (line 205)`). source: name of the file.
        numbers: [N]. positions: [N, 3] and cell: [3, 3] in the file's length unit. pbc: [3].
        info: per-system values by key, as text or as numbers. arrays: per-atom values by key.
        group: what must not be split, where the format says it: a molecule, a trajectory.
        results: values of a stored calculator (ASE moves plain `energy`, `forces`, `stress` there since 3.23).
        unread: names of what the file holds for this frame beside all these, and the reader did not load.
        periodic_assumed: whether `pbc` follows only from a cell being there.
        unconverged: words for why the labels are no converged calculation, None if nothing says so.
        remarks: what the reader did to values of the file, for the report.
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
    unread: tuple[str, ...] = ()
    periodic_assumed: bool = False
    unconverged: str | None = None
    remarks: tuple[str, ...] = ()

    def find(self, key: str) -> Any:
        """Value stored under `key` (per system, per atom, calculator: the first that has it), or None. Names are those of `found`.

        `key:1` is the second column of `key`; `columns_6-8` are the columns 6 to 8 of a text file in which `columns_5-9` have no name.
        """
        for place in (self.info, self.arrays, self.results):
            if place.get(key) is not None:
                return place[key]
        if key.endswith(CALCULATOR):
            return self.results.get(key.removesuffix(CALCULATOR))
        return self._part(key)

    def named(self, key: str) -> str:
        """The name under which `found` lists what `find(key)` gives."""
        if key in self.info or key in self.arrays:
            return key
        if key in self.results:
            return key + CALCULATOR
        whole = self._columns(key)
        return key if key.endswith(CALCULATOR) else whole[0] if whole else key.rpartition(":")[0] or key

    def _columns(self, key: str) -> tuple[str, int, int] | None:
        """The array of unnamed columns that contains those of `key`, and first and last of them in it."""
        wanted = _COLUMNS.fullmatch(key)
        for name in self.arrays if wanted else ():
            there = _COLUMNS.fullmatch(name)
            if wanted and there:
                (a, b), (c, d) = ((int(found[1]), int(found[2] or found[1])) for found in (wanted, there))
                if c <= a <= b <= d:
                    return name, a - c, b - c + 1
        return None

    def _part(self, key: str) -> Any:
        columns = self._columns(key)
        if columns is not None:
            block = np.asarray(self.arrays[columns[0]])[:, columns[1] : columns[2]]
            return block[:, 0] if block.shape[1] == 1 else block
        name, _, column = key.rpartition(":")
        whole = self.find(name) if name and column.isdecimal() else None
        if whole is None:
            return None
        values = np.asarray(whole)
        return values[..., int(column)] if values.ndim and int(column) < values.shape[-1] else None

    def found(self) -> list[str]:
        """All keys that carry values, for messages; a calculator's are marked."""
        return [*self.info, *self.arrays, *(key + CALCULATOR for key in self.results), *self.unread]


@dataclass(frozen=True)
class ReadOptions:
    """How to interpret a file. None: not stated. Keys left out are found by the spellings of `conventions`.

    Units, signs, orders and `spin_meaning` that are not stated are those of the file or its layout, else `ASSUMED`; `options_from` merges them.

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
        mask_zero_forces: give the weight 0 to forces that are exactly zero, in frames where others are not.
        accept_unconverged: take labels although the file says that their calculation did not converge, or that a model predicted them.
        require: labels without which a frame is refused.
        group: of all frames, if no key says it.
        source, sampling, licence: provenance of all frames.
        origins: name of an option -> who states it, in words, as `options_from` fills it in.
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
        for dimension in ("energy", "length", "forces", "stress", "dipole"):
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
                f"`periodic` can only be False or left out, got {self.periodic!r}", hint="the file must state its cell"
            )

    @cached_property
    def stated_by_user(self) -> frozenset[str]:
        """Options of the user that can be without effect: conventions, `factors` and `ignore`, the last two with what they are for."""
        mine = {name for name, who in self.origins.items() if who.startswith("stated by you")}
        parts = {f"{name} {key}" for name in mine & {"factors", "ignore"} for key in getattr(self, name)}
        return frozenset(mine & {*ASSUMED, "mask_zero_forces", "accept_unconverged"} | parts)

    def convention(self, name: str) -> Any:
        """Unit, sign, order or meaning in force: what is stated, else what is assumed."""
        value = getattr(self, name)
        return ASSUMED[name] if value is None else value

    def unit(self, dimension: str) -> float:
        """Internal units in one unit of the file. Raises `UnitError` for a unit that is not known."""
        return factor(self.convention(f"{dimension}_unit"), dimension)


def options_from(
    user: Mapping[str, Any], *, file: Mapping[str, Any] | None = None, layout: Mapping[str, Any] | None = None, name: str = "format"
) -> ReadOptions:
    """`ReadOptions` from what the user, the file and its layout state: the first of them that states an option is followed. None states nothing.

    Args:
        name: of the layout, for the report.

    Raises:
        UnknownQuantityError: for an option that does not exist, with the nearest that does. UnitError: for an unknown unit.
    """
    known = option_names()
    for option in user:
        if option not in known:
            raise unknown_option(option, known)
    said = {"stated by you": _stated(user), "stated in the file": _stated(file or {}), f"layout {name}": _stated(layout or {})}
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


def unknown_option(name: str, known: Sequence[str]) -> UnknownQuantityError:
    """The error for an option that no reader, or not this one, has."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known)}"
    return UnknownQuantityError(f"readers have no option {name!r}", hint=hint)


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@dataclass
class ReadReport:
    """Every decision a reader took, counted; `lines()` prints it.

    Attributes:
        frames: frames seen. accepted: frames that became Structures.
        used: quantity -> Counter of the keys it was read from.
        conventions: (option, value, who states it) -> frames in which it was applied.
        stated: options that the user stated, `factors` and `ignore` with what they are for; effective: those of them that any frame needed.
        unused: Counter of keys that were found and not used. notes: Counter of remarks.
        refused: Counter of error codes.
    """

    frames: int = 0
    accepted: int = 0
    used: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    conventions: Counter[tuple[str, Any, str]] = field(default_factory=Counter)
    stated: set[str] = field(default_factory=set)
    effective: set[str] = field(default_factory=set)
    unused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def refuse(self, error: MlipfmError) -> None:
        self.refused[error.code] += 1

    def lines(self) -> list[str]:
        """One line per quantity (`energy <- REF_energy in 500 of 500 frames`); units and signs, and who states them; what was left unread."""
        out = []
        for name, keys in self.used.items():
            said = ", ".join(f"{key} in {count}" for key, count in keys.most_common())
            out.append(f"{name} <- {said} of {self.accepted} accepted frames")
        out += [f"{name}: not stated" for name in ("level", "total_charge", "spin_multiplicity") if name not in self.used]
        out += self._convention_lines()
        out += [f"{note} ({count} frames)" for note, count in self.notes.most_common()]
        out += self._unread_labels()
        if self.unused:
            out.append("found and not used: " + ", ".join(sorted(self.unused)))
        return out

    def applied(self, option: str) -> dict[Any, str]:
        """Values of a convention that were applied, and who stated each."""
        return {value: who for name, value, who in self.conventions if name == option}

    def without_effect(self) -> list[str]:
        """Options that the user stated and no accepted frame needed."""
        return sorted(self.stated - self.effective) if self.accepted else []

    def _unread_labels(self) -> list[str]:
        """A warning for forces and for stress if none were read, and keys that were not used have names like them."""
        lines = []
        for name, (spelling, options) in _LIKE.items():
            keys = sorted(key for key in self.unused if spelling.search(key.lower()) and not _NO_LABEL.search(key.lower()))
            if self.accepted and name not in self.used and keys:
                verb = "are" if name == "forces" else "is"
                lines.append(f"warning: no {name} {verb} read; a key looks like it: {', '.join(map(repr, keys))}: {options}")
        return lines

    def _convention_lines(self) -> list[str]:
        """`units and signs: energy Hartree, forces sign -1 (layout SPICE)`, a line for each who states some; then those without effect."""
        by_origin: dict[str, list[str]] = defaultdict(list)
        for (name, value, who), count in self.conventions.items():
            times = f" in {count} frames" if len(self.applied(name)) > 1 else ""
            by_origin[who].append(f"{name.removesuffix('_unit').replace('_', ' ')} {value}{times}")
        lines = [f"units and signs: {', '.join(words)} ({who})" for who, words in by_origin.items()]
        return lines + [f"warning: {option_words(name)} had no effect: nothing that was read needs it" for name in self.without_effect()]


def option_words(name: str) -> str:
    """An option as the command line and Python spell it."""
    if name.partition(" ")[0] not in (*ASSUMED, *_NAMED):
        return (
            f"--option {name.partition(' ')[0]}=... for {name.partition(' ')[2]!r}"
            if " " in name
            else f"--option {name}=... (in Python `{name}`)"
        )
    return f"--{name.replace('_', '-')} (in Python `{name}`)"
