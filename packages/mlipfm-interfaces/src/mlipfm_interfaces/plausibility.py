"""Structures that are possible but look like a mistake: atoms pushed into each other, and atoms that are all alone."""

from __future__ import annotations

import warnings

import numpy as np

from .elements import COVALENT_RADII, symbol
from .errors import ImplausibleStructureWarning, InvalidStructureError
from .neighbors import UNIT_HINT, neighbor_pairs
from .structure import Structure

#: Two atoms nearer than this part of the sum of their covalent radii are told: the shortest bonds (H2, N2) are at 1.1 and 0.78 of it.
CLOSE = 0.6


def implausible(structure: Structure, cutoff: float) -> list[str]:
    """What looks wrong, in words; empty for ordinary matter.

    Args:
        cutoff: Å, how far the model sees.

    Raises:
        OverlapError, DensityError: from the neighbour list.
    """
    i, j, shift = neighbor_pairs(structure, cutoff)
    if not len(i):
        return [] if len(structure) == 1 else [f"no two of its {len(structure)} atoms are within {cutoff:g} Angstrom; {UNIT_HINT}"]
    vectors = structure.positions[j] - structure.positions[i] + shift @ structure.cell
    bonds = COVALENT_RADII[structure.atomic_numbers]
    relative = np.linalg.norm(vectors, axis=1) / (bonds[i] + bonds[j])
    k = int(relative.argmin())
    if relative[k] >= CLOSE:
        return []
    names = [f"{symbol(int(structure.atomic_numbers[a]))} (atom {a})" for a in (i[k], j[k])]
    return [f"{names[0]} and {names[1]} are {np.linalg.norm(vectors[k]):.3f} Angstrom apart, {relative[k]:.2f} of a single bond"]


def warn_if_implausible(structure: Structure, cutoff: float, *, strict: bool = False, stacklevel: int = 2) -> None:
    """Warn of what `implausible` finds, or refuse it.

    Raises:
        InvalidStructureError: with `strict`, instead of the warning. OverlapError, DensityError: always.
    """
    for text in implausible(structure, cutoff):
        if strict:
            raise InvalidStructureError(text, mend="check the geometry, or leave `strict`")
        warnings.warn(text, ImplausibleStructureWarning, stacklevel=stacklevel + 1)
