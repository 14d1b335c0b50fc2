"""`EngineForces`: energy, forces and virial of one structure for a molecular-dynamics engine of another project (LAMMPS, i-PI)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.protocols import Labeler, Teacher

from .initial_files import FrameOptions, FrameReport, read_initial_states
from .initial_state import InitialState
from .simulation import Settings, forces_of

__all__ = ["EngineForces", "read_one_initial_state"]

Array = np.ndarray


class EngineForces:
    """What an engine asks at every step. Atoms that the engine wraps into its cell are followed, so that neighbours can be used again.

    Args:
        model: a Potential, a model of another package, or the path or address of either.
        start: elements, charge, multiplicity and level of theory; its positions are those of the first call, or near them.
        virial: compute it; None for periodic structures of a model that has a stress.
    """

    def __init__(self, model: Potential | Teacher | Labeler | str | Path, start: InitialState, virial: bool | None = None) -> None:
        opened = open_model(str(model)) if isinstance(model, str | Path) else model
        structure = start.structure.replace(labels={}, label_std={})
        self.pbc = structure.pbc
        has_stress = "stress" in (opened.spec.outputs if isinstance(opened, Potential) else getattr(opened, "outputs", ()))
        self.virial = bool(self.pbc.all() and has_stress) if virial is None else virial
        self.forces = forces_of(opened, [structure], Settings(), {})  # compiled where the model has a kernel, as in `simulate`
        self._last, self._cell = structure.positions.copy(), structure.cell.copy()

    def __call__(self, positions: Array, cell: Array) -> tuple[float, Array, Array]:
        """Return energy (eV), forces [N, 3] (eV/Å) and virial [3, 3] (eV): minus stress times volume, zero if it is not computed.

        Args:
            positions: [N, 3] Å, wrapped or not. cell: [3, 3] Å, lattice vectors as rows.

        Raises:
            SimulationError: energies or forces that are not finite. What the model raises.
        """
        if self.pbc.any():
            steps = (positions - self._last) @ np.linalg.pinv(cell[self.pbc])
            positions = positions - np.round(steps) @ cell[self.pbc]
        self._last = positions.copy()
        virial = np.zeros((3, 3))
        if self.virial:
            energies, forces, stress = self.forces.with_stress(positions, cell[None])
            virial = -np.asarray(stress[0]) * abs(float(np.linalg.det(cell)))
        else:
            if self.pbc.any() and not np.allclose(cell, self._cell, atol=1e-9):
                raise SimulationError("the cell changes, and the model has no stress", hint="keep the volume, or choose another model")
            energies, forces = self.forces(positions)
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            raise SimulationError("the model's energy or forces are not finite", hint="atoms have come too close, or the step is too long")
        return float(energies[0]), forces, virial


def check_free(out: Path) -> None:
    """Raise `SimulationError` if the folder `out` holds files: results of an engine are not overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SimulationError("there are files already", where=str(out), hint="choose another --out")


def open_model(model: str) -> Any:
    """Return the model of a path or address, of another package too."""
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_interfaces.foreign import is_foreign, open_foreign

    return open_foreign(model) if is_foreign(model) else load_potential(model)


def start_for(
    engine: str, model: str, start_file: Path | str, out: Path | str, wanted: FrameOptions | None, fixing: str
) -> tuple[InitialState, FrameReport]:
    """Return the one structure of a file that `engine` is to run in the folder `out`, and what was taken from the file.

    Args:
        fixing: how the engine keeps atoms in place, for the message.

    Raises:
        SimulationError: a folder with files, several frames, fixed atoms or bonds, a slab or wire. What reading and opening raise.
    """
    check_free(Path(out))
    start, said = read_one_initial_state(start_file, wanted)
    s = start.structure
    if start.axes_fixed.any() or start.bonds is not None:
        what, hint = f"fixed atoms and bonds are not written to {engine}", f"--ignore-constraints, and {fixing}"
        raise SimulationError(what, where=str(start_file), hint=hint)
    if s.pbc.any() and not s.pbc.all():
        what = f"a structure that is periodic along one or two axes is not written to {engine}"
        raise SimulationError(what, where=str(start_file), hint="use `mlipfm md run`")
    EngineForces(model, start)(s.positions, s.cell)  # refused here rather than when the engine asks
    return start, said


def drawn_temperature(start: InitialState, temperature: float | None, start_file: Path | str) -> float:
    """Return the temperature in K that velocities are drawn at.

    Raises:
        SimulationError: one is given, and the velocities of the file are taken.
    """
    if start.velocities is not None and temperature is not None:
        what = "the velocities of the file are taken, so --temperature has no effect"
        raise SimulationError(what, where=str(start_file), hint="leave it out, or draw others with --new-velocities")
    return 300.0 if temperature is None else temperature


def read_one_initial_state(path: Path | str, wanted: FrameOptions | None = None) -> tuple[InitialState, FrameReport]:
    """Return the one structure of a file.

    Raises:
        SimulationError: several frames and none chosen. What `read_initial_states` raises.
    """
    starts = read_initial_states(path, wanted)
    if len(starts) > 1:
        raise SimulationError(f"one structure is run, and the file has {len(starts)}", where=str(path), hint="--frame -1 takes the last")
    return starts[0]
