"""Classes of structures: same molecule, same composition, same trajectory, size, temperature, charge."""

from __future__ import annotations

import hashlib
import re

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.structure import Structure

from ..duplicates.fingerprints import bucket, distance_matrix

#: Two atoms are bonded if they are nearer than this times the sum of their covalent radii (Cordero 2008).
BOND = 1.25
#: Rounds of refinement (Weisfeiler and Lehman 1968): atoms whose bonds look alike up to so many bonds away count as equal.
ROUNDS = 8


def molecule_class(structure: Structure) -> str | None:
    """Name of the bonded graph of a molecule, `C2H6O:3f2a...`; equal for equal graphs. None for periodic structures.

    Bonds come from distances, so a broken bond makes another molecule. Graphs that `ROUNDS` of refinement cannot tell apart get one name.
    """
    if structure.pbc.any():
        return None
    radii = COVALENT_RADII[structure.atomic_numbers]
    bonded = distance_matrix(structure.positions) < BOND * (radii[:, None] + radii[None, :])
    np.fill_diagonal(bonded, False)
    neighbors = [np.flatnonzero(row).tolist() for row in bonded]
    names = [str(int(z)) for z in structure.atomic_numbers]
    for _ in range(ROUNDS):
        names = [_hashed(names[k], *sorted(names[j] for j in near)) for k, near in enumerate(neighbors)]
    return f"{structure.formula}:{_hashed(*sorted(names))}"


def composition_class(structure: Structure) -> str:
    """Formula of a molecule, reduced formula of a crystal."""
    return bucket(structure).split(":")[-1]


def group_class(structure: Structure) -> str | None:
    """Source and group, None if no group is given."""
    where = structure.provenance
    return None if where.group is None else f"{where.source or ''}/{where.group}"


def temperature_class(structure: Structure) -> float | None:
    """Kelvin, from `provenance.sampling` (`langevin-600K`) or else from the group's name; None if neither says one."""
    for text in (structure.provenance.sampling, structure.provenance.group):
        found = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?) ?K(?![A-Za-z0-9])", text or "")
        if found:
            return float(found[1])
    return None


def _hashed(*words: str) -> str:
    return hashlib.blake2b("\x1f".join(words).encode(), digest_size=8).hexdigest()
