"""Bonds of fixed length: SHAKE for positions, RATTLE for velocities, solved together for the bonds that share atoms.

A step of positions along the velocities is followed by x += M^-1 J^T l with the J of the positions before it, where l is found by Newton's method
(Ryckaert, Ciccotti, Berendsen 1977, J. Comput. Phys. 23, 327; matrix form as in M-SHAKE, Kräutler et al. 2001, J. Comput. Chem. 22, 501).
Velocities lose their part along the bonds exactly (Andersen 1983, J. Comput. Phys. 52, 24). J has one row for each bond: its vector, at both atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from mlipfm_interfaces.errors import SimulationError

if TYPE_CHECKING:
    from .state import State

__all__ = ["Bonds"]

Array = np.ndarray

#: Relative error of a squared bond length after a step, and the number of Newton steps that may be taken to reach it.
TOLERANCE, MAX_ITERATIONS = 1e-13, 50


@dataclass(frozen=True)
class Bonds:
    """Bonds of fixed length in systems end to end.

    Attributes:
        pairs: [bonds, 2] atoms. lengths: [bonds] Å.
        shifts: [bonds, 3] Å, added to r_j - r_i: the lattice vector to the periodic image that is bonded.
        inverse_masses: [atoms, 3] 1/amu, zero along fixed axes.
        count: [systems] number of bonds.
    """

    pairs: Array
    lengths: Array
    shifts: Array
    inverse_masses: Array
    count: Array = field(repr=False)

    def drift(self, state: State, dt: float) -> None:
        """Move the atoms of `state` by `dt` fs along their velocities and back onto the bond lengths; velocities follow.

        Raises:
            SimulationError: the lengths cannot be met (the atoms move too far in one step).
        """
        before = self._vectors(state.positions)
        new = state.positions + dt * state.velocities
        forces = self._forces(before)
        total = np.zeros(len(self.pairs))
        for _ in range(MAX_ITERATIONS):
            now = self._vectors(new)
            excess = (now**2).sum(axis=1) - self.lengths**2
            if np.abs(excess / self.lengths**2).max() < TOLERANCE:
                break
            change = self._solve(now, before, excess / 2)
            total += change
            new -= self._spread(forces, change)
        else:
            raise SimulationError(
                f"the bond lengths cannot be kept at step {state.step + 1}", hint="shorten the time step, or look at the start"
            )
        state.velocities -= self._spread(forces, total / dt)
        state.positions[:] = new
        self.project(state)

    def settle(self, state: State) -> None:
        """Move the atoms of a state that does not move yet onto the bond lengths, and take the velocities along the bonds out."""
        velocities, state.velocities = state.velocities, np.zeros_like(state.velocities)
        self.drift(state, 1.0)
        state.velocities = velocities
        self.project(state)

    def project(self, state: State) -> None:
        """Take the velocities along the bonds out of `state`."""
        vectors = self._vectors(state.positions)
        rate = (vectors * (state.velocities[self.pairs[:, 1]] - state.velocities[self.pairs[:, 0]])).sum(axis=1)
        state.velocities -= self._spread(self._forces(vectors), self._solve(vectors, vectors, rate))

    def _vectors(self, positions: Array) -> Array:
        return positions[self.pairs[:, 1]] - positions[self.pairs[:, 0]] + self.shifts

    def _forces(self, vectors: Array) -> tuple[Array, Array]:
        """M^-1 J^T of unit multipliers at the first and at the second atom of each bond, [bonds, 3]."""
        return -self.inverse_masses[self.pairs[:, 0]] * vectors, self.inverse_masses[self.pairs[:, 1]] * vectors

    def _spread(self, forces: tuple[Array, Array], multipliers: Array) -> Array:
        moves = np.zeros_like(self.inverse_masses)
        for side in (0, 1):
            np.add.at(moves, self.pairs[:, side], multipliers[:, None] * forces[side])
        return moves

    def _solve(self, left: Array, right: Array, values: Array) -> Array:
        """Solve (J(left) M^-1 J(right)^T) x = values, group by group of bonds that share atoms."""
        solution = np.empty(len(values))
        forces = self._forces(right)
        for bonds, signs in self._groups:
            matrix = np.zeros((*bonds.shape, bonds.shape[1]))
            for (a, b), sign in signs.items():  # atom a of the row's bond, atom b of the column's
                matrix += sign * np.einsum("gix,gjx->gij", left[bonds] * (1 if a else -1), forces[b][bonds])
            solution[bonds] = np.linalg.solve(matrix, values[bonds][..., None])[..., 0]
        return solution

    @cached_property
    def _groups(self) -> list[tuple[Array, dict[tuple[int, int], Array]]]:
        """Groups of bonds that share atoms, those of one size together: bonds [groups, n], and which of their ends are one atom [groups, n, n]."""
        parts = connected(self.pairs)
        found = []
        for size in sorted({len(part) for part in parts}):
            bonds = np.array([part for part in parts if len(part) == size])
            ends = self.pairs[bonds]  # [groups, n, 2]
            same = {(a, b): (ends[:, :, None, a] == ends[:, None, :, b]).astype(float) for a in (0, 1) for b in (0, 1)}
            found.append((bonds, same))
        return found


def connected(pairs: Array) -> list[list[int]]:
    """Return the indices of pairs [n, 2] in groups that share no atom."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = int(pairs.max()) + 1
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    group = connected_components(graph, directed=False)[1][pairs[:, 0]]
    order = np.argsort(group, kind="stable")
    return [part.tolist() for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1)]


def check_independent(bonds: Bonds, positions: Array) -> None:
    """Raises `SimulationError` for bonds whose lengths are not independent of each other, naming the atoms of one."""
    vectors = bonds._vectors(positions)
    forces = bonds._forces(vectors)
    for groups, same in bonds._groups:
        for k, members in enumerate(groups):
            matrix = sum(same[a, b][k] * ((1 if a else -1) * vectors[members] @ forces[b][members].T) for a in (0, 1) for b in (0, 1))
            if np.linalg.matrix_rank(matrix, tol=1e-9 * np.abs(np.diag(matrix)).max()) < len(members):
                atoms = sorted(set(bonds.pairs[members].ravel().tolist()))
                raise SimulationError(
                    f"the fixed bond lengths of the atoms {atoms[:8]} depend on each other or on fixed atoms",
                    hint="leave out bonds that the others already determine",
                )
