"""Compiled potentials: the same predictions as a Potential's `forward`, for systems whose atoms move, without torch.

`Potential.compiled()` gives one where there is one; everything else uses the potential itself. What a compiled potential cannot do it refuses when it
is made, never later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .structure import Structure

__all__ = ["CompiledPotential", "CompiledSystems", "Computed", "Stopped", "lost_shape"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Computed:
    """Predictions for S systems of N atoms end to end.

    Attributes:
        energy: [S] eV. forces: [N, 3] eV/Å. atomic_energies: [N] eV.
        strain_derivative: [S, 3, 3] eV, dE/dstrain, which is the volume times the stress; None if it was not asked.
        features: [N, C] of the last layer; None if they were not asked.
    """

    energy: Array
    forces: Array
    atomic_energies: Array
    strain_derivative: Array | None = None
    features: Array | None = None


@dataclass(frozen=True)
class Stopped:
    """Why compiled dynamics ended before the step that was asked. `reason` is a clause, `system` the index of the system."""

    reason: str
    system: int = 0


def lost_shape(system: int, step: int, stretch: float) -> str:
    """Return the reason of a simulation whose cell became `stretch` times longer in one direction than in another, compared with the start."""
    return (
        f"the cell of system {system} lost its shape at step {step}: it is stretched {stretch:.3g} times more along one "
        "direction than along another (a liquid resists no shear: keep the shape of its cell, with npt)"
    )


class CompiledSystems(Protocol):
    """Systems end to end whose atoms and cells move."""

    @property
    def reference(self) -> Array:
        """Positions [N, 3] Å at which the neighbours were collected last."""

    @property
    def reference_cells(self) -> Array:
        """Cells [S, 3, 3] Å at which the neighbours were collected last."""

    @property
    def rebuilds(self) -> int:
        """How often the neighbours were collected."""

    def compute(self, positions: Array, cells: Array | None = None, *, strain: bool = False, features: bool = False) -> Computed:
        """Predict at `positions` [N, 3] Å, in `cells` [S, 3, 3] Å or those of before.

        Raises:
            OverlapError, DensityError, InvalidStructureError: as the neighbour list of a Potential.
        """

    def restore(self, reference: Array, cells: Array) -> None:
        """Collect the neighbours as they were at `reference` in `cells`."""

    def advance(self, state: dict[str, NDArray[Any]], ensemble: dict[str, Any], step: int, until: int) -> tuple[int, Stopped | None]:
        """Take steps of dynamics in place; see `mlipfm_kernels.Systems.advance`."""


class CompiledPotential(Protocol):
    """A potential as compiled code."""

    @property
    def description(self) -> str:
        """Which code and with what: `density kernel, float32, AVX2`."""

    def systems(self, structures: Sequence[Structure], *, skin: float = 0.5, threads: int = 1) -> CompiledSystems:
        """Lay out systems, checked as a Potential checks them.

        Raises:
            UnknownElementError, LevelError.
        """
