"""Labels that contradict the units, signs or orders that their file or its layout states: such an import stops before anything is stored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mlipfm_interfaces.errors import UnitError

from .readers.frames_in import ReadReport, option_words
from .trust.findings import Finding

#: Code of a finding -> the convention that is wrong if it is right.
CONVENTION_OF = {
    "length-unit": "length_unit", "cell-in-bohr": "length_unit", "cell-length-unit": "length_unit", "energy-unit": "energy_unit",
    "energy-per-atom": "energy_unit", "forces-unit": "forces_unit", "forces-sign": "forces_sign", "stress-unit": "stress_unit",
    "stress-is-virial": "stress_unit", "stress-sign": "stress_sign", "stress-order": "stress_order",
}  # fmt: skip


def contradiction(findings: Iterable[Finding], decisions: ReadReport, path: Path) -> UnitError | None:
    """The error for the first fault of a convention that the file or its layout states; None if there is none.

    A convention that the user states, or that is assumed, is theirs to change: its fault is reported and stops nothing.
    """
    for item in findings:
        option = CONVENTION_OF.get(item.code, "") if item.severity == "fault" else ""
        for value, who in decisions.applied(option).items():
            if who.startswith(("layout", "stated in the file")):
                says = "the file states" if who.startswith("stated") else f"its {who} says"
                return UnitError(
                    f"{says} {option.replace('_', ' ')} {value}, and so read the labels contradict it: {item}",
                    where=str(path),
                    mend=f"state what the file holds with {option_words(option)}, or import it as it says with --accept-faults",
                )
    return None
