"""Work between two frames: what the energy must change by, from forces, stress and displacement alone; and energies against forces along a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.superposition import best_rotation

from .geometry import AT_REST, unknown_forces

# Do the labels belong together? Along a path the energy changes by minus force times displacement, and with the volume by the stress.

#: Å. Over longer steps the mean of two forces is no good estimate: relaxations of OC20 give slope 1.00 up to 0.05 Å, and 0.41 with their first jumps.
LONGEST_STEP = 0.05


@dataclass(frozen=True)
class Slope:
    """Regression through the origin of energy differences on what the gradients predict.

    Attributes:
        slope: 1 if units and signs fit, about -1 if forces are gradients. nan without pairs.
        correlation: of the two; below about 0.9 the pairs are too far apart to tell.
        pairs: number of pairs compared.
    """

    slope: float
    correlation: float
    pairs: int


def energy_against_forces(structures: Sequence[Structure], longest: float = LONGEST_STEP) -> Slope:
    """Compare E(b) - E(a) with -(F_a + F_b)/2 . (r_b - r_a) for neighbours in the sequence.

    A pair counts if both have the same atoms, cell and level, and no atom moved more than `longest` Å.
    """
    measured, predicted = [], []
    for a, b in pairwise(structures):
        if not _comparable(a, b):
            continue
        step = b.positions - a.positions
        if np.abs(step).max() > longest:
            continue
        measured.append(float(b.labels["energy"] - a.labels["energy"]))
        predicted.append(-float(np.sum((a.labels["forces"] + b.labels["forces"]) * step)) / 2)
    return _regress(np.array(predicted), np.array(measured))


def _comparable(a: Structure, b: Structure) -> bool:
    labelled = all(key in s.labels for s in (a, b) for key in ("energy", "forces"))
    return labelled and a.level == b.level and np.array_equal(a.atomic_numbers, b.atomic_numbers) and np.array_equal(a.cell, b.cell)


def _regress(x: np.ndarray, y: np.ndarray) -> Slope:
    if len(x) < 2 or not x.any() or not y.any():
        return Slope(float("nan"), float("nan"), len(x))
    return Slope(float(x @ y / (x @ x)), float(x @ y / np.sqrt((x @ x) * (y @ y))), len(x))


# Work between two frames: what the energy must change by, from forces, stress and displacement alone.
#
# Frames of random molecular dynamics lie far apart, and -F dx in Cartesian coordinates says nothing about them. In inverse distances q = 1/r, in
# which energies of molecules are much closer to quadratic (Chmiela et al., Sci. Adv. 3, e1603015, 2017, use them as descriptor for that reason),
# the trapezoid -(g_a + g_b)(q_b - q_a)/2 still is right to some ten percent at 0.8 Angstrom; g are the forces along q of smallest norm that give F.
# It also needs no alignment.

#: Above this size the inverse distances of a molecule (quadratic in number, cubic in cost) give way to aligned Cartesian displacements.
MOST_ATOMS = 60


@dataclass(frozen=True)
class Work:
    """From frame a to frame b.

    Attributes:
        forces: eV, what the forces say the energy changes by. curve: eV, half the change of the force along the step, times the step: negative
        where the energy curves upwards, as around a minimum.
        strain: eV, what the stress says; nan where there is no stress. step: Å, root mean square displacement.
        strained: largest component of the strain between the two cells.
    """

    forces: float
    curve: float
    strain: float
    step: float
    strained: float

    @property
    def bend(self) -> float:
        """eV, by how much the two ends disagree: large for steps that are too long."""
        return abs(self.curve)


def inverse_distances(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """q = 1/r of all pairs, 1/Å [pairs], and dE/dq of smallest norm that gives the forces, eV Å [pairs]."""
    i, j = np.triu_indices(len(structure), 1)
    vectors = structure.positions[i] - structure.positions[j]
    r = np.linalg.norm(vectors, axis=1)
    slopes = -vectors / r[:, None] ** 3
    rows = np.arange(len(i))
    b = np.zeros((len(i), len(structure), 3))
    b[rows, i], b[rows, j] = slopes, -slopes
    rates = b.reshape(len(i), -1)
    values, vectors_of_g = np.linalg.eigh(rates.T @ rates)
    kept = values > 1e-8 * values[-1]
    forces = structure.labels["forces"].ravel()
    gradient = -rates @ ((vectors_of_g[:, kept] / values[kept]) @ (vectors_of_g[:, kept].T @ forces))
    return 1.0 / r, gradient


def work_inside(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], step: float) -> Work:
    """Between two frames of a molecule, from their `inverse_distances`."""
    dq = b[0] - a[0]
    return Work(float((a[1] + b[1]) @ dq) / 2, float((a[1] - b[1]) @ dq) / 2, np.nan, step, 0.0)


def aligned(a: Structure, b: Structure, turn: bool = True) -> tuple[np.ndarray, np.ndarray, float]:
    """Displacement [N, 3] of `b` from `a`, the forces of `b` rotated with it, and the largest strain of the cell. Motion as a whole is taken out
    if `turn` is true; where atoms are fixed, nothing moves as a whole."""
    if not a.pbc.any() and not turn:
        return b.positions - a.positions, b.labels["forces"], 0.0
    if not a.pbc.any():
        x, y = a.positions - a.positions.mean(axis=0), b.positions - b.positions.mean(axis=0)
        rotation = best_rotation(y, x)
        return y @ rotation - x, b.labels["forces"] @ rotation, 0.0
    full = _whole_cell(a), _whole_cell(b)
    fractional = np.linalg.solve(full[1].T, b.positions.T).T - np.linalg.solve(full[0].T, a.positions.T).T
    fractional -= np.round(fractional) * a.pbc
    step = fractional @ ((full[0] + full[1]) / 2)
    if a.pbc.all() and turn:
        step = step - step.mean(axis=0)
    return step, b.labels["forces"], float(np.abs(strain_between(a, b)).max())


def _whole_cell(structure: Structure) -> np.ndarray:
    """Return the cell with unit vectors along axes that have none."""
    if abs(np.linalg.det(structure.cell)) > 1e-9:
        return structure.cell
    cell = np.array(structure.cell)
    empty = np.linalg.norm(cell, axis=1) < 1e-9
    if empty.sum() < 3:
        normal = np.linalg.svd(cell[~empty])[2][3 - int(empty.sum()) :]
        cell[empty] = normal
        return cell
    return np.eye(3)


def strain_between(a: Structure, b: Structure) -> np.ndarray:
    """Symmetric strain [3, 3] from the cell of `a` to that of `b`, to second order; zero unless both are periodic in three directions."""
    if not (a.pbc.all() and b.pbc.all()) or np.array_equal(a.cell, b.cell):
        return np.zeros((3, 3))
    deformation = np.linalg.solve(a.cell, b.cell)
    small = (deformation + deformation.T) / 2 - np.eye(3)
    return small - small @ small / 2


def work(a: Structure, b: Structure) -> Work | None:
    """Between two frames of the same atoms, periodic or not, by Cartesian displacements (fractional ones where there is a cell).

    None if an atom moves whose force is not known in one of them (`geometry.unknown_forces`): so is its work.
    """
    unknown = unknown_forces(a) | unknown_forces(b)
    step, turned, strained = aligned(a, b, turn=not unknown.any())
    if np.abs(step[unknown]).max(initial=0.0) > AT_REST:
        return None
    first, turned = (np.where(unknown[:, None], 0.0, forces) for forces in (a.labels["forces"], turned))
    strain = np.nan
    if "stress" in a.labels and "stress" in b.labels:
        tension = a.labels["stress"] * abs(np.linalg.det(a.cell)) + b.labels["stress"] * abs(np.linalg.det(b.cell))
        strain = float(np.sum(strain_between(a, b) * tension)) / 2
    return Work(
        -float(np.sum((first + turned) * step)) / 2,
        float(np.sum((turned - first) * step)) / 2,
        strain,
        float(np.sqrt(np.mean(np.sum(step**2, axis=1)))),
        strained,
    )


def distance_profile(structure: Structure) -> np.ndarray:
    """Return a cheap fingerprint of the geometry for finding near frames: inverse distances of a molecule, else fractional positions."""
    if structure.pbc.any():
        return np.linalg.solve(_whole_cell(structure).T, structure.positions.T).T.ravel()
    i, j = np.triu_indices(len(structure), 1)
    return 1.0 / np.linalg.norm(structure.positions[i] - structure.positions[j], axis=1)
