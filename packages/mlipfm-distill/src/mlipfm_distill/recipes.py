"""`distill_recipe`: the recipe that trains a student on a teacher's labels, with the weights and optimiser of arXiv:2501.09009."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_train.recipe import Recipe, make_recipe


def distill_recipe(
    teacher: str | Path,
    train: Sequence[Path | str],
    valid: Sequence[Path | str] = (),
    *,
    student: str = "density",
    backbone: Mapping[str, Any] | None = None,
    steps: int = 2000,
    lr: float = 1e-3,
    hessian_weight: float = 400.0,
    rows: int = 1,
    budget: float = 500.0,
    seed: int = 0,
    dtype: str = "float32",
) -> Recipe:
    """Return a Recipe for `mlipfm_train.loop.fit`; `dump_recipe` writes it for `mlipfm train`.

    The student gets the conditions (charge, spin) that the teacher gets. Elements, levels, references and scale come from the data.

    Args:
        train: stores with energies, forces and Hessian rows, of the levels that the teacher supports. valid: held-out stores.
        student: plug-in of the potential. backbone: its options, beside the plug-in's defaults.
        hessian_weight: beside 5 for energies and 100 for forces; 0 distills without rows. rows: drawn of each structure in each epoch.
        budget: cost of a batch, see `Data`.

    Raises:
        RecipeError: for values that cannot be. What `load_potential` raises for the teacher.
    """
    spec = load_potential(teacher).spec
    potential: dict[str, Any] = {"name": student, "conditions": list(spec.conditions)}
    if backbone:
        potential["backbone"] = dict(backbone)
    document = {
        "seed": seed,
        "potential": potential,
        "data": {"train": [str(path) for path in train], "valid": [str(path) for path in valid], "budget": budget},
        "objectives": [{"name": "distill", "hessian_weight": hessian_weight, "rows": rows}],
        "optimizer": {"lr": lr, "weight_decay": 2e-6, "eps": 1e-7, "clip": 10.0},
        "schedule": {"name": "cosine", "warmup": max(1, steps // 20)},
        "weight_rule": {"name": "ema", "decay": min(0.999, max(0.0, 1 - 20 / steps))},
        "steps": steps,
        "evaluate_every": max(1, steps // 5),
        "checkpoint_every": max(1, steps // 10),
        "dtype": dtype,
    }
    return make_recipe(document)
