"""`ReplicaExchange`: copies of one system at a ladder of temperatures that exchange their atoms' places now and then (parallel tempering)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.units import KB

from .ensembles import Ensemble, Forces, Langevin, check_friction, check_temperatures
from .noise import uniforms
from .state import State

__all__ = ["ReplicaExchange"]

Array = np.ndarray


@dataclass(frozen=True)
class ReplicaExchange(Ensemble):
    """Langevin dynamics of one copy at each temperature, with exchanges between neighbours in temperature (Sugita and Okamoto 1999,
    doi:10.1016/S0009-2614(99)01123-9).

    System k keeps temperature k: what is exchanged is where its atoms are and, scaled by the root of the ratio of temperatures, how they move. So
    the trajectory of each system is the canonical one of its temperature, without any sorting. Pairs 0-1, 2-3, ... and 1-2, 3-4, ... take turns.

    Attributes:
        temperatures: K, ascending, one for each system. every: steps between attempts. friction: 1/fs.
    """

    keeps_momentum: ClassVar[bool] = False
    temperatures: tuple[float, ...]
    every: int = 100
    friction: float = 0.01

    def __post_init__(self) -> None:
        check_temperatures(self.temperatures, least=1e-3)
        check_friction(self.friction)
        if len(self.temperatures) < 2 or any(b <= a for a, b in zip(self.temperatures, self.temperatures[1:], strict=False)):
            raise SimulationError(
                f"replica exchange needs two or more temperatures in ascending order, got {', '.join(f'{t:g}' for t in self.temperatures)}"
            )
        if self.every < 1:
            raise SimulationError(f"exchanges are tried every 1 or more steps, got {self.every}")

    def begin(self, state: State) -> None:
        """Set `walker` [systems], which copy is at each temperature, and the counts `attempted` and `accepted` of the pair (k, k + 1).

        Raises:
            SimulationError: the systems are not copies of one, or of another number.
        """
        n = state.n_systems
        if n != len(self.temperatures):
            raise SimulationError(f"{n} systems for {len(self.temperatures)} temperatures", hint="give one start for each temperature")
        masses = np.split(state.masses, state.first[1:-1])
        if any(len(m) != len(masses[0]) or not np.array_equal(m, masses[0]) for m in masses) or (state.cells != state.cells[0]).any():
            raise SimulationError("replicas that exchange must be copies of one system: the same atoms in the same order and cell")
        state.extended["walker"] = np.arange(n)
        state.extended["attempted"], state.extended["accepted"] = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)

    def step(self, state: State, forces: Forces, dt: float, seed: int) -> None:
        """Advance `state` by `dt` fs in place, and exchange if it is time to."""
        Langevin(self.temperatures, self.friction).step(state, forces, dt, seed)
        if state.step % self.every == 0:
            self._exchange(state, seed)

    def _exchange(self, state: State, seed: int) -> None:
        drawn = uniforms(seed, "exchange", state.step, state.n_systems)
        beta = 1 / (KB * np.array(self.temperatures))
        for k in range(state.step // self.every % 2, len(beta) - 1, 2):
            state.extended["attempted"][k] += 1
            exponent = (beta[k] - beta[k + 1]) * (state.energies[k] - state.energies[k + 1])
            if drawn[k] <= np.exp(min(exponent, 0.0)):
                state.extended["accepted"][k] += 1
                self._swap(state, k)

    def _swap(self, state: State, k: int) -> None:
        one, two = (slice(state.first[m], state.first[m + 1]) for m in (k, k + 1))
        hotter = np.sqrt(self.temperatures[k + 1] / self.temperatures[k])
        state.energies, state.forces = state.energies.copy(), state.forces.copy()  # the forces may be the model's own arrays
        for values in (state.positions, state.velocities, state.forces):
            values[one], values[two] = values[two].copy(), values[one].copy()
        state.velocities[one] /= hotter
        state.velocities[two] *= hotter
        for each in (state.energies, state.extended["walker"]):
            each[[k, k + 1]] = each[[k + 1, k]]
