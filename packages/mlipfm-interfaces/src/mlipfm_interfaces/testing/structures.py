"""Structures to test with: named real geometries, seeded random ones, and hypothesis strategies made of them.

`random_structure` is a plain function of its arguments, so that a failing case is repeated by its arguments alone, and so that the contract rules
run without hypothesis (which only `structures()` imports).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlipfm_interfaces.elements import COVALENT_RADII, number
from mlipfm_interfaces.lattice import reduced
from mlipfm_interfaces.structure import Structure

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Floats = NDArray[np.float64]

_IMAGES = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)


# Real geometries (experimental or textbook values, Angstrom)


def atoms(numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike | None = None) -> Structure:
    """Return a molecule, or with a `cell` (rows, Å) a crystal, from lists."""
    box = np.zeros((3, 3)) if cell is None else np.asarray(cell)
    return Structure(np.asarray(numbers), np.asarray(positions), cell=box, pbc=np.full(3, cell is not None))


def molecule(symbols: str, positions: Sequence[Sequence[float]]) -> Structure:
    """Return a molecule from symbols separated by spaces and positions in Å."""
    return atoms([number(name) for name in symbols.split()], positions)


def crystal(symbols: str, cell: Floats, fractional: Sequence[Sequence[float]]) -> Structure:
    """Return a crystal from symbols, lattice vectors as rows (Å) and fractional coordinates."""
    return atoms([number(name) for name in symbols.split()], np.array(fractional, dtype=float) @ cell, cell)


def water() -> Structure:
    """O-H 0.9572 Å, H-O-H 104.52 degrees."""
    half = np.deg2rad(104.52) / 2
    x, y = 0.9572 * np.sin(half), 0.9572 * np.cos(half)
    return molecule("O H H", [[0, 0, 0], [x, y, 0], [-x, y, 0]])


def methane() -> Structure:
    """C-H 1.087 Å, tetrahedral."""
    a = 1.087 / np.sqrt(3)
    return molecule("C H H H H", [[0, 0, 0], [a, a, a], [a, -a, -a], [-a, a, -a], [-a, -a, a]])


def acetylene() -> Structure:
    """Linear, C-C 1.203 Å, C-H 1.060 Å: every transverse vector sum is zero at every atom."""
    return molecule("C C H H", [[0, 0, z] for z in (0.6015, -0.6015, 1.6615, -1.6615)])


def benzene() -> Structure:
    """C-C 1.397 Å, C-H 1.084 Å, regular hexagon."""
    angle = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(6)], axis=1)
    return molecule("C C C C C C H H H H H H", np.concatenate([1.397 * ring, 2.481 * ring]).tolist())


def ethanol() -> Structure:
    """Return the anti conformer at the MP2 geometry of the G2/97 test set."""
    return molecule(
        "C C O H H H H H H",
        [
            [1.168181, -0.400382, 0.0], [0.0, 0.559462, 0.0], [-1.190083, -0.227669, 0.0], [-1.946623, 0.381525, 0.0],
            [0.042557, 1.207508, 0.886933], [0.042557, 1.207508, -0.886933], [2.115891, 0.1448, 0.0],
            [1.128599, -1.037234, 0.885881], [1.128599, -1.037234, -0.885881],
        ],
    )  # fmt: skip


def fcc(name: str, a: float) -> Structure:
    """Return the cubic cell of four atoms."""
    return crystal(" ".join([name] * 4), a * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def copper() -> Structure:
    """fcc, a = 3.615 Å."""
    return fcc("Cu", 3.615)


def argon() -> Structure:
    """fcc, a = 5.26 Å (4 K: 5.31)."""
    return fcc("Ar", 5.26)


def silicon() -> Structure:
    """Primitive cell of two atoms, a = 5.431 Å."""
    a = 5.431
    return crystal("Si Si", a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]]), [[0, 0, 0], [0.25, 0.25, 0.25]])


def rock_salt() -> Structure:
    """NaCl, cubic cell of eight atoms, a = 5.640 Å."""
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return crystal("Na Na Na Na Cl Cl Cl Cl", 5.640 * np.eye(3), np.concatenate([sites, sites + [0.5, 0, 0]]).tolist())


NAMED = {f.__name__: f for f in (water, methane, acetylene, benzene, ethanol, copper, argon, silicon, rock_salt)}


# Transformations


def rattled(structure: Structure, amplitude: float, seed: int = 0) -> Structure:
    """Positions displaced by normal noise of `amplitude` Å; labels are dropped."""
    noise = np.random.default_rng(seed).normal(0.0, amplitude, structure.positions.shape)
    return structure.replace(positions=structure.positions + noise, labels={}, label_std={})


def supercell(structure: Structure, repeats: tuple[int, int, int]) -> Structure:
    """`repeats` copies along the lattice vectors; copy after copy, atoms of one copy together. Charges and unpaired electrons add up."""
    shifts = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3) @ structure.cell
    positions = (structure.positions[None] + shifts[:, None]).reshape(-1, 3)
    charge, multiplicity, copies = structure.total_charge, structure.spin_multiplicity, len(shifts)
    return structure.replace(
        atomic_numbers=np.tile(structure.atomic_numbers, copies),
        positions=positions,
        cell=np.array(repeats)[:, None] * structure.cell,
        total_charge=None if charge is None else copies * charge,
        spin_multiplicity=None if multiplicity is None else 1 + copies * (multiplicity - 1),
        labels={},
        label_std={},
    )


def random_rotation(seed: int, *, improper: bool = False) -> Floats:
    """Return a rotation (or rotation with inversion), uniform over the group: QR of a normal matrix with the signs of R taken out."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    wanted = -1.0 if improper else 1.0
    return np.asarray(q if np.linalg.det(q) * wanted > 0 else -q, dtype=np.float64)


# Random structures


def random_structure(
    seed: int,
    n_atoms: int = 6,
    *,
    elements: Sequence[int] = (1, 6, 8),
    pbc: Sequence[bool] = (False, False, False),
    skew: float = 0.0,
    left_handed: bool = False,
    on_faces: bool = False,
    spacing: float = 0.85,
    spread: float = 1.0,
) -> Structure:
    """Atoms at random with sensible distances, in a random box.

    Args:
        elements: drawn from, with repetition.
        pbc: periodic directions; without any there is no cell.
        skew: lattice vectors get up to `skew` times their predecessor added; 3 gives cells that nobody would choose.
        on_faces: the first atom of every three has fractional coordinates of exactly 0 or 1.
        spacing: smallest distance over the sum of covalent radii, periodic images included.
        spread: scales the box; 10 leaves the neighbour lists nearly empty.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.choice(np.asarray(elements), size=n_atoms)
    radii = COVALENT_RADII[numbers]
    periodic = np.asarray(pbc, dtype=bool)
    length = spread * 1.9 * float(np.cbrt((radii**3).sum() * 8))
    for _ in range(60):
        box = _box(rng, length, skew, left_handed)
        positions = _placed(rng, box, radii, periodic, spacing, on_faces)
        if positions is not None:
            return Structure(numbers, positions, cell=box if periodic.any() else np.zeros((3, 3)), pbc=periodic)
        length *= 1.1
    raise AssertionError("sixty growing boxes were too small")  # pragma: no cover - the box has grown 300 times


def _box(rng: np.random.Generator, length: float, skew: float, left_handed: bool) -> Floats:
    box = np.diag(length * rng.uniform(0.85, 1.2, 3)) + length * rng.uniform(-0.05, 0.05, (3, 3))
    box[1] += skew * rng.uniform(-1, 1) * box[0]
    box[2] += skew * rng.uniform(-1, 1) * box[1]
    if left_handed:
        box[[0, 1]] = box[[1, 0]]
    return np.asarray(box @ random_rotation(int(rng.integers(2**31))).T, dtype=np.float64)


def _placed(
    rng: np.random.Generator, box: Floats, radii: Floats, periodic: NDArray[np.bool_], spacing: float, on_faces: bool
) -> Floats | None:
    basis = np.zeros((3, 3))
    basis[periodic] = reduced(box[periodic])[0]
    images = _IMAGES[(_IMAGES[:, ~periodic] == 0).all(axis=1)] @ basis
    themselves = np.linalg.norm(images, axis=1)
    if themselves[themselves > 0].min(initial=np.inf) < spacing * 2 * radii.max():
        return None
    chosen = np.empty((0, 3))
    for k, radius in enumerate(radii):
        for _ in range(50):
            fraction = rng.uniform(size=3)
            if on_faces and k % 3 == 0:
                fraction[rng.integers(3)] = float(rng.integers(2))
            point = fraction @ box
            gaps = np.linalg.norm(chosen[:, None] + images[None] - point, axis=-1).min(axis=1)
            if (gaps >= spacing * (radii[:k] + radius)).all():
                chosen = np.concatenate([chosen, point[None]])
                break
        else:
            return None
    return chosen


def structures(max_atoms: int = 8, elements: Sequence[int] = (1, 6, 8, 11, 17)) -> SearchStrategy[Structure]:
    """Hypothesis strategy: one atom to `max_atoms`, every mixture of periodic directions, skewed and left-handed cells, atoms on faces, duplicated
    species, and boxes so wide that no atom has a neighbour. Shrinks to one atom without a cell."""
    from hypothesis import strategies as st

    return st.builds(
        random_structure,
        st.integers(0, 2**31 - 1),
        st.integers(1, max_atoms),
        elements=st.lists(st.sampled_from(tuple(elements)), min_size=1, max_size=3),
        pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
        skew=st.sampled_from((0.0, 0.5, 3.0)),
        left_handed=st.booleans(),
        on_faces=st.booleans(),
        spread=st.sampled_from((1.0, 10.0)),
    )


def rotations() -> SearchStrategy[Floats]:
    """Hypothesis strategy: proper and improper rotations."""
    from hypothesis import strategies as st

    return st.builds(lambda seed, improper: random_rotation(seed, improper=improper), st.integers(0, 2**31 - 1), st.booleans())
