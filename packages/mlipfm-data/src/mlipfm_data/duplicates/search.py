"""Near pairs of one set, or between two: candidates from fingerprints, each then superimposed; what is the same, and how the two are related."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

from ..curation.classes import molecule_class
from ..parallel import blocks, over
from .fingerprints import fingerprint, near_pairs, nearest_only
from .match import Undecided, match, match_in_order
from .superimpose import judged, kabsch

# What the search knows of each structure of one or two sets: fingerprint, key, where it comes from, its state.


class Row(NamedTuple):
    """Of one structure. `vector` is None if it has no fingerprint (atoms on top of each other); `why` says so."""

    key: str
    bucket: str
    vector: NDArray[np.float32] | None
    source: str | None
    group: str | None
    level: str | None
    state: tuple[Any, ...]
    molecule: str | None
    why: str | None


@dataclass
class SearchInput:
    """Of all structures of a set, in order.

    Attributes:
        rows: one each. unfit: Counter of error codes of structures that cannot be compared.
    """

    rows: list[Row] = field(default_factory=list)
    unfit: Counter[str] = field(default_factory=Counter)


def search_input(structures: Sequence[Structure], executor: Executor | None, molecules: bool = False) -> SearchInput:
    """Look at every structure once. `molecules`: also tell molecules by their bonds."""
    result = SearchInput()
    parts = blocks(len(structures))
    for rows in over(_rows, structures, parts, executor, [molecules] * len(parts), title="fingerprints"):
        result.rows += rows
    result.unfit.update(row.why for row in result.rows if row.why is not None)
    return result


def _rows(structures: list[Structure], molecules: bool) -> list[Row]:
    return [_row(s, molecules) for s in structures]


def _row(s: Structure, molecules: bool) -> Row:
    where, why, vector = s.provenance, None, None
    bucket = ""
    try:
        found = fingerprint(s)
        bucket, vector = found.bucket, found.vector
    except MlipfmError as error:
        why = error.code
    molecule = molecule_class(s) if molecules else None
    return Row(s.key, bucket, vector, where.source, where.group, s.level, state_of(s), molecule, why)


def state_of(s: Structure) -> tuple[Any, ...]:
    """Charge, multiplicity and field, None where not given."""
    electric = None if s.external_field is None else tuple(np.round(s.external_field, 9).tolist())
    return s.total_charge, s.spin_multiplicity, electric


#: Noise of `tolerance` on each coordinate moves an atom by sqrt(3) times it, and changes no number of a fingerprint by more than twice that.
RADIUS_FACTOR = 2 * 3**0.5
#: Near pairs of one structure that are superimposed, nearest first.
MOST = 16
#: Pairs of one task.
TASK = 128

#: How the two structures of a pair belong together.
RELATIONS = ("other source", "other group", "no group stated", "same group")


@dataclass(frozen=True)
class Pair:
    """Two structures of the same geometry.

    Attributes:
        first, second: positions in the sets. kind: `identical` (equal keys), `near` (superimposed within the tolerance), `mirror` (only after a
            reflection), `undecided` (too symmetric to try all motions).
        relation: one of `RELATIONS`. other_level, other_state: their levels differ; their given charges, multiplicities or fields differ.
        rms: Å, of the coordinates.
    """

    first: int
    second: int
    kind: str
    relation: str
    other_level: bool
    other_state: bool
    rms: float

    @property
    def expected(self) -> bool:
        """Within one trajectory, or one geometry computed at two levels or in two states: no mistake."""
        return self.relation == "same group" or self.other_state or (self.other_level and self.kind == "identical")


@dataclass
class Found:
    """Pairs, and what could not be looked at.

    Attributes:
        candidates: pairs with near fingerprints. crowded: of those, pairs not superimposed because `MOST` nearer ones were.
    """

    pairs: list[Pair] = field(default_factory=list)
    candidates: int = 0
    crowded: int = 0


def search(
    structures: Sequence[Structure],
    rows: Sequence[Row],
    sides: NDArray[np.int64] | None,
    tolerance: float,
    executor: Executor | None,
    within: int = 1,
) -> Found:
    """Return all pairs of one geometry.

    Args:
        structures: all, of both sets. rows: of each. sides: [structures] which set each belongs to; pairs are then sought between sets only.
        within: neighbours of each structure in its own trajectory that are looked at.
    """
    found = near_duplicates_only(structures, rows, sides, tolerance, executor, within)
    found.pairs += [_pair(rows, a, b, "identical", 0.0) for a, b in _identical(rows, sides)]
    found.pairs.sort(key=lambda pair: (pair.first, pair.second))
    return found


def near_duplicates_only(
    structures: Sequence[Structure],
    rows: Sequence[Row],
    sides: NDArray[np.int64] | None,
    tolerance: float,
    executor: Executor | None,
    within: int = 1,
) -> Found:
    """As `search`, of structures whose keys differ; the first of those that share a key and a set stands for all. There may be many sets."""
    found = Found()
    chosen = list(_candidates(rows, sides, tolerance, found, within))
    parts = [chosen[k : k + TASK] for k in range(0, len(chosen), TASK)]
    positions = [sorted({k for a, b, _ in part for k in (a, b)}) for part in parts]
    places = [{k: n for n, k in enumerate(some)} for some in positions]
    todo = [[(where[a], where[b], quick) for a, b, quick in part] for part, where in zip(parts, places, strict=True)]
    answers = over(_matched, structures, positions, executor, todo, [tolerance] * len(parts), title="superimposing")
    for part, kinds in zip(parts, answers, strict=True):
        found.pairs += [_pair(rows, a, b, kind, rms) for (a, b, _), (kind, rms) in zip(part, kinds, strict=True) if kind]
    return found


def relation(a: Row, b: Row) -> str:
    """Return one of `RELATIONS`."""
    if a.source != b.source:
        return "other source"
    if a.group is None and b.group is None:
        return "no group stated"
    return "same group" if a.group == b.group else "other group"


def _identical(rows: Sequence[Row], sides: NDArray[np.int64] | None) -> Iterator[tuple[int, int]]:
    """Each structure with the first of its key (of the other set, if there are two)."""
    seen: dict[tuple[str, int], int] = {}
    for k, row in enumerate(rows):
        side = 0 if sides is None else int(sides[k])
        other = seen.get((row.key, side if sides is None else 1 - side))
        if other is not None and (sides is None or side == 1):
            yield other, k
        seen.setdefault((row.key, side), k)


def _candidates(
    rows: Sequence[Row], sides: NDArray[np.int64] | None, tolerance: float, found: Found, within: int
) -> Iterator[tuple[int, int, bool]]:
    """Pairs to superimpose; the last entry says that they are neighbours of one trajectory, whose atoms have one order."""
    buckets: dict[str, list[int]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    for k, row in enumerate(rows):
        side = 0 if sides is None else int(sides[k])
        if row.vector is not None and (row.key, side) not in seen:  # one of each key
            seen.add((row.key, side))
            buckets[row.bucket].append(k)
    from mlipfm_interfaces.console import counter

    with counter("near fingerprints", len(buckets)) as advance:
        for members in buckets.values():
            advance(1)
            if len(members) > 1:
                yield from _near(rows, np.array(members), sides, tolerance, found, within)


def _near(
    rows: Sequence[Row], members: NDArray[np.int64], sides: NDArray[np.int64] | None, tolerance: float, found: Found, most_within: int
) -> Iterator[tuple[int, int, bool]]:
    vectors = np.stack([rows[k].vector for k in members])  # rows without a fingerprint are in no bucket
    trajectory = _numbered([(rows[k].source, rows[k].group) if rows[k].group is not None else k for k in members])
    kept: dict[bool, list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]] = {False: [], True: []}
    between = 0
    for i, j, distance in near_pairs(vectors, RADIUS_FACTOR * tolerance):
        if sides is not None:
            apart = sides[members[i]] != sides[members[j]]
            i, j, distance = i[apart], j[apart], distance[apart]
        found.candidates += len(i)
        within = trajectory[i] == trajectory[j]
        between += int((~within).sum())
        for quick, most in ((False, MOST), (True, most_within)):
            own = within == quick
            near = nearest_only(i[own], j[own], distance[own], most)  # what is not among the nearest here is not among the nearest at all
            kept[quick].append((i[own][near], j[own][near], distance[own][near]))
    for quick, most in ((False, MOST), (True, most_within)):
        if not kept[quick]:
            continue
        i, j, distance = (np.concatenate(column) for column in zip(*kept[quick], strict=True))
        near = nearest_only(i, j, distance, most)
        found.crowded += 0 if quick else between - int(near.sum())
        for first, second in zip(members[i[near]].tolist(), members[j[near]].tolist(), strict=True):
            if rows[first].key != rows[second].key:
                yield min(first, second), max(first, second), quick


def _numbered(names: list[Any]) -> NDArray[np.int64]:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


def _pair(rows: Sequence[Row], a: int, b: int, kind: str, rms: float) -> Pair:
    x, y = rows[a], rows[b]
    differ = any(p is not None and q is not None and p != q for p, q in zip(x.state, y.state, strict=True))
    return Pair(a, b, kind, relation(x, y), x.level != y.level, differ, rms)


def _matched(structures: list[Structure], todo: list[tuple[int, int, bool]], tolerance: float) -> list[tuple[str, float]]:
    """Runs in a worker: kind ("" for different) and rms of each pair."""
    return [_one(structures[a], structures[b], quick, tolerance) for a, b, quick in todo]


def _one(a: Structure, b: Structure, quick: bool, tolerance: float) -> tuple[str, float]:
    if quick and np.array_equal(a.atomic_numbers, b.atomic_numbers):
        found = match_in_order(a, b, tolerance) if a.pbc.any() else judged(kabsch(a.positions, b.positions)[1], tolerance, False)
    else:
        try:
            found = match(a, b, tolerance)
        except Undecided:
            return "undecided", float("nan")
        except MlipfmError:
            return "", 0.0
    if found is None:
        return "", 0.0
    return ("mirror" if found.mirror else "near"), found.rms
