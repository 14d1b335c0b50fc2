"""Continuing the run of a folder: the same recipe on the same data, or the same with more steps.

A resumed run goes on with the bits of an uninterrupted one only if nothing has changed. The recipe is compared field by field; the data by the
hashes of the stores' manifests, which stand in `initial.safetensors` and cover every shard and overlay. What only says when to stop may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import RecipeError, RefusedFileError
from mlipfm_interfaces.files import sha256

from .frames import Frames
from .recipe import Recipe, load_recipe, recipe_differences
from .schedules import learning_rate

#: Fields that say when training stops and not what a step does.
STOPS = ("steps", "patience", "time_limit")


def refuse_changes(recipe: Recipe, folder: Path, extra: Mapping[str, Any], train: Frames, valid: Frames) -> Recipe:
    """Return the recipe that the run of `folder` has had so far, if `recipe` continues it.

    Args:
        extra: of the manifest of `initial.safetensors`.

    Raises:
        RecipeError: another recipe, with the differences, or fewer steps. RefusedFileError: a store whose content has changed, by name.
    """
    before = load_recipe(folder / "recipe.yaml")
    _refuse_other_data(extra, train, valid, folder)
    same_data = {"train": recipe.data.train, "valid": recipe.data.valid}  # of the same hash: where a store lies does not matter
    if _lengths(before) != _lengths(recipe) or "data" not in extra:
        same_data = {}
    stops = {field: getattr(recipe, field) for field in STOPS}
    compared = before.model_copy(update={**stops, "data": before.data.model_copy(update=same_data)})
    differences = recipe_differences(compared, recipe)
    if differences:
        shown = "; ".join(differences[:5]) + (f" and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise RecipeError(
            f"this folder holds a run of another recipe: {shown}",
            where=str(folder),
            hint=f"use that recipe ({', '.join(STOPS)} may grow), or another folder: {_start_from(folder)} starts there from this model",
        )
    if recipe.steps < before.steps:
        raise RecipeError(
            f"a run cannot be shortened: steps: {before.steps} -> {recipe.steps}",
            where=str(folder),
            hint="use another folder; the models of this one stay as they are",
        )
    return before


def extension_lines(before: Recipe, recipe: Recipe, next_step: int) -> list[str]:
    """Return what a longer run does from `next_step` on, for people: its new length and what becomes of the learning rate."""
    if recipe.steps == before.steps:
        return []
    line = f"extended from {before.steps} to {recipe.steps} steps: weights, their average, optimiser and the order of the data go on"
    was, now = (
        learning_rate(before, min(next_step, before.steps) - 1) if next_step else before.optimizer.lr,
        learning_rate(recipe, next_step),
    )
    name = recipe.schedule.name
    if name == "constant":
        return [f"{line}; the constant learning rate stays"]
    return [
        f"{line}; schedule {name!r} is that of a run of {recipe.steps} steps from here on: the learning rate goes from {was:.3g} to {now:.3g}"
    ]


def _refuse_other_data(extra: Mapping[str, Any], train: Frames, valid: Frames, folder: Path) -> None:
    """The stores are those that the run was started with, in this order."""
    for key, frames, name in (("data", train, "data.train"), ("validation_data", valid, "data.valid")):
        entries: Sequence[Mapping[str, Any]] = extra.get(key) or ()
        for store, entry in zip(frames.stores, entries, strict=False):
            now = sha256(store.path / "manifest.json")
            if now != entry["manifest"]:
                raise RefusedFileError(
                    f"the data of this run have changed: {name} had a store of hash {entry['manifest'][:12]} with {entry['structures']} "
                    f"structures in use when training began, now {now[:12]}; what was learnt and what the model says of its data would not agree",
                    where=str(store.path),
                    hint=f"put the old store back, or train in another folder: {_start_from(folder)} starts there from this model",
                )


def _lengths(recipe: Recipe) -> tuple[int, int]:
    return len(recipe.data.train), len(recipe.data.valid)


def _start_from(folder: Path) -> str:
    model = next((name for name in ("last.safetensors", "initial.safetensors") if (folder / name).exists()), "last.safetensors")
    return f"`init_from={folder / model} potential={{}}`"
