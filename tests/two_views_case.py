"""The hostile client of `test_hostile_two_views`, for one process or for one of several ranks: `python two_views_case.py STRATEGY OUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.plugins import load
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.optimizers import adamw
from mlipfm_train.recipe import Optimizer
from mlipfm_train.step import Step
from mlipfm_train.views import collate_step
from torch import Tensor, nn

STEPS = 4


class BarlowTwins:
    """Two noised and rotated copies of each structure must have the same embedding, whose components must not repeat each other
    (arXiv:2103.03230): C = z_a^T z_b / n of standardised embeddings should be the identity. C is a statistic of all systems of all ranks."""

    outputs = ("energy", "forces")
    requires: tuple[str, ...] = ()
    gather = ("first", "second")

    def __init__(self, channels: int, size: int = 6) -> None:
        self.module = nn.Sequential(nn.Linear(channels, size), nn.SiLU(), nn.Linear(size, size)).double()

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        return [self._noised(structure, rng), self._noised(structure, rng)]

    def _noised(self, structure: Structure, rng: np.random.Generator) -> Structure:
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        noise = rng.normal(scale=0.05, size=structure.positions.shape)
        return structure.replace(positions=(structure.positions + noise) @ rotation, labels={})

    def terms(self, prediction: Prediction, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        assert self.module is not None
        pulled = batch.sum_per_system(prediction.features["node_scalar"].value) / batch.n_atoms[:, None]
        z = self.module(pulled)
        count = torch.tensor(batch.n_systems // 2)
        # forces of the noised views enter too, so that this loss is differentiated through a gradient
        pull = prediction["forces"].square().sum()
        return {"first": (z[::2], count), "second": (z[1::2], count), "pull": (1e-2 * pull, torch.tensor(float(len(prediction["forces"]))))}

    def finish(self, gathered: Any) -> dict[str, tuple[Tensor, Tensor]]:
        a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-2).sqrt() for z in (gathered["first"], gathered["second"]))
        c = a.T @ b / len(a)
        eye = torch.eye(len(c), dtype=c.dtype)
        return {"twins": ((((c - eye) * (eye + 0.1 * (1 - eye))) ** 2).sum(), torch.ones(()))}


def structures() -> list[Structure]:
    rng = np.random.default_rng(5)
    shape = np.array([[0, 0, 0], [1.2, 0, 0], [0, 1.2, 0.3], [0.9, 1.0, 1.1]])
    made = []
    for n in (4, 4, 3, 4, 3, 2, 3):
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3))}
        made.append(Structure(rng.choice([1, 6, 8], n), shape[:n] + rng.normal(scale=0.1, size=(n, 3)), level="a", labels=labels))
    return made


def main(strategy_name: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = {"elements": ["H", "C", "O"], "levels": ["a"], "dtype": "float64", "backbone": {"channels": 8, "layers": 2, "cutoff": 4.0}}
    potential = build("painn", config)
    step = Step(potential, {"energy-force": EnergyForce(), "twins": BarlowTwins(8)})
    strategy = load("strategies", strategy_name)(clip=10.0)
    strategy.setup(step, adamw(Optimizer(lr=1e-3, eps=1e-3)))
    mine = np.array_split(np.arange(7), strategy.world_size)[strategy.rank]  # four structures and three
    results = {f"before/{name}": value for name, value in strategy.full_parameters().items()}
    for n in range(STEPS):
        chosen = [structures()[k] for k in mine]
        batch = collate_step(step.objectives, chosen, potential.spec.graphs, torch.float64, strategy.device, seed=0, epoch=n)
        terms = strategy.step(batch, 1e-3)
        results |= {f"term/{n}/{key}": torch.tensor(value, dtype=torch.float64) for key, value in terms.items()}
    results |= {f"after/{name}": value for name, value in strategy.full_parameters().items()}
    rank = dist.get_rank() if dist.is_initialized() else 0
    safetensors.torch.save_file({key: value.contiguous() for key, value in results.items()}, Path(out) / f"rank{rank}.safetensors")
    strategy.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
