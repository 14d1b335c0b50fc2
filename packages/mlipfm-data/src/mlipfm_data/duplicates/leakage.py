"""Leakage: what a test set shares with a training set, from the same geometry to the same composition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mlipfm_interfaces.structure import Structure

from ..parallel import View
from .match import TOLERANCE, check_tolerance
from .report import EXAMPLES, named, remarks, table, told
from .search import Found, Pair, Row, search, search_input

#: Levels of leakage, strongest first: same geometry, same trajectory or molecule name, same bonded graph, same formula.
LEAKS = ("geometry", "group", "molecule", "composition")


@dataclass
class LeakageReport:
    """Of a training and a test set.

    Attributes:
        train, test: rows of the structures. found: pairs (first: of the training set, second: of the test set). tolerance: Å.
        mirrors: whether mirror images count. unfit: codes of structures that could not be compared.
    """

    train: Sequence[Row]
    test: Sequence[Row]
    found: Found
    tolerance: float
    unfit: Counter[str]
    mirrors: bool = False

    @property
    def geometry(self) -> list[Pair]:
        """Test geometries that are in the training set, in the same state."""
        kinds = ("identical", "near", "mirror") if self.mirrors else ("identical", "near")
        return [p for p in self.found.pairs if p.kind in kinds and not p.other_state]

    def leaking(self, level: str) -> list[int]:
        """Positions of the test structures that share their geometry, group, molecule or composition with the training set."""
        if level == "geometry":
            return sorted({p.second for p in self.geometry})
        known = {_class(row, level) for row in self.train} - {None}
        return [k for k, row in enumerate(self.test) if _class(row, level) in known]

    def leaks(self, level: str = "geometry") -> bool:
        """Return whether anything leaks at `level` or a stronger one."""
        return any(self.leaking(name) for name in LEAKS[: LEAKS.index(level) + 1])

    def as_json(self) -> dict[str, Any]:
        return {
            "train": len(self.train),
            "test": len(self.test),
            "tolerance": self.tolerance,
            "leaking": {level: len(self.leaking(level)) for level in LEAKS},
            "kinds": dict(Counter(p.kind for p in self.found.pairs)),
            "groups": sorted({str(self.test[k].group) for k in self.leaking("group")}),
            "not_superimposed": self.found.crowded,
            "not_compared": dict(self.unfit),
            "pairs": [told(p, self.train, self.test) for p in self.geometry],
        }

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        n = len(self.test)
        yield f"{len(self.train)} training and {n} test structures, tolerance {self.tolerance:g} A on each coordinate"
        yield from table(self.found.pairs)
        words = {
            "geometry": "are in the training set",
            "group": "are of a trajectory or group of the training set",
            "molecule": "have the bonds of a training molecule",
            "composition": "have the composition of a training structure",
        }
        for level in LEAKS:
            count = len(self.leaking(level))
            yield f"{level:12s} {count:8d} of {n} test structures ({count / max(n, 1):.1%}) {words[level]}"
        yield from remarks(self.found, self.unfit)
        for pair in self.geometry[:EXAMPLES]:
            yield f"  {pair.kind}: train {named(pair.first, self.train)} = test {named(pair.second, self.test)}, rms {pair.rms:.2g} A"
        if len(self.geometry) > EXAMPLES:
            yield f"  and {len(self.geometry) - EXAMPLES} more: --json lists them"


def find_leakage(
    train: Sequence[Structure],
    test: Sequence[Structure],
    *,
    tolerance: float = TOLERANCE,
    mirrors: bool = False,
    executor: Executor | None = None,
) -> LeakageReport:
    """Compare two sets; arguments and guarantees as `duplicates.find_duplicates`. Levels do not matter: a geometry leaks through any of them."""
    check_tolerance(tolerance)
    first, second = search_input(train, executor, molecules=True), search_input(test, executor, molecules=True)
    sides = np.repeat([0, 1], [len(first.rows), len(second.rows)])
    found = search(_Both(train, test), [*first.rows, *second.rows], sides, tolerance, executor)
    found.pairs = [replace(p, second=p.second - len(first.rows)) for p in found.pairs]
    return LeakageReport(first.rows, second.rows, found, tolerance, first.unfit + second.unfit, mirrors)


class _Both(View):
    """Two sequences end to end."""

    def __init__(self, first: Sequence[Structure], second: Sequence[Structure]) -> None:
        self._parts = first, second

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def at(self, k: int) -> Structure:
        first, second = self._parts
        return first[k] if k < len(first) else second[k - len(first)]


def _class(row: Row, level: str) -> str | None:
    if level == "group":
        return None if row.group is None else f"{row.source}/{row.group}"
    return row.molecule if level == "molecule" else row.bucket.split(":")[-1] or None
