"""The recipe of a training on one file: a shipped recipe with what the data decide filled in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlipfm_data.strict_yaml import parse_yaml
from mlipfm_interfaces import plugins
from mlipfm_interfaces.errors import RecipeError
from mlipfm_train.adaptation_modes import ADAPT_MODES
from mlipfm_train.recipe import Recipe, make_recipe
from mlipfm_train.recipe_library import recipe_file, shipped_recipes

from .parts import Parts
from .request import Request

#: Backbone where none is requested: the fastest in dynamics.
BACKBONE = "density"
#: Fewest and most steps of a given time.
STEPS = (50, 200_000)
#: Most validations of a run, and after how many without a better one it stops. They take no more than this share of the time.
VALIDATIONS, PATIENCE, SHARE = 20, 8, 0.2
#: Time of a prediction beside that of a training step on the same atoms.
PREDICTION = 0.4
#: Seconds between two saved states.
SAVED_EVERY = 20.0
#: Learning rate where weights are kept from a checkpoint; the shipped recipes are for random weights.
FINETUNE_RATE = 1e-3


def backbones() -> list[str]:
    """Return the shipped recipes that train from random weights at one level: what `--backbone` takes."""
    return [recipe.name for recipe in shipped_recipes() if recipe.backbone != "any" and recipe.name != "pretrain-direct"]


def check_backbone(name: str | None) -> None:
    """Raise `RecipeError` for a backbone that neither a shipped recipe nor an installed package has."""
    known = [*backbones(), *plugins.names("backbones")]
    if name is not None and name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(
            f"there is no backbone {name!r} to train from scratch",
            where="--backbone",
            hint=f"{hint}recipes: {', '.join(backbones())}; backbones with their own defaults: {', '.join(plugins.names('backbones'))}",
        )


def recipe_of(request: Request, parts: Parts, start: Mapping[str, Any], replay: Path | None = None) -> Recipe:
    """Return the recipe, whose number of steps is not decided yet.

    Args:
        start: keys of the recipe that say what a model starts from (`init_from`, `potential`, `level_starts`); empty without a model.
        replay: store that is trained on as often as the user's data.

    Raises:
        RecipeError: an unknown backbone, or a change of the recipe that cannot be.
    """
    name = "finetune" if request.model is not None else request.backbone or BACKBONE
    own = request.model is None and name not in backbones()  # of another package: its own defaults, trained as ours are
    if own:
        check_backbone(name)
    document: dict[str, Any] = parse_yaml(recipe_file(BACKBONE if own else name).read_text(encoding="utf-8"))
    if own:
        document["potential"] = {"name": name}
    document |= {"seed": request.seed, **start}
    document["data"] = {**document["data"], "train": [str(parts.train)], "valid": [str(parts.valid)]}
    if replay is not None:
        document["data"] |= {"train": [str(parts.train), str(replay)], "source": {"name": "store", "ratios": [1.0, 1.0]}}
    document["objectives"] = [_objective(document["objectives"][0], parts)]
    document["patience"] = PATIENCE
    document |= _adaptation(request)
    if request.quantity is not None:
        document["objectives"] = [{"name": "quantities", "weights": {request.quantity: 1.0}}]
    if request.model is not None:
        document["optimizer"] = {**document["optimizer"], "lr": FINETUNE_RATE}
    return make_recipe(document, request.changes, str(request.file))


def _adaptation(request: Request) -> dict[str, Any]:
    """Keys of the recipe that a mode sets; `replay` changes the data and not the weights."""
    if request.mode == "new-head":
        return {"adapt": {"mode": "frozen", "head": request.quantity}}
    if request.mode not in ADAPT_MODES:
        return {}
    if request.mode == "heads":
        return {"adapt": {"mode": "heads"}, "steps": 1, "weight_rule": {"name": "none"}, "patience": None}
    rank = {"rank": request.rank, "alpha": float(request.rank)} if request.rank is not None else {}
    return {"adapt": {"mode": request.mode, **rank}}


def _objective(shipped: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    """Return the shipped objective with weights for the labels that are there."""
    weights: dict[str, Any] = {} if parts.labels.get("forces") else {"forces_weight": 0.0}
    if parts.labels.get("stress"):
        weights["stress_weight"] = 10.0
    return {**shipped, **weights}


def with_steps(recipe: Recipe, request: Request, seconds: float, batches: float) -> Recipe:
    """Return the recipe with as many steps as fit into the time, or as were requested, and what depends on their number.

    Args:
        seconds: that one step takes. batches: validation structures over those of a step.
    """
    stated = {text.partition("=")[0].strip() for text in request.changes}
    if request.mode == "heads":
        return recipe
    steps = request.steps or (recipe.steps if "steps" in stated else None)
    if steps is None:
        steps = int(min(max(60 * (request.minutes or 0) * (1 - SHARE) / seconds, STEPS[0]), STEPS[1]))
    every = min(steps, max(1, steps // VALIDATIONS, round(PREDICTION * batches / SHARE)))
    changes = {
        "steps": steps,
        "evaluate_every": every,
        "checkpoint_every": max(1, min(every, int(SAVED_EVERY / seconds))),
        "schedule": recipe.schedule.model_copy(update={"warmup": min(100, steps // 20)}),
    }
    stated |= {key.partition(".")[0] for key in stated}  # schedule.warmup=500: the schedule is the user's
    return recipe.model_copy(update={key: value for key, value in changes.items() if key not in stated})


def in_words(path: Path) -> str:
    """Return the line with the place of the recipe."""
    return f"recipe: {path} (change a copy of it and give it to `mlipfm train` for anything that no option says)"
