"""Bond lengths and stiffness: what geometry alone says about the unit of lengths and about sign and scale of forces.

A terminal atom feels, along its only bond, little but that bond: its force against the bond's length has the slope of the stretching force constant,
27 to 35 eV/Å² for C-H, 40 to 50 for O-H, 37 to 45 for N-H (Wilson, Decius, Cross, Molecular Vibrations, 1955: 4.7 to 5.0, 7.8 and 6.4 mdyn/Å).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, symbol
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Structure

from .held import unknown_forces

#: Å within which neighbours are looked at; distance over the sum of covalent radii up to which two atoms are bonded.
REACH, BONDED = 5.0, 1.3
#: Elements that form molecules: their atoms have a valence.
NONMETALS = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53})
#: eV/Å² of the bond of a hydrogen atom with an element; for C, N, O as measured, 33 for others.
STIFFNESS = {6: 31.0, 7: 41.0, 8: 44.0, 9: 55.0, 16: 25.0}


@dataclass(frozen=True)
class Neighbors:
    """Directed pairs of one structure: `vectors` [P, 3] from i to j, `distance` [P] in Å, `relative` [P] to the sum of covalent radii."""

    i: np.ndarray
    j: np.ndarray
    shift: np.ndarray
    vectors: np.ndarray
    distance: np.ndarray
    relative: np.ndarray


def neighbors_of(structure: Structure, reach: float = REACH) -> Neighbors | None:
    """Pairs within `reach` Å; None where atoms overlap or crowd so that no list can be made."""
    from mlipfm_interfaces.neighbors import neighbor_pairs  # brings torch

    try:
        i, j, shift = neighbor_pairs(structure, reach)
    except MlipfmError:
        return None
    vectors = structure.positions[j] - structure.positions[i] + shift @ structure.cell
    distance = np.linalg.norm(vectors, axis=1)
    z = structure.atomic_numbers
    return Neighbors(i, j, shift, vectors, distance, distance / (COVALENT_RADII[z[i]] + COVALENT_RADII[z[j]]))


def nearest(structure: Structure, near: Neighbors) -> np.ndarray:
    """[N] distance of each atom to its nearest neighbour over the sum of covalent radii; inf without one."""
    out = np.full(len(structure), np.inf)
    np.minimum.at(out, near.i, near.relative)
    return out


@dataclass(frozen=True)
class Stiffness:
    """Slope of force against bond length of one kind of terminal bond.

    Attributes:
        bond: `H-C`. value: eV/Å², positive where a stretched bond pulls. correlation: of force and length. count: bonds.
        expected: eV/Å², of that kind of bond, where it is known.
    """

    bond: str
    value: float
    correlation: float
    count: int
    expected: float | None


def stiffness(structures: list[Structure], neighbors: list[Neighbors | None]) -> list[Stiffness]:
    """Of every kind of terminal bond that occurs often enough and with enough spread in its length."""
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    for structure, near in zip(structures, neighbors, strict=True):
        if near is None or "forces" not in structure.labels or not len(near.i):
            continue
        z, forces = structure.atomic_numbers, structure.labels["forces"]
        bonded = near.relative < BONDED
        terminal = bonded & (np.bincount(near.i[bonded], minlength=len(z))[near.i] == 1) & ~unknown_forces(structure)[near.i]
        pull = np.sum(forces[near.i] * near.vectors, axis=1) / near.distance
        for kind in {(int(a), int(b)) for a, b in zip(z[near.i[terminal]], z[near.j[terminal]], strict=True)}:
            mine = terminal & (z[near.i] == kind[0]) & (z[near.j] == kind[1])
            found.setdefault(kind, []).append(np.stack([near.distance[mine], pull[mine]]))
    fits = [_slope(kind, np.concatenate(parts, axis=1)) for kind, parts in found.items()]
    return sorted((fit for fit in fits if fit is not None), key=lambda fit: -fit.count)


def _slope(kind: tuple[int, int], data: np.ndarray) -> Stiffness | None:
    length, pull = data
    x, y = length - np.median(length), pull - np.median(pull)
    small = np.abs(x) < 0.15
    if small.sum() < 16 or x[small].std() < 3e-3 or not np.any(y[small]):
        return None
    x, y = x[small] - x[small].mean(), y[small] - y[small].mean()
    correlation = float(x @ y / np.sqrt((x @ x) * (y @ y) + 1e-300))
    expected = STIFFNESS.get(kind[1], 33.0) if kind[0] == 1 and kind[1] in NONMETALS else None
    return Stiffness(f"{symbol(kind[0])}-{symbol(kind[1])}", float(x @ y / (x @ x)), correlation, len(x), expected)


def force_scale(kinds: list[Stiffness]) -> float | None:
    """Forces over what they should be, judged by the bonds of hydrogen; None where they do not tell. Negative: gradients."""
    sure = [kind for kind in kinds if kind.expected and abs(kind.correlation) > 0.8]
    if not sure:
        return None
    ratios = np.array([kind.value / kind.expected for kind in sure if kind.expected])
    return float(np.average(ratios, weights=[min(kind.count, 200) for kind in sure]))


#: Bonds that an atom of a molecule has, at least and at most, counted as distances below `VALENCE_REACH` of the sum of covalent radii.
_VALENCES = {1: (1, 1), 6: (2, 4), 7: (1, 4), 8: (1, 2), 9: (1, 1), 17: (1, 1), 35: (1, 1), 53: (1, 1)}
VALENCE_REACH = 1.2


def valence(numbers: np.ndarray, near: Neighbors) -> tuple[int, int]:
    """(atoms with a possible number of bonds at possible lengths, atoms looked at) for H, C, N, O and halogens without metals around."""
    relative = near.distance / (COVALENT_RADII[numbers[near.i]] + COVALENT_RADII[numbers[near.j]])
    bonds = np.bincount(near.i[relative < VALENCE_REACH], minlength=len(numbers))
    crushed = np.bincount(near.i[relative < 0.75], minlength=len(numbers)) > 0
    metal = ~np.isin(numbers, list(NONMETALS))
    beside = np.bincount(near.i[(relative < BONDED) & metal[near.j]], minlength=len(numbers)) > 0
    good = looked = 0
    for z, (least, most) in _VALENCES.items():
        mine = (numbers == z) & ~beside
        looked += int(mine.sum())
        good += int((mine & ~crushed & (bonds >= least) & (bonds <= most)).sum())
    return good, looked
