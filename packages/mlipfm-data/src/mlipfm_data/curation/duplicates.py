"""Duplicates and near-duplicates of a set, and leakage between two: what to throw away, and what a test set must not share with its training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlipfm_interfaces.structure import Structure

from .matching import TOLERANCE, check_tolerance
from .pairs import MOST, RELATIONS, Found, Pair, search
from .survey import Row, Survey, survey

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
        """Positions that can go: all but the first of each cluster."""
        return sorted(k for cluster in self.clusters for k in cluster[1:])

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
        """The report for people."""
        yield f"{self.structures} structures, tolerance {self.tolerance:g} A on each coordinate"
        yield from table(self.found.pairs)
        yield f"duplicates: {len(self.duplicates)} pairs; {len(self.removable())} structures can go (all but the first of each)"
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
    seen = survey(structures, executor)
    found = search(structures, seen.rows, None, tolerance, executor)
    return DuplicateReport(len(seen.rows), tolerance, found, seen.rows, seen.unfit, mirrors)


def near_clusters(structures: Sequence[Structure], *, tolerance: float = TOLERANCE, executor: Executor | None = None) -> list[list[int]]:
    """Positions of structures of nearly one geometry, expected or not: what a split must not separate. Arguments as `find_duplicates`."""
    check_tolerance(tolerance)
    seen = survey(structures, executor)
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


__all__ = ["DuplicateReport", "Survey", "clusters", "find_duplicates", "near_clusters", "table"]
