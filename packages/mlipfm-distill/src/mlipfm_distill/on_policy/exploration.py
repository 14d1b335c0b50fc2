"""Dynamics of the student: where it goes decides what is labelled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.potential import Potential, implausible_geometry_remarks
from mlipfm_interfaces.structure import Structure
from mlipfm_md.ensembles import Langevin
from mlipfm_md.simulation import Settings, simulate

from .start_frames import fixed_atoms, strain, vacuum

#: Beginning of the `provenance.sampling` of frames of the student's dynamics.
DYNAMICS = "langevin"
#: Factor of the temperature above which dynamics have exploded; small systems fluctuate.
HOTTEST = 3.0
#: 1/fs, friction of the Langevin thermostat: a memory of 0.1 ps, since what is wanted is many independent frames.
FRICTION = 0.01
#: Å, distance to which neighbours are looked at for atoms on top of each other.
NEAR = 3.0
#: Largest change of the length of a cell's vectors in dynamics, of crystals.
STRETCH = 0.015


@dataclass(frozen=True)
class Trajectory:
    """Frames of one run. `reason` says why it ended early, None if it did not. `asked` and `reached` in ps."""

    start: int
    kelvin: float
    frames: list[Structure]
    asked: float
    reached: float
    reason: str | None


def explore(
    student: Potential, starts: Sequence[Structure], temperatures: Sequence[float], picoseconds: float, dt: float, frames: int, seed: int
) -> list[Trajectory]:
    """Run each start at each temperature, and return up to `frames` frames of each run, evenly in time.

    Cells of crystals are stretched a little, each run in its own way, so that the student learns how the energy depends on the volume.
    """
    found = []
    for k, start in enumerate(starts):
        for kelvin in temperatures:
            rng = np.random.default_rng([seed, k, round(kelvin)])
            box = start if all(vacuum(start)) or not start.pbc.all() else strain(start, rng.uniform(-STRETCH, STRETCH) * np.eye(3))
            kept = {"fixed": fixed_atoms(start).astype(float)} if fixed_atoms(start).any() else {}
            found.append(
                _run(student, box.replace(labels=kept, label_std={}), k, kelvin, picoseconds, dt, frames, int(rng.integers(2**31)))
            )
    return found


def save_trajectory(run: Trajectory, folder: Path) -> None:
    """Write a run as a store with `run.json` beside it, which is written last."""
    shutil.rmtree(folder, ignore_errors=True)
    with StoreWriter(folder, name=folder.name) as writer:
        for s in run.frames:
            if not writer.has(s):
                writer.add(s)
    facts = {key: value for key, value in vars(run).items() if key != "frames"}
    atomic_write(folder / "run.json", json.dumps(facts).encode())


def load_trajectory(folder: Path) -> Trajectory:
    """Read what `save_trajectory` wrote."""
    with Store(folder) as store:
        return Trajectory(frames=list(store), **json.loads((folder / "run.json").read_bytes()))


def _run(
    student: Potential, start: Structure, index: int, kelvin: float, picoseconds: float, dt: float, frames: int, seed: int
) -> Trajectory:
    steps = max(frames, round(1000 * picoseconds / dt))
    every = max(1, steps // frames)
    steps = every * frames
    settings = Settings(
        dt=dt, steps=steps, temperature=kelvin, seed=seed, every=every, restart_every=steps, max_temperature=HOTTEST * kelvin + 300
    )
    name = replace(start.provenance, group=f"{seed}", sampling=f"{DYNAMICS}-{kelvin:g}K")
    seen: list[Structure] = []

    def keep(state: object) -> None:
        seen.append(start.replace(positions=state.positions, labels={}, label_std={}, provenance=name))  # type: ignore[attr-defined]

    try:
        run = simulate(student, [start], Langevin(kelvin, FRICTION), settings, on_record=keep)
        reason, reached = run.reason, run.state.step
    except MlipfmError as error:  # atoms on top of each other from the first step on
        reason, reached = str(error), 0
    plausible = [s for s in seen if not _broken(s)]
    return Trajectory(index, kelvin, plausible, steps * dt / 1000, reached * dt / 1000, reason)


def _broken(s: Structure) -> bool:
    try:
        return (
            bool(implausible_geometry_remarks(s, NEAR))
            and len(s) > 1
            and any("single bond" in words for words in implausible_geometry_remarks(s, NEAR))
        )
    except MlipfmError:
        return True
