"""Sampler: geometries from a Langevin trajectory on the surface of a Labeler, Teacher or Potential."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from mlipfm_interfaces.errors import SamplingError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Labeler, Teacher
from mlipfm_interfaces.structure import Structure

from .ensembles import Langevin
from .initial_state import unlabelled
from .simulation import Settings, simulate_frames

__all__ = ["LangevinSampler"]


@dataclass(frozen=True)
class LangevinSampler:
    """`n` geometries, one every `stride` steps after `equilibrate` steps at `temperature` K.

    Attributes:
        model: whose forces drive the dynamics. friction: 1/fs. dt: fs. stride, equilibrate: steps.
    """

    model: Potential | Teacher | Labeler
    temperature: float = 300.0
    friction: float = 0.02
    dt: float = 0.5
    stride: int = 20
    equilibrate: int = 100

    def sample(self, structure: Structure, n: int, rng: np.random.Generator) -> list[Structure]:
        """Return `n` unlabelled structures of the group of `structure`; atoms that its label `fixed` holds stay where they are.

        Raises:
            SamplingError: if the trajectory explodes before `n` structures are there.
        """
        settings = Settings(
            dt=self.dt,
            steps=self.equilibrate + n * self.stride,
            temperature=self.temperature,
            seed=int(rng.integers(2**62)),
            every=self.stride,
        )
        plain = unlabelled(structure)
        run, frames = simulate_frames(self.model, plain, Langevin(self.temperature, self.friction), settings)
        chosen = [positions for step, positions in frames if step > self.equilibrate][:n]
        if run.status != "ok" or len(chosen) < n:
            raise SamplingError(
                f"the trajectory at {self.temperature} K broke off: {run.reason}", hint="lower the temperature or the time step"
            )
        origin = replace(structure.provenance, sampling=f"langevin-{self.temperature:g}K")
        return [plain.replace(positions=positions, provenance=origin) for positions in chosen]
