"""The quickstart's three trainings: direct pre-training, conservative fine-tuning from it, and conservative training from scratch as its control.

Each runs in a process of its own on one thread: models this small gain little from a second thread, and two trainings side by side gain all of it.
"""

from __future__ import annotations

import re
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import TrainingError

from .data_stage import PRETRAIN_LEVEL, TARGET_LEVEL, Stores
from .plan import Plan
from .stages import Stages

#: A force error of 1 eV/Å counts as much as an energy error of 2 eV per atom.
OBJECTIVE = {"name": "energy-force", "energy_weight": 10.0, "forces_weight": 20.0}

_TITLES = {"pretrained": "pre-training, direct forces", "finetuned": "fine-tuning, conservative", "scratch": "from scratch, conservative"}


@dataclass(frozen=True)
class Models:
    """Model checkpoints: pre-trained (direct forces, GFN1-xTB), fine-tuned and from scratch (conservative, GFN2-xTB)."""

    pretrained: Path
    finetuned: Path
    scratch: Path


def train_models(out: Path, plan: Plan, stores: Stores, stages: Stages, pool: Executor) -> Models:
    """Train all three, each continued where an earlier run stopped. Their recipes are left beside the runs, for `mlipfm train`."""
    stop = out / ".stop"
    stop.unlink(missing_ok=True)
    steps = {"pretrained": plan.pretrain_steps, "scratch": plan.finetune_steps, "finetuned": plan.finetune_steps}
    running: dict[str, Future[str]] = {}
    with stages.bars({_TITLES[name]: n for name, n in steps.items()}) as update:
        try:
            running["pretrained"] = pool.submit(train_one, pretrain_recipe(plan, stores), out / "pretrained", stop)
            running["scratch"] = pool.submit(train_one, scratch_recipe(plan, stores), out / "scratch", stop)
            _follow(running, out, update, until="pretrained")
            start = Path(running["pretrained"].result())
            running["finetuned"] = pool.submit(train_one, finetune_recipe(plan, stores, start), out / "finetuned", stop)
            for name in ("scratch", "finetuned"):
                _follow(running, out, update, until=name)
        except BaseException:
            stop.touch()  # tells the trainings, which no Ctrl-C reaches, to end
            raise
        for name, n in steps.items():
            update(_TITLES[name], n)
    return Models(**{name: Path(future.result()) for name, future in running.items()})


def train_one(document: dict[str, Any], folder: Path, stop: Path) -> str:
    """Run or continue one training in this process; the path of its best model. Ends with an error when the file `stop` appears."""
    import torch
    from mlipfm_train.loop import fit
    from mlipfm_train.recipe import make_recipe

    torch.set_num_threads(1)

    def watch(event: Any) -> None:
        if stop.exists():
            raise TrainingError("stopped", where=str(folder), mend="run the command again to go on")

    result = fit(make_recipe(document), folder, listeners=[watch])
    return str(result.best or result.last)


def pretrain_recipe(plan: Plan, stores: Stores) -> dict[str, Any]:
    """Direct forces, cheap labels of all training geometries."""
    return _recipe(plan, plan.pretrain_steps, [stores.pretrain], [stores.pretrain_valid]) | {
        "potential": {"name": "painn", "forces": "direct", **_shape(plan)}
    }


def finetune_recipe(plan: Plan, stores: Stores, pretrained: Path) -> dict[str, Any]:
    """The pre-trained weights with forces as a gradient, on few labels of the other level."""
    return _recipe(plan, plan.finetune_steps, [stores.finetune], [stores.valid]) | {
        "init_from": str(pretrained),
        "potential": {"forces": "conservative", "levels": [TARGET_LEVEL]},
        "level_starts": {TARGET_LEVEL: PRETRAIN_LEVEL},
    }


def scratch_recipe(plan: Plan, stores: Stores) -> dict[str, Any]:
    """The control: the same model, data, steps, learning rate and schedule, from random weights."""
    return _recipe(plan, plan.finetune_steps, [stores.finetune], [stores.valid]) | {
        "potential": {"name": "painn", "forces": "conservative", **_shape(plan)}
    }


def _shape(plan: Plan) -> dict[str, Any]:
    return {"conditions": ["total_charge", "spin_multiplicity"], "backbone": {"channels": plan.channels, "layers": plan.layers}}


def _recipe(plan: Plan, steps: int, train: list[Path], valid: list[Path]) -> dict[str, Any]:
    return {
        "seed": plan.seed,
        "data": {"train": [str(path) for path in train], "valid": [str(path) for path in valid], "budget": plan.budget},
        "objectives": [OBJECTIVE],
        "optimizer": {"lr": 5e-3},
        "schedule": {"name": "cosine", "warmup": max(1, steps // 20)},
        "weight_rule": {"name": "ema", "decay": 0.99},
        "steps": steps,
        "evaluate_every": max(1, steps // 5),
        "checkpoint_every": max(1, steps // 10),
    }


def _follow(running: dict[str, Future[str]], out: Path, update: Any, until: str) -> None:
    """Move the bars until one training has ended."""
    while not running[until].done():
        wait([running[until]], timeout=0.5)
        for name in running:
            update(_TITLES[name], _steps_done(out / name / "events.jsonl"))
    running[until].result()


def _steps_done(log: Path) -> int:
    """Steps that a run has logged, from the end of its event log."""
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        found = re.findall(rb'"kind":"step","step":([0-9]+)', file.read())
    return int(found[-1]) + 1 if found else 0
