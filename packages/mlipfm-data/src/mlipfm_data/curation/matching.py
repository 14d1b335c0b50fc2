"""`match`: are these two structures the same within a tolerance?"""

from __future__ import annotations

from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Structure

from .crystals_match import match_crystals
from .fingerprints import bucket
from .molecules_match import match_molecules
from .rigid import Match, Undecided

#: Å: noise on each coordinate below which two structures are the same.
TOLERANCE = 0.01


def check_tolerance(tolerance: float) -> None:
    """Raises `MlipfmError` for a tolerance, in Å, that is not above 0 and at most 0.1."""
    if not 0 < tolerance <= 0.1:
        raise MlipfmError(
            f"the tolerance must be above 0 and at most 0.1 Angstrom, got {tolerance}", mend="the noise of a copy is below 0.01"
        )


def match(a: Structure, b: Structure, tolerance: float = TOLERANCE) -> Match | None:
    """The rigid motion that takes one structure onto the other, or None.

    Order of equal atoms, origin, choice of cell and supercells do not count; charge, spin, labels and level are not looked at. What is returned was
    superimposed atom by atom: `rms` of the coordinates is at most `tolerance`, and no atom is off by more than four times it. If such a motion
    exists for a proper rotation it is found; otherwise mirror images are looked for and marked.

    Raises:
        Undecided: too symmetric and too large to try all motions. OverlapError, DensityError: atoms on top of each other.
    """
    if bucket(a) != bucket(b):
        return None
    if a.pbc.any():
        return match_crystals(a, b, tolerance)
    return match_molecules(a.atomic_numbers, a.positions, b.atomic_numbers, b.positions, tolerance)


__all__ = ["TOLERANCE", "Match", "Undecided", "check_tolerance", "match"]
