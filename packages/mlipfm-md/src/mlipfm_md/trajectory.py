"""A simulation on disk: an append-only log of checksummed frames and one restart file.

Frames are appended before the restart file is replaced, so after a kill the log may be ahead of the restart; reopening cuts it back to the frames
that belong to the restart, and the run goes on without a missing or doubled frame.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from mlipfm_interfaces.atomic import file_in_place
from mlipfm_interfaces.checkpoint import load_checkpoint, save_checkpoint
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import DamagedFileError, SimulationError
from mlipfm_interfaces.files import atomic_write, canonical_json
from mlipfm_interfaces.frames import Dynamics, FrameLog
from mlipfm_interfaces.structure import Structure

from .energy_table import EnergyTable
from .initial_state import InitialState, fixed_axes
from .state import State

__all__ = ["Trajectory", "export_extxyz"]

Array = np.ndarray

RESTART_KIND, RESTART_FILE = "mlipfm-md-restart", "restart.safetensors"
LAST_GOOD = "last_good.xyz"
#: Key of the fingerprint -> in words, where the key says too little.
_NAMES = {
    "motion": "another choice of fixed atoms, masses or first velocities",
    "ensemble": "another ensemble or other parameters of it",
    "settings": "other settings",
    "structures": "other structures",
}
_ARRAYS = ("positions", "velocities", "forces", "energies", "masses", "first")
#: Before the names of extended variables and of what the forces remember, in the restart file. `reference` alone is older than the second.
_EXTENDED, _MEMORY = "extended.", "memory."


def restart_step(folder: Path) -> int | None:
    """Return the step from which a run in `folder` goes on; None for a new run.

    Raises:
        DamagedFileError: the restart is damaged.
    """
    path = folder / RESTART_FILE
    return int(load_checkpoint(path, kind=RESTART_KIND)[0]["step"]) if path.exists() else None


class Trajectory:
    """The folder of one run. `fingerprint` says of what; another run's folder is refused."""

    def __init__(self, folder: Path | str, fingerprint: dict[str, Any], starts: Sequence[InitialState]) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.starts = folder, list(starts)
        self.restart = folder / RESTART_FILE
        self.log = FrameLog(folder / "trajectory.frames")
        self.energies = EnergyTable(folder / "energies.csv")
        self._claim(json.loads(json.dumps(fingerprint)))
        self.log.open_to_append()
        self.extras: dict[tuple[int, int], tuple[float, float]] = {}
        if not self.restart.exists():
            self.log.truncate(0)
            self.energies.cut_back(-1)

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
            raise SimulationError("the folder holds a trajectory of unknown origin", where=str(self.folder), hint="choose another `out`")
        try:
            found = json.loads(path.read_bytes())
        except ValueError as error:
            raise DamagedFileError("does not say whose run it is", where=str(path), hint="choose another `out`") from error
        for key, value in fingerprint.items():
            if found.get(key) != value:
                raise SimulationError(
                    f"this folder holds a run with {_NAMES.get(key, f'another {key}')}{_difference(found.get(key), value)}",
                    where=str(self.folder),
                    hint="choose another `out`",
                )

    def close(self) -> None:
        """Give the log back, so that another process or a second try can have it."""
        self.log.close()

    def append(self, state: State, dt: float, conserved: Array, sigma: Array) -> None:
        """Write one frame of every system, with velocities, energy and forces, and its line of the table.

        Args:
            conserved, sigma: [systems], see `EnergyTable`.
        """
        for frame, dynamics in self._frames(state, dt):
            self.log.append(frame, dynamics)
        self.energies.append(state, dt, conserved, sigma)

    def save_last_good(self, state: State, dt: float) -> None:
        """Write the state before an explosion, as `last_good.xyz`: another run can start from it."""
        with (self.folder / LAST_GOOD).open("w") as stream:
            for (frame, dynamics), start in zip(self._frames(state, dt), self.starts, strict=True):
                _write_frame(stream, frame, dynamics, start.axes_fixed, {})

    def _frames(self, state: State, dt: float) -> Iterator[tuple[Structure, Dynamics]]:
        for k, (start, a, b, energy) in enumerate(zip(self.starts, state.first[:-1], state.first[1:], state.energies, strict=True)):
            labels: dict[str, Any] = {"energy": energy, "forces": state.forces[a:b]}
            if start.axes_fixed.any():
                labels["fixed"] = start.axes_fixed.all(axis=1).astype(float)
            if len(state.stress):
                labels["stress"] = state.stress[k]
            cell = state.cells[k] if len(state.stress) else start.structure.cell
            frame = start.structure.replace(positions=state.positions[a:b], cell=cell, labels=labels, label_std={})
            yield frame, Dynamics(state.velocities[a:b], state.masses[a:b], state.step * dt, state.step)

    def save_restart(self, state: State, memory: dict[str, Array]) -> None:
        """Write everything a bitwise continuation needs: state, where the neighbour list was built, number of frames in the log.

        Args:
            memory: of the forces, see `PotentialForces.memory`.
        """
        self.log.flush()
        self.energies.flush()
        arrays = {name: getattr(state, name) for name in _ARRAYS}
        arrays |= {"cells": state.cells, "stress": state.stress} if len(state.stress) else {}
        arrays |= {_EXTENDED + name: values for name, values in state.extended.items()}
        arrays |= {name if name == "reference" else _MEMORY + name: values for name, values in memory.items()}
        manifest = {"kind": RESTART_KIND, "step": state.step, "frames": len(self.log)}
        save_checkpoint(self.restart, {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}, manifest)

    def load_restart(self) -> tuple[State, dict[str, Array]] | None:
        """Return state and memory of the forces of the last restart, the log cut back to it; None for a new run.

        Raises:
            DamagedFileError: if the restart is damaged, or the trajectory has fewer frames than it had then.
        """
        if not self.restart.exists():
            return None
        manifest, tensors = load_checkpoint(self.restart, kind=RESTART_KIND)
        if len(self.log) < manifest["frames"]:
            said = f"{len(self.log)} frames, {manifest['frames']} when the restart was written"
            raise DamagedFileError(said, where=str(self.log.path), hint="restore the file, or start again in another folder")
        self.log.truncate(manifest["frames"])
        self.extras = self.energies.cut_back(manifest["step"])
        arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        extended = {name.removeprefix(_EXTENDED): arrays.pop(name) for name in list(arrays) if name.startswith(_EXTENDED)}
        memory = {name.removeprefix(_MEMORY): arrays.pop(name) for name in list(arrays) if name.startswith(_MEMORY)}
        memory["reference"] = arrays.pop("reference")
        state = State(step=manifest["step"], extended=extended, **arrays)  # type: ignore[arg-type]  # the names are those of its arrays
        return state, memory

    def recorded(self, state: State) -> Iterator[tuple[State, Array, Array]]:
        """Yield each recorded instant: a state with the masses and constraints of `state`, conserved energies and sigma [systems], see `EnergyTable`.

        Extended variables are not recorded; those of `state` stand there.
        """
        n = len(self.starts)
        rows: list[tuple[Structure, Dynamics]] = []
        for frame, dynamics in self.log:
            assert dynamics is not None
            rows.append((frame, dynamics))
            if len(rows) == n:
                yield self._instant(rows, state)
                rows = []

    def _instant(self, rows: list[tuple[Structure, Dynamics]], state: State) -> tuple[State, Array, Array]:
        step = rows[0][1].step
        changes: dict[str, Any] = {
            "step": step,
            "energies": np.array([float(frame.labels["energy"]) for frame, _ in rows]),
            "positions": np.concatenate([frame.positions for frame, _ in rows]),
            "velocities": np.concatenate([dynamics.velocities for _, dynamics in rows]),
        }
        if all("stress" in f.labels for f, _ in rows):
            changes |= {"cells": np.stack([f.cell for f, _ in rows]), "stress": np.stack([f.labels["stress"] for f, _ in rows])}
        extras = np.array([self.extras.get((step, k), (np.nan, np.nan)) for k in range(len(rows))])
        return replace(state, **changes), extras[:, 0], extras[:, 1]


def _difference(found: Any, asked: Any) -> str:
    """`: dt is 0.5 there and 1.0 here`, where both are settings by name, or ensembles: [name, parameters]."""
    if all(isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in (found, asked)):
        if found[0] != asked[0]:
            return f": {found[0]} there and {asked[0]} here"
        found, asked = found[1], asked[1]
    if not (isinstance(found, dict) and isinstance(asked, dict)):
        return ""
    names = [name for name in sorted(found.keys() | asked.keys()) if found.get(name) != asked.get(name)]
    return ": " + ", ".join(f"{name} is {found.get(name)} there and {asked.get(name)} here" for name in names)


def export_extxyz(
    folder: Path | str, path: Path | str, *, system: int | None = None, only: Collection[tuple[int, int]] | None = None
) -> int:
    """Write a trajectory as extended XYZ, exactly, and return the number of frames. What is written can be started from again.

    Args:
        system: index of the only system to write. only: the (step, system) to write.

    Columns are ASE's: `momenta` in its units, `masses` in amu, `forces` eV/Å, and `move_mask` where atoms are fixed. The comment line gives the
    ensemble and the degrees of freedom, and of several structures which one it is (`system`).
    """
    from .observables.trajectory_data import sampled

    folder, path = Path(folder), Path(path)
    origin = json.loads((folder / "run.json").read_bytes())
    motion = origin.get("motion") or [None]
    count, n = 0, len(origin["structures"])
    told: dict[int, dict[str, Any]] = {}
    with file_in_place(path) as part, part.open("w") as stream:
        for k, (s, dynamics) in enumerate(FrameLog(folder / "trajectory.frames")):
            assert dynamics is not None
            if system not in (None, k % n) or (only is not None and (dynamics.step, k % n) not in only):
                continue
            here = k % n
            if here not in told:
                ensemble, degrees = sampled(folder, here, len(s))
                told[here] = {"ensemble": ensemble, "degrees_of_freedom": degrees} | ({"system": here} if n > 1 else {})
            _write_frame(stream, s, dynamics, fixed_axes(motion[k % len(motion)], len(s)), told[here])
            count += 1
    return count


def _write_frame(stream: TextIO, s: Structure, dynamics: Dynamics, fixed: Array, told: Mapping[str, Any]) -> None:
    """One frame with all digits; ASE's writer keeps eight decimals. `told`: what else stands in its comment line."""
    from ase.units import fs

    momenta = dynamics.velocities * dynamics.masses[:, None] / fs
    columns = [("pos", "R", s.positions), ("momenta", "R", momenta), ("masses", "R", dynamics.masses), ("forces", "R", s.labels["forces"])]
    if fixed.any():
        columns.append(("move_mask", "L", ~fixed if (fixed.any(axis=1) != fixed.all(axis=1)).any() else ~fixed[:, 0]))
    flat = [(name, kind, np.asarray(values).reshape(len(s), -1)) for name, kind, values in columns]
    properties = "species:S:1:" + ":".join(f"{name}:{kind}:{values.shape[1]}" for name, kind, values in flat)
    info = {"total_charge": s.total_charge, "spin_multiplicity": s.spin_multiplicity, "energy": float(s.labels["energy"])}
    info |= {"step": dynamics.step, "time_fs": dynamics.time, **told}
    matrices = {"stress": s.labels["stress"]} if "stress" in s.labels else {}
    head = [f'Lattice="{_words(s.cell.reshape(-1))}"'] if s.cell.any() else []
    head += [f"Properties={properties}", f'pbc="{_words(s.pbc)}"']
    if s.external_field is not None:
        head.append(f'external_field="{_words(s.external_field)}"')
    head += [f'{key}="{_words(values.reshape(-1))}"' for key, values in matrices.items()]
    head += [f"{key}={value}" if isinstance(value, str) else f"{key}={value!r}" for key, value in info.items() if value is not None]
    stream.write(f"{len(s)}\n{' '.join(head)}\n")
    for k, z in enumerate(s.atomic_numbers.tolist()):
        stream.write(f"{symbol(z):2s} {' '.join(_words(values[k]) for _, _, values in flat)}\n")


def _words(values: Array) -> str:
    return " ".join("FT"[value] if isinstance(value, bool) else repr(value) for value in values.tolist())
