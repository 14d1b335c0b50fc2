"""An objective is a class with a few methods: here, direct forces that should turn with the molecule and do not quite add up to zero."""

from __future__ import annotations

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.plugins import load
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_train import Step, collate_step
from mlipfm_train.optimizers import adamw
from mlipfm_train.recipe import Optimizer


class NoNetForce:
    """Direct forces of two noised copies of each molecule must add up to zero, as those of any isolated molecule do."""

    outputs = ("forces",)
    requires: tuple[str, ...] = ()
    gather: tuple[str, ...] = ()
    module = None

    def views(self, structure: Structure, rng: np.random.Generator) -> list[Structure]:
        noise = rng.normal(scale=0.02, size=(2, *structure.positions.shape))
        return [structure.replace(positions=structure.positions + n, labels={}) for n in noise]

    def terms(self, prediction: Prediction, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        net = batch.sum_per_system(prediction["forces"])
        return {"net-force": (net.square().sum(), torch.tensor(float(batch.n_systems)))}

    def finish(self, gathered: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {}


def main() -> None:
    """Train a small model of water for twenty steps with this objective alone."""
    water = Structure([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], level="any")
    potential = build("painn", {"elements": ["H", "O"], "levels": ["any"], "forces": "direct", "backbone": {"channels": 16, "layers": 2}})
    step = Step(potential, {"no-net-force": NoNetForce()})
    strategy = load("strategies", "single")(clip=1.0)
    strategy.setup(step, adamw(Optimizer()))
    for k in range(20):
        batch = collate_step(step.objectives, [water], potential.spec.graphs, potential.spec.torch_dtype, strategy.device, seed=0, epoch=k)
        terms = strategy.step(batch, learning_rate=1e-2)
        if k in (0, 19):
            print(f"step {k}: mean square net force {terms['no-net-force/net-force']:.2e} (eV/A)^2")


if __name__ == "__main__":
    main()
