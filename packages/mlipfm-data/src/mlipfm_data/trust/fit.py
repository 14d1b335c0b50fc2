"""A pair potential with embedding, fitted to the forces of the sample: its stress has the sign, unit and order that the labels must have.

Linear in its coefficients, so one least-squares solution: ten Gaussians of the distance (over the sum of covalent radii) per pair of elements, and
four functions of smooth densities per element (the form of Daw and Baskes, Phys. Rev. B 29, 6443, 1984). It is never used to predict anything else:
energies of it are poor, but the traceless and off-diagonal parts of its virial follow those of DFT with slopes of 0.7 to 1.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.structure import Structure

from .bonds import NONMETALS, REACH, Neighbors, neighbors_of
from .held import known_forces, unknown_forces

GAUSSIANS, EMBEDDING = 10, 4
_CENTRES = np.linspace(0.7, 2.2, GAUSSIANS)
_WIDTH = float(_CENTRES[1] - _CENTRES[0]) * 0.9
#: Elements up to which every pair has its own function; beyond, hydrogen, nonmetals and metals do.
MANY, ATOMS, STRUCTURES, RIDGE = 4, 2000, 40, 0.1


@dataclass(frozen=True)
class Virials:
    """Labels against the fitted potential.

    Attributes:
        given, fitted: [structures, 3, 3] volume times stress, eV per atom. volume: [structures] Å³. quality: correlation of forces, cross-validated.
    """

    given: np.ndarray
    fitted: np.ndarray
    volume: np.ndarray
    quality: float


def fitted_virials(structures: list[Structure]) -> Virials | None:
    """Fit to one half of the structures, predict the other, and the other way round. None where there is too little to fit."""
    return _fitted([s for s in structures if "stress" in s.labels])


def explained_forces(structures: list[Structure]) -> float | None:
    """Correlation of forces with those of the potential, cross-validated: high only if forces belong to the atoms beside them."""
    fit = _fitted(structures)
    return None if fit is None else fit.quality


def _fitted(structures: list[Structure]) -> Virials | None:
    usable = [s for s in structures if len(s) > 1 and "forces" in s.labels and np.abs(s.labels["forces"]).max() > 0.02]
    usable = usable[:: max(1, len(usable) // STRUCTURES)]
    while sum(map(len, usable)) > ATOMS and len(usable) >= 16:
        usable = usable[::2]
    neighbors = [neighbors_of(s) for s in usable]
    pairs = [(s, near) for s, near in zip(usable, neighbors, strict=True) if near is not None]
    if len(pairs) < 8:
        return None
    types = _Types(sorted({int(z) for s, _ in pairs for z in s.atomic_numbers}))
    rows = [_Rows(s, near, types) for s, near in pairs]
    size = np.array([np.sqrt(np.mean(s.labels["forces"] ** 2)) for s, _ in pairs])
    scale = np.maximum(size, np.median(size))
    halves = [_solved(rows, [s for s, _ in pairs], scale, parity) for parity in (0, 1)]
    wanted = np.concatenate([known_forces(s).ravel() / f for (s, _), f in zip(pairs, scale, strict=True)])
    found = np.concatenate([row.forces @ halves[k % 2] / f for k, (row, f) in enumerate(zip(rows, scale, strict=True))])
    volume = np.array([abs(np.linalg.det(s.cell)) for s, _ in pairs])
    atoms = np.array([len(s) for s, _ in pairs])[:, None, None]
    given = np.stack([s.labels.get("stress", np.zeros((3, 3))) for s, _ in pairs]) * volume[:, None, None] / atoms
    fitted = np.stack([(row.virial @ halves[k % 2]).reshape(3, 3) for k, row in enumerate(rows)]) / atoms
    return Virials(given, fitted, volume, float(np.corrcoef(wanted, found)[0, 1]))


def _solved(rows: list[_Rows], structures: list[Structure], scale: np.ndarray, parity: int) -> np.ndarray:
    """Coefficients from the structures of the other parity."""
    mine = [k for k in range(len(rows)) if k % 2 != parity]
    size = rows[0].forces.shape[1]
    normal, right = RIDGE * np.eye(size), np.zeros(size)
    for k in mine:
        a = rows[k].forces / scale[k]
        normal += a.T @ a
        right += a.T @ (known_forces(structures[k]).ravel() / scale[k])
    return np.asarray(np.linalg.solve(normal, right))


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
    """Features of one structure: `forces` [3 N, M] and `virial` [9, M], volume times stress, of each coefficient."""

    def __init__(self, structure: Structure, near: Neighbors, types: _Types) -> None:
        n, m = len(structure), types.size
        z = structure.atomic_numbers
        self.forces, self.virial = np.zeros((3 * n, m)), np.zeros((9, m))
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
            for q, derivative in enumerate((0.5 / np.sqrt(density), 0.1 * density)):
                place = column + 2 * k + q
                self._add(near, place[near.i], derivative[near.i] * step, derivative[near.i] * step)
                self._add(near, place[near.j], derivative[near.j] * step, np.zeros(len(step)))
