"""Geometries from the harmonic approximation: Gaussian displacements along normal modes, kT/2 of potential energy in each.

With mass-weighted coordinates q = M^(1/2) (x - x0), the energy of a minimum is sum lambda_k q_k^2 / 2 over the eigenvalues of
M^(-1/2) H M^(-1/2), and the classical Boltzmann distribution is q_k ~ N(0, kT / lambda_k). Translations, and for isolated molecules rotations, are
projected out. Modes softer than `floor` (also imaginary ones: torsions, x0 off the minimum) are sampled as if they had that wavenumber, because
straight steps along them soon leave the region that any harmonic picture describes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, MASSES
from mlipfm_interfaces.errors import PropertyNotAvailableError, SamplingError
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import ACCELERATION, KB

if TYPE_CHECKING:
    from mlipfm_interfaces.potential import Potential

#: Forces [N, 3] eV/Å of a structure.
Forces = Callable[[Structure], np.ndarray]

SPEED_OF_LIGHT = 2.99792458e-5  # cm/fs


@dataclass(frozen=True)
class Modes:
    """Vibrations of a structure.

    Attributes:
        wavenumbers: [modes] 1/cm, ascending; negative for imaginary ones.
        eigenvalues: [modes] eV/(Å² amu).
        directions: [modes, N, 3], displacement in Å per unit of q (Å amu^1/2).
    """

    wavenumbers: np.ndarray
    eigenvalues: np.ndarray
    directions: np.ndarray


@dataclass(frozen=True)
class NormalModeSampler:
    """Samples around a structure at `temperature` K.

    Attributes:
        model: gives the forces of the Hessian (Labeler, Teacher or Potential); None uses generic springs (`spring_hessian`), which needs no model.
        floor: 1/cm, softest wavenumber that is sampled as it is.
        step: Å, of the finite differences.
    """

    model: Labeler | Teacher | Potential | None = None
    temperature: float = 300.0
    floor: float = 200.0
    step: float = 0.01

    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        """Return `n` unlabelled structures of the group of `structure`.

        Raises:
            SamplingError: negative temperature, or nothing to vibrate (one atom).
        """
        hessian = spring_hessian(structure) if self.model is None else hessian_by_differences(structure, forces_of(self.model), self.step)
        return sample_modes(structure, normal_modes(structure, hessian), self.temperature, n, rng, self.floor)


def sample_modes(
    structure: Structure, modes: Modes, temperature: float, n: int, rng: np.random.Generator, floor: float = 200.0
) -> list[Structure]:
    """Return `n` structures displaced along `modes` at `temperature` K; see the module's words for `floor` (1/cm).

    Raises:
        SamplingError: negative temperature, non-positive floor, or no mode.
    """
    if not temperature >= 0 or not floor > 0:
        raise SamplingError(f"temperature must not be negative and floor must be positive, got {temperature} K and {floor} 1/cm")
    if not len(modes.eigenvalues):
        raise SamplingError(f"{structure.formula} has no vibration to sample")
    softest = (2 * np.pi * SPEED_OF_LIGHT * floor) ** 2 / ACCELERATION
    widths = np.sqrt(KB * temperature / np.maximum(modes.eigenvalues, softest))
    amplitudes = rng.standard_normal((n, len(widths))) * widths
    moves = np.einsum("nk,kai->nai", amplitudes, modes.directions)
    plain = structure.replace(labels={}, label_std={}, provenance=replace(structure.provenance, sampling=f"normal-modes-{temperature:g}K"))
    return [plain.replace(positions=plain.positions + move) for move in moves]


def normal_modes(structure: Structure, hessian: np.ndarray) -> Modes:
    """Return vibrations from a Hessian [3N, 3N] eV/Å² (symmetrised), without translations and, where nothing is periodic, rotations."""
    masses = np.repeat(MASSES[structure.atomic_numbers], 3)
    weighted = (hessian + hessian.T) / 2 / np.sqrt(np.outer(masses, masses))
    inside = _vibrational_space(structure, np.sqrt(masses))
    values, vectors = np.linalg.eigh(inside.T @ weighted @ inside)
    directions = ((inside @ vectors) / np.sqrt(masses)[:, None]).T.reshape(len(values), len(structure), 3)
    wavenumbers = np.sign(values) * np.sqrt(np.abs(values) * ACCELERATION) / (2 * np.pi * SPEED_OF_LIGHT)
    return Modes(wavenumbers, values, directions)


def _vibrational_space(structure: Structure, root_masses: np.ndarray) -> np.ndarray:
    """Orthonormal basis [3N, modes] of what is no rigid motion."""
    n = len(structure)
    rigid = [np.tile(axis, n) for axis in np.eye(3)]
    if not structure.pbc.any():
        centred = structure.positions - np.average(structure.positions, axis=0, weights=MASSES[structure.atomic_numbers])
        rigid += [np.cross(axis, centred).reshape(-1) for axis in np.eye(3)]
    left, singular, _ = np.linalg.svd((np.array(rigid) * root_masses).T, full_matrices=True)
    rank = int((singular > 1e-4 * singular[0]).sum())  # a linear molecule has two rotations, an atom none
    return left[:, rank:]


def forces_of(model: Labeler | Teacher | Potential) -> Forces:
    """Return the forces [N, 3] eV/Å of a labeller, a teacher or a potential as a function of the structure."""
    if isinstance(model, Labeler):
        return lambda structure: _forces(model.label(structure).labels)
    if isinstance(model, Teacher):
        return lambda structure: _forces(model.evaluate([structure], ["forces"])[0])
    from mlipfm_interfaces.potential import evaluate  # brings torch

    return lambda structure: _forces(evaluate(model, [structure], ["forces"])[0])


def _forces(labels: Mapping[str, np.ndarray]) -> np.ndarray:
    if "forces" not in labels:
        raise PropertyNotAvailableError("the model gives no forces")
    return np.asarray(labels["forces"])


def hessian_by_differences(structure: Structure, forces: Forces, step: float = 0.01) -> np.ndarray:
    """Return Hessian [3N, 3N] eV/Å² by central differences of forces: 6N evaluations, error of second order in `step` (Å)."""
    plain = structure.replace(labels={}, label_std={})
    rows = []
    for k in range(3 * len(structure)):
        move = np.zeros(3 * len(structure))
        move[k] = step
        ahead, behind = (forces(plain.replace(positions=plain.positions + sign * move.reshape(-1, 3))) for sign in (1, -1))
        rows.append(-(ahead - behind).reshape(-1) / (2 * step))
    hessian = np.array(rows)
    return (hessian + hessian.T) / 2


def spring_hessian(structure: Structure, stiffness: float = 30.0) -> np.ndarray:
    """Return a generic positive Hessian [3N, 3N] eV/Å² without any model: every pair is a spring.

    A covalent bond has `stiffness` (30 eV/Å², a C-C single bond has about 28) along its axis and a tenth across it; both fall with
    (d / d_bond)^-6, d_bond the sum of covalent radii. Springs across the bond make it blunt but never singular; nearest images only.
    """
    n = len(structure)
    i, j = np.triu_indices(n, 1)
    vectors = _nearest(structure, structure.positions[j] - structure.positions[i])
    lengths = np.linalg.norm(vectors, axis=1)
    radii = COVALENT_RADII[structure.atomic_numbers]
    strength = stiffness * np.minimum(1.0, ((radii[i] + radii[j]) / lengths) ** 6)
    axes = vectors / lengths[:, None]
    blocks = strength[:, None, None] * (0.9 * axes[:, :, None] * axes[:, None, :] + 0.1 * np.eye(3))
    hessian = np.zeros((n, 3, n, 3))
    for a, b, block in zip(i, j, blocks, strict=True):
        hessian[a, :, a] += block
        hessian[b, :, b] += block
        hessian[a, :, b] -= block
        hessian[b, :, a] -= block
    return hessian.reshape(3 * n, 3 * n)


def _nearest(structure: Structure, vectors: np.ndarray) -> np.ndarray:
    if not structure.pbc.any():
        return vectors
    fractions = vectors @ np.linalg.pinv(structure.cell)
    return vectors - (np.round(fractions) * structure.pbc) @ structure.cell
