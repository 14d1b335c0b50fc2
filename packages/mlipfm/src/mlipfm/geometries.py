"""Geometries of the quickstart's molecules: conformers, half moved along normal modes, half taken from Langevin dynamics on the GFN2-xTB surface.

Every molecule has one draw for training or, if it is held out, for the test. Those with labels of the expensive level have two more: a `known` one,
of the same kind from starts and velocities of its own, so that no frame of it lies between two frames of a trajectory that was trained on; and a
`hot` one, along normal modes at a temperature above all that was trained on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .plan import FINETUNED, HELD_OUT, Plan

if TYPE_CHECKING:
    from mlipfm_data.normal_modes import Modes
    from mlipfm_data.tblite_labeler import TbliteLabeler

#: K, of the normal-mode samples, in turn.
MODE_TEMPERATURES = (300.0, 600.0, 1000.0)

#: Geometries and labels are computed here, from SMILES: nobody has rights in them.
LICENCE = "CC0-1.0"

#: Draw -> name of a molecule -> its geometries. `main`: all molecules; `known` and `hot`: the fine-tuned ones.
Draws = dict[str, dict[str, list[Structure]]]


def molecules() -> dict[str, str]:
    """Name -> SMILES, the training molecules first."""
    from mlipfm_data.conformers import quickstart_molecules

    known = quickstart_molecules()
    return {name: known[name] for name in sorted(known, key=lambda name: name in HELD_OUT)}


def make_geometries(folder: Path, plan: Plan, pool: Executor, done: Callable[[str], None]) -> Draws:
    """Geometries of every molecule, from `folder` where an earlier run left them; `done(name)` after each molecule.

    A file is moved into place when it is whole, the molecule's own after those of its further draws, so a kill loses at most the molecules that
    were being made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = molecules()
    todo = [name for name in names if not _file(folder, name).exists()]
    for name in names:
        if name not in todo:
            done(name)
    futures = {pool.submit(_make, folder, name, names[name], plan): name for name in todo}
    try:
        for future in as_completed(futures):
            future.result()
            done(futures[future])
    except BaseException:
        for future in futures:
            future.cancel()  # Ctrl-C waits for the molecules at work only
        raise
    places = {"main": (folder, tuple(names)), "known": (folder / "known", FINETUNED), "hot": (folder / "hot", FINETUNED)}
    return {draw: {name: [s for s, _ in FrameLog(_file(place, name))] for name in chosen} for draw, (place, chosen) in places.items()}


def _make(folder: Path, name: str, smiles: str, plan: Plan) -> None:
    """All draws of one molecule; runs in a worker."""
    import torch
    from mlipfm_data.conformers import conformers
    from mlipfm_data.normal_modes import forces_of, hessian_by_differences, normal_modes
    from mlipfm_data.tblite_labeler import TbliteLabeler

    torch.set_num_threads(1)
    labeler = TbliteLabeler("GFN2-xTB")
    starts = [s.replace(provenance=replace(s.provenance, licence=LICENCE)) for s in conformers(smiles, 2, plan.seed)]
    modes = [normal_modes(s, hessian_by_differences(s, forces_of(labeler))) for s in starts]
    if name in FINETUNED:
        _write(folder / "known", name, _mixture(starts, modes, labeler, plan.known, plan, stream(plan.seed, "known", name)))
        _write(folder / "hot", name, _moved(starts, modes, [plan.hot] * len(starts), plan.known, stream(plan.seed, "hot", name)))
    size = plan.test if name in HELD_OUT else plan.per_molecule
    _write(folder, name, _mixture(starts, modes, labeler, size, plan, stream(plan.seed, "sampler", name)))


def _mixture(
    starts: list[Structure], modes: list[Modes], labeler: TbliteLabeler, n: int, plan: Plan, rng: np.random.Generator
) -> list[Structure]:
    """`n` geometries in random order, half of them along normal modes."""
    from mlipfm_md.langevin_sampler import LangevinSampler

    parts = _moved(starts, modes, MODE_TEMPERATURES, n // 2, rng)
    dynamics = LangevinSampler(labeler, plan.temperature, stride=12, equilibrate=100)
    parts += dynamics.sample(starts[0], n - len(parts), rng)
    return [parts[int(k)] for k in rng.permutation(len(parts))]


def _moved(
    starts: list[Structure], modes: list[Modes], temperatures: list[float] | tuple[float, ...], n: int, rng: np.random.Generator
) -> list[Structure]:
    """Geometries along normal modes, an equal share (rounded down) at each temperature, from each start in turn."""
    from mlipfm_data.normal_modes import sample_modes

    parts: list[Structure] = []
    for k, temperature in enumerate(temperatures):
        parts += sample_modes(starts[k % len(starts)], modes[k % len(starts)], temperature, n // len(temperatures), rng)
    return parts


def _write(folder: Path, name: str, structures: list[Structure]) -> None:
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{name}.frames"
    temporary.unlink(missing_ok=True)
    with FrameLog(temporary) as log:
        for s in structures:
            log.append(s)
        log.flush()
    os.replace(temporary, _file(folder, name))


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}.frames"
