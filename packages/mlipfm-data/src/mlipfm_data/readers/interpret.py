"""From a frame as files spell it to a Structure: key spellings, units, signs, orders. Every decision is counted in a `ReadReport`.

Inside, the sign of stress is ASE's (+(1/V) dE/dstrain, tension positive) and `virial = -V stress` (GAP, MACE, NequIP, DeePMD). Two keys of one
meaning with different values are never resolved by a guess: the frame is refused and the message says which keys to choose from.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, LevelError, MissingLabelsError, MlipfmError, MultiplicityError, ShapeError
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.raw_frame import CALCULATOR, RawFrame
from mlipfm_interfaces.state_keys import CHARGE_KEYS, MULTIPLICITY_KEYS, charge_and_multiplicity
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.theory import canonical_level

from . import file_notes
from .frame_checks import check_frame
from .label_names import as_numbers, rows_first
from .options import ReadOptions, option_words
from .report import ReadReport

#: Keys of each label in files, in any letter case; REF_ first: it is the spelling that cannot be mistaken for a model's prediction.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "dft_energy", "total_energy", "y_energy"),
    "forces": ("REF_forces", "forces", "force", "dft_forces", "dft_force", "y_forces", "y_force"),
    "stress": ("REF_stress", "stress", "dft_stress", "y_stress"),
    "virial": ("REF_virials", "REF_virial", "virial", "virials", "dft_virial"),
    "dipole": ("REF_dipole", "dipole", "dipole_moment"),
    "charges": ("REF_charges", "charges"),
    "magnetic_moments": ("REF_magnetic_moments", "REF_magmoms", "magmoms", "magnetic_moments"),
}  # fmt: skip

#: Keys of ASE's calculators with our names; `energies` are per atom there, and `free_energy` is read only where there is no `energy`.
RESULTS = {"energy": "energy", "forces": "forces", "stress": "stress", "dipole": "dipole", "charges": "charges", "magmoms": "magnetic_moments",
           "energies": "atomic_energies"}  # fmt: skip

#: What our own exports add: labels of any quantity as REF_<key>, deviations as STD_<key>, the rest as JSON under one key.
LEVEL_KEY, PROVENANCE_KEY, FIELD_KEY = "level_of_theory", "mlipfm_provenance", "external_field"

#: Not read as a multiplicity unless the user says so: codes write 2S+1, S or 2S under it.
AMBIGUOUS_SPIN = "total_spin"

_DIRECT = [key for key, kind in QUANTITIES.items() if kind.layout in ("system", "atom") and kind.target and key != "stress"]
_PROBES = [key for key, kind in QUANTITIES.items() if kind.layout == "probe"]

#: Å within which overlaps and crowds are looked for. vesin is fast at 2-5 Å and 400 times slower at 0.5 Å in a large cell.
CHECK_RADIUS = 3.0

#: Quantity -> its keys in files, in lower case.
_LOWERED = {quantity: frozenset(name.lower() for name in SPELLINGS.get(quantity, (f"REF_{quantity}",))) for quantity in _DIRECT}

_EXPLICIT = {"energy": "energy_key", "forces": "forces_key", "stress": "stress_key", "virial": "virial_key", "dipole": "dipole_key",
             "charges": "charges_key"}  # fmt: skip
_VOIGT_PLACES = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1),
                 "zy": (1, 2), "zx": (0, 2), "yx": (0, 1)}  # fmt: skip


def structure_from(frame: RawFrame, options: ReadOptions, report: ReadReport, where: str) -> Structure:
    """Return the checked Structure of one frame; decisions are counted in `report` once the frame is accepted.

    Raises:
        MlipfmError: whatever is wrong with the frame, with its place (`file: frame 7 (line 205), atom 3`).
    """
    from mlipfm_interfaces.neighbors import check_distances  # it brings torch, which takes a second that `--help` need not wait

    seen = Decisions(frame, options)
    frame = seen.frame
    try:
        structure = _structure(frame, options, seen)
        check_distances(structure, CHECK_RADIUS)  # refuses overlapping and crowded atoms
    except MlipfmError as error:
        unpaired = (
            "; if the file counts unpaired electrons, set --spin-meaning unpaired, elsewhere --read spin_meaning=unpaired "
            "(in Python `spin_meaning`)"
        )
        hint = unpaired if isinstance(error, MultiplicityError) and options.convention("spin_meaning") == "multiplicity" else ""
        raise located(type(error)(error.what, where=error.where, hint=(error.hint or "") + hint or None), where) from None
    seen.count(report)
    return structure


def located(error: MlipfmError, where: str) -> MlipfmError:
    """Return the same error with its place."""
    return type(error)(error.what, where=f"{where}, {error.where}" if error.where else where, hint=error.hint)


def _without_ignored(frame: RawFrame, options: ReadOptions) -> RawFrame:
    """Return the frame without what the user leaves out: keys, or a periodicity that is none."""
    if options.ignore:
        places: dict[str, Any] = {
            name: {k: v for k, v in getattr(frame, name).items() if k not in options.ignore} for name in ("info", "arrays", "results")
        }
        places["results"] = {k: v for k, v in places["results"].items() if k + CALCULATOR not in options.ignore}
        places["unread"] = tuple(name for name in frame.unread if name not in options.ignore)
        frame = replace(frame, **places)
    return frame if options.periodic is None else replace(frame, cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))


class Decisions:
    """Which key was used for what in one frame, and which conventions were applied."""

    def __init__(self, frame: RawFrame, options: ReadOptions) -> None:
        self.frame, self.options = _without_ignored(frame, options), options
        self.conventions: set[str] = set()
        self.effective = {f"ignore {key}" for key in options.ignore if frame.find(key) is not None or key in frame.unread}
        self.used: dict[str, str] = {}
        self.notes: list[str] = []
        self.weightless: dict[str, str] = {}  #: labels that were left out, and the weight of each that is zero
        self.touched: set[str] = set()
        self._info, self._arrays = _by_lower_case(self.frame.info), _by_lower_case(self.frame.arrays)
        self._names = {*self._info, *self._arrays}

    def take(self, quantity: str, key: str) -> None:
        self.used[quantity] = key
        self.touched.update((key, self.frame.named(key)))

    def spelt(self, names: Iterable[str], per_atom: bool = False, one_place: bool = False) -> Iterator[tuple[str, Any]]:
        """(key, value) of what the frame has under `names` in any letter case; of the atoms before those of the system if `per_atom`."""
        lowered = _lowered(tuple(names))
        if self._names.isdisjoint(lowered):  # nearly always: a frame has few of all the keys that are looked for
            return
        places = (self._arrays, self._info) if per_atom else (self._info, self._arrays)
        for name in lowered:
            if name in places[0]:
                yield from places[0][name]
            elif not one_place and name in places[1]:
                yield from places[1][name]

    def possible(self) -> list[str]:
        """Quantities that may have a value: a spelling of theirs is a key of the frame, the user named their key, or a calculator gave results."""
        if self.frame.results:
            return _DIRECT
        named = {quantity for quantity, option in _EXPLICIT.items() if getattr(self.options, option)}.union(self.options.keys)
        return [quantity for quantity in _DIRECT if quantity in named or not self._names.isdisjoint(_LOWERED[quantity])]

    def convention(self, name: str) -> Any:
        """Return a unit, sign, order or meaning, which is then in the report."""
        self.conventions.add(name)
        return self.options.convention(name)

    def unit(self, dimension: str) -> float:
        """Internal units in one unit of the file, which is then in the report."""
        self.conventions.add(f"{dimension}_unit")
        return self.options.unit(dimension)

    def count(self, report: ReadReport) -> None:
        report.accepted += 1
        origins = self.options.origins
        for name in sorted(self.conventions):
            report.conventions[name, self.options.convention(name), origins.get(name, "assumed")] += 1
        report.effective |= self.conventions | self.effective
        report.stated |= self.options.stated_by_user
        for quantity, key in self.used.items():
            report.used[quantity][key] += 1
        report.notes.update(self.notes)
        report.unused.update(key for key in self.frame.found() if key not in self.touched)


@lru_cache(512)
def _lowered(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.lower() for name in names))


def _by_lower_case(place: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    out: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for key, value in place.items():
        if value is not None:
            out[str(key).lower()].append((key, value))
    return out


def _structure(frame: RawFrame, options: ReadOptions, seen: Decisions) -> Structure:
    check_frame(frame, options, seen)
    length = seen.unit("length")
    labels = _labels(frame, options, seen)
    missing = [key for key in options.require if key not in labels]
    weightless = {label: key for label, key in seen.weightless.items() if label in missing}
    if weightless:
        rest = " ".join(f"--require {key}" for key in labels if key in ("energy", "forces", "stress"))
        key = next(iter(weightless.values()))
        raise MissingLabelsError(
            "; ".join(f"{label} left out: {key} is 0" for label, key in weightless.items()),
            hint=f"take frames without it by {rest or '--require ...'}, or the label whatever its weight by --option ignore={key}",
        )
    if missing:
        there = [key for key in ("energy", "forces", "stress") if key in labels]
        without = f"; --require {' --require '.join(there)} takes frames that have no {missing[0]}" if there else ""
        raise MissingLabelsError(
            f"no {' and no '.join(missing)} label; keys found: {_found(frame)}",
            hint="name the key: --energy-key, --forces-key, ... of `data import`, elsewhere --read energy_key=KEY (in Python energy_key, ...)"
            + without,
        )
    charge, multiplicity = _state(frame, options, seen)
    field = frame.find(FIELD_KEY)
    if field is not None:
        seen.take("external_field", FIELD_KEY)
    return Structure(
        atomic_numbers=frame.numbers,
        positions=np.asarray(frame.positions, dtype=np.float64) * length,
        cell=np.asarray(frame.cell, dtype=np.float64) * length,
        pbc=frame.pbc,
        total_charge=charge,
        spin_multiplicity=multiplicity,
        external_field=None if field is None else as_numbers(field, FIELD_KEY).reshape(-1),
        level=_level(frame, options, seen),
        labels=labels,
        label_std=_deviations(frame, labels, seen),
        provenance=_provenance(frame, options, seen),
    )


def _found(frame: RawFrame) -> str:
    return ", ".join(frame.found()) or "none"


def _labels(frame: RawFrame, options: ReadOptions, seen: Decisions) -> dict[str, np.ndarray]:
    n = len(frame.numbers)
    labels: dict[str, np.ndarray] = {}
    for quantity in seen.possible():
        kind = QUANTITIES[quantity]
        shape = kind.shape if kind.layout == "system" else (n, *kind.shape)
        value = _choose(frame, options, seen, quantity, partial(_shaped, shape=shape, quantity=quantity))
        if value is not None:
            labels[quantity] = value * _unit(options, quantity, seen)
    stress = _stress(frame, options, seen)
    if stress is not None:
        labels["stress"] = stress
    file_notes.set_marks(seen, labels, bool(options.mask_zero_forces))
    return labels | _probes(frame, seen)


#: Units of quantities without an option of their own that files have others of; charges and spins are in e everywhere.
_TO_SAY = {"eV", "e Angstrom^2"}


def _unit(options: ReadOptions, quantity: str, seen: Decisions) -> float:
    if quantity == "forces":
        return float(seen.convention("forces_sign")) * seen.unit("forces")
    if quantity in ("energy", "atomic_energies"):
        return seen.unit("energy")
    if quantity in ("dipole", "polarizability"):
        return seen.unit(quantity)
    seen.effective.add(f"factors {quantity}")
    if quantity not in options.factors and QUANTITIES[quantity].unit in _TO_SAY:
        seen.notes.append(
            f"{quantity}: taken as {QUANTITIES[quantity].unit}, no unit is given; --option factors={quantity}=NUMBER converts"
        )
    return options.factors.get(quantity, 1.0)


def _shaped(raw: Any, key: str, shape: tuple[int, ...], quantity: str) -> np.ndarray:
    value = as_numbers(raw, key)
    if value.size != math.prod(shape):
        raise ShapeError(f"{key!r} has shape {list(value.shape)}, {quantity} needs {list(shape)}")
    return value.reshape(shape)


def _choose(
    frame: RawFrame, options: ReadOptions, seen: Decisions, quantity: str, convert: Callable[[Any, str], np.ndarray]
) -> np.ndarray | None:
    """Return the value of one label: of the key the user named, or of the spellings present, which must agree."""
    explicit = getattr(options, _EXPLICIT.get(quantity, ""), None) or options.keys.get(quantity)
    if explicit is not None:
        raw = frame.find(explicit)
        if raw is None:
            raise MissingLabelsError(
                f"no key {explicit!r} for {quantity}; keys found: {_found(frame)}",
                hint=f"change {option_words(_EXPLICIT.get(quantity, 'keys'))}",
            )
        seen.take(quantity, explicit)
        return convert(raw, explicit)
    found = _candidates(seen, quantity)
    values: dict[str, np.ndarray] = {}
    for key, raw in found.items():
        try:
            values[key] = convert(raw, key)
        except ShapeError:
            if quantity in ("energy", "forces", "stress", "virial"):
                raise
            seen.notes.append(f"{key!r} has not the shape of {quantity}: not used")
    if not values:
        return None
    first, *others = values
    for other in others:
        if not np.allclose(values[first], values[other], rtol=1e-6, atol=1e-6, equal_nan=True):
            raise _conflict(quantity, first, values[first], other, values[other])
    for key in values:
        seen.touched.add(key)
    seen.take(quantity, first)
    return values[first]


def _candidates(seen: Decisions, quantity: str) -> dict[str, Any]:
    per_atom = quantity in QUANTITIES and QUANTITIES[quantity].layout == "atom"
    results = seen.frame.results
    found = dict(seen.spelt(SPELLINGS.get(quantity, (f"REF_{quantity}",)), per_atom))
    for key, meaning in RESULTS.items() if results else ():
        if meaning == quantity and results.get(key) is not None:
            found[key + CALCULATOR] = results[key]
    if quantity == "energy" and not found and results.get("free_energy") is not None:
        found["free_energy" + CALCULATOR] = results["free_energy"]
    return found


def _conflict(quantity: str, one: str, a: np.ndarray, two: str, b: np.ndarray) -> InvalidStructureError:
    k = int(np.argmax(np.abs(a - b)))
    option = _EXPLICIT.get(quantity)
    hint = (
        f"say which with {option_words(option)} {one!r} or {two!r}"
        if option
        else f"leave one out: --option ignore={shlex.quote(one)} or {shlex.quote(two)} (in Python `ignore`)"
    )
    return InvalidStructureError(
        f"{one!r} and {two!r} both claim to be the {quantity} and differ: {a.flat[k]:.8g} and {b.flat[k]:.8g}", hint=hint
    )


def _stress(frame: RawFrame, options: ReadOptions, seen: Decisions) -> np.ndarray | None:
    def from_stress(raw: Any, key: str) -> np.ndarray:
        return _matrix(as_numbers(raw, key), key, seen) * seen.convention("stress_sign") * seen.unit("stress")

    def from_virial(raw: Any, key: str) -> np.ndarray:
        virial = _matrix(as_numbers(raw, key), key, seen) * seen.unit("energy")
        return -virial / (abs(np.linalg.det(frame.cell)) * seen.unit("length") ** 3)

    if not np.all(frame.pbc) or abs(np.linalg.det(frame.cell)) < 1e-12:
        ignored = [key for quantity in ("stress", "virial") for key in _candidates(seen, quantity)]
        ignored += [key for key in (options.stress_key, options.virial_key) if key and frame.find(key) is not None and key not in ignored]
        seen.touched.update(ignored)
        seen.notes += [f"{key!r} not used: stress needs three periodic directions" for key in ignored]
        return None
    only_virial, only_stress = options.virial_key and not options.stress_key, options.stress_key and not options.virial_key
    stress = None if only_virial else _choose(frame, options, seen, "stress", from_stress)
    virial = None if only_stress else _choose(frame, options, seen, "virial", from_virial)
    if stress is not None and virial is not None and not np.allclose(stress, virial, rtol=1e-3, atol=1e-5):
        raise _stress_against_virial(seen.used["stress"], stress, seen.used["virial"], virial)
    if stress is None and virial is not None:
        virial = virial * seen.convention("stress_sign")
        seen.used["stress"] = f"{seen.used['virial']} (virial, stress = -virial/V)"
    seen.used.pop("virial", None)
    return stress if stress is not None else virial


def _stress_against_virial(one: str, stress: np.ndarray, two: str, virial: np.ndarray) -> InvalidStructureError:
    """Of `stress` and a `virial` converted to a stress, both in eV/Å³, that differ."""
    k = int(np.argmax(np.abs(stress - virial)))
    opposite = np.allclose(stress, -virial, rtol=1e-3, atol=1e-5)
    hint = "; they differ by their sign only: is one of them positive under compression?" if opposite else ""
    return InvalidStructureError(
        f"{one!r} and {two!r} both claim to be the stress and differ (stress = -virial/V): {stress.flat[k]:.8g} and {virial.flat[k]:.8g}{hint}",
        hint=f"say which with --stress-key {shlex.quote(one)} or --virial-key {shlex.quote(two)} (in Python `stress_key`, `virial_key`)",
    )


def _matrix(value: np.ndarray, key: str, seen: Decisions) -> np.ndarray:
    """[3, 3] from six components in the order in force, nine, or [3, 3]."""
    if value.size == 9:
        return value.reshape(3, 3)
    if value.size != 6:
        raise ShapeError(f"{key!r} has {value.size} components, stress and virial have 6 or 9")
    out = np.zeros((3, 3))
    for name, component in zip(seen.convention("stress_order").split(","), value.reshape(-1), strict=True):
        i, j = _VOIGT_PLACES[name]
        out[i, j] = out[j, i] = component
    return out


def _probes(frame: RawFrame, seen: Decisions) -> dict[str, np.ndarray]:
    """Probe quantities of our own exports: [N, 3 rows] per-atom columns and their companions."""
    labels: dict[str, np.ndarray] = {}
    n = len(frame.numbers)
    for quantity in _PROBES:
        kind = QUANTITIES[quantity]
        raw, companion = frame.find(f"REF_{quantity}"), frame.find(f"REF_{kind.companion}")
        if raw is None or companion is None:
            continue
        labels[quantity] = rows_first(as_numbers(raw, quantity), n)
        other = as_numbers(companion, str(kind.companion))
        labels[str(kind.companion)] = rows_first(other, n) if kind.companion == "hvp_probe" else other.reshape(-1, 2)
        seen.take(quantity, f"REF_{quantity}")
        seen.touched.add(f"REF_{kind.companion}")
    return labels


def _deviations(frame: RawFrame, labels: dict[str, np.ndarray], seen: Decisions) -> dict[str, np.ndarray]:
    out = {}
    for quantity, value in labels.items():
        raw = frame.find(f"STD_{quantity}")
        if raw is not None:
            flat = _shaped(raw, f"STD_{quantity}", value.shape, quantity)
            out[quantity] = rows_first(flat, len(frame.numbers)) if quantity in _PROBES else flat
            seen.touched.add(f"STD_{quantity}")
    return out


def _state(frame: RawFrame, options: ReadOptions, seen: Decisions) -> tuple[int | None, int | None]:
    """Charge and multiplicity: of the keys the user named, else of all usual names (`state_keys`), which must agree."""
    stated: dict[str, Any] = {}
    for standard, names, explicit in (("charge", CHARGE_KEYS, options.charge_key), ("spin", MULTIPLICITY_KEYS, options.spin_key)):
        if explicit and frame.find(explicit) is None:
            raise MissingLabelsError(
                f"no key {explicit!r} for {standard}; keys found: {_found(frame)}", hint=f"change {option_words(f'{standard}_key')}"
            )
        for key, raw in ((explicit, frame.find(explicit)),) if explicit else seen.spelt(names, one_place=True):
            value = _single(raw, key)
            if standard == "spin" and seen.convention("spin_meaning") == "unpaired":
                value = value + 1
            name = names[0] if explicit else key.lower()
            if stated.setdefault(name, value) != value:
                raise InvalidStructureError(
                    f"{key!r} is given twice, as {stated[name]:g} and {value:g}", hint=f"say which with {option_words(f'{standard}_key')}"
                )
            seen.take("total_charge" if standard == "charge" else "spin_multiplicity", key)
    if AMBIGUOUS_SPIN in frame.info and options.spin_key != AMBIGUOUS_SPIN:
        seen.notes.append(f"{AMBIGUOUS_SPIN!r} not used: it means 2S+1, 2S or S in different codes; set --spin-key and --spin-meaning")
    try:
        pair = charge_and_multiplicity(stated)
    except MultiplicityError:
        raise
    except InvalidStructureError as error:
        raise InvalidStructureError(
            error.what, hint="say which with --charge-key or --spin-key (in Python `charge_key`, `spin_key`)"
        ) from None
    charge, multiplicity = _agreed(pair, options, seen)
    file_notes.unstated_state(seen, charge, multiplicity)
    return charge, multiplicity


def _agreed(stated: tuple[int | None, int | None], options: ReadOptions, seen: Decisions) -> tuple[int | None, int | None]:
    """Return what the frame gives, or else what the user says of all frames; both must agree."""
    for name, value in zip(("total_charge", "spin_multiplicity"), stated, strict=True):
        said = getattr(options, name)
        if said is not None and value is not None and said != value:
            raise InvalidStructureError(f"the frame gives {name} {value}, the import says {said}", hint=f"leave `{name}` out")
        if said is not None and value is None:
            seen.used[name] = f"option ({said})"
    charge, multiplicity = stated
    return options.total_charge if charge is None else charge, options.spin_multiplicity if multiplicity is None else multiplicity


def _single(value: Any, key: str) -> float:
    numbers = as_numbers(value, key)
    if numbers.size != 1:
        raise InvalidStructureError(f"{key!r} must be one number for the whole system, got {numbers.size}")
    return float(numbers.reshape(-1)[0])


def _level(frame: RawFrame, options: ReadOptions, seen: Decisions) -> str | None:
    in_file = frame.find(LEVEL_KEY)
    wanted = canonical_level(options.level) if options.level else None
    if in_file is not None:
        stated = canonical_level(str(in_file))
        if wanted and wanted != stated:
            raise LevelError(f"the file says level {stated!r}, the import says {wanted!r}", hint="leave `level` out or correct it")
        seen.take("level", LEVEL_KEY)
        return stated
    if wanted:
        who = options.origins.get("level", "given by you")
        seen.used["level"] = f"option ({wanted})" if who == "given by you" else f"{wanted} ({who})"
    return wanted


def _provenance(frame: RawFrame, options: ReadOptions, seen: Decisions) -> Provenance:
    own = frame.find(PROVENANCE_KEY)
    values: dict[str, Any] = {"source": frame.source, "index": frame.index, "group": frame.group}
    if own is not None:
        seen.touched.add(PROVENANCE_KEY)
        values = _own_provenance(own)
    group = options.group or values.get("group")
    if options.group_key:
        raw = frame.find(options.group_key)
        if raw is None:
            raise MissingLabelsError(
                f"no key {options.group_key!r} for the group; keys found: {_found(frame)}", hint=f"change {option_words('group_key')}"
            )
        group = str(raw)
        seen.take("group", options.group_key)
    return Provenance(
        source=options.source or values.get("source"),
        group=group,
        index=values.get("index"),
        sampling=options.sampling or values.get("sampling"),
        licence=options.licence or values.get("licence"),
    )


def _own_provenance(raw: Any) -> dict[str, Any]:
    try:
        values = json.loads(str(raw).removeprefix("_JSON").strip()) if isinstance(raw, str) else dict(raw)
    except (TypeError, ValueError):
        raise InvalidStructureError(f"{PROVENANCE_KEY!r} is not JSON: {str(raw)[:60]!r}") from None
    return values if isinstance(values, dict) else {}
