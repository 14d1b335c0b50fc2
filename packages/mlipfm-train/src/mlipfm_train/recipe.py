"""`Recipe`: the typed, versioned document that says everything about a training run.

YAML in, YAML out, no code and no import strings in it. `load_recipe(path, ["steps=100", "optimizer.lr=1e-3"])` reads one, applies overrides and
checks every key; the resolved recipe, with all defaults filled in, is saved in every checkpoint of the run.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from mlipfm_data.strict_yaml import parse_yaml
from mlipfm_interfaces.errors import FormatVersionError, RecipeError, UnreadableFileError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_serializer, model_validator

from .adaptation_modes import ADAPT_MODES
from .recipe_library import recipe_file

#: Format of the recipe document. A change of meaning adds one and an entry in `UPGRADES`.
FORMAT = 1

#: Format n -> function that turns a document of format n into one of format n + 1.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_DEFAULT_PLUGINS = {"objectives": [{"name": "energy-force"}], "weight_rule": {"name": "ema"}, "strategy": {"name": "single"}}

#: What is said of keys of other programs that contain these words.
ELSEWHERE = {
    "accumul": "gradients are not accumulated over batches: a larger data.budget, or more processes by torchrun, make larger steps",
    "batch_size": "batches have equal cost, not equal numbers of structures: data.budget is atoms + 0.1 x neighbour pairs of one",
}
#: A recipe larger than this is not one, bytes.
MAX_BYTES = 1_000_000


#: Steps are counted with nine digits in the names of training states; a seed is a 63-bit integer.
MAX_STEPS, MAX_SEED = 999_999_999, 2**63 - 1
#: Costs and budgets beyond this are slips: no batch has a billion atoms.
MAX_COST = 1e9

_PER_UNIT = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


#: In [0, 1).
Share = Annotated[float, Field(ge=0, lt=1)]


class PluginChoice(BaseModel):
    """A plug-in by its name; every other key is an option of that plug-in, checked against its signature in preflight."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PotentialChoice(BaseModel):
    """The potential plug-in and its options. With `init_from` the name is that of the checkpoint, and the options change its configuration
    (`forces: conservative` turns a model with direct forces into one whose forces are a gradient)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Cost(_Document):
    """Cost of a batch: `batch` + `atom` x its atoms + `edge` x its ordered neighbour pairs within the cutoff. Any unit; `mlipfm train RECIPE
    --fit-costs FILE` measures steps, fits it in milliseconds and writes it into a recipe.

    Attributes:
        error: median relative error of the fit; null for a cost that was chosen.
    """

    atom: float = Field(default=1.0, ge=0, le=MAX_COST)
    edge: float = Field(default=0.1, ge=0, le=MAX_COST)
    batch: float = Field(default=0.0, ge=0, le=MAX_COST)
    error: float | None = Field(default=None, ge=0, le=MAX_COST)

    @model_validator(mode="after")
    def _something_costs(self) -> Cost:
        if self.atom + self.edge == 0:
            raise ValueError("an atom or an edge must cost something")
        return self


class Data(_Document):
    """Where structures come from.

    Attributes:
        train: stores to train on. valid: held-out stores (may be empty: then nothing is validated and no best model is kept).
        budget: cost of one batch of one process.
        cost: what a batch costs; by default a structure costs its atoms + 0.1 x its neighbour pairs.
        levels: train on these levels of theory only; empty: on all.
        source: plug-in that yields the batches. Options of `store`: `temperature` or `ratios` mix the training stores, see `sources.StoreSource`.
    """

    train: list[str] = Field(default_factory=list)
    valid: list[str] = Field(default_factory=list)
    budget: float = Field(default=500.0, gt=0, le=MAX_COST)
    cost: Cost = Cost()
    levels: list[str] = Field(default_factory=list)
    source: PluginChoice = PluginChoice(name="store")


class Optimizer(_Document):
    """AdamW (arXiv:1711.05101). Weight decay acts only where the potential's parameter roles allow it.

    Attributes:
        lr: peak learning rate. clip: largest norm of the gradient of all parameters; null for no clipping.
        width_ratio: width of this model by that of the model whose `lr` this is: the rates of hidden and output matrices are divided by it (muP,
            arXiv:2203.03466, table 8), so that one rate fits all widths; null: 1.
    """

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0, le=100)  # a step of AdamW changes a weight by about lr; weights are of order 1
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    clip: float | None = Field(default=10.0, gt=0)
    width_ratio: float | None = Field(default=None, gt=0, le=1e4)

    @model_validator(mode="after")
    def _decays(self) -> Optimizer:
        if self.lr * self.weight_decay >= 1:
            raise ValueError(f"lr {self.lr:g} x weight_decay {self.weight_decay:g} >= 1: every step would turn all weights around")
        return self


class Schedule(_Document):
    """Learning rate over the run, as factors of `optimizer.lr`: see `schedules`.

    Attributes:
        warmup: steps of linear warm-up. final: factor at the end (cosine, wsd). decay: share of the run that wsd decays in.
    """

    name: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    final: float | None = Field(default=None, ge=0, le=1)
    decay: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name = values.get("name", "cosine")
        filled = {"cosine": {"final": 0.01}, "wsd": {"final": 0.0, "decay": 0.2}}.get(name, {})
        for key in ("final", "decay"):
            if values.get(key) is not None and key not in filled:
                raise ValueError(f"schedule {name!r} has no option {key!r}")
        return {**filled, **{k: v for k, v in values.items() if v is not None}}


class Adapt(_Document):
    """Which weights of a checkpoint are trained, and how; see `adaptation`.

    Attributes:
        decay: of `layerwise`: factor of the rate from one block to the one before. rank, alpha: of `lora`. ridge: of `heads`, relative.
        head: of `frozen`: the quantity of the one readout that trains; null: all of them.
    """

    mode: str
    decay: float = Field(default=0.7, gt=0, le=1)
    rank: int = Field(default=4, ge=1, le=4096)
    alpha: float = Field(default=4.0, gt=0, le=1e6)
    ridge: float = Field(default=1e-6, ge=0, le=1e6)
    head: str | None = None

    @field_validator("mode")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in ADAPT_MODES:
            raise ValueError(f"there is no mode {value!r}; {nearest(value, list(ADAPT_MODES))}")
        return value

    @model_validator(mode="after")
    def _used(self) -> Adapt:
        others = self.model_fields_set - {"mode", *ADAPT_MODES[self.mode].options}
        if idle := sorted(key for key in others if getattr(self, key) != type(self).model_fields[key].default):
            raise ValueError(f"{', '.join(idle)} has no effect with mode {self.mode}")
        return self


class Tracking(_Document):
    """Where events are drained to, besides the run's own log.

    Attributes:
        mlflow: tracking address (`sqlite:///runs.db`, `http://host:5000`), null for none.
    """

    mlflow: str | None = None
    experiment: str = "mlipfm"

    @model_validator(mode="after")
    def _used(self) -> Tracking:
        if self.mlflow is None and self.experiment != "mlipfm":
            raise ValueError("experiment has no effect without an address: give tracking.mlflow, too")
        return self

    @field_validator("mlflow")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value:
            raise ValueError(f"{value!r} is no address of MLflow: give sqlite:///runs.db or http://host:5000")
        if value is not None and value.startswith("file:"):
            raise ValueError("runs in folders are no longer kept by MLflow: give sqlite:///runs.db")
        return value


def _seconds(value: Any) -> Any:
    """`90min`, `1d12h` -> seconds; numbers are seconds."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", value)
    if not parts or re.sub(r"\s", "", value) != "".join(number + unit for number, unit in parts):
        raise ValueError(f"{value!r} is no length of time; write 45s, 90min, 2h or 1d12h")
    return sum(float(number) * _PER_UNIT[unit] for number, unit in parts)


class Recipe(_Document):
    """A training run. See the fields of its parts.

    Attributes:
        init_from: model checkpoint to start from; null starts from random weights.
        level_starts: new level of theory -> level of the checkpoint whose weights it starts from.
        adapt: which weights of the checkpoint are trained, see `Adapt`; null: all, at one rate.
        steps: optimisation steps. evaluate_every, checkpoint_every: in steps.
        patience: stop early after so many validations in a row that were not better than the best; null: never.
        time_limit: of one `fit` or command (`45s`, `90min`, `2h`, `1d12h`, or seconds): save, stop, and go on with the same command; null: none.
        max_skipped: steps in a row that may be skipped because loss or gradient is not finite, before training stops.
        dtype: what the potential computes in.
    """

    format: Literal[1] = 1
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    potential: PotentialChoice = PotentialChoice()
    init_from: str | None = None
    level_starts: dict[str, str] = Field(default_factory=dict)
    adapt: Adapt | None = None
    data: Data = Data()
    objectives: list[PluginChoice] = Field(default_factory=lambda: [PluginChoice(name="energy-force")], min_length=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Field(default_factory=lambda: Schedule.model_validate({}))
    weight_rule: PluginChoice = PluginChoice(name="ema")
    steps: int = Field(default=10_000, gt=0, le=MAX_STEPS)
    evaluate_every: int = Field(default=500, gt=0, le=MAX_STEPS)
    checkpoint_every: int = Field(default=500, gt=0, le=MAX_STEPS)
    patience: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    time_limit: Annotated[float | None, BeforeValidator(_seconds)] = Field(default=None, gt=0)
    max_skipped: int = Field(default=20, ge=0, le=MAX_STEPS)
    strategy: PluginChoice = PluginChoice(name="single")
    dtype: Literal["float32", "float64"] = "float32"
    tracking: Tracking = Tracking()

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, serialise: Any) -> Any:
        """Leave `adapt` and `optimizer.width_ratio` out where they are not set: models of recipes without them keep their digests."""
        document = serialise(self)
        if document.get("adapt") is None:
            document.pop("adapt", None)
        optimizer = document.get("optimizer")
        if isinstance(optimizer, dict) and optimizer.get("width_ratio") is None:
            optimizer.pop("width_ratio", None)
        return document

    @model_validator(mode="after")
    def _one_start(self) -> Recipe:
        if (self.potential.name is None) == (self.init_from is None):
            raise ValueError("give either potential.name (random weights) or init_from (a checkpoint), one of the two")
        if self.level_starts and self.init_from is None:
            raise ValueError("level_starts needs init_from")
        if self.adapt is not None and self.init_from is None:
            raise ValueError("adapt needs init_from: a model with random weights is trained as a whole")
        if self.adapt is not None and self.adapt.mode == "heads" and (self.steps != 1 or self.weight_rule.name != "none"):
            raise ValueError("adapt.mode heads solves the last layer before the first step: set steps=1 and weight_rule={name: none}")
        if self.patience is not None and not self.data.valid:
            raise ValueError("patience needs validation structures: name a store in data.valid")
        return self


def make_recipe(document: Mapping[str, Any], overrides: Sequence[str] = (), where: str | None = None) -> Recipe:
    """Return a Recipe from plain data, upgraded from older formats, with `key=value` overrides (dotted keys, list positions as numbers).

    Raises:
        RecipeError: unknown key (with the nearest known one), wrong value, malformed override.
        FormatVersionError: if the document was written for a newer mlipfm.
    """
    data = _upgrade(json.loads(json.dumps(document)), where)
    for text in overrides:
        _override(data, text)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise _explain(error, where) from None


def load_recipe(
    recipe: Path | str, overrides: Sequence[str] = (), *, train: Sequence[Path | str] = (), valid: Sequence[Path | str] = ()
) -> Recipe:
    """Read a recipe from a YAML file, or one that comes with this package by its name (`mace`, see `shipped_recipes`).

    Args:
        overrides: changes as in `make_recipe`. train, valid: stores in place of `data.train` and `data.valid`; empty leaves those of the recipe.

    Raises:
        UnreadableFileError: missing, too large or not YAML.
        RecipeError, FormatVersionError: as `make_recipe`.
    """
    path = recipe_file(recipe)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableFileError(f"larger than {MAX_BYTES} bytes: this is no recipe", where=str(path))
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        hint = "give a file, or the name of a recipe that `mlipfm train --list` shows"
        raise UnreadableFileError(f"cannot read the recipe: {reason}", where=str(path), hint=hint) from None
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=str(path), hint="see `mlipfm train --example`")
    for key, stores in (("train", train), ("valid", valid)):
        if stores:
            document["data"] = {**(document.get("data") or {}), key: [str(store) for store in stores]}
    return make_recipe(document, overrides, str(path))


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe with every default, as YAML; `load_recipe` of it gives an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def recipe_differences(old: Recipe, new: Recipe) -> list[str]:
    """`key: old -> new` for every key, dotted, in which two recipes differ."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = list(dict.fromkeys([*before, *after]))
    missing = "(not set)"  # what is not set and what is null are the same: an option that came later has that default
    return [f"{k}: {before.get(k, missing)} -> {after.get(k, missing)}" for k in keys if before.get(k) != after.get(k)]


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean 'steps'?`, or the list of what is known."""
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"


def _upgrade(data: dict[str, Any], where: str | None) -> dict[str, Any]:
    version = data.get("format", FORMAT)
    if not isinstance(version, int) or version < 1:
        raise RecipeError(f"format {version!r} is not a format number", where=where, hint=f"this version writes format {FORMAT}")
    if version > FORMAT:
        raise FormatVersionError(f"recipe of format {version}, this version reads up to {FORMAT}", where=where, hint="upgrade mlipfm-train")
    for number in range(version, FORMAT):
        data = UPGRADES[number](data)
    return data


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not last:
        raise RecipeError(f"override {text!r} is not key=value", hint="for instance steps=1000 or optimizer.lr=1e-3")
    target: Any = data
    if path and data.get(path[0]) is None and path[0] in _DEFAULT_PLUGINS:  # weight_rule.decay=0.99 changes the default rule
        data[path[0]] = json.loads(json.dumps(_DEFAULT_PLUGINS[path[0]]))
    for part in path:
        slot = _slot(target, part, key)
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
        target = target[slot]
    target[_slot(target, last, key)] = parse_yaml(value, key)


def _slot(target: Any, part: str, key: str) -> str | int:
    """Return the key or position `part` names in `target`."""
    if isinstance(target, dict):
        return part
    if not isinstance(target, list):
        raise RecipeError(f"a single value has no key {part!r}", where=key)
    if not part.isdigit() or int(part) >= len(target):
        raise RecipeError(f"{part!r} is no position in a list of {len(target)}", where=key, hint="count from 0")
    return int(part)


def _explain(error: ValidationError, where: str | None) -> RecipeError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    place = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(_fields_at(path[:-1]))
        hint = next((hint for word, hint in ELSEWHERE.items() if word in path[-1]), nearest(path[-1], known))
        return RecipeError(f"unknown key {place!r}", where=where, hint=hint)
    if first["type"] == "list_type" and isinstance(first["input"], str):
        said = f"a list is wanted, got the text {first['input']!r}"
        return RecipeError(f"{place}: {said}", where=where, hint=f"write [{first['input']}]")
    message = first["msg"].removeprefix("Value error, ")
    return RecipeError(f"{place + ': ' if place else ''}{message[:1].lower() + message[1:]}", where=where)


def _fields_at(path: Sequence[str]) -> Mapping[str, Any]:
    model: Any = Recipe
    for part in path:
        annotation = model.model_fields[part].annotation
        model = annotation
    return dict(model.model_fields)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = {str(k): v for k, v in enumerate(value)}.items()
    else:
        return {prefix: value}
    return {k: v for key, item in items for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}
