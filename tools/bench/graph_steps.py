"""`graph-parallel`: training steps of one large structure that processes share: seconds, atoms computed twice, time in communication."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.plugins import load
from mlipfm_interfaces.structure import Structure
from mlipfm_models.speed_table import water_box
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.step import Step
from mlipfm_train.views import collate_step

from bench.figures import Figure, figure

HERE = Path(__file__).resolve().parent
#: Copies of a box of 192 atoms in a row.
BOXES = 16
MODELS = {"density": {"channels": 64, "mixed": 16, "layers": 1}, "mace": {"channels": 64, "layers": 2}}
PORT = "29731"


def measure(ranks: int, steps: int) -> Iterator[Figure]:
    """Seconds on the wall of a step of `ranks` processes with one thread each, and of one process."""
    for name in MODELS:
        alone, together = _run(name, 1, steps)[0], _run(name, ranks, steps)
        what = f"{name}, step of {192 * BOXES} atoms of water, {ranks} processes"
        slowest = [max(values) for values in zip(*(rank["seconds"] for rank in together), strict=True)]
        yield figure("graph-parallel", what, "s", slowest, 1, "one process", alone["seconds"])
        twice = sum(rank["evaluated"] for rank in together) / sum(rank["owned"] for rank in together)
        yield figure("graph-parallel", f"{what}: atoms computed for each atom", "1", [twice], 1)
        shares = [rank["waited"] / sum(rank["seconds"]) for rank in together]
        yield figure("graph-parallel", f"{what}: share of the time in communication and waiting", "1", shares, 1)


def _run(name: str, ranks: int, steps: int) -> list[dict[str, Any]]:
    """What each rank measured."""
    started = []
    for rank in range(ranks):
        group = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT}
        command = [sys.executable, str(HERE), "graph-parallel", "--one", name, "--steps", str(steps)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | (group if ranks > 1 else {})
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]


def one(name: str, steps: int) -> str:
    """Take the steps in this process, and return what was measured as JSON."""
    torch.set_num_threads(1)
    box, rng = water_box(4), np.random.default_rng(0)
    length = float(box.cell[2, 2])
    positions = np.concatenate([box.positions + [0.0, 0.0, k * length] for k in range(BOXES)])
    cell = box.cell * np.array([[1.0], [1.0], [BOXES]])
    positions = positions + rng.normal(scale=0.05, size=positions.shape)
    labels = {"energy": np.array(0.0), "forces": np.zeros_like(positions)}
    bar = Structure(np.tile(box.atomic_numbers, BOXES), positions, cell, np.ones(3, dtype=bool), level="pbe", labels=labels)
    potential = build(name, {"elements": ["H", "O"], "levels": ["pbe"], "backbone": MODELS[name]})
    strategy = load("strategies", "graph-parallel" if "WORLD_SIZE" in os.environ else "single")(clip=10.0)
    step = Step(potential, {"energy-force": EnergyForce()})
    strategy.check(step)
    strategy.setup(step, lambda module: torch.optim.Adam(module.parameters()))
    batch = collate_step(step.objectives, [bar], potential.spec.graphs, potential.spec.torch_dtype, strategy.device, 0, 0)
    seconds = []
    for k in range(steps + 2):
        if k == 2:
            strategy.waited = 0.0  # of the first two, which warm up
        begin = time.perf_counter()
        strategy.step(batch, 1e-4)
        seconds.append(time.perf_counter() - begin)
    owned, evaluated = getattr(strategy, "last_split", (len(positions),) * 2)
    found = {"seconds": seconds[2:], "waited": strategy.waited, "owned": owned, "evaluated": evaluated}
    strategy.close()
    return json.dumps(found)
