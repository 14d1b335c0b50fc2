"""A pair potential with embedding, fitted to the forces of the sample: its stress has the sign, unit and order that the labels must have.

Linear in its coefficients, so one least-squares solution: ten Gaussians of the distance (over the sum of covalent radii) per pair of elements, and
four functions of smooth densities per element (the form of Daw and Baskes, Phys. Rev. B 29, 6443, 1984). The traceless and off-diagonal parts of its
virial follow those of DFT with slopes of 0.7 to 1.2. Its energies are used only for the part of the work between two frames that its forces explain
(`work.compare`): that part is then known exactly, and the trapezoid is left with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.structure import Structure

from .geometry import NONMETALS, REACH, Neighbors, known_forces, neighbors_of, unknown_forces

GAUSSIANS, EMBEDDING = 10, 4
_CENTRES = np.linspace(0.7, 2.2, GAUSSIANS)
_WIDTH = float(_CENTRES[1] - _CENTRES[0]) * 0.9
#: Elements up to which every pair has its own function; beyond, hydrogen, nonmetals and metals do.
MANY, ATOMS, STRUCTURES, RIDGE = 4, 2000, 40, 0.1
#: eV/Å, median force above which coefficients are measured in it, so that the ridge is no stronger for numbers in another unit.
LARGE = 2.0


@dataclass(frozen=True)
class Virials:
    """Labels against the fitted potential.

    Attributes:
        given, fitted: [structures, 3, 3] volume times stress, eV per atom. volume: [structures] Å³. quality: correlation of forces, cross-validated.
        determined: part of the traceless virial, as it changes from structure to structure, that the forces determine: small displacements
        around one lattice say nothing about its stress.
    """

    given: np.ndarray
    fitted: np.ndarray
    volume: np.ndarray
    quality: float
    determined: float


def fitted_virials(structures: list[Structure]) -> Virials | None:
    """Fit to one half of the structures, predict the other, and the other way round. None where there is too little to fit."""
    return _fitted([s for s in structures if "stress" in s.labels])


def explained_forces(structures: list[Structure]) -> float | None:
    """Correlation of forces with those of the potential, cross-validated: high only if forces belong to the atoms beside them."""
    fit = _fitted(structures)
    return None if fit is None else fit.quality


@dataclass(frozen=True)
class Potential:
    """The fitted potential. `quality`: correlation of forces, cross-validated."""

    quality: float
    _coefficients: np.ndarray
    _types: _Types

    def __call__(self, structure: Structure) -> tuple[float, np.ndarray] | None:
        """Energy, eV, but for a constant of the composition, and forces [N, 3], eV/Å, in the units of the forces that were fitted."""
        near = neighbors_of(structure)
        if near is None:
            return None
        rows = _Rows(structure, near, self._types)
        return float(rows.energy @ self._coefficients), (rows.forces @ self._coefficients).reshape(-1, 3)


def fitted_potential(structures: list[Structure]) -> Potential | None:
    """Fit to the forces of all structures; None where there is too little to fit."""
    found = _fit_of(structures)
    return None if found is None else Potential(found.quality, _solved(found, None), found.types)


@dataclass(frozen=True)
class _Fit:
    """Structures with their rows, scales of their forces, the unit of the coefficients (eV/Å), and what the other half predicts."""

    structures: list[Structure]
    rows: list[_Rows]
    scale: np.ndarray
    unit: float
    types: _Types
    halves: list[np.ndarray]
    quality: float


def _fit_of(structures: list[Structure]) -> _Fit | None:
    usable = [s for s in structures if len(s) > 1 and "forces" in s.labels]
    largest = np.array([np.abs(s.labels["forces"]).max() for s in usable])
    least = min(0.02, 0.1 * float(np.median(largest))) if len(usable) else 0.0  # forces may be in another unit
    usable = [s for s, most in zip(usable, largest, strict=True) if most > least]
    usable = usable[:: max(1, len(usable) // STRUCTURES)]
    while sum(map(len, usable)) > ATOMS and len(usable) >= 16:
        usable = usable[::2]
    neighbors = [neighbors_of(s) for s in usable]
    pairs = [(s, near) for s, near in zip(usable, neighbors, strict=True) if near is not None]
    if len(pairs) < 8:
        return None
    types = _Types(sorted({int(z) for s, _ in pairs for z in s.atomic_numbers}))
    rows = [_Rows(s, near, types) for s, near in pairs]
    kept = [s for s, _ in pairs]
    size = np.array([np.sqrt(np.mean(s.labels["forces"] ** 2)) for s in kept])
    scale = np.maximum(size, np.median(size))
    unit = max(1.0, float(np.median(size)) / LARGE)
    fit = _Fit(kept, rows, scale, unit, types, [], 0.0)
    halves = [_solved(fit, parity) for parity in (0, 1)]
    wanted = np.concatenate([known_forces(s).ravel() / f for s, f in zip(kept, scale, strict=True)])
    found = np.concatenate([row.forces @ halves[k % 2] / f for k, (row, f) in enumerate(zip(rows, scale, strict=True))])
    return replace(fit, halves=halves, quality=float(np.corrcoef(wanted, found)[0, 1]))


def _fitted(structures: list[Structure]) -> Virials | None:
    fit = _fit_of(structures)
    if fit is None:
        return None
    volume = np.array([abs(np.linalg.det(s.cell)) for s in fit.structures])
    atoms = np.array([len(s) for s in fit.structures])[:, None, None]
    given = np.stack([s.labels.get("stress", np.zeros((3, 3))) for s in fit.structures]) * volume[:, None, None] / atoms
    fitted = np.stack([(row.virial @ fit.halves[k % 2]).reshape(3, 3) for k, row in enumerate(fit.rows)]) / atoms
    return Virials(given, fitted, volume, fit.quality, _determined(fit))


def _determined(fit: _Fit) -> float:
    """1 - variance of traceless virials after the fit over that before; the ridge is the prior (Rasmussen, Williams, Gaussian Processes, 2006)."""
    normal, _ = _normal(fit, None)
    virials = np.stack([rows.virial for rows in fit.rows])
    virials = virials - np.mean(virials[:, [0, 4, 8]], axis=1, keepdims=True) * np.eye(3).reshape(1, 9, 1)
    changes = (virials - virials.mean(axis=0)).reshape(-1, virials.shape[2])
    after = RIDGE * float(np.sum(changes * np.linalg.solve(normal, changes.T).T))
    return 1 - after / max(float(np.sum(changes**2)), 1e-300)


def _solved(fit: _Fit, parity: int | None) -> np.ndarray:
    """Coefficients from the structures of the other parity, or from all."""
    return fit.unit * np.asarray(np.linalg.solve(*_normal(fit, parity)))


def _normal(fit: _Fit, parity: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations of the coefficients in `fit.unit`: matrix and right side."""
    size = fit.rows[0].forces.shape[1]
    normal, right = RIDGE * np.eye(size), np.zeros(size)
    for k, (structure, rows) in enumerate(zip(fit.structures, fit.rows, strict=True)):
        if parity is None or k % 2 != parity:
            a = rows.forces * (fit.unit / fit.scale[k])
            normal += a.T @ a
            right += a.T @ (known_forces(structure).ravel() / fit.scale[k])
    return normal, right


class _Types:
    """Numbers of the pair functions and of the embedding functions."""

    def __init__(self, elements: list[int]) -> None:
        if len(elements) <= MANY:
            kind = {z: k for k, z in enumerate(elements)}
        else:
            kind = {z: 0 if z == 1 else 1 if z in NONMETALS else 2 for z in elements}
        kinds = sorted(set(kind.values()))
        self.kind = np.zeros(119, dtype=np.int64)
        for z, k in kind.items():
            self.kind[z] = kinds.index(k)
        n = len(kinds)
        self.pair = np.zeros((n, n), dtype=np.int64)
        self.pair[np.triu_indices(n)] = np.arange(n * (n + 1) // 2)
        self.pair = np.maximum(self.pair, self.pair.T)
        self.embedding = n * (n + 1) // 2 * GAUSSIANS
        self.size = self.embedding + n * EMBEDDING


class _Rows:
    """Features of one structure: `energy` [M], `forces` [3 N, M] and `virial` [9, M], volume times stress, of each coefficient."""

    def __init__(self, structure: Structure, near: Neighbors, types: _Types) -> None:
        n, m = len(structure), types.size
        z = structure.atomic_numbers
        self.energy, self.forces, self.virial = np.zeros(m), np.zeros((3 * n, m)), np.zeros((9, m))
        if not len(near.i):
            return
        self._unit = near.vectors / near.distance[:, None]
        radius = COVALENT_RADII[z[near.i]] + COVALENT_RADII[z[near.j]]
        cut = 0.5 * (1 + np.cos(np.pi * near.distance / REACH))
        slope = -0.5 * np.pi / REACH * np.sin(np.pi * near.distance / REACH)
        arm = (near.relative[:, None] - _CENTRES) / _WIDTH
        bump = np.exp(-0.5 * arm**2)
        steps = -bump * arm / _WIDTH / radius[:, None] * cut[:, None] + bump * slope[:, None]
        first = types.pair[types.kind[z[near.i]], types.kind[z[near.j]]] * GAUSSIANS
        for k in range(GAUSSIANS):
            self._add(near, first + k, steps[:, k], steps[:, k] / 2)
            self.energy += np.bincount(first + k, weights=bump[:, k] * cut / 2, minlength=m)
        self._embed(near, types.embedding + types.kind[z] * EMBEDDING, radius, cut, slope)
        self.forces[np.repeat(unknown_forces(structure), 3)] = 0.0

    def _add(self, near: Neighbors, column: np.ndarray, pull: np.ndarray, share: np.ndarray) -> None:
        """Forces pull along the bond on atom i; share of each directed pair in the virial r dE/dr."""
        m = self.forces.shape[1]
        for axis in range(3):
            self.forces += np.bincount(
                (near.i * 3 + axis) * m + column, weights=pull * self._unit[:, axis], minlength=self.forces.size
            ).reshape(-1, m)
            for other in range(3):
                self.virial[3 * axis + other] += np.bincount(
                    column, weights=share * self._unit[:, axis] * near.vectors[:, other], minlength=m
                )

    def _embed(self, near: Neighbors, column: np.ndarray, radius: np.ndarray, cut: np.ndarray, slope: np.ndarray) -> None:
        for k, decay in enumerate((2.5, 5.0)):
            bump = np.exp(-decay * (near.relative - 1))
            step = -decay / radius * bump * cut + bump * slope
            density = np.bincount(near.i, weights=bump * cut, minlength=len(column)) + 1e-6
            for q, (own, derivative) in enumerate(((np.sqrt(density), 0.5 / np.sqrt(density)), (0.05 * density**2, 0.1 * density))):
                place = column + 2 * k + q
                self.energy += np.bincount(place, weights=own, minlength=len(self.energy))
                self._add(near, place[near.i], derivative[near.i] * step, derivative[near.i] * step)
                self._add(near, place[near.j], derivative[near.j] * step, np.zeros(len(step)))
