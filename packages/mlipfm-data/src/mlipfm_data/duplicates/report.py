"""Reports duplicates and near-duplicates of a set, and how many structures of each set of a store have their geometry in another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import groupby
from sys import intern
from typing import Any, NamedTuple

import numpy as np
from mlipfm_interfaces.structure import Structure

from ..parallel import Chosen
from .fingerprints import bucket
from .match import TOLERANCE, check_tolerance
from .search import MOST, RELATIONS, Found, Pair, Row, SearchInput, near_duplicates_only, search, search_input, state_of

# Duplicates and near-duplicates of a set, and leakage between two: what to throw away, and what a test set must not share with its training set.

KINDS = ("identical", "near", "mirror", "undecided")
EXAMPLES = 5


@dataclass
class DuplicateReport:
    """Of one set.

    Attributes:
        structures: how many were looked at. tolerance: Å. found: pairs. rows: of each structure. unfit: codes of structures without fingerprint.
        mirrors: whether mirror images count as duplicates.
    """

    structures: int
    tolerance: float
    found: Found
    rows: Sequence[Row]
    unfit: Counter[str]
    mirrors: bool = False

    @property
    def duplicates(self) -> list[Pair]:
        """Pairs that are a mistake: identical or near, not of one trajectory, not one geometry at two levels or in two states."""
        kinds = ("identical", "near", "mirror") if self.mirrors else ("identical", "near")
        return [pair for pair in self.found.pairs if pair.kind in kinds and not pair.expected]

    @property
    def clusters(self) -> list[list[int]]:
        """Positions of structures that are the same, through any number of duplicate pairs; largest first."""
        return clusters(self.structures, ((p.first, p.second) for p in self.duplicates))

    def removable(self) -> list[int]:
        """Positions that can go: each is a duplicate of an earlier one that stays. Of a chain, each like the next, every second may stay."""
        like: dict[int, set[int]] = defaultdict(set)
        for p in self.duplicates:
            like[max(p.first, p.second)].add(min(p.first, p.second))
        gone: set[int] = set()
        for k in sorted(like):
            if not like[k] <= gone:
                gone.add(k)
        return sorted(gone)

    def as_json(self) -> dict[str, Any]:
        table = Counter((p.kind, p.relation, p.other_level, p.other_state) for p in self.found.pairs)
        return {
            "structures": self.structures,
            "tolerance": self.tolerance,
            "mirrors": self.mirrors,
            "duplicates": len(self.duplicates),
            "removable": len(self.removable()),
            "clusters": [len(cluster) for cluster in self.clusters],
            "table": [
                {"kind": kind, "relation": how, "other_level": level, "other_state": state, "pairs": count}
                for (kind, how, level, state), count in sorted(table.items())
            ],
            "neighbours_within_groups": self.within(),
            "candidates": self.found.candidates,
            "not_superimposed": self.found.crowded,
            "not_compared": dict(self.unfit),
            "pairs": [told(p, self.rows, self.rows) for p in self.duplicates],
        }

    def within(self) -> int:
        """Structures with a near neighbour of their own trajectory."""
        return len({k for p in self.found.pairs if p.relation == "same group" and p.kind == "near" for k in (p.first, p.second)})

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        yield f"{self.structures} structures, tolerance {self.tolerance:g} A on each coordinate"
        yield from table(self.found.pairs)
        yield f"duplicates: {len(self.duplicates)} pairs; {len(self.removable())} structures can go (`data filter --near-duplicates`)"
        if self.within():
            yield f"within trajectories (expected): {self.within()} structures have a neighbour of their own group"
        other = sum(p.other_level and p.kind == "identical" and not p.other_state for p in self.found.pairs)
        if other:
            yield f"one geometry at several levels (expected): {other} pairs"
        states = sum(p.other_state for p in self.found.pairs)
        if states:
            yield f"one geometry with another charge, multiplicity or field (expected): {states} pairs"
        yield from remarks(self.found, self.unfit)
        for pair in self.duplicates[:EXAMPLES]:
            yield f"  {pair.kind}, {pair.relation}: {named(pair.first, self.rows)} = {named(pair.second, self.rows)}, rms {pair.rms:.2g} A"
        if len(self.duplicates) > EXAMPLES:
            yield f"  and {len(self.duplicates) - EXAMPLES} more: --json lists them"


def find_duplicates(
    structures: Sequence[Structure], *, tolerance: float = TOLERANCE, mirrors: bool = False, executor: Executor | None = None
) -> DuplicateReport:
    """Find structures that are the same up to rigid motion, order of equal atoms, origin, cell, supercell and noise.

    Complete for noise of at most `tolerance` on each coordinate, save for what the report counts as not superimposed, undecided or not compared.

    Args:
        structures: a store (workers read it themselves) or any sequence.
        tolerance: Å. mirrors: mirror images are duplicates too (else they are only counted). executor: default: this process.

    Raises:
        MlipfmError: a tolerance that is not between 0 and 0.1 Å. PluginError: scipy is missing.
    """
    check_tolerance(tolerance)
    seen = search_input(structures, executor)
    found = search(structures, seen.rows, None, tolerance, executor)
    return DuplicateReport(len(seen.rows), tolerance, found, seen.rows, seen.unfit, mirrors)


def near_clusters(structures: Sequence[Structure], *, tolerance: float = TOLERANCE, executor: Executor | None = None) -> list[list[int]]:
    """Positions of structures of nearly one geometry, expected or not: what a split must not separate. Arguments as `find_duplicates`."""
    check_tolerance(tolerance)
    seen = search_input(structures, executor)
    found = search(structures, seen.rows, None, tolerance, executor, within=MOST)
    return clusters(len(seen.rows), ((p.first, p.second) for p in found.pairs if p.kind in ("identical", "near")))


def clusters(n: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected sets of more than one of 0..n-1, largest first."""
    parent = np.arange(n)

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = int(parent[k])
        return k

    touched: set[int] = set()
    for a, b in pairs:
        x, y = sorted((root(a), root(b)))
        parent[y] = x
        touched |= {a, b}
    sets: dict[int, list[int]] = {}
    for k in sorted(touched):
        sets.setdefault(root(k), []).append(k)
    return sorted(sets.values(), key=lambda one: (-len(one), one))


def table(pairs: Sequence[Pair]) -> Iterator[str]:
    """Counts of pairs by kind and relation."""
    counts = Counter((p.kind, p.relation) for p in pairs)
    yield f"{'pairs':12s}" + "".join(f"{how:>18s}" for how in RELATIONS)
    for kind in KINDS:
        if kind != "undecided" or any(counts[kind, how] for how in RELATIONS):
            yield f"{kind:12s}" + "".join(f"{counts[kind, how]:18d}" for how in RELATIONS)


def remarks(found: Found, unfit: Counter[str]) -> Iterator[str]:
    if found.crowded:
        yield f"not superimposed: {found.crowded} pairs of structures with {MOST} nearer ones each (crowded sets; their clusters are found)"
    for code, count in unfit.most_common():
        yield f"not compared: {count} structures ({code})"


def named(k: int, rows: Sequence[Row]) -> str:
    row = rows[k]
    return f"{k} ({'/'.join(text for text in (row.source, row.group) if text) or row.bucket})"


def told(pair: Pair, rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    a, b = rows[pair.first], others[pair.second]
    return {
        "first": pair.first,
        "second": pair.second,
        "kind": pair.kind,
        "relation": pair.relation,
        "other_level": pair.other_level,
        "other_state": pair.other_state,
        "rms": pair.rms if np.isfinite(pair.rms) else None,
        "sources": [a.source, b.source],
        "groups": [a.group, b.group],
    }


__all__ = ["DuplicateReport", "SearchInput", "clusters", "find_duplicates", "near_clusters", "table"]


#: How a structure is in another set, strongest first: equal coordinates or superimposed within the tolerance; at the same or only at other levels.
OVERLAP_KINDS = ("identical", "identical_other_level", "near", "near_other_level")
#: Rows of the table for people.
SHOWN = 25


class Member(NamedTuple):
    """A structure as a member of a set; one that several sets hold is a member of each.

    Attributes:
        position: in the store. name: of the set. geometry: digest of the atoms, positions and cell alone. bucket: see `fingerprints.bucket`.
        level: of theory. state: charge, multiplicity and field, None where not given.
    """

    position: int
    name: str
    geometry: str
    bucket: str
    level: str | None
    state: tuple[Any, ...]


@dataclass(frozen=True)
class Overlap:
    """What one set has in another.

    Attributes:
        first, second: their names. of: structures of the first. kinds: of `OVERLAP_KINDS` -> structures of the first that the second holds too,
            each counted once, where it is strongest.
    """

    first: str
    second: str
    of: int
    kinds: Mapping[str, int]

    @property
    def shared(self) -> int:
        """Structures of the first set whose geometry the second holds."""
        return sum(self.kinds.values())

    @property
    def share(self) -> float:
        """Of the first set, 0 to 1."""
        return self.shared / self.of


@dataclass
class OverlapReport:
    """Between all sets of a store.

    Attributes:
        structures: of the store. sizes: set -> members. overlaps: both ways for each two sets that share anything, most structures first.
        tolerance: Å, None if only equal coordinates were looked for. compared, compositions: geometries among which near ones were sought, and of how
            many compositions they are; the others are the only ones of theirs. found: what the search left undone. unfit: codes of structures that
            could not be compared.
    """

    structures: int
    sizes: Mapping[str, int]
    overlaps: list[Overlap]
    tolerance: float | None
    compared: int = 0
    compositions: int = 0
    found: Found = field(default_factory=Found)
    unfit: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "structures": self.structures,
            "tolerance": self.tolerance,
            "near_compared": {"geometries": self.compared, "compositions": self.compositions},
            "not_superimposed": self.found.crowded,
            "undecided": self._pairs("undecided"),
            "mirror_images_not_counted": self._pairs("mirror"),
            "not_compared": dict(self.unfit),
            "overlaps": [{"first": o.first, "second": o.second, "of": o.of, **o.kinds} for o in self.overlaps],
        }

    def _pairs(self, kind: str) -> int:
        return sum(pair.kind == kind for pair in self.found.pairs)

    def lines(self) -> Iterator[str]:
        """Yield the table for people: a row for each two sets, as fractions of the one that shares more of itself."""
        yield "overlap between sets: structures of the first whose geometry the second holds too"
        rows = list(self._rows())
        if rows:
            near = ("near", "other level") if self.tolerance is not None else ()
            heads = "".join(f"{word:>12s}" for word in ("identical", "other level", *near))
            yield f"{'first':<30s}{'second':<30s}{'structures':>11s}{heads}{'share':>8s}"
        for row in rows[:SHOWN]:
            counts = "".join(f"{row.kinds[kind]:12d}" for kind in OVERLAP_KINDS[: 4 if self.tolerance is not None else 2])
            yield f"{row.first:<30s}{row.second:<30s}{row.of:11d}{counts}{row.share:8.1%}"
        if len(rows) > SHOWN:
            yield f"  and {len(rows) - SHOWN} more pairs of sets: --json lists them"
        if not rows:
            yield "  none"
        yield from self._said()

    def _rows(self) -> Iterator[Overlap]:
        best: dict[frozenset[str], Overlap] = {}
        for one in self.overlaps:
            pair = frozenset((one.first, one.second))
            if pair not in best or one.share > best[pair].share:
                best[pair] = one
        yield from sorted(best.values(), key=_most_first)

    def _said(self) -> Iterator[str]:
        """Yield what was compared, and what was not."""
        yield f"  compared: equal coordinates among all {self.structures} structures of {len(self.sizes)} sets; states that contradict do not count"
        if self.tolerance is None:
            yield "  not compared: moved, reordered or noisy copies (--overlap near)"
            return
        yield (
            f"  compared: near geometries (motion, order, cell, {self.tolerance:g} A of noise) among the {self.compared} geometries of the "
            f"{self.compositions} compositions that several sets have"
        )
        if self.found.crowded:
            said = f"  not superimposed: {self.found.crowded} pairs of structures with {MOST} nearer ones each in other sets"
            yield f"{said}; the counts of near ones are lower bounds"
        for kind, words in (("undecided", "too symmetric to try all motions"), ("mirror", "mirror images, which are not counted")):
            if self._pairs(kind):
                yield f"  {self._pairs(kind)} pairs are {words}"
        for code, count in self.unfit.most_common():
            yield f"  not compared: {count} structures ({code})"


def find_overlaps(
    structures: Sequence[Structure],
    sets_of: Callable[[int, Structure], Iterable[str]],
    *,
    near: bool = True,
    tolerance: float = TOLERANCE,
    executor: Executor | None = None,
) -> OverlapReport:
    """Compare all sets with each other: equal coordinates everywhere; near geometries where a composition is in several sets.

    Args:
        structures: a store, or any sequence. sets_of: names of the sets that hold a structure, from its position and itself.
        near: also look for copies that are moved, reordered or noisy. tolerance: Å. executor: default: this process.

    Raises:
        MlipfmError: a tolerance that is not between 0 and 0.1 Å. PluginError: scipy is missing, and `near` is asked.
    """
    from ..importing import shown

    check_tolerance(tolerance)
    members = [member for k, s in enumerate(shown(iter(structures), "geometries")) for member in _members(k, s, sets_of(k, s))]
    best: dict[tuple[int, str], int] = {}
    for a, b in _equal(members):
        _note(best, members, a, b, 0)
    report = OverlapReport(len(structures), Counter(m.name for m in members), [], tolerance if near else None)
    if near:
        for a, b in _near(structures, members, tolerance, executor, report):
            _note(best, members, a, b, 2)
    report.overlaps = _counted(best, members, report.sizes)
    return report


def geometry_digest(s: Structure) -> str:
    """As `Structure.key`, of the atoms, positions and cell alone: one geometry has one digest, whatever charge a set gives for it."""
    if s.total_charge is None and s.spin_multiplicity is None and s.external_field is None:
        return s.key
    return Structure.trusted(atomic_numbers=s.atomic_numbers, positions=s.positions, cell=s.cell, pbc=s.pbc).key


def _members(k: int, s: Structure, names: Iterable[str]) -> Iterator[Member]:
    geometry, composition, state = geometry_digest(s), intern(bucket(s)), state_of(s)
    for name in names:
        yield Member(k, intern(name), geometry, composition, s.level, state)


def _equal(members: Sequence[Member]) -> Iterator[tuple[int, int]]:
    """Members of different sets with one geometry, both ways."""
    order = sorted(range(len(members)), key=lambda k: members[k].geometry)
    for _, group in groupby(order, lambda k: members[k].geometry):
        same = list(group)
        yield from ((a, b) for a in same for b in same if len(same) > 1)


def _near(
    structures: Sequence[Structure], members: Sequence[Member], tolerance: float, executor: Executor | None, report: OverlapReport
) -> Iterator[tuple[int, int]]:
    """Members of different sets with near geometries, both ways."""
    sets: dict[str, set[str]] = defaultdict(set)
    for m in members:
        sets[m.bucket].add(m.name)
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)  # (set, geometry) -> members: one of them stands for all
    for k, m in enumerate(members):
        if len(sets[m.bucket]) > 1:
            alike[m.name, m.geometry].append(k)
    same = list(alike.values())
    chosen = Chosen(structures, [members[group[0]].position for group in same])
    seen = search_input(chosen, executor)
    rows = [
        row._replace(key=members[group[0]].geometry, source=members[group[0]].name, group=None)
        for row, group in zip(seen.rows, same, strict=True)
    ]
    names = {name: k for k, name in enumerate(report.sizes)}
    sides = np.array([names[members[group[0]].name] for group in same], dtype=np.int64)
    report.compared, report.compositions, report.unfit = len(same), sum(len(found) > 1 for found in sets.values()), seen.unfit
    report.found = near_duplicates_only(chosen, rows, sides, tolerance, executor)
    for pair in report.found.pairs:
        if pair.kind == "near":
            yield from ((a, b) for a in same[pair.first] for b in same[pair.second])
            yield from ((b, a) for a in same[pair.first] for b in same[pair.second])


def _note(best: dict[tuple[int, str], int], members: Sequence[Member], a: int, b: int, kind: int) -> None:
    """Remember that the set of `b` holds the geometry of `a`, if that is the strongest so far."""
    one, other = members[a], members[b]
    if one.name == other.name or any(p is not None and q is not None and p != q for p, q in zip(one.state, other.state, strict=True)):
        return
    kind += one.level is None or one.level != other.level
    best[a, other.name] = min(kind, best.get((a, other.name), kind))


def _counted(best: Mapping[tuple[int, str], int], members: Sequence[Member], sizes: Mapping[str, int]) -> list[Overlap]:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (a, second), kind in best.items():
        counts[members[a].name, second][OVERLAP_KINDS[kind]] += 1
    found = [
        Overlap(first, second, sizes[first], {kind: kinds[kind] for kind in OVERLAP_KINDS}) for (first, second), kinds in counts.items()
    ]
    return sorted(found, key=_most_first)


def _most_first(one: Overlap) -> tuple[int, float, str, str]:
    return -one.shared, -one.share, one.first, one.second
