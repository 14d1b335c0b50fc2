"""Time optimisation steps and calls of both backbones on ethanol: `python step_times.py [--full]`. CPU milliseconds of one thread, medians."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.structure import Structure

NUMBERS = [6, 6, 8, 1, 1, 1, 1, 1, 1]
POSITIONS = np.array(
    [
        [1.168, -0.383, 0.0], [0.0, 0.556, 0.0], [-1.190, -0.214, 0.0], [-1.946, 0.381, 0.0], [2.102, 0.184, 0.0],
        [1.142, -1.022, 0.886], [1.142, -1.022, -0.886], [0.041, 1.202, 0.886], [0.041, 1.202, -0.886],
    ]
)  # fmt: skip


def ethanols(n: int) -> list[Structure]:
    """Rattled copies with labels that mean nothing."""
    rng = np.random.default_rng(0)
    labels = [{"energy": rng.normal(), "forces": rng.normal(size=(9, 3))} for _ in range(n)]
    return [
        Structure(NUMBERS, POSITIONS + rng.normal(0, 0.05, (9, 3)), 0 * np.eye(3), total_charge=0, spin_multiplicity=1, labels=x)
        for x in labels
    ]


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """CPU time, which other processes disturb less than wall time."""
    times = []
    for _ in range(repeats + 2):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times[2:]))


def measure(backbone: str, channels: int, layers: int, batch_size: int, forces: str, repeats: int) -> tuple[float, float]:
    """Milliseconds of a training step and of a call."""
    config = {"elements": ["H", "C", "O"], "levels": ["any"], "forces": forces, "conditions": ["total_charge", "spin_multiplicity"]}
    potential = build(backbone, config | {"backbone": {"channels": channels, "layers": layers}})
    optimizer = torch.optim.AdamW(potential.parameters(), fused=True)
    batch = collate(ethanols(batch_size), potential.spec.graphs)

    def step() -> None:
        optimizer.zero_grad()
        got = potential(batch, ("energy", "forces"), create_graph=True)
        loss = sum((got[key] - batch.labels[key]).square().mean() for key in ("energy", "forces"))
        loss.backward()  # type: ignore[union-attr]  # a sum of tensors
        optimizer.step()

    return median_ms(step, repeats), median_ms(lambda: potential(batch, ("energy", "forces")), repeats)


def main() -> None:
    full = "--full" in sys.argv
    torch.set_num_threads(1)
    print("| backbone | channels x layers | batch | conservative: step | call | direct: step | call |\n|---|---|---|---|---|---|---|")
    painn = [("painn", *shape) for shape in ((32, 2), (64, 2), (64, 3), (128, 3))]
    density = [("density", *shape) for shape in ((32, 1), (64, 1), (64, 2), (128, 1))]
    for backbone, channels, layers in [*painn, *density] if full else [painn[0], density[0]]:
        for batch_size in (1, 16, 32) if full else (16,):
            figures = [
                f"{ms:.1f}"
                for forces in ("conservative", "direct")
                for ms in measure(backbone, channels, layers, batch_size, forces, 12 if full else 3)
            ]
            print(f"| {backbone} | {channels} x {layers} | {batch_size} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
