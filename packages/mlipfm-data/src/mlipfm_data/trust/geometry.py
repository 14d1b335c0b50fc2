"""Lengths, cells and species: which change makes bond lengths, coordination and valences those of matter?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, symbol
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import BOHR

from .bonds import NONMETALS, VALENCE_REACH, Neighbors, nearest, neighbors_of, valence


def nearest_relative(structure: Structure) -> np.ndarray | None:
    """[N] as `bonds.nearest`, also where atoms overlap."""
    near = neighbors_of(structure, 8.0 if len(structure) < 30 else 6.0)
    if near is not None:
        return nearest(structure, near)
    if structure.pbc.any() or len(structure) > 300:
        return None
    distance = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=2)
    radii = COVALENT_RADII[structure.atomic_numbers]
    np.fill_diagonal(distance, np.inf)
    return np.asarray((distance / (radii[:, None] + radii[None])).min(axis=1))


def scaled(structure: Structure, positions: float = 1.0, cell: float = 1.0, transposed: bool = False) -> Structure:
    """A copy with other lengths; labels stay as they are."""
    matrix = structure.cell.T if transposed else structure.cell
    return Structure.trusted(
        **{**_fields(structure), "positions": structure.positions * positions, "cell": np.ascontiguousarray(matrix) * cell}
    )


def with_numbers(structure: Structure, numbers: np.ndarray) -> Structure:
    """A copy with other elements."""
    return Structure.trusted(**{**_fields(structure), "atomic_numbers": numbers})


def with_forces(structure: Structure, forces: np.ndarray) -> Structure:
    """A copy with other forces."""
    return Structure.trusted(**{**_fields(structure), "labels": {**structure.labels, "forces": forces}})


def _fields(structure: Structure) -> dict[str, object]:
    return {name: getattr(structure, name) for name in structure.__dataclass_fields__}


@dataclass(frozen=True)
class Mend:
    """A change of lengths: code, words, scale of positions and of the cell, whether lattice vectors are columns."""

    code: str
    words: str
    positions: float = 1.0
    cell: float = 1.0
    transposed: bool = False

    def __call__(self, structure: Structure) -> Structure:
        return scaled(structure, self.positions, self.cell, self.transposed)


MENDS = (
    Mend("length-unit", "lengths are in bohr", BOHR, BOHR),
    Mend("length-unit", "lengths are in Angstrom and were converted as if they were in bohr", 1 / BOHR, 1 / BOHR),
    Mend("cell-in-bohr", "the cell is in bohr, positions in Angstrom", 1.0, BOHR),
    Mend("cell-length-unit", "positions are in bohr, the cell in Angstrom", BOHR, 1.0),
    Mend("cell-transposed", "lattice vectors are columns", transposed=True),
)
#: Structures that are measured; the quality below which something is wrong with lengths, and below which it may be, if a mend helps everywhere.
MEASURED, NATURAL, ALMOST = 24, 0.7, 0.96
#: Helium to radon.
NOBLE = (2, 10, 18, 36, 54, 86)
#: Å: an atom in a larger cell is meant to be alone.
ALONE = 9.0
#: Å: condensed matter has atoms this near to each other across the boundary of its cell.
TOUCHING = 3.5


@dataclass(frozen=True)
class LengthVerdict:
    """What is wrong with lengths or cells, and `naturalness` as given and as mended."""

    mend: Mend
    given: float
    mended: float
    structures: int


def length_fault(structures: list[Structure]) -> LengthVerdict | None:
    """The change of lengths after which atoms have neighbours at the distances of matter, inside the cell and across its boundary."""
    usable = [s for s in structures if len(s) > 1 or (s.pbc.any() and np.linalg.norm(s.cell[s.pbc], axis=1).max() < ALONE)]
    usable = usable[:: max(1, len(usable) // MEASURED)]
    if not usable:
        return None
    given = _qualities(usable)
    if given.mean() > ALMOST:
        return None
    tried = [(mend, _qualities([mend(s) for s in usable])) for mend in MENDS if not mend.transposed or _skewed(usable)]
    mend, mended = max(tried, key=lambda item: float(item[1].mean()))
    poor = given.mean() < NATURAL and mended.mean() > max(0.85, given.mean() + 0.3)
    everywhere = mended.mean() > 0.98 and np.mean(mended > given) > 0.7
    return LengthVerdict(mend, float(given.mean()), float(mended.mean()), len(usable)) if poor or everywhere else None


def _skewed(structures: list[Structure]) -> bool:
    return any(not np.allclose(s.cell, s.cell.T, atol=1e-3) for s in structures)


def _qualities(structures: list[Structure]) -> np.ndarray:
    return np.array([naturalness(s) for s in structures])


def naturalness(structure: Structure) -> float:
    """Part of the atoms whose nearest neighbour is at 0.62 to 1.4 of a covalent bond, times how natural the boundary of the cell is (`boundary`).

    Noble gases have no bonds and are left out; of nothing else, everything is natural.
    """
    first = nearest_relative(structure)
    if first is None:
        return 0.0
    first = first[~np.isin(structure.atomic_numbers, NOBLE)]
    if not len(first):
        return 1.0
    close = float(np.mean((first > 0.62) & (first < 1.4)))
    return close * boundary(structure) if structure.pbc.all() and len(structure) >= 4 else close


def boundary(structure: Structure) -> float:
    """How natural contacts across the boundary are: 1 as those inside, less if some are shorter than inside, 0 if a crystal touches nowhere."""
    near = neighbors_of(structure, 6.0)
    if near is None:
        return 0.0
    across = near.shift.any(axis=1)
    if not len(near.relative[~across]) or near.relative[~across].min() > 1.35:
        return 1.0  # nothing in contact inside: small cells
    shortest = float(near.relative[~across].min())
    crushed = np.unique(near.i[across & (near.relative < min(0.62, 0.75 * shortest))])
    if len(crushed):
        return max(0.0, 1 - 4 * len(crushed) / len(structure))
    touching = [np.any(across & (near.distance < TOUCHING) & (near.shift[:, axis] != 0)) for axis in range(3)]
    return 1.0 if any(touching) or _molecule(structure) else 0.0


def _molecule(structure: Structure) -> bool:
    """Whether the gap around the atoms is meant: a molecule in a box."""
    return bool(np.isin(structure.atomic_numbers, list(NONMETALS)).all()) and len(structure) < 60


@dataclass(frozen=True)
class SpeciesVerdict:
    """Which change of the atomic numbers makes valences possible: code, words, part of atoms with a possible valence before and after."""

    code: str
    words: str
    given: float
    mended: float
    frames: tuple[int, ...]


def species_fault(structures: list[Structure]) -> SpeciesVerdict | None:
    """Exchanged elements or atomic numbers in another order, in molecules of H, C, N, O and halogens."""
    usable = [
        (k, s, near)
        for k, s in enumerate(structures)
        if np.isin(s.atomic_numbers, list(NONMETALS)).all()
        and len(s) > 2
        and len(set(s.atomic_numbers.tolist())) > 1
        and (near := neighbors_of(s, 3.0)) is not None
    ]
    usable = [item for item in usable if item[2] is not None and len(item[2].i)]
    scores = [valence(s.atomic_numbers, near) for _, s, near in usable]
    bad = [k for k, (good, looked) in enumerate(scores) if looked >= 3 and good / looked < 0.62]
    least = 0.9
    if _part(scores) < 0.8 and len(bad) < 0.5 * len(usable):
        bad, least = [k for k, (_, looked) in enumerate(scores) if looked >= 3], 0.93
    if len(bad) < max(3, 0.02 * len(usable)):
        return None
    mine = [usable[k] for k in bad][:24]
    given = _part([scores[k] for k in bad])
    best = max(_changes(mine), key=lambda item: item[2], default=None)
    places = tuple(usable[k][0] for k in bad)
    if best is None or best[2] < max(least, given + (0.3 if least < 0.92 else 0.15)):
        return None
    return SpeciesVerdict(best[0], best[1], given, best[2], places)


def _part(scores: list[tuple[int, int]]) -> float:
    return sum(good for good, _ in scores) / max(1, sum(looked for _, looked in scores))


def _changes(items: list[tuple[int, Structure, Neighbors]]) -> list[tuple[str, str, float]]:
    elements = sorted({int(z) for _, s, _ in items for z in s.atomic_numbers})[:8]
    out = []
    for a in elements:
        for b in elements:
            if a < b:
                numbers = [_exchanged(s.atomic_numbers, a, b) for _, s, _ in items]
                out.append(("species-swapped", f"{symbol(a)} and {symbol(b)} are exchanged", _score(items, numbers)))
    out.append(("species-order", "atomic numbers run backwards", _score(items, [s.atomic_numbers[::-1] for _, s, _ in items])))
    guessed = [guessed_numbers(s, near) for _, s, near in items]
    whole = [n for n in guessed if n is not None]
    if len(whole) == len(items):
        out.append(("species-order", "atomic numbers are in another order than the positions", _score(items, whole) - 0.02))
    return out


def _score(items: list[tuple[int, Structure, Neighbors]], numbers: list[np.ndarray]) -> float:
    return _part([valence(z, near) for (_, _, near), z in zip(items, numbers, strict=True)])


def _exchanged(numbers: np.ndarray, a: int, b: int) -> np.ndarray:
    return np.where(numbers == a, b, np.where(numbers == b, a, numbers))


def guessed_numbers(structure: Structure, near: Neighbors) -> np.ndarray | None:
    """The same elements put where geometry wants them: hydrogen where the nearest neighbour is nearest, heavier atoms where there are more bonds."""
    first = np.full(len(structure), np.inf)
    np.minimum.at(first, near.i, near.distance)
    order = np.argsort(first)
    hydrogens = int((structure.atomic_numbers == 1).sum())
    if not hydrogens or not np.isfinite(first).all():
        return None
    numbers = np.zeros(len(structure), dtype=np.int64)
    light = [k for k in order if np.sum((near.i == k) & (near.distance < 1.25)) == 1][:hydrogens]
    if len(light) < hydrogens:
        return None
    numbers[light] = 1
    rest = [k for k in range(len(structure)) if numbers[k] == 0]
    bonds = {k: int(np.sum((near.i == k) & (near.distance < 1.25 * VALENCE_REACH * 1.1))) for k in rest}
    heavy = sorted((int(z) for z in structure.atomic_numbers if z != 1), key=lambda z: {6: 0, 7: 1, 8: 2}.get(z, 3))
    for k, z in zip(sorted(rest, key=lambda place: -bonds[place]), heavy, strict=True):
        numbers[k] = z
    return numbers
