"""Bond lengths, cells, species and stiffness: what geometry alone says about the unit of lengths and the sign and scale of forces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, symbol
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import BOHR

# Atoms whose force is no label: of weight 0, or written as exactly zero because a constraint fixed them.
#
# The work of such an atom is not known. Tests of energies against forces use a pair of frames only if these atoms rest, and all tests of forces
# leave these atoms out.

#: Å that a fixed atom may move between two frames (digits of files) without doing work that matters.
AT_REST = 2e-3


def unknown_forces(structure: Structure) -> np.ndarray:
    """[N] true where the force is no label: `forces_weight` is 0, or the force is exactly zero and that of another atom is not."""
    zero = zero_forces(structure)
    if zero.all():
        zero = np.zeros(len(structure), dtype=bool)
    weight = structure.labels.get("forces_weight")
    return zero if weight is None else zero | (np.asarray(weight) == 0)


def zero_forces(structure: Structure) -> np.ndarray:
    """[N] true where all three components are exactly zero."""
    return ~np.any(structure.labels["forces"], axis=1)


def unmasked_zeros(structure: Structure) -> np.ndarray:
    """[N] true where a force is exactly zero, another is not, and no weight of 0 leaves it out."""
    zero = zero_forces(structure)
    if zero.all():
        return np.zeros(len(structure), dtype=bool)
    weight = structure.labels.get("forces_weight")
    return zero if weight is None else zero & (np.asarray(weight) != 0)


def fixed_along(forces: np.ndarray) -> np.ndarray:
    """[N, 3] true where a component is exactly zero, others of the atom are not, and those of other atoms along that axis are not either."""
    zero = forces == 0
    return np.asarray(zero & ~zero.all(axis=0) & ~zero.all(axis=1)[:, None])


def known_forces(structure: Structure) -> np.ndarray:
    """[N, 3] forces, zero where they are not known."""
    return np.where(unknown_forces(structure)[:, None], 0.0, structure.labels["forces"])


# Lengths, cells and species: which change makes bond lengths, coordination and valences those of matter?


def _nearest_relative(structure: Structure) -> np.ndarray | None:
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
    """Return a copy with other lengths; labels stay as they are."""
    matrix = structure.cell.T if transposed else structure.cell
    return structure.replace_trusted(positions=structure.positions * positions, cell=np.ascontiguousarray(matrix) * cell)


def with_forces(structure: Structure, forces: np.ndarray) -> Structure:
    """Return a copy with other forces."""
    return structure.replace_trusted(labels={**structure.labels, "forces": forces})


@dataclass(frozen=True)
class Correction:
    """A change of lengths: code, words, what to do, scale of positions and of the cell, whether lattice vectors are columns."""

    code: str
    words: str
    hint: str
    positions: float = 1.0
    cell: float = 1.0
    transposed: bool = False

    def __call__(self, structure: Structure) -> Structure:
        return scaled(structure, self.positions, self.cell, self.transposed)


CORRECTIONS = (
    Correction("length-unit", "lengths are in bohr", "import with --length-unit bohr", BOHR, BOHR),
    Correction(
        "length-unit",
        "lengths are in Angstrom and were converted as if they were in bohr",
        "import with --length-unit Angstrom",
        1 / BOHR,
        1 / BOHR,
    ),
    Correction("cell-in-bohr", "the cell is in bohr, positions in Angstrom", "write the cell of the file in Angstrom", 1.0, BOHR),
    Correction("cell-length-unit", "positions are in bohr, the cell in Angstrom", "write the positions of the file in Angstrom", BOHR, 1.0),
    Correction("cell-transposed", "lattice vectors are columns", "write the lattice vectors of the file as rows", transposed=True),
)
#: Structures that are measured; the quality below which something is wrong with lengths, and below which it may be, if a correction helps everywhere.
MEASURED, NATURAL, ALMOST = 24, 0.7, 0.96
#: Helium to radon.
NOBLE = (2, 10, 18, 36, 54, 86)
#: Å: an atom in a larger cell is meant to be alone.
ALONE = 9.0
#: Å: condensed matter has atoms this near to each other across the boundary of its cell.
TOUCHING = 3.5


@dataclass(frozen=True)
class LengthCheck:
    """What is wrong with lengths or cells, and `naturalness` as given and as corrected."""

    correction: Correction
    given: float
    corrected: float
    structures: int


def length_fault(structures: list[Structure]) -> LengthCheck | None:
    """Return the change of lengths after which atoms have neighbours at the distances of matter, inside the cell and across its boundary."""
    usable = [s for s in structures if len(s) > 1 or (s.pbc.any() and np.linalg.norm(s.cell[s.pbc], axis=1).max() < ALONE)]
    usable = usable[:: max(1, len(usable) // MEASURED)]
    if not usable:
        return None
    given = _qualities(usable)
    if given.mean() > ALMOST:
        return None
    tried = [
        (correction, _qualities([correction(s) for s in usable]))
        for correction in CORRECTIONS
        if not correction.transposed or _skewed(usable)
    ]
    correction, corrected = max(tried, key=lambda item: float(item[1].mean()))
    poor = given.mean() < NATURAL and corrected.mean() > max(0.85, given.mean() + 0.3)
    everywhere = corrected.mean() > 0.98 and np.mean(corrected > given) > 0.7
    return LengthCheck(correction, float(given.mean()), float(corrected.mean()), len(usable)) if poor or everywhere else None


def _skewed(structures: list[Structure]) -> bool:
    return any(not np.allclose(s.cell, s.cell.T, atol=1e-3) for s in structures)


def _qualities(structures: list[Structure]) -> np.ndarray:
    return np.array([naturalness(s) for s in structures])


def naturalness(structure: Structure) -> float:
    """Part of the atoms whose nearest neighbour is at 0.62 to 1.4 of a covalent bond, times how natural the boundary of the cell is (`boundary`).

    Noble gases have no bonds and are left out; of nothing else, everything is natural.
    """
    first = _nearest_relative(structure)
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
    """Return whether the gap around the atoms is meant: a molecule in a box."""
    return bool(np.isin(structure.atomic_numbers, list(NONMETALS)).all()) and len(structure) < 60


@dataclass(frozen=True)
class SpeciesCheck:
    """Which change of the atomic numbers makes valences possible: code, words, part of atoms with a possible valence before and after."""

    code: str
    words: str
    given: float
    corrected: float
    frames: tuple[int, ...]


def species_fault(structures: list[Structure]) -> SpeciesCheck | None:
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
    return SpeciesCheck(best[0], best[1], given, best[2], places)


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
    guessed = [_guessed_numbers(s, near) for _, s, near in items]
    whole = [n for n in guessed if n is not None]
    if len(whole) == len(items):
        out.append(("species-order", "atomic numbers are in another order than the positions", _score(items, whole) - 0.02))
    return out


def _score(items: list[tuple[int, Structure, Neighbors]], numbers: list[np.ndarray]) -> float:
    return _part([valence(z, near) for (_, _, near), z in zip(items, numbers, strict=True)])


def _exchanged(numbers: np.ndarray, a: int, b: int) -> np.ndarray:
    return np.where(numbers == a, b, np.where(numbers == b, a, numbers))


def _guessed_numbers(structure: Structure, near: Neighbors) -> np.ndarray | None:
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


#: Å: bonds of hydrogen spread by 0.025 and more at 300 K. By less than this they do not stretch: relaxed structures of several compounds, where the
#: length that a bond wants differs more than the length it has.
SPREAD = 0.012


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
    if small.sum() < 16 or x[small].std() < SPREAD or not np.any(y[small]):
        return None
    x, y = x[small] - x[small].mean(), y[small] - y[small].mean()
    correlation = float(x @ y / np.sqrt((x @ x) * (y @ y) + 1e-300))
    expected = STIFFNESS.get(kind[1], 33.0) if kind[0] == 1 and kind[1] in NONMETALS else None
    return Stiffness(f"{symbol(kind[0])}-{symbol(kind[1])}", float(x @ y / (x @ x)), correlation, len(x), expected)


def force_scale(kinds: list[Stiffness]) -> float | None:
    """Forces over what they should be, from the bonds of hydrogen; None where they do not show it. Negative: gradients."""
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
