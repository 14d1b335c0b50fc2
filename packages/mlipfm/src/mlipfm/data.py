"""The quickstart's data: geometries of small molecules, and GFN2-xTB labels of those that are trained on or tested with.

Geometries of a molecule are half displacements along normal modes of its conformers, half frames of Langevin dynamics on the GFN2-xTB surface. Those
with labels have two more sets: `known`, of the same kind from other starts and velocities, so that no frame lies between
two frames of a trajectory that was trained on; and `hot`, along normal modes at a temperature above all that was trained on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from rich.console import Console
from rich.progress import track

from .plan import FINETUNED, HELD_OUT, Plan

if TYPE_CHECKING:
    import numpy as np
    from mlipfm_data.normal_modes import Modes
    from mlipfm_data.tblite_labeler import TbliteLabeler

LEVEL = "gfn2-xtb"

#: K, of the displacements along normal modes, in turn.
MODE_TEMPERATURES = (300.0, 600.0, 1000.0)

#: Geometries and labels are computed here, from SMILES: nobody has rights in them.
LICENCE = "CC0-1.0"


def make_data(out: Path, plan: Plan, pool: Executor, console: Console) -> None:
    """Make and label the structures of all sets, each a store in `out/data`; what an earlier run finished is taken from there."""
    from mlipfm_data.labeling import label_all
    from mlipfm_interfaces import plugins

    geometries = make_geometries(out / "geometries", plan, pool, console)
    sets = sets_of(geometries, plan)
    (out / "data").mkdir(exist_ok=True)
    _without_labels(
        [s for name in geometries if name not in HELD_OUT for s in geometries[name][: plan.unlabelled]], out / "data" / "unlabelled"
    )
    quiet = not console.is_terminal
    console.print(f"# labels of {sum(map(len, sets.values()))} structures by GFN2-xTB", style="dim", highlight=False)
    for name, structures in track(sets.items(), "labels", console=console, transient=True, disable=quiet):
        report = label_all(structures, plugins.load("labelers", LEVEL)(), out / "data" / name, executor=pool, progress=False)
        if report.refused:
            console.print(
                f"{name}: {len(report.refused)} of {report.total} structures have no label: {report.refused[0].text}", style="yellow"
            )


def sets_of(geometries: dict[str, list[Structure]], plan: Plan) -> dict[str, list[Structure]]:
    """Return name -> structures of every set with labels: few molecules, and few geometries of each."""

    def part(names: tuple[str, ...], start: int, count: int) -> list[Structure]:
        return [s for name in names for s in geometries[name][start : start + count]]

    return {
        "finetune": part(FINETUNED, 0, plan.finetune),
        "valid": part(FINETUNED, plan.unlabelled, plan.valid),
        "known": part(FINETUNED, plan.per_molecule, plan.known),
        "test": part(HELD_OUT, 0, plan.test),
        "hot": part(FINETUNED, plan.per_molecule + plan.known, plan.known),
    }


def _without_labels(structures: Sequence[Structure], path: Path) -> None:
    """Write a store; one that is there is whole."""
    from mlipfm_data.store.writer import StoreWriter

    if path.exists():
        return
    unfinished = path.with_name(f".{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    with StoreWriter(unfinished, name=path.name) as writer:
        for s in structures:
            writer.add(s)
    unfinished.replace(path)


def make_geometries(folder: Path, plan: Plan, pool: Executor, console: Console) -> dict[str, list[Structure]]:
    """Return the geometries of every molecule: those of training (of the test, if it is held out), then `known` and `hot` ones.

    A molecule's file is moved into place when it is whole: a kill loses at most the molecules that were being made.
    """
    from mlipfm_data.conformers import quickstart_molecules

    folder.mkdir(parents=True, exist_ok=True)
    smiles = quickstart_molecules()
    files = {name: folder / f"{name.replace(' ', '-')}.frames" for name in sorted(smiles, key=lambda name: name in HELD_OUT)}
    futures = [pool.submit(_make, file, name, smiles[name], plan) for name, file in files.items() if not file.exists()]
    console.print(f"# geometries of {len(files)} molecules: normal modes and Langevin dynamics", style="dim", highlight=False)
    quiet = not console.is_terminal
    try:
        for future in track(as_completed(futures), "molecules", len(futures), console=console, transient=True, disable=quiet):
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()  # Ctrl-C waits for the molecules at work only
        raise
    return {name: [s for s, _ in FrameLog(file)] for name, file in files.items()}


def _make(file: Path, name: str, smiles: str, plan: Plan) -> None:
    """Write all geometries of one molecule. Runs in a worker."""
    import torch
    from mlipfm_data.conformers import conformers
    from mlipfm_data.normal_modes import forces_of, hessian_by_differences, normal_modes
    from mlipfm_data.tblite_labeler import TbliteLabeler

    torch.set_num_threads(1)
    labeler = TbliteLabeler("GFN2-xTB")
    starts = [s.replace(provenance=replace(s.provenance, licence=LICENCE)) for s in conformers(smiles, 2, plan.seed)]
    modes = [normal_modes(s, hessian_by_differences(s, forces_of(labeler))) for s in starts]

    def drawn(count: int, name_of_stream: str) -> list[Structure]:
        return _mixture(starts, modes, labeler, count, plan.temperature, stream(plan.seed, name_of_stream, name))

    structures = drawn(plan.test if name in HELD_OUT else plan.per_molecule, "sampler")
    if name in FINETUNED:
        structures += drawn(plan.known, "known")
        structures += _moved(starts, modes, [plan.hot] * len(starts), plan.known, stream(plan.seed, "hot", name))
    unfinished = file.with_name(f".{file.name}")
    unfinished.unlink(missing_ok=True)
    with FrameLog(unfinished) as log:
        for s in structures:
            log.append(s)
        log.flush()
    unfinished.replace(file)


def _mixture(
    starts: list[Structure], modes: list[Modes], labeler: TbliteLabeler, n: int, temperature: float, rng: np.random.Generator
) -> list[Structure]:
    """Return `n` geometries in random order, half of them along normal modes."""
    from mlipfm_md.langevin_sampler import LangevinSampler

    parts = _moved(starts, modes, MODE_TEMPERATURES, n // 2, rng)
    parts += LangevinSampler(labeler, temperature, stride=12, equilibrate=100).sample(starts[0], n - len(parts), rng)
    return [parts[int(k)] for k in rng.permutation(len(parts))]


def _moved(
    starts: list[Structure], modes: list[Modes], temperatures: list[float] | tuple[float, ...], n: int, rng: np.random.Generator
) -> list[Structure]:
    """Return geometries along normal modes, an equal share (rounded down) at each temperature, from each start in turn."""
    from mlipfm_data.normal_modes import sample_modes

    parts: list[Structure] = []
    for k, temperature in enumerate(temperatures):
        parts += sample_modes(starts[k % len(starts)], modes[k % len(starts)], temperature, n // len(temperatures), rng)
    return parts
