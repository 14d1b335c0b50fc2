"""Structures that are possible but look like a mistake: atoms pushed into each other, and atoms that are all alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from .elements import COVALENT_RADII, symbol
from .errors import ImplausibleStructureWarning, InvalidStructureError
from .neighbors import UNIT_HINT, Pairs, neighbor_pairs
from .structure import Structure

#: Two atoms nearer than this part of the sum of their covalent radii are told: the shortest bonds (H2, N2) are at 1.1 and 0.78 of it.
CLOSE = 0.6


def implausible(structure: Structure, cutoff: float, pairs: Pairs | None = None) -> list[str]:
    """Say what looks wrong, in words; nothing for ordinary matter.

    Args:
        cutoff: Å, how far the model sees.
        pairs: of the structure within the cutoff, where they are known already, see `neighbor_pairs`.

    Raises:
        OverlapError, DensityError: from the neighbour list.
    """
    i, j, shift = neighbor_pairs(structure, cutoff) if pairs is None else pairs
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


def unheard(structure: Structure, conditions: Sequence[str]) -> list[str]:
    """A charge or a multiplicity that a model with these conditions answers as if it were not there, in words; neutral singlets are not told."""
    stated = {"total_charge": (structure.total_charge, 0), "spin_multiplicity": (structure.spin_multiplicity, 1)}
    return [
        f"the model does not know {name}: {value} changes nothing in its answer"
        for name, (value, usual) in stated.items()
        if value not in (None, usual) and name not in conditions
    ]


def warn_if_implausible(
    structure: Structure,
    cutoff: float,
    conditions: Sequence[str] | None = None,
    *,
    pairs: Pairs | None = None,
    strict: bool = False,
    stacklevel: int = 2,
) -> None:
    """Warn of what `implausible` finds, and `unheard` if the `conditions` of the model are given, or refuse it.

    Raises:
        InvalidStructureError: with `strict`, instead of the warning. OverlapError, DensityError: always.
    """
    ignored = [] if conditions is None else unheard(structure, conditions)
    for text in [*implausible(structure, cutoff, pairs), *ignored]:
        if strict:
            raise InvalidStructureError(text, hint="check the geometry, or leave `strict`")
        warnings.warn(text, ImplausibleStructureWarning, stacklevel=stacklevel + 1)
