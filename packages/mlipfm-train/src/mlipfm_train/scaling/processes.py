"""What a step costs on more processes than there are here: measured with one and two processes, predicted for others.

Model, for P processes with a batch each (weak scaling): a step takes

    compute + wait(P) + exposed(P),    wait(P) = spread x sqrt(2 ln P),    exchange(P) = 2 (P - 1)/P x bytes / bandwidth + 2 log2(P) x latency

`compute` is that of one process; `spread` is the standard deviation of its steps, because all wait for the slowest of P; `exchange` is a ring
all-reduce of the gradients (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 117 (2009)) with the latency of a tree. Exposed is all of it, or
what is longer than the backward pass, two thirds of the computation. Here, where processes share cores, the time of the processors is predicted
and compared: compute + 2 (P - 1)/P x bytes x (seconds per byte), the last from two processes. Other programs lengthen it less than that on the clock.

`python -m mlipfm_train.scaling.processes RECIPE STEPS OUT` is one of the processes that are measured.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.files import atomic_write, canonical_json

from ..recipe import PluginChoice, Recipe, load_recipe
from .laws import ScalingError

#: Steps that are not counted: memory is taken, and gradient buckets are arranged, for the first time.
WARM = 3
#: Of the computation, what the backward pass takes: the exchange of gradients can hide behind it.
BACKWARD = 2 / 3


@dataclass(frozen=True)
class Calibration:
    """What one and two processes of this machine need for a step.

    Attributes:
        compute: processor seconds of one process for its batch. spread: standard deviation of that over batches.
        exchange: processor seconds for one byte of gradients that a process of two exchanges. gradients: bytes of the gradients of a step.
    """

    compute: float
    spread: float
    exchange: float
    gradients: int

    def processor_seconds(self, processes: int) -> float:
        """Processor time of each of `processes` for a step on this machine."""
        return self.compute + 2 * (processes - 1) / processes * self.gradients * self.exchange


@dataclass(frozen=True)
class Machine:
    """Devices that are not here.

    Attributes:
        faster: how many times faster than one process here one of them computes a batch.
        bandwidth: bytes/s of each for the exchange. latency: s of a message.
    """

    faster: float
    bandwidth: float
    latency: float

    def step(self, here: Calibration, processes: int) -> dict[str, float]:
        """Seconds of a step of `processes` devices, and the efficiency against one, with the exchange hidden behind the backward pass and not."""
        compute = here.compute / self.faster
        wait = here.spread / self.faster * math.sqrt(2 * math.log(processes))
        exchange = 2 * (processes - 1) / processes * here.gradients / self.bandwidth + 2 * math.log2(processes) * self.latency
        hidden = compute + wait + max(0.0, exchange - BACKWARD * compute)
        whole = compute + wait + exchange
        return {
            "processes": processes,
            "exchange_s": exchange,
            "wait_s": wait,
            "step_s": hidden,
            "step_without_overlap_s": whole,
            "efficiency": compute / hidden,
            "efficiency_without_overlap": compute / whole,
        }


def calibrate(recipe: Recipe, steps: int) -> Calibration:
    """Measure steps of the recipe with one and with two processes of this machine. Raises what training the recipe raises, and `ScalingError`."""
    one, two = measure(recipe, 1, steps), measure(recipe, 2, steps)
    compute = float(np.mean(one["seconds"]))
    gradients = int(one["gradients"])
    exchange = max(0.0, float(np.mean(two["seconds"])) - compute) / gradients
    return Calibration(compute, float(np.std(one["seconds"])), exchange, gradients)


def measure(recipe: Recipe, processes: int, steps: int) -> dict[str, Any]:
    """Processor seconds of `steps` steps of each of `processes` (DDP on gloo, one thread each), and the bytes of the gradients.

    Raises:
        ScalingError: one of them failed; with what it said.
    """
    strategy = PluginChoice(name="ddp") if processes > 1 else PluginChoice(name="single")
    tracking = recipe.tracking.model_copy(update={"mlflow": None})
    data = recipe.data.model_copy(update={"valid": []})
    own = recipe.model_copy(update={"strategy": strategy, "tracking": tracking, "data": data, "patience": None})
    with TemporaryDirectory() as scratch, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": str(processes),
            "OMP_NUM_THREADS": "1",
        }
        free.close()
        atomic_write(Path(scratch) / "recipe.yaml", canonical_json(own.model_dump(mode="json")))
        command = [sys.executable, "-m", __name__, f"{scratch}/recipe.yaml", str(steps), scratch]
        started = [
            subprocess.Popen(
                command, env={**os.environ, **place, "RANK": str(rank)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for rank in range(processes)
        ]
        said = [process.communicate()[1] for process in started]
        if any(process.returncode for process in started):
            lines = [text.strip().splitlines()[-1] for text in said if text.strip()]
            raise ScalingError(f"a process of {processes} failed: {lines[0] if lines else 'it said nothing'}", where="mlipfm scaling cost")
        found = [json.loads((Path(scratch) / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]
    return {"seconds": np.concatenate([rank["seconds"] for rank in found]), "gradients": found[0]["gradients"]}


def one_process(recipe: Recipe, steps: int, out: Path) -> None:
    """Take `steps` steps without learning anything, all ranks the same batches, and write their processor seconds."""
    import torch
    from mlipfm_data.batches import CostModel, plan_batches
    from mlipfm_interfaces.seeds import stream

    from ..frames import frame_costs
    from ..open_run import open_run

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    cost = CostModel(recipe.data.cost.atom, recipe.data.cost.edge, recipe.data.cost.batch)
    with open_run(recipe, out / "run") as run:
        costs = frame_costs(run.train, run.exported.spec.graphs[0].cutoff, recipe.seed, cost)
        plan = plan_batches(costs, recipe.data.budget, stream(recipe.seed, "data"), 1, cost.per_batch)
        seconds = []
        for step in range(WARM + steps):
            run.begin(step)
            began = time.process_time()
            run.strategy.step(run.collate([run.train[k] for k in plan[step % len(plan)]], step), 0.0)
            seconds.append(time.process_time() - began)
        gradients = sum(p.numel() * p.element_size() for p in run.step.parameters() if p.requires_grad)
    atomic_write(out / f"rank{rank}.json", canonical_json({"seconds": seconds[WARM:], "gradients": gradients}))


def predicted(here: Calibration, machine: Machine, processes: Sequence[int]) -> list[dict[str, float]]:
    """Lines of the table, one for each number of processes."""
    if not processes or min(processes) < 1:
        raise RecipeError("give numbers of processes of at least 1", where="--processes")
    return [machine.step(here, count) for count in processes]


def plot(lines: Sequence[dict[str, float]], path: Path) -> None:
    """Draw efficiency against the number of processes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = [line["processes"] for line in lines]
    axes.plot(counts, [100 * line["efficiency"] for line in lines], "o-", label="exchange behind the backward pass")
    axes.plot(counts, [100 * line["efficiency_without_overlap"] for line in lines], "s--", label="exchange after it")
    axes.set(xscale="log", xlabel="processes", ylabel="efficiency, %", ylim=(0, 105))
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    one_process(load_recipe(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
