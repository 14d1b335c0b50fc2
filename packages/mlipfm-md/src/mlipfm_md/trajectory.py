"""A simulation on disk: an append-only log of checksummed frames and one restart file.

Frames are appended before the restart file is replaced, so after a kill the log may be ahead of the restart; reopening cuts it back to the frames
that belong to the restart, and the run goes on without a missing or doubled frame.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.checkpoint import load_checkpoint, save_checkpoint
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.errors import DamagedFileError, SimulationError
from mlipfm_interfaces.files import atomic_write, canonical_json
from mlipfm_interfaces.frames import Dynamics, FrameLog
from mlipfm_interfaces.structure import Structure

from .ensembles import State, kinetic_energy

Array = np.ndarray

RESTART_KIND = "mlipfm-md-restart"
_ARRAYS = ("positions", "velocities", "forces", "energies", "masses", "first")


class Trajectory:
    """The folder of one run. `fingerprint` says of what; another run's folder is refused."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any], structures: Sequence[Structure]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.structures = folder, list(structures)
        self.restart = folder / "restart.safetensors"
        self.log = FrameLog(folder / "trajectory.frames")
        self._claim(json.loads(json.dumps(fingerprint)))
        self.log.open_to_append()
        if not self.restart.exists():
            self.log.truncate(0)

    def _claim(self, fingerprint: dict[str, Any]) -> None:
        """Say in the folder whose run it is, before the first frame.

        Raises:
            SimulationError: if it is another's.
        """
        path = self.folder / "run.json"
        if not (self.restart.exists() or (self.log.path.exists() and len(self.log))):
            atomic_write(path, canonical_json(fingerprint))  # nothing was recorded yet, perhaps because an earlier start was refused
            return
        if not path.exists():
            raise SimulationError("the folder holds a trajectory of unknown origin", where=str(self.folder), mend="choose another `out`")
        try:
            found = json.loads(path.read_bytes())
        except ValueError as error:
            raise DamagedFileError("does not say whose run it is", where=str(path), mend="choose another `out`") from error
        for key, value in fingerprint.items():
            if found.get(key) != value:
                raise SimulationError(
                    f"this folder holds a run with another {key}{_difference(found.get(key), value)}",
                    where=str(self.folder),
                    mend="choose another `out`",
                )

    def close(self) -> None:
        """Give the log back, so that another process or a second try can have it."""
        self.log.close()

    def append(self, state: State, dt: float) -> None:
        """One frame of every system, with velocities, energy and forces."""
        for s, a, b, energy in zip(self.structures, state.first[:-1], state.first[1:], state.energies, strict=True):
            labels = {"energy": energy, "forces": state.forces[a:b]}
            frame = s.replace(positions=state.positions[a:b], labels=labels, label_std={})
            self.log.append(frame, Dynamics(state.velocities[a:b], state.masses[a:b], state.step * dt, state.step))

    def save_restart(self, state: State, reference: Array) -> None:
        """Everything a bitwise continuation needs: state, where the neighbour list was built, number of frames in the log."""
        self.log.flush()
        tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(state, name))) for name in _ARRAYS}
        tensors["reference"] = torch.from_numpy(np.ascontiguousarray(reference))
        manifest = {"kind": RESTART_KIND, "step": state.step, "frames": len(self.log)}
        save_checkpoint(self.restart, tensors, manifest)

    def load_restart(self) -> tuple[State, Array] | None:
        """State and neighbour reference of the last restart, the log cut back to it; None for a new run.

        Raises:
            DamagedFileError: if the restart is damaged, or the trajectory has fewer frames than it had then.
        """
        if not self.restart.exists():
            return None
        manifest, tensors = load_checkpoint(self.restart, kind=RESTART_KIND)
        if len(self.log) < manifest["frames"]:
            said = f"{len(self.log)} frames, {manifest['frames']} when the restart was written"
            raise DamagedFileError(said, where=str(self.log.path), mend="restore the file, or start again in another folder")
        self.log.truncate(manifest["frames"])
        arrays = {name: tensors[name].numpy().copy() for name in _ARRAYS}
        return State(**arrays, step=manifest["step"]), tensors["reference"].numpy().copy()

    def energies(self) -> Iterator[tuple[int, Array, Array]]:
        """(step, potential energies, kinetic energies) of each recorded frame, [systems] eV."""
        n = len(self.structures)
        potential, kinetic = np.zeros(n), np.zeros(n)
        for k, (frame, dynamics) in enumerate(self.log):
            assert dynamics is not None
            potential[k % n] = float(frame.labels["energy"])
            kinetic[k % n] = kinetic_energy(dynamics.velocities, dynamics.masses, np.array([0, len(frame)]))[0]
            if k % n == n - 1:
                yield dynamics.step, potential.copy(), kinetic.copy()


def _difference(found: Any, asked: Any) -> str:
    """`: dt is 0.5 there and 1.0 here`, where both are settings by name."""
    if not (isinstance(found, dict) and isinstance(asked, dict)):
        return ""
    names = [name for name in sorted(found.keys() | asked.keys()) if found.get(name) != asked.get(name)]
    return ": " + ", ".join(f"{name} is {found.get(name)} there and {asked.get(name)} here" for name in names)


def export_extxyz(folder: Path, path: Path) -> int:
    """Write a trajectory as extended XYZ (velocities in ASE's units, energy, forces); number of frames written."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write
    from ase.units import fs

    count, unfinished = 0, path.with_name(path.name + ".part")
    with unfinished.open("w") as stream:
        for s, dynamics in FrameLog(folder / "trajectory.frames"):
            atoms = Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc, masses=MASSES[s.atomic_numbers])
            if dynamics is not None:
                atoms.set_velocities(dynamics.velocities / fs)
                atoms.info |= {"step": dynamics.step, "time_fs": dynamics.time}
            for key in ("total_charge", "spin_multiplicity"):
                if getattr(s, key) is not None:
                    atoms.info[key] = getattr(s, key)
            atoms.calc = SinglePointCalculator(atoms, energy=float(s.labels["energy"]), forces=s.labels["forces"])
            write(stream, atoms, format="extxyz")
            count += 1
    unfinished.replace(path)
    return count
