"""Findings of the label checks, each with a stable code, a severity, words, a hint and the figures that decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Severity = Literal["fault", "doubt", "note"]
_ORDER = {"fault": 0, "doubt": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One likely error of the labels of one level of theory.

    Attributes:
        code: kebab-case, never changes; `CODES` lists them.
        severity: `fault`: physics contradicts the labels; `doubt`: unusual, look at it; `note`: good to know.
        words: what was found. hint: what to do about it.
        figures: the numbers that decided, by name (units in the name or in `words`).
        level: of theory, None if not given.
        groups: groups that are concerned, if not all. indices: positions in the stream, at most `MOST`.
    """

    code: str
    severity: Severity
    words: str
    hint: str
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    level: str | None = None
    groups: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = f" [{self.level}]" if self.level else ""
        numbers = self.numbers
        frames = f"; frames {', '.join(map(str, self.indices[:8]))}{', ...' if len(self.indices) > 8 else ''}" if self.indices else ""
        return f"{self.severity} {self.code}{where}: {self.words}{f' ({numbers})' if numbers else ''}{frames}; {self.hint}"

    @property
    def numbers(self) -> str:
        """The figures as text: `slope -1, pairs 20`."""
        return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in self.figures.items())

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-ready data; `mend` is the old name of `hint`."""
        return {"code": self.code, "severity": self.severity, "words": self.words, "hint": self.hint, "mend": self.hint,
                "figures": dict(self.figures),
                "level": self.level, "groups": list(self.groups), "indices": list(self.indices)}  # fmt: skip


#: Indices that a finding lists.
MOST = 100

Figures = Mapping[str, float | int | str]


def fault(code: str, words: str, hint: str, level: str | None, figures: Figures, indices: Sequence[int] = ()) -> Finding:
    """Return a finding that physics contradicts the labels; of `indices` the first `MOST` are kept."""
    return Finding(code, "fault", words, hint, figures, level, indices=tuple(indices[:MOST]))


def doubt(code: str, words: str, hint: str, level: str | None, figures: Figures, indices: Sequence[int] = ()) -> Finding:
    """Return a finding that something is unusual; of `indices` the first `MOST` are kept."""
    return replace(fault(code, words, hint, level, figures, indices), severity="doubt")


#: Every code, the most direct cause first: findings are sorted by severity and then in this order.
CODES: dict[str, str] = {
    "labels-not-finite": "NaN or infinite labels",
    "multiplicity-counts-unpaired": "the number of unpaired electrons where 2S+1 is requested",
    "impossible-state": "charge and multiplicity contradict the number of electrons",
    "model-labels": "predictions of a model in place of reference labels",
    "length-unit": "positions (and cell) in another unit than Angstrom",
    "cell-in-bohr": "the cell in bohr, positions in Angstrom",
    "cell-length-unit": "positions in bohr, the cell in Angstrom",
    "cell-transposed": "lattice vectors as columns",
    "cell-wrong": "a cell that does not belong to the positions",
    "species-swapped": "two elements exchanged",
    "species-order": "atomic numbers in another order than the positions",
    "forces-zero": "forces that are zero without symmetry: missing labels filled with zeros",
    "forces-copied": "the same forces for different geometries",
    "energies-copied": "the same energy for different geometries",
    "contradictory-duplicates": "one geometry with different labels",
    "forces-atom-order": "forces in another order than the atoms",
    "forces-other-frame": "forces that belong to other frames",
    "forces-rotated": "forces in another orientation than the positions",
    "forces-misplaced": "forces that do not belong to the geometries",
    "energies-shuffled": "energies that belong to other frames",
    "mixed-levels": "energies of two levels of theory or zeros under one name",
    "forces-sign": "gradients in place of forces",
    "energy-unit": "energies in another unit than eV",
    "energy-per-atom": "energies per atom in place of totals",
    "forces-unit": "forces in another unit than eV/Angstrom",
    "net-force": "forces that do not sum to zero",
    "net-torque": "forces that turn a free molecule",
    "stress-sign": "stress that is positive under compression",
    "stress-unit": "stress in another unit than eV/Angstrom^3",
    "stress-is-virial": "the virial in place of the stress",
    "stress-order": "six stress components in another order",
    "stress-asymmetric": "a stress that is not symmetric",
    "stress-zero": "a stress of exactly zero: missing labels filled with zeros",
    "energy-outliers": "a few energies far from their neighbours: unconverged calculations",
    "force-outliers": "a few frames with forces that no geometry explains: unconverged calculations",
    "energy-rounded": "energies rounded too coarsely",
    "forces-rounded": "forces rounded too coarsely",
    "isolated-atom": "an isolated atom with forces, or with an energy that no binding explains",
    "energy-force-mismatch": "energies and forces that do not fit and no known unit explains",
    "stress-mismatch": "a stress that does not fit and no known unit explains",
    "model-column": "a second column of energies or forces beside the one that is read",
    "constrained-forces": "forces of fixed atoms set to zero",
    "not-sampled": "what could not be checked",
}
_RANK = {code: k for k, code in enumerate(CODES)}


def ordered(findings: list[Finding]) -> list[Finding]:
    """Return the most certain and most direct first."""
    return sorted(findings, key=lambda item: (_ORDER[item.severity], _RANK[item.code], item.level or ""))
