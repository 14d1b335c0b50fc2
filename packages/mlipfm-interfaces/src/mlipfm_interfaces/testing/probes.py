"""What the rules ask a potential: structures of the elements it supports, and tolerances that follow the size of the prediction."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.reference_rank import without_warning
from mlipfm_interfaces.structure import Structure

from .structures import random_structure

Floats = NDArray[np.float64]
Answer = dict[str, NDArray[np.float64]]

_PREFERRED = (1, 6, 8, 7, 14, 17, 11, 29)
#: Systems per call: finite differences ask for hundreds.
_CHUNK = 96


def some_elements(potential: Potential, count: int = 4) -> tuple[int, ...]:
    """Return a few elements the potential supports, light ones first."""
    known = potential.spec.elements
    return tuple(sorted(known, key=lambda z: _PREFERRED.index(z) if z in _PREFERRED else len(_PREFERRED) + z))[:count]


def cutoff(potential: Potential) -> float:
    """Largest cutoff of its graphs, Å."""
    return max(graph.cutoff for graph in potential.spec.graphs)


def molecule_of(potential: Potential, n_atoms: int = 7, seed: int = 3) -> Structure:
    """Return a random molecule of elements the potential supports, loose enough to have near and far pairs."""
    return random_structure(seed, n_atoms, elements=some_elements(potential), spread=1.5)


def crystal_of(potential: Potential, n_atoms: int = 4, seed: int = 5) -> Structure:
    """Return a random crystal with a general cell of elements the potential supports."""
    return random_structure(seed, n_atoms, elements=some_elements(potential), pbc=(True, True, True), skew=0.4)


def bond(potential: Potential, first: int = 0, second: int = 0) -> float:
    """Sum of the covalent radii of two of its elements, Å."""
    z = some_elements(potential)
    return float(COVALENT_RADII[z[first % len(z)]] + COVALENT_RADII[z[second % len(z)]])


def offered(potential: Potential, *outputs: str) -> tuple[str, ...]:
    """Return those of `outputs` that the potential has."""
    return tuple(key for key in outputs if key in potential.spec.outputs)


def ask(potential: Potential, structures: Sequence[Structure], outputs: Sequence[str]) -> list[Answer]:
    """`evaluate` at the potential's last level, in chunks."""
    level = potential.spec.levels[-1]
    answers: list[Answer] = []
    with without_warning():
        for start in range(0, len(structures), _CHUNK):
            answers += evaluate(potential, structures[start : start + _CHUNK], outputs, level=level)
    return answers


def energies(potential: Potential, structures: Sequence[Structure]) -> Floats:
    """[structures] eV."""
    return np.array([float(answer["energy"]) for answer in ask(potential, structures, ("energy",))])


def energy_tolerance(energy: float, n_atoms: int) -> float:
    """1e-10 eV per atom, and twelve digits of a large total energy."""
    return 1e-10 * n_atoms + 1e-12 * abs(float(energy))


def force_tolerance(forces: Floats, factor: float = 1e-9) -> float:
    """`factor` times one eV/Å or the largest component, whichever is more."""
    return factor * max(1.0, float(np.abs(forces).max(initial=0.0)))


def moved(structure: Structure, positions: Floats, cell: Floats | None = None) -> Structure:
    """Return the same atoms elsewhere."""
    return structure.replace(positions=positions, cell=structure.cell if cell is None else cell)


def turned(s: Structure, turns: Sequence[Floats]) -> list[Structure]:
    """Return the structure in other orientations; rotations and reflections are [3, 3] and act on columns."""
    return [moved(s, s.positions @ turn.T, s.cell @ turn.T) for turn in turns]


def turned_back(answers: Sequence[Mapping[str, Floats]], turns: Sequence[Floats]) -> Floats:
    """Return the forces of what `turned` gives in the first orientation, [turns, N, 3]: all the same for forces that rotate with the structure."""
    return np.stack([answer["forces"] @ turn for answer, turn in zip(answers, turns, strict=True)])


def strained(structure: Structure, strain: Floats) -> Structure:
    """Positions and cell times (1 + strain)."""
    change = np.eye(3) + strain
    return moved(structure, structure.positions @ change, structure.cell @ change)


#: Fourth-order central differences: f'(0) = sum of weight * f(step * h) / h.
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def numerical_forces(potential: Potential, structure: Structure, h: float = 4e-4) -> Floats:
    """-dE/dr of every coordinate by fourth-order central differences, [atoms, 3] eV/Å."""
    n = len(structure)
    directions = np.eye(3 * n).reshape(-1, n, 3)
    shifted = [moved(structure, structure.positions + step * h * d) for d in directions for step, _ in STENCIL]
    values = energies(potential, shifted).reshape(3 * n, len(STENCIL))
    return np.asarray(-(values @ [weight for _, weight in STENCIL]).reshape(n, 3) / h)


def numerical_stress(potential: Potential, structure: Structure, h: float = 2e-4) -> Floats:
    """+(1/V) dE/dstrain by fourth-order central differences of symmetric strains, [3, 3] eV/Å³."""
    stress = np.zeros((3, 3))
    for a in range(3):
        for b in range(a, 3):
            unit = np.zeros((3, 3))
            unit[a, b] += 0.5
            unit[b, a] += 0.5
            values = energies(potential, [strained(structure, step * h * unit) for step, _ in STENCIL])
            stress[a, b] = stress[b, a] = values @ [weight for _, weight in STENCIL] / h
    return np.asarray(stress / abs(np.linalg.det(structure.cell)))


def numerical_hessian(potential: Potential, structure: Structure, h: float = 4e-4) -> Floats:
    """-dF/dr by fourth-order central differences of the forces, [3 atoms, 3 atoms] eV/Å²; row: the coordinate that moves."""
    n = len(structure)
    directions = np.eye(3 * n).reshape(-1, n, 3)
    shifted = [moved(structure, structure.positions + step * h * d) for d in directions for step, _ in STENCIL]
    forces = np.stack([answer["forces"] for answer in ask(potential, shifted, ("forces",))]).reshape(3 * n, len(STENCIL), 3 * n)
    return np.asarray(-np.einsum("rsc,s->rc", forces, np.array([weight for _, weight in STENCIL])) / h)


def float64_copy(potential: Potential) -> Potential:
    """Return a copy that computes in float64, so that the rules can tell a broken rule from rounding."""
    twin = copy.deepcopy(potential).double()
    twin.spec = replace(potential.spec, dtype="float64")
    if "dtype" in potential.config:
        twin.config = {**potential.config, "dtype": "float64"}
    return twin
