"""Splits: training, validation and test parts that do not share what they must not share, the same for any order of the structures.

Every structure belongs to a class (a trajectory, a molecule, a composition, a size, ...). Whole classes are held out: they are the part `ood`, which
tells how a model does on what it has never seen. The structures of all other classes are dealt to the other parts (`train`, `valid`, `test`, ...),
which tell how it does on more of the same. Structures of one geometry (at any level, in any state) are never separated, nor are those of one
cluster of near-duplicates. All choices are by hashes of the seed and of the content, so they depend neither on order nor on machine.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import InvalidStructureError, OptionError
from mlipfm_interfaces.reference_fit import is_lone_atom
from mlipfm_interfaces.structure import Structure

from ..duplicates.report import clusters
from .classes import composition_class, group_class, molecule_class, temperature_class

#: Part of held-out classes.
OOD = "ood"

Class = str | float | int


@dataclass(frozen=True)
class Split:
    """Which structure is in which part.

    Attributes:
        by, seed: as asked. parts: name -> ascending positions. held_out: the classes of `ood`, sorted. classes: how many there are.
    """

    by: str
    seed: int
    parts: Mapping[str, list[int]]
    held_out: tuple[Class, ...]
    classes: int


def make_split(
    structures: Sequence[Structure],
    by: str,
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    hold_out: Sequence[str] = (),
    together: Sequence[Sequence[int]] = (),
) -> Split:
    """Split structures; see the module.

    Args:
        by: one of `WAYS`. `random` holds out nothing, and leaves isolated atoms in `train`: references are theirs.
        fractions: part -> share of the structures; a part `ood` is what is held out. They add up to 1.
        hold_out: classes to hold out (element symbols, formulas, charges, K, sources/groups, least number of atoms); default: chosen until the
            share of `ood` is reached: by hash, or the largest sizes, the highest temperatures, the highest charges. Of elements: must be given.
        together: positions that must not be separated, such as `duplicates.near_clusters`.

    Raises:
        InvalidStructureError: structures that have no class (no charge given, ...), with the first. OptionError: what cannot be, by name.
    """
    _check(by, fractions, hold_out)
    structures = list(structures)
    unit = [geometry_of(s) for s in structures]
    named = clusters(len(unit), chain(_equal(unit), ((some[0], k) for some in together for k in some[1:])))
    for some in named:  # by a name that does not depend on the order
        name = min(unit[k] for k in some)
        for k in some:
            unit[k] = name
    if by == "random":
        lone = {k for k, s in enumerate(structures) if is_lone_atom(s)} if "train" in fractions else set()
        if len(lone) == len(structures):  # nothing else is there to be dealt
            lone = set()
        parts = _dealt([k for k in range(len(structures)) if k not in lone], unit, fractions, seed)
        if lone:
            parts["train"] = sorted([*parts["train"], *lone])
        return Split(by, seed, parts, (), len(set(unit)))
    labels = _classes(structures, by)
    held = _held_elements(labels, hold_out) if by == "element" else _held(labels, by, fractions.get(OOD, 0.0), hold_out, seed)
    out = {k for k, label in enumerate(labels) if _is_held(label, held)}
    going = {unit[k] for k in out}  # a geometry that is also in a held-out class goes there as a whole
    ood = [k for k in range(len(structures)) if unit[k] in going]
    rest = [k for k in range(len(structures)) if unit[k] not in going]
    if not rest or (OOD in fractions and not ood):
        raise OptionError(f"holding out {', '.join(map(str, held)) or 'nothing'} leaves one part empty", hint=_known(labels))
    others = {name: share for name, share in fractions.items() if name != OOD}
    parts = _dealt(rest, unit, others, seed)
    names = tuple(sorted(held, key=str))
    return Split(by, seed, {**parts, OOD: ood} if OOD in fractions or ood else parts, names, len(set(_flat(labels))))


WAYS = ("random", "group", "molecule", "composition", "element", "size", "temperature", "charge")

_MEND = {
    "group": "give groups on import (--group-key), or split by molecule or composition",
    "molecule": "molecules are recognised by their bonds, which periodic structures do not have here: split by composition or group",
    "temperature": "give it on import (--sampling langevin-600K)",
    "charge": "give charges on import (--charge-key)",
}

_CLASS: dict[str, Callable[[Structure], Class | None]] = {
    "group": group_class,
    "molecule": molecule_class,
    "composition": composition_class,
    "size": len,
    "temperature": temperature_class,
    "charge": lambda s: s.total_charge,
}


def class_of(structure: Structure, by: str) -> Class | None:
    """Return the class of a structure in a split by one of the ways that have one class for each."""
    return _CLASS[by](structure)


def _check(by: str, fractions: Mapping[str, float], hold_out: Sequence[str]) -> None:
    if by not in WAYS:
        raise OptionError(f"there is no split by {by!r}", hint=f"known: {', '.join(WAYS)}")
    if not fractions or not all(share > 0 for share in fractions.values()) or not abs(sum(fractions.values()) - 1) <= 1e-6:
        raise OptionError(f"fractions {dict(fractions)} are not positive numbers that add up to 1", hint="train=0.8,valid=0.1,ood=0.1")
    if set(fractions) == {OOD}:
        raise OptionError("nothing is left to train on", hint="train=0.9,ood=0.1")
    if by == "random" and (OOD in fractions or hold_out):
        raise OptionError("a random split holds nothing out: it has no part 'ood'", hint=f"split by {', '.join(WAYS[1:])}")
    if by == "element" and not hold_out:
        raise OptionError("a split by element needs the elements to leave out", hint="--hold-out Br,I")
    if by != "random" and not hold_out and OOD not in fractions:
        raise OptionError(f"a split by {by} needs a share of the part 'ood'", hint="train=0.8,valid=0.1,ood=0.1")


def _classes(structures: Sequence[Structure], by: str) -> list[Class | frozenset[int] | None]:
    if by == "element":
        return [frozenset(map(int, s.atomic_numbers)) for s in structures]
    labels: list[Class | frozenset[int] | None] = [_CLASS[by](s) for s in structures]
    missing = [k for k, label in enumerate(labels) if label is None]
    if missing:
        first = structures[missing[0]]
        where = f"structure {missing[0]} ({first.formula} of {first.provenance.source})"
        raise InvalidStructureError(f"{len(missing)} of {len(labels)} structures give no {by}", where=where, hint=_MEND[by])
    return labels


def _held_elements(labels: Sequence[Class | frozenset[int] | None], hold_out: Sequence[str]) -> set[Class]:
    wanted = {number(name) for name in hold_out}
    present: set[int] = set().union(*(label for label in labels if isinstance(label, frozenset)))
    absent = wanted - present
    if absent:
        known = ", ".join(symbol(z) for z in sorted(present))
        raise OptionError(f"no structure has the element {', '.join(map(symbol, sorted(absent)))}", hint=f"there are: {known}")
    return {symbol(z) for z in wanted}


def _held(labels: Sequence[Class | frozenset[int] | None], by: str, share: float, hold_out: Sequence[str], seed: int) -> set[Class]:
    counts = Counter(label for label in labels if isinstance(label, str | float | int))
    if hold_out:
        return _named(counts, by, hold_out)
    ordered = sorted(
        counts, key=lambda label: (-float(label),) if by in ("size", "temperature") else (_far(label), _rank(seed, str(label)))
    )
    held: set[Class] = set()
    reached, room = 0, 1.1 * share * len(labels) + 1
    one_fits = any(counts[label] <= room for label in ordered[:-1])
    for label in ordered[:-1]:  # the last class is trained on
        if by not in ("size", "temperature", "charge") and (held or one_fits) and reached + counts[label] > room:
            continue  # a class that is too large: a later, smaller one may fit
        if reached >= share * len(labels):
            break
        held.add(label)
        reached += counts[label]
    return held


def _far(label: Class) -> float:
    """Charges far from neutral come first; other names are equal."""
    return -abs(label) if isinstance(label, int) else 0.0


def _named(counts: Mapping[Class, int], by: str, hold_out: Sequence[str]) -> set[Class]:
    if by == "size":
        if len(hold_out) != 1 or not hold_out[0].isdecimal():
            raise OptionError(f"by size, the least number of atoms is held out, got {','.join(hold_out)!r}", hint="--hold-out 50")
        least = int(hold_out[0])
        return {label for label in counts if isinstance(label, int) and label >= least}
    spelled = {(f"{label:g}" if isinstance(label, float) else str(label)): label for label in counts}
    unknown = [name for name in hold_out if name.removesuffix("K").removeprefix("+") not in spelled and name not in spelled]
    if unknown:
        raise OptionError(f"no structure has the {by} {unknown[0]!r}", hint=f"there are: {', '.join(list(spelled)[:20])}")
    return {spelled[name] if name in spelled else spelled[name.removesuffix("K").removeprefix("+")] for name in hold_out}


def _is_held(label: Class | frozenset[int] | None, held: set[Class]) -> bool:
    if isinstance(label, frozenset):
        return any(symbol(z) in held for z in label)
    return label in held


def _flat(labels: Sequence[Class | frozenset[int] | None]) -> set[Class]:
    return set().union(*(map(symbol, label) if isinstance(label, frozenset) else [label] for label in labels))  # type: ignore[arg-type]


def _known(labels: Sequence[Class | frozenset[int] | None]) -> str:
    return f"there are {len(_flat(labels))} classes"


def geometry_of(s: Structure) -> str:
    """Hash of atoms and rounded positions: what no two parts may share, whatever the level or state."""
    return s.replace(labels={}, label_std={}, level=None, total_charge=None, spin_multiplicity=None, external_field=None).key


def _equal(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Each position with the first of its name."""
    first: dict[str, int] = {}
    for k, name in enumerate(names):
        if first.setdefault(name, k) != k:
            yield first[name], k


def _dealt(positions: Sequence[int] | range, unit: Sequence[str], fractions: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Units in the order of their hashes, cut at the fractions (normalised)."""
    members: dict[str, list[int]] = defaultdict(list)
    for k in positions:
        members[unit[k]].append(k)
    ordered = sorted(members, key=lambda name: _rank(seed, name))
    ends = np.cumsum([len(members[name]) for name in ordered]) - 0.5
    total, bounds = len(positions), np.cumsum(list(fractions.values())) / sum(fractions.values())
    parts: dict[str, list[int]] = {name: [] for name in fractions}
    names = list(fractions)
    for name, end in zip(ordered, ends, strict=True):
        parts[names[min(int(np.searchsorted(bounds * total, end)), len(names) - 1)]] += members[name]
    return {name: sorted(chosen) for name, chosen in parts.items()}


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=16).digest()
