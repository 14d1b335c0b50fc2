"""What an export wrote, and what its format could not hold: counted by reason and never dropped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.structure import Structure

from ..readers.label_names import layout_of

#: Why a format cannot store a label of a structure, None if it can.
Reason = Callable[[Structure, str], str | None]


@dataclass
class ExportReport:
    """Of one export.

    Attributes:
        structures: written. systems: folders of a DeePMD export, 0 for files.
        left_out: what and why -> in how many structures.
        beside: what another program does not find where it looks, although it is written and read again here -> in how many structures.
    """

    structures: int = 0
    systems: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)

    def lines(self, out: object) -> Iterator[str]:
        """Yield the report for people."""
        folders = f" in {self.systems} systems" if self.systems else ""
        yield f"{out}: {self.structures} structures{folders}"
        for what, count in self.left_out.most_common():
            yield f"  left out: {what}, in {count} structures"
        for what, count in self.beside.most_common():
            yield f"  note: {what}, in {count} structures"


def left_out(s: Structure, reason: Reason) -> dict[str, str]:
    """Labels (with their companions) that a format cannot hold -> why."""
    found: dict[str, str] = {}
    for key in s.labels:
        if key in QUANTITIES and (why := reason(s, key)) is not None:
            found[key] = why
            companion = QUANTITIES[key].companion
            if companion is not None:
                found[companion] = why
    return found


def held(s: Structure, report: ExportReport, reason: Reason) -> Structure:
    """Return the structure without what the format cannot hold, which is counted."""
    without = left_out(s, reason)
    report.left_out.update(f"{key} ({why})" for key, why in without.items() if key in QUANTITIES)
    if not without:
        return s
    labels, deviations = ({key: value for key, value in part.items() if key not in without} for part in (s.labels, s.label_std))
    return s.replace(labels=labels, label_std=deviations)


def not_read_again(s: Structure, key: str) -> str | None:
    """Why the readers of this package would not take a label from any file."""
    layout = layout_of(key)
    if layout == "pair":
        return "belongs to pairs; the format holds systems and atoms"
    if layout == "probe" and not s.labels[key].size:
        return "has no rows"
    if key == "stress" and not _has_volume(s):
        return "needs three periodic directions"
    return None


def _has_volume(s: Structure) -> bool:
    """Return whether the structure is periodic in three directions, so that a stress has a meaning."""
    return bool(s.pbc.all()) and abs(float(np.linalg.det(s.cell))) >= 1e-12
