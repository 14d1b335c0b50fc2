"""The quickstart's trainings: direct pre-training, conservative fine-tuning from it, the same from scratch as its control, and the students.

Each runs in a process of its own on one thread: models this small gain little from a second thread, and two trainings side by side gain all of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import TrainingError

from .data_stage import PRETRAIN_LEVEL, TARGET_LEVEL, Stores
from .plan import Plan
from .tasks import Results, Task

#: A force error of 1 eV/Å counts as much as an energy error of 2 eV per atom.
OBJECTIVE = {"name": "energy-force", "energy_weight": 10.0, "forces_weight": 20.0}

#: Name of a model, which is its folder -> what it is called where people read.
TITLES = {
    "pretrained": "pre-trained",
    "finetuned": "fine-tuned",
    "scratch": "from scratch",
    "student": "student",
    "student-without-rows": "student without rows",
    "student-without-teacher": "student without teacher",
}

#: Models at the target level, by conservative forces.
CONSERVATIVE = tuple(name for name in TITLES if name != "pretrained")

#: Of a student; lr 1e-3, the default of distillation, needs many more steps than a quickstart has.
STUDENT_LR = 5e-3


def training_tasks(out: Path, plan: Plan, stores: Stores, stop: Path) -> dict[str, Task]:
    """All trainings, each continued where an earlier run stopped, and the teacher's labels. Results are paths of model checkpoints."""
    teacher_store = out / "data" / "teacher"

    def train(name: str, title: str, steps: int, recipe: Any, *needs: str) -> Task:
        folder = out / name
        return Task(title, train_one, lambda done: (recipe(done), folder, stop), needs, steps, lambda: _steps_done(folder / "events.jsonl"))

    def student(train_on: list[Path], weight: float, teacher: str) -> Any:
        return lambda done: student_recipe(plan, stores, train_on, weight, Path(done[teacher]))

    def labels_arguments(done: Results) -> tuple[Any, ...]:
        return stores, done["finetuned"], teacher_store, plan

    steps, both = plan.student_steps, [stores.finetune, teacher_store]
    return {
        "pretrained": train("pretrained", "pre-training, direct forces", plan.pretrain_steps, lambda done: pretrain_recipe(plan, stores)),
        "finetuned": train(
            "finetuned", "fine-tuning, conservative", plan.finetune_steps,
            lambda done: finetune_recipe(plan, stores, Path(done["pretrained"])), "pretrained",
        ),
        "teacher labels": Task("the teacher's labels and rows", label_by_teacher, labels_arguments, ("finetuned",)),
        "student": train("student", "student", steps, student(both, plan.hessian_weight, "finetuned"), "teacher labels"),
        "scratch": train("scratch", "from scratch, conservative", plan.finetune_steps, lambda done: scratch_recipe(plan, stores)),
        "student-without-teacher": train(
            "student-without-teacher", "student without teacher", steps, student([stores.finetune], 0.0, "scratch"), "scratch"
        ),
        "student-without-rows": train(
            "student-without-rows", "student without Hessian rows", steps, student(both, 0.0, "finetuned"), "teacher labels"
        ),
    }  # fmt: skip


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


def label_by_teacher(stores: Stores, teacher: str, out: Path, plan: Plan) -> str:
    """The training geometries of which the teacher is sure, with its labels and some rows of its Hessian; labels of their own are not used."""
    import torch
    from mlipfm_data.store.store import Store
    from mlipfm_distill import label_geometries
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.checkpoint import load_model

    torch.set_num_threads(1)
    sure = out.parent / "teacher-uncertainty.safetensors"
    with Store(stores.pretrain) as geometries, Store(stores.finetune) as known, Store(stores.valid) as held_out:
        model, manifest = load_model(teacher)
        plugins.load("uncertainties", "llpr").fit(model, str(manifest["digest"]), known, held_out).save(sure)
        label_geometries(
            list(geometries), teacher, out, rows=plan.rows, seed=plan.seed, advance=lambda count: None, uncertainty=sure, like=held_out
        )
    return str(out)


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


def student_recipe(plan: Plan, stores: Stores, train: list[Path], hessian_weight: float, teacher: Path) -> dict[str, Any]:
    """A `density` student on the labels in `train`: the few true ones, and the teacher's where it is sure.

    Its controls have the same model, steps and learning rate: one on the same labels without the teacher's rows (weight 0), one on the true labels
    alone, for which `teacher` only says on what conditions (charge, spin) a model depends.
    """
    from mlipfm_distill import distill_recipe

    recipe = distill_recipe(
        teacher,
        train,
        [stores.valid],
        backbone={"channels": plan.student_channels},
        steps=plan.student_steps,
        lr=STUDENT_LR,
        hessian_weight=hessian_weight,
        budget=plan.budget,
        seed=plan.seed,
    )
    return recipe.model_dump(mode="json")


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


def _steps_done(log: Path) -> int:
    """Steps that a run has logged, from the end of its event log."""
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        found = re.findall(rb'"kind":"step","step":([0-9]+)', file.read())
    return int(found[-1]) + 1 if found else 0
