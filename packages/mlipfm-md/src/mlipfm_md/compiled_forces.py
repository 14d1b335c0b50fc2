"""Forces and whole steps of dynamics from a compiled potential: the ensembles of this package in compiled code, without a step of Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlipfm_interfaces.compiled import CompiledPotential
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.reference_rank import warn_if_undetermined
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.trained_states import check_states
from mlipfm_interfaces.units import ACCELERATION, KB

from .barostat import NPT
from .ensembles import NVE, Bussi, Ensemble, Langevin, NoseHoover, for_systems
from .state import State

__all__ = ["CompiledForces"]

Array = np.ndarray

KINDS: dict[type, str] = {NVE: "nve", Langevin: "langevin", Bussi: "bussi", NoseHoover: "nose-hoover", NPT: "npt"}


class CompiledForces:
    """As `forces.PotentialForces`, and `advance`, which takes steps of the ensembles in `KINDS`.

    Noise comes from streams of the kernels' own, keyed by (seed, replica, step) too: a trajectory has the same bits after a restart, but other noise
    than the same run on torch.
    """

    def __init__(
        self,
        potential: Potential,
        compiled: CompiledPotential,
        structures: Sequence[Structure],
        *,
        skin: float = 0.5,
        threads: int = 1,
        reference: Array | None = None,
        reference_cells: Array | None = None,
    ) -> None:
        check_states(potential, structures)
        warn_if_undetermined(potential, structures)
        self.description = compiled.description
        self.first = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
        self.cells = np.stack([s.cell for s in structures])
        self._periodic = np.stack([s.pbc for s in structures]).all(axis=1)
        self._systems = compiled.systems(structures, skin=skin, threads=threads)
        if reference is not None:
            self._systems.restore(reference, self.cells if reference_cells is None else reference_cells)

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """Energies [systems] eV and forces [atoms, 3] eV/Å at `positions` [atoms, 3], in the cells of the last call that gave some."""
        found = self._systems.compute(positions)
        return found.energy, found.forces

    def with_stress(self, positions: Array, cells: Array) -> tuple[Array, Array, Array]:
        """Compute the same in `cells` [systems, 3, 3], and the stress [systems, 3, 3] eV/Å³.

        Raises:
            PropertyNotAvailableError: a system is not periodic in three directions.
        """
        if not self._periodic.all():
            raise PropertyNotAvailableError(
                "volume and stress need three periodic directions", hint="keep the volume of molecules and slabs"
            )
        found = self._systems.compute(positions, cells, strain=True)
        assert found.strain_derivative is not None
        return found.energy, found.forces, found.strain_derivative / np.abs(np.linalg.det(cells))[:, None, None]

    def memory(self) -> dict[str, Array]:
        """Return what a restart must give back for the same bits."""
        return {"reference": self._systems.reference, "reference_cells": self._systems.reference_cells}

    def can_advance(self, state: State, ensemble: Ensemble) -> bool:
        """Say whether `advance` has this ensemble; bonds of fixed length are kept by Python."""
        return type(ensemble) in KINDS and state.bonds is None

    def advance(self, state: State, ensemble: Any, settings: Any, until: int, start_cells: Array) -> str | None:
        """Take steps up to the step `until`; the reason if the simulation is no longer physical, and then `state` is the last good one.

        Args:
            settings: `simulation.Settings`. start_cells: [systems, 3, 3] Å.
        """
        arrays = {
            name: np.ascontiguousarray(getattr(state, name))
            for name in ("positions", "velocities", "forces", "energies", "masses", "movable")
        }
        arrays |= {"centre": np.ascontiguousarray(state.centre)} | {name: np.array(values) for name, values in state.extended.items()}
        if ensemble.changes_cell:
            arrays |= {"cells": np.ascontiguousarray(state.cells), "stress": np.ascontiguousarray(state.stress)}
        options = {
            "kind": KINDS[type(ensemble)],
            "dt": settings.dt,
            "seed": settings.seed,
            "friction": float(getattr(ensemble, "friction", 0.0)),
            "time": float(getattr(ensemble, "relaxation_time", 0.0)),
            "chain": int(getattr(ensemble, "chain", 0)),
            "full": bool(getattr(ensemble, "full", False)),
            "temperature": np.array(for_systems(getattr(ensemble, "temperature", 0.0), state, "temperatures")),
            "pressure": np.array(for_systems(getattr(ensemble, "pressure", 0.0), state, "pressures")),
            "acceleration": ACCELERATION,
            "boltzmann": KB,
            "hottest": settings.max_temperature,
            "expansion": settings.max_expansion,
            "start_cells": np.ascontiguousarray(start_cells),
        }
        state.step, stopped = self._systems.advance(arrays, options, state.step, until)
        for name in ("positions", "velocities", "forces", "energies"):
            setattr(state, name, arrays[name])
        state.extended = {name: arrays[name] for name in state.extended}
        if ensemble.changes_cell:
            state.cells, state.stress = arrays["cells"], arrays["stress"]
        return None if stopped is None else stopped.reason
