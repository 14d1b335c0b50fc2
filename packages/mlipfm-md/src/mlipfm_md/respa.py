"""`Respa`: multiple time stepping. A cheap model moves the atoms in small steps, the accurate one corrects it at the ends of large ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from mlipfm_interfaces.errors import SimulationError

from .ensembles import NVE, Ensemble, Forces, kick
from .state import State

__all__ = ["Respa"]

Array = np.ndarray


@dataclass(frozen=True)
class Respa(Ensemble):
    """r-RESPA (Tuckerman, Berne, Martyna 1992, doi:10.1063/1.463137): the difference of the forces, F_outer - F_inner, kicks at both ends of a step.

    The dynamics are those of the outer model up to the second order in the large step, whatever the inner one is: the forces of the inner model need
    not be conservative. Steps, times and `every` count large steps.

    Attributes:
        ensemble: of the inner steps: any that keeps the cell. inner_steps: small steps in one large step.
    """

    keeps_momentum: ClassVar[bool] = True  # of NVE; see `centre_of_mass_axes`, which asks the instance
    ensemble: Ensemble = field(default_factory=NVE)
    inner_steps: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "keeps_momentum", self.ensemble.keeps_momentum)
        if self.ensemble.changes_cell or isinstance(self.ensemble, Respa):
            raise SimulationError("multiple time stepping keeps the cell", hint="use nve, langevin, bussi or nose-hoover")
        if not 1 <= self.inner_steps <= 100:
            raise SimulationError(f"a step has 1 to 100 inner steps, got {self.inner_steps}", hint="2 to 8 are usual")

    def begin(self, state: State) -> None:
        """Begin as the ensemble of the inner steps; the forces of the inner model are added by the first step."""
        self.ensemble.begin(state)

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place; `forces` has those of both models."""
        inner: Forces | None = getattr(forces, "inner", None)  # see `forces.SplitForces`, whose import brings torch
        if inner is None:
            raise SimulationError("multiple time stepping needs a second model", where="--inner", hint="give simulate(..., inner=model)")
        if "inner_forces" not in state.extended:
            state.extended["inner_energies"], state.extended["inner_forces"] = inner(state.positions)
        large = state.step
        _difference(state, dt / 2)
        state.energies, state.forces = state.extended["inner_energies"], state.extended["inner_forces"]
        state.step = large * self.inner_steps
        for _ in range(self.inner_steps):
            self.ensemble.step(state, inner, dt / self.inner_steps, seed)
        state.extended["inner_energies"], state.extended["inner_forces"] = state.energies, state.forces
        state.energies, state.forces = forces(state.positions)
        _difference(state, dt / 2)
        state.step = large + 1

    def conserved(self, state: State) -> Array:
        """Return that of the ensemble of the inner steps, with the energy of the outer model."""
        return self.ensemble.conserved(state)


def _difference(state: State, dt: float) -> None:
    """Kick the atoms by what the outer forces of `state` have beyond the inner ones."""
    outer = state.forces
    state.forces = outer - state.extended["inner_forces"]
    kick(state, dt)
    state.forces = outer
