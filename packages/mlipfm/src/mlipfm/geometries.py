"""Geometries of the quickstart's molecules: conformers, half moved along normal modes, half taken from Langevin dynamics on the GFN2-xTB surface."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, as_completed
from pathlib import Path

from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .plan import HELD_OUT, Plan

#: K, of the normal-mode samples, in turn.
MODE_TEMPERATURES = (300.0, 600.0, 1000.0)


def molecules() -> dict[str, str]:
    """Name -> SMILES, the training molecules first."""
    from mlipfm_data.conformers import quickstart_molecules

    known = quickstart_molecules()
    return {name: known[name] for name in sorted(known, key=lambda name: name in HELD_OUT)}


def make_geometries(folder: Path, plan: Plan, pool: Executor, done: Callable[[str], None]) -> dict[str, list[Structure]]:
    """Geometries of every molecule, from `folder` where an earlier run left them; `done(name)` after each molecule.

    A molecule's file is moved into place when it is whole, so a kill loses at most the molecules that were being made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = molecules()
    todo = [name for name in names if not _file(folder, name).exists()]
    for name in names:
        if name not in todo:
            done(name)
    size = {name: plan.test if name in HELD_OUT else plan.per_molecule for name in todo}
    futures = {pool.submit(_make, folder, name, names[name], size[name], plan): name for name in todo}
    try:
        for future in as_completed(futures):
            future.result()
            done(futures[future])
    except BaseException:
        for future in futures:
            future.cancel()  # Ctrl-C waits for the molecules at work only
        raise
    return {name: [s for s, _ in FrameLog(_file(folder, name))] for name in names}


def _make(folder: Path, name: str, smiles: str, n: int, plan: Plan) -> None:
    import torch
    from mlipfm_data.conformers import conformers
    from mlipfm_data.normal_modes import NormalModeSampler
    from mlipfm_data.tblite_labeler import TbliteLabeler
    from mlipfm_md.langevin_sampler import LangevinSampler

    torch.set_num_threads(1)
    labeler, rng = TbliteLabeler("GFN2-xTB"), stream(plan.seed, "sampler", name)
    starts = conformers(smiles, 2, plan.seed)
    parts: list[Structure] = []
    shares = [n // 2 // len(MODE_TEMPERATURES)] * len(MODE_TEMPERATURES)
    for k, (temperature, share) in enumerate(zip(MODE_TEMPERATURES, shares, strict=True)):
        parts += NormalModeSampler(labeler, temperature).sample(starts[k % len(starts)], share, rng)
    dynamics = LangevinSampler(labeler, plan.temperature, stride=12, equilibrate=100)
    parts += dynamics.sample(starts[0], n - len(parts), rng)
    temporary = folder / f".{name}.frames"
    temporary.unlink(missing_ok=True)
    with FrameLog(temporary) as log:
        for k in rng.permutation(len(parts)):
            log.append(parts[int(k)])
        log.flush()
    os.replace(temporary, _file(folder, name))


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}.frames"
