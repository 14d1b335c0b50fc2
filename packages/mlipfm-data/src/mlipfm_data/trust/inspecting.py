"""`inspect`: one pass over structures, then a judgement of every level of theory."""

from __future__ import annotations

from collections.abc import Iterable

from mlipfm_interfaces.structure import Structure

from .findings import Finding, ordered
from .judging import judge_geometry, judge_level
from .passing import Passing
from .sampling import LevelSample

#: Levels of theory that are looked at; more under one name space are a sign of a broken import.
LEVELS = 256


class Inspector:
    """Collects structures one by one; `findings` judges what was collected.

    Memory is bounded for each level: `sampling.FRAMES` structures (`sampling.ATOMS` atoms) for the physics, and for copies and compositions light
    records of the first `passing.REMEMBERED` frames.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._samples: dict[str | None, LevelSample] = {}
        self._passing: dict[str | None, Passing] = {}
        self._left_out: set[str | None] = set()
        self._unused = 0  # frames of weight 0

    def add(self, structure: Structure) -> None:
        """Look at one structure."""
        index, level = self.seen, structure.level
        self.seen += 1
        if float(structure.labels.get("weight", 1.0)) == 0.0:
            self._unused += 1
            return
        if level not in self._samples:
            if len(self._samples) >= LEVELS:
                self._left_out.add(level)
                return
            self._samples[level], self._passing[level] = LevelSample(), Passing()
        self._passing[level].add(index, structure)
        self._samples[level].add(index, structure)

    def findings(self) -> list[Finding]:
        """What is wrong with what was added, most certain first."""
        found: list[Finding] = []
        for level, sample in self._samples.items():
            passing = self._passing[level]
            labelled = passing.with_energy or passing.with_forces or passing.with_stress or passing.stated.count or passing.not_finite.count
            found += judge_level(level, sample, passing) if labelled else judge_geometry(level, sample)[0]
        if self._left_out:
            words = f"the stream has more than {LEVELS} levels of theory; {len(self._left_out)} were not looked at"
            found.append(Finding("not-sampled", "doubt", words, "give every level one name"))
        if self._unused:
            words = f"{self._unused} frames have the weight 0: they are not used, and were not looked at"
            found.append(Finding("not-sampled", "note", words, "give them another weight to have them judged"))
        return ordered(found)


def inspect(structures: Iterable[Structure]) -> list[Finding]:
    """Likely faults of the labels of `structures`, each with its likely cause, from physics alone; empty if nothing is wrong.

    One pass, bounded memory (see `Inspector`). Structures are not changed. Frames of one trajectory should carry one `provenance.group`.
    """
    inspector = Inspector()
    for structure in structures:
        inspector.add(structure)
    return inspector.findings()
