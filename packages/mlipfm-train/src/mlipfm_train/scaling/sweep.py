"""`Sweep`: the document of a sweep, a recipe and the axes along which it changes, and the runs that follow from it.

recipe: recipe.yaml            # a file, the name of a recipe of `mlipfm train --list`, or the recipe itself
width: [8, 16, 32, 64]         # potential.backbone.channels
structures: [250, 1000, 4000]  # the first ones of one random order of the training data: smaller sets are parts of larger ones
epochs: 4
seeds: [0, 1]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from mlipfm_data.strict_yaml import parse_yaml
from mlipfm_interfaces.errors import RecipeError, UnreadableFileError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..recipe import MAX_BYTES, MAX_SEED, MAX_STEPS, Recipe, load_recipe, make_recipe
from ..recipe_library import recipe_file
from .laws import ScalingError

#: Runs of one sweep; more is a slip.
MOST = 10_000

Count = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Changes = dict[str, Any]


class Sweep(BaseModel):
    """See the module. Every run is one of the product of all axes that are given.

    Attributes:
        recipe: as plain data; `load_sweep` reads it from a file or by its name.
        architectures, objectives: name -> changes of the recipe, dotted key -> value; each is fitted apart.
        width, depth: `potential.backbone.channels` and `potential.backbone.layers`. structures: number of training structures.
        steps: of training; with the schedule `wsd` runs of different steps share all that comes before their decays.
        epochs: passes over the training structures, in place of steps.
        seeds: of weights and order of the data.
        mup_base: width whose learning rate the recipe gives; other widths have `optimizer.width_ratio`. null: one rate for all.
        evaluate: name -> store: errors of the last model on further data, such as `ood`.
        finetune: name -> changes of the recipe (`data.train`, `data.valid`, `steps`, `optimizer.lr` ...), dotted key -> value: the last model of
            every run is trained on with them, and its errors are losses of the run as well.
        hold_out: whether the largest run of each group waits until it has been predicted.
        core_hours: largest time that `plan` accepts; null: any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    recipe: dict[str, Any]
    architectures: dict[str, Changes] = Field(default_factory=dict)
    objectives: dict[str, Changes] = Field(default_factory=dict)
    width: list[Count] = Field(default_factory=list)
    depth: list[Count] = Field(default_factory=list)
    structures: list[Count] = Field(default_factory=list)
    steps: list[Count] = Field(default_factory=list)
    epochs: float | None = Field(default=None, gt=0, le=1e6)
    seeds: list[Annotated[int, Field(ge=0, le=MAX_SEED)]] = Field(default_factory=lambda: [0], min_length=1)
    mup_base: Count | None = None
    evaluate: dict[str, str] = Field(default_factory=dict)
    finetune: dict[str, Changes] = Field(default_factory=dict)
    hold_out: bool = True
    core_hours: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        for name in ("width", "depth", "structures", "steps", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice: equal points would count twice")
        if self.epochs is not None and self.steps:
            raise ValueError("give epochs or steps, not both")
        if self.mup_base is not None and not self.width:
            raise ValueError("mup_base needs width: it is the ratio of the two that changes rates")
        for name, changes in self.finetune.items():
            if not {"data.train", "data.valid", "steps"} <= set(changes):
                raise ValueError(f"finetune.{name} needs data.train, data.valid and steps")
        return self


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: of its folder. group: what is fitted apart. structures: None: all.
        trunk: name that the runs share whose steps are the same up to their decays. trunk_steps: of the longest, 0 where the sweep has no `steps`.
        largest: whether it is the largest of its group in every axis, which is held out.
    """

    name: str
    group: str
    seed: int
    recipe: Recipe
    structures: int | None
    trunk: str
    trunk_steps: int
    largest: bool


def fine_tuning_recipe(recipe: Recipe, start: Path | str, name: str, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe that trains the model `start` of a run on with the changes of `finetune`.

    Raises:
        RecipeError: a key that no recipe has, or a value that cannot be.
    """
    whole = recipe.model_dump(mode="json") | {"potential": {}, "init_from": str(start), "tracking": {}}
    return make_recipe(whole, [f"{key}={json.dumps(value)}" for key, value in changes.items()], f"finetune.{name}")


def load_sweep(path: Path | str) -> Sweep:
    """Read the document of a sweep. The recipe it names is read with it, from beside the document, so that both are one.

    Raises:
        UnreadableFileError: not there, too large or not YAML. RecipeError: unknown keys and values that cannot be.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableFileError(f"larger than {MAX_BYTES} bytes: this is no sweep", where=str(path))
        document = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        hint = "`mlipfm scaling plan --example > sweep.yaml` writes one to change"
        raise UnreadableFileError(f"cannot read the sweep: {reason}", where=str(path), hint=hint) from None
    if not isinstance(document, dict):
        raise RecipeError("a sweep is a mapping of keys to values", where=str(path), hint="see `mlipfm scaling plan --example`")
    inline = document.get("recipe")
    if isinstance(inline, dict) and "seed" in inline:
        hint = f"leave recipe.seed out, and give the sweep `seeds: [{inline['seed']}]`"
        raise RecipeError("the seed of the recipe has no effect beside the seeds of the sweep", where=str(path), hint=hint)
    if isinstance(inline, dict) and "steps" in inline and (document.get("steps") or document.get("epochs")):
        raise RecipeError(
            "the steps of the recipe have no effect beside steps or epochs of the sweep", where=str(path), hint="leave recipe.steps out"
        )
    if isinstance(document.get("recipe"), str):
        beside = path.parent / document["recipe"]
        named = beside if beside.exists() else document["recipe"]
        document = {
            **document,
            "recipe": parse_yaml(recipe_file(named).read_text(encoding="utf-8")) if recipe_file(named).exists() else None,
        }
        if document["recipe"] is None:
            load_recipe(named)  # says what is wrong
    return make_sweep(document, str(path))


def make_sweep(document: Mapping[str, Any], where: str | None = None) -> Sweep:
    """Return a sweep from plain data. Raises `RecipeError`."""
    try:
        return Sweep.model_validate(json.loads(json.dumps(document)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        known = ", ".join(Sweep.model_fields)
        hint = f"known: {known}" if first["type"] == "extra_forbidden" else None
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{place + ': ' if place else ''}{message[:1].lower() + message[1:]}", where=where, hint=hint) from None


def runs_of(sweep: Sweep) -> list[PlannedRun]:
    """Return every run, smaller ones first.

    Raises:
        RecipeError: a recipe that cannot be. ScalingError: more runs than `MOST`.
    """
    axes: list[list[int | None]] = [[*values] or [None] for values in (sweep.width, sweep.depth, sweep.structures, sweep.steps)]
    groups = list(product(sweep.architectures or {"": {}}, sweep.objectives or {"": {}}))
    total = len(groups) * len(sweep.seeds) * len(list(product(*axes)))
    if total > MOST:
        raise ScalingError(f"{total:,} runs are more than {MOST:,}", hint="shorten the axes")
    found = []
    for (architecture, objective), values, seed in product(groups, product(*axes), sweep.seeds):
        found.append(_run(sweep, architecture, objective, values, seed, [max(axis, key=lambda v: v or 0) for axis in axes]))
    return sorted(found, key=lambda run: run.largest)


def _run(sweep: Sweep, architecture: str, objective: str, values: Sequence[int | None], seed: int, top: Sequence[int | None]) -> PlannedRun:
    width, depth, structures, steps = values
    changes: Changes = {
        "seed": seed,
        "potential.backbone.channels": width,
        "potential.backbone.layers": depth,
        "steps": steps,
        "optimizer.width_ratio": width / sweep.mup_base if width and sweep.mup_base else None,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    for kind, name, own in (("architectures", architecture, sweep.architectures), ("objectives", objective, sweep.objectives)):
        if both := sorted(given.keys() & own.get(name, {}).keys()):
            what = f"{kind}.{name} sets {both[0]}, which is an axis of the sweep: all of its runs would be the same"
            raise RecipeError(what, where="the sweep", hint="leave it out there, or leave out the axis")
    given |= sweep.architectures.get(architecture, {}) | sweep.objectives.get(objective, {})
    recipe = make_recipe(sweep.recipe, [f"{key}={json.dumps(value)}" for key, value in given.items()], "the recipe of the sweep")
    if recipe.time_limit is not None or recipe.patience is not None:
        raise RecipeError("runs of a sweep are made to their end: leave time_limit and patience out of the recipe", where="recipe")
    letters = zip("wdn", (width, depth, structures), strict=True)
    parts = [architecture, objective, *(f"{letter}{value}" for letter, value in letters if value is not None)]
    trunk = "-".join([*(part for part in parts if part), f"seed{seed}"])
    name = trunk if steps is None else f"{trunk}-t{steps}"
    group = "/".join(part for part in (architecture, objective) if part) or str(recipe.potential.name or "model")
    largest = sweep.hold_out and tuple(values) == tuple(top)
    return PlannedRun(name, group, seed, recipe, structures, trunk, max(sweep.steps, default=0), largest)


def with_data(run: PlannedRun, stores: Sequence[str], steps: int | None) -> PlannedRun:
    """Return the run on these training stores, with these steps where the sweep counts epochs."""
    changes: Changes = {"data": run.recipe.data.model_copy(update={"train": list(stores)})}
    return replace(run, recipe=run.recipe.model_copy(update=changes | ({"steps": steps} if steps else {})))
