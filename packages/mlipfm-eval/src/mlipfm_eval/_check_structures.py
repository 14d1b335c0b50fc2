"""Structures to check a model on: of its own data where they are known, made of its elements otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, number, symbol
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing import structures as known
from mlipfm_interfaces.testing.probes import crystal_of, molecule_of

#: eV/Å. Matter at hand has less; a potential has more for elements that it was not trained on.
SANE_FORCE = 30.0

#: Atoms of a molecule on which Jacobians and paths are still tried whole; of a larger one a piece is cut out.
SMALL = 15

#: Elements that a model of another package is tried on where it does not give its own.
COMMON = tuple(map(number, [
    "H", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "Li", "K", "Ca", "Ti", "Fe", "Ni", "Cu", "Ge", "Mo", "Ag", "W", "Pt", "Au",
]))  # fmt: skip
ORGANIC = (1, 6, 7, 8)

#: Cubic lattice constants at room temperature, Å (Kittel, Introduction to Solid State Physics, 8th ed., table 3).
CUBIC = {
    "fcc": {"Al": 4.05, "Ag": 4.09, "Ar": 5.31, "Au": 4.08, "Ca": 5.58, "Cu": 3.61, "Ir": 3.84, "Kr": 5.64, "Ne": 4.46, "Ni": 3.52,
            "Pb": 4.95, "Pd": 3.89, "Pt": 3.92, "Rh": 3.80, "Sr": 6.08, "Xe": 6.13},
    "bcc": {"Ba": 5.02, "Cr": 2.88, "Cs": 6.045, "Fe": 2.87, "K": 5.225, "Li": 3.491, "Mo": 3.15, "Na": 4.225, "Nb": 3.30, "Rb": 5.585,
            "Ta": 3.30, "V": 3.03, "W": 3.16},
    "diamond": {"C": 3.567, "Ge": 5.658, "Si": 5.430, "Sn": 6.49},
}  # fmt: skip
_SITES = {
    "fcc": np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
    "bcc": np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
}
_SITES["diamond"] = np.concatenate([_SITES["fcc"], _SITES["fcc"] + 0.25])


@dataclass(frozen=True)
class Candidates:
    """Structures of each kind, the likeliest first."""

    molecules: list[Structure]
    small: list[Structure]
    crystals: list[Structure]
    wide: list[Structure]


def candidates(own: Sequence[Structure], elements: Sequence[int], potential: Potential | None) -> Candidates:
    """Collect structures to check a model on: its own first, then real molecules and crystals, then random ones of its elements."""
    allowed = set(elements)
    molecules = [s for s in map(_charged, _molecules()) if set(s.atomic_numbers.tolist()) <= allowed]
    crystals = [s for s in map(_charged, _crystals(elements)) if set(s.atomic_numbers.tolist()) <= allowed]
    free = sorted([s for s in own if not s.pbc.any()], key=len)
    periodic = sorted([s for s in own if s.pbc.all()], key=len)
    made = [*free[:3], *map(cut_out, periodic[:2]), *molecules, *map(cut_out, crystals)]
    little = [
        *(s if len(s) <= SMALL else cut_out(s) for s in free[:1]),
        *map(cut_out, periodic[:1]),
        *reversed(molecules),
        *map(cut_out, crystals),
    ]
    dense = [*periodic[:2], *(boxed(s, 2.6) for s in free[:2]), *(boxed(s, 2.6) for s in reversed(molecules)), *crystals]
    wide = [*(boxed(s, 9.0) for s in (*free[:1], *reversed(molecules))), *periodic[:1], *crystals]
    if potential is not None:
        made.append(_charged(molecule_of(potential)))
        little.append(_charged(molecule_of(potential, 3)))
        dense.append(_charged(crystal_of(potential)))
        wide.append(_charged(crystal_of(potential)))
    return Candidates(*([distorted(s) for s in group] for group in (made, little, dense, wide)))


def distorted(s: Structure, amplitude: float = 0.04) -> Structure:
    """Displace atoms at random, so that no force is zero by symmetry; labels are dropped."""
    return known.rattled(s, amplitude)


def lone_atom(z: int) -> Structure:
    """Return one atom, neutral, in the state of lowest multiplicity."""
    return _charged(known.atoms([z], np.zeros((1, 3))))


def dimer(first: int, second: int, r: float) -> Structure:
    """Return two atoms at a distance in Å, neutral."""
    return _charged(known.atoms([first, second], [[0.0, 0.0, 0.0], [0.36 * r, -0.48 * r, 0.8 * r]]))


def cluster_of(elements: Sequence[int]) -> Structure:
    """Return a winding chain of two atoms of each element, neighbours 1.1 times the sum of their covalent radii apart."""
    numbers = np.array([*elements, *reversed(elements)])
    rng = np.random.default_rng(len(numbers) + int(numbers.sum()))
    positions = np.zeros((len(numbers), 3))
    for k in range(1, len(numbers)):
        step = np.array([0.8, *(0.6 * (turn := rng.normal(size=2)) / np.linalg.norm(turn))])
        positions[k] = positions[k - 1] + step * 1.1 * (COVALENT_RADII[numbers[k]] + COVALENT_RADII[numbers[k - 1]])
    return _charged(known.atoms(numbers, positions))


def cut_out(s: Structure, count: int = 9) -> Structure:
    """Return a free cluster: the `count` atoms of a structure that are nearest to its first atom, with their images."""
    span = np.array([1 if axis else 0 for axis in s.pbc])
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in 2 * span], indexing="ij"), -1).reshape(-1, 3)
    positions = (s.positions[None] + (grid @ s.cell)[:, None]).reshape(-1, 3)
    numbers = np.tile(s.atomic_numbers, len(grid))
    order = np.argsort(np.linalg.norm(positions - s.positions[0], axis=1), kind="stable")[:count]
    return _charged(known.atoms(numbers[order], positions[order]))


def with_elements(s: Structure, numbers: np.ndarray) -> Structure:
    """Put other elements at the same places, of the same charge; the lowest multiplicity where one is given."""
    return with_charge(
        s.replace(atomic_numbers=numbers, spin_multiplicity=None, labels={}, label_std={}), s.total_charge, s.spin_multiplicity
    )


def with_atom(s: Structure, z: int, position: np.ndarray) -> Structure:
    """Add one atom to a free molecule, neutral."""
    return with_charge(
        s.replace(
            atomic_numbers=np.append(s.atomic_numbers, z), positions=np.concatenate([s.positions, position[None]]), labels={}, label_std={}
        ),
        0,
    )


def with_charge(s: Structure, charge: int | None, multiplicity: int | None = 1) -> Structure:
    """Set this charge, with the lowest multiplicity that its electrons allow unless that is None: not given."""
    least = 1 + int(s.atomic_numbers.sum() - (charge or 0)) % 2
    return s.replace(spin_multiplicity=None).replace(total_charge=charge, spin_multiplicity=None if multiplicity is None else least)


def boxed(s: Structure, margin: float) -> Structure:
    """Return a crystal of one molecule in a slightly skewed cell, `margin` Å larger than it along every axis."""
    cell = np.diag(np.ptp(s.positions, axis=0) + margin) + 0.3 * np.eye(3, k=1)
    return s.replace(cell=cell, pbc=(True, True, True), labels={}, label_std={})


def far_copies(s: Structure, copies: int, distance: float = 250.0) -> Structure:
    """Return so many copies of a molecule in one system, on a cubic grid of `distance` Å."""
    side = int(np.ceil(np.cbrt(copies)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:copies]
    positions = (s.positions[None] + distance * grid[:, None]).reshape(-1, 3)
    charge = None if s.total_charge is None else copies * s.total_charge
    multiplicity = None if s.spin_multiplicity is None else 1 + copies * (s.spin_multiplicity - 1)
    return s.replace(
        atomic_numbers=np.tile(s.atomic_numbers, copies), positions=positions, total_charge=charge, spin_multiplicity=multiplicity, labels={},
        label_std={},
    )  # fmt: skip


def _charged(s: Structure) -> Structure:
    return with_charge(s, 0)


def _molecules() -> list[Structure]:
    """Real molecules, larger ones first: they have more kinds of neighbours."""
    return [known.ethanol(), known.methane(), known.water()]


def _crystals(elements: Sequence[int]) -> list[Structure]:
    """Crystals of these elements: copper, silicon, rock salt and argon first, then every cubic one of the table."""
    names = {symbol(z) for z in elements}
    found = [known.copper(), known.silicon(), known.rock_salt(), known.argon()]
    for kind, table in CUBIC.items():
        for name in sorted(names & set(table)):
            found.append(known.crystal(" ".join([name] * len(_SITES[kind])), table[name] * np.eye(3), _SITES[kind].tolist()))
    return [*found, *(known.fcc(symbol(z), 2.2 * np.sqrt(2) * float(COVALENT_RADII[z])) for z in elements[:2])]
