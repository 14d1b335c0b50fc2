"""Cases of the strategy suite, run by one process or by several: `python strategy_cases.py STRATEGY DTYPE OUT CASE ...` with torchrun's variables.

The case "momentum" leaves its training state in the middle in OUT/state; the case "begun by FOLDER" does its second half from the one in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.plugins import load
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_train.objectives.dens import Dens
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.objectives.masked import Masked
from mlipfm_train.objectives.potential_features import prepare_objectives
from mlipfm_train.objectives.quantities import Quantities
from mlipfm_train.step import Step
from mlipfm_train.training_state import load_newest_state, save_state
from mlipfm_train.views import collate_step
from torch import Tensor, nn

STEPS = 3
#: Of the case "clipped": far below its gradients.
CLIP = 0.2
#: Systems before those of rank 1, 2 ...: unequal shares, and those of the case "uneven batches".
SPLITS = {1: [], 2: [3], 3: [3, 5]}
UNEVEN = {1: [], 2: [5], 3: [4, 5]}
#: Of the case "heads".
HEADS = {"dipole": {}, "charges": {}, "homo": {}}


class GradientDescent:
    """Plain gradient descent: unlike Adam's, its step is proportional to the gradient, so that relative errors stay what they are."""

    def __init__(self, module: nn.Module) -> None:
        self.param_groups = [{"params": list(module.parameters()), "lr": 0.0}]
        self.state: dict = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(self.param_groups[0]["lr"] * parameter.grad)


class HeavyBall(GradientDescent):
    """Gradient descent with momentum: proportional to gradients as well, and it has a state to be saved and sharded."""

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                state = self.state.setdefault(parameter, {})
                state["momentum"] = 0.9 * state.get("momentum", torch.zeros_like(parameter)) + parameter.grad
                parameter.sub_(self.param_groups[0]["lr"] * state["momentum"])


class Additive:
    """Defaults of an objective without auxiliary parameters."""

    requires: tuple[str, ...] = ()
    gather: tuple[str, ...] = ()
    module: nn.Module | None = None

    def views(self, structure, rng):
        return [structure]

    def finish(self, gathered):
        return {}


class ProbeObjective(Additive):
    """Squared error of Hessian rows or Hessian-vector products."""

    def __init__(self, key: str) -> None:
        self.key, self.outputs, self.requires = key, ("energy", key), (key,)

    def terms(self, prediction: Prediction, batch: Batch):
        if self.key not in prediction.values:
            zero = torch.zeros((), dtype=torch.float64)
            return {self.key: (prediction["energy"].sum() * 0, zero)}
        mask = batch.label_mask[self.key][:, batch.system]
        error = (prediction[self.key] - batch.labels[self.key])[mask]
        return {self.key: (error.square().sum(), torch.tensor(float(error.numel())))}


class TwoViews(Additive):
    """Direct forces of a randomly rotated copy, rotated back, against those of the original; the angles come from the structure's key."""

    outputs = ("energy", "forces")

    def views(self, structure, rng):
        turned = structure.replace(positions=structure.positions @ self.matrix(structure.key).T, labels={})
        return [structure, turned]

    def matrix(self, key: str) -> np.ndarray:
        return np.linalg.qr(np.random.default_rng(int(key[:6], 16)).normal(size=(3, 3)))[0]

    def terms(self, prediction, batch):
        first, second = batch.system % 2 == 0, batch.system % 2 == 1
        turn = torch.from_numpy(np.stack([self.matrix(key) for key in batch.keys[::2]]))[batch.system[first] // 2]
        expected = torch.einsum("nab,nb->na", turn, prediction["forces"][first])
        shift = prediction["energy"].reshape(-1, 2).square()
        error = (prediction["forces"][second] - expected + 0.1).square()
        return {"rotation": (error.sum(), torch.tensor(float(len(error)))), "energy": (shift.sum(), torch.tensor(float(len(shift))))}


class AuxiliaryHead(Additive):
    """A head of its own on the node scalars, taught the atomic number; kept out of the model checkpoint."""

    outputs = ("energy",)

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        self.module = nn.Linear(channels, 1).to(dtype)

    def terms(self, prediction, batch):
        assert self.module is not None
        error = self.module(prediction.features["node_scalar"].value)[:, 0] - batch.atomic_numbers / 10
        return {"element": (error.to(torch.float64).square().sum(), torch.tensor(float(len(error))))}


class Decorrelated(Additive):
    """Variance of projected energies over all systems of all ranks: not a sum over systems, so it is gathered."""

    outputs = ("energy",)
    gather = ("z",)

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        self.module = nn.Linear(channels, 3).to(dtype)

    def terms(self, prediction, batch):
        assert self.module is not None
        z = batch.sum_per_system(self.module(prediction.features["last_layer"].value))
        return {"z": (z, torch.tensor(len(z))), "size": (z.abs().sum(), torch.tensor(float(z.numel())))}

    def finish(self, gathered: dict[str, Tensor]):
        z = gathered["z"]
        centred = z - z.mean(dim=0)
        return {"variance": ((centred.T @ centred / len(z) - torch.eye(3)).square().sum(), torch.ones(()))}


def structures(case: str) -> list[Structure]:
    """Six small systems, in the order of the ranks that get them; the second half is smaller, so that ranks have different counts."""
    rng = np.random.default_rng(7)
    made = []
    for k in range(6):
        n = 4 if k < 3 else 3
        positions = np.array([[0, 0, 0], [1.2, 0, 0], [0, 1.2, 0.3], [0.9, 1.0, 1.1]])[:n] + rng.normal(size=(n, 3)) * 0.1
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3))}
        options: dict = {}
        if case == "stress":
            options = {"cell": np.diag([4.0, 4.2, 4.4]), "pbc": [True] * 3}
            labels["stress"] = rng.normal(size=(3, 3)) * 0.1
        if case == "masks":  # crystals with stress on the first rank, molecules on both; atoms and structures of other weights
            if k < 2:
                options = {"cell": np.diag([4.0, 4.2, 4.4]), "pbc": [True] * 3}
                labels["stress"] = rng.normal(size=(3, 3)) * 0.1
            labels |= {"forces_weight": [0.0, 1.0, 0.5, 2.0][:n]} if k % 2 else {"weight": 0.3 * k}
        if case == "hessian row":
            labels |= {"hessian_rows": rng.normal(size=(1, n, 3)), "hessian_rows_index": np.array([[k % n, k % 3]])}
        if case == "hvp" or (case == "labels on one rank" and k < 3):
            labels |= {"hvp": rng.normal(size=(1, n, 3)), "hvp_probe": rng.normal(size=(1, n, 3))}
        if case == "labels on one rank" and k >= 3:
            labels = {}
        if case == "mixed losses" and k % 3 == 0:
            options = {"cell": np.diag([4.0, 4.2, 4.4]), "pbc": [True] * 3}
            labels["stress"] = rng.normal(size=(3, 3)) * 0.1
        if case == "heads":  # the last ones have no charges, and the last but one no gap either
            labels |= {"dipole": rng.normal(size=3)} | ({"charges": rng.normal(size=n)} if k < 4 else {}) | ({} if k == 4 else {"homo": -k})
        level = "b" if case == "disjoint levels" and k >= 3 else "a"
        made.append(Structure(np.array([6, 8, 1, 1])[:n], positions, level=level, labels=labels, **options))
    return made


def objectives(case: str, dtype: torch.dtype) -> dict:
    torch.manual_seed(11)
    supervised = EnergyForce(stress_weight=5.0 if case in ("stress", "masks") else 0.0, energy_loss="mse", forces_loss="mse")
    if case == "mixed losses":
        supervised = EnergyForce(stress_weight=5.0, energy_loss="huber", forces_loss="norm", stress_loss="mae", huber_delta=0.3)
    extra = {
        "hessian row": lambda: ProbeObjective("hessian_rows"),
        "hvp": lambda: ProbeObjective("hvp"),
        "labels on one rank": lambda: ProbeObjective("hvp"),
        "two views": TwoViews,
        "auxiliary head": lambda: AuxiliaryHead(8, dtype),
        "gathered": lambda: Decorrelated(8, dtype),
        "hidden elements": lambda: Masked(fraction=0.4),
        "encoded forces": lambda: Dens(fraction=0.6),
        "heads": lambda: Quantities(dict.fromkeys(HEADS, 2.0), loss="mse"),
    }
    return {"energy-force": supervised} | ({"extra": extra[case]()} if case in extra else {})


def run(case: str, strategy_name: str, dtype: str, out: Path) -> dict[str, Tensor]:
    """Parameters before and after `STEPS` steps of gradient descent, and the terms of each step. With momentum there are twice as many."""
    direct = case in ("direct forces", "two views")
    begun = load_newest_state(Path(case.removeprefix("begun by "))) if case.startswith("begun by ") else None
    momentum = case == "momentum" or begun is not None
    config = {"elements": ["H", "C", "O"], "levels": ["a", "b"], "dtype": dtype, "forces": "direct" if direct else "conservative"}
    config |= {"heads": HEADS, "conditions": ["total_charge"]} if case == "heads" else {}
    potential = build("painn", config | {"backbone": {"channels": 8, "layers": 2, "cutoff": 4.0}})
    made = objectives(case, potential.spec.torch_dtype)
    prepare_objectives(made, potential, np.array([6, 8, 1]))
    for objective in made.values():
        if objective.module is not None:
            objective.module.to(potential.spec.torch_dtype)
    step = Step(potential, made)
    strategy = load("strategies", strategy_name)(clip=CLIP if case == "clipped" else 5.0)
    strategy.setup(step, HeavyBall if momentum else GradientDescent)
    mine = np.split(np.arange(6), (UNEVEN if case == "uneven batches" else SPLITS)[strategy.share[1]])[strategy.share[0]]
    chosen = [structures(case)[k] for k in mine]  # all of them where ranks share every structure
    if begun is not None:
        strategy.load_state_dict(begun)
    result = {f"{case}/before/{name}": value for name, value in strategy.full_parameters().items()}
    for n in range(STEPS if begun is not None else 0, 2 * STEPS if momentum else STEPS):
        if case == "momentum" and n == STEPS:
            save_state(out / "state", n, strategy.state_dict(), strategy)
        seen = (
            [s.replace(labels={**s.labels, "energy": 1e200}) for s in chosen]
            if (case, n) == ("overflow on one rank", 1) and 5 in mine
            else chosen
        )
        batch = collate_step(step.objectives, seen, potential.spec.graphs, potential.spec.torch_dtype, strategy.device, 0, n)
        terms = strategy.step(batch, 1e-2)
        result |= {f"{case}/term/{n}/{key}": torch.tensor(value, dtype=torch.float64) for key, value in terms.items()}
    return result | {f"{case}/after/{name}": value for name, value in strategy.full_parameters().items()}


def main(strategy: str, dtype: str, out: str, *cases: str) -> None:
    import os

    import torch.distributed as dist

    torch.set_num_threads(1)
    results: dict[str, Tensor] = {}
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    for case in cases:
        results |= run(case, strategy, dtype, Path(out))
    rank = dist.get_rank() if dist.is_initialized() else 0
    safetensors.torch.save_file({k: v.contiguous() for k, v in results.items()}, Path(out) / f"rank{rank}.safetensors")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
