"""The potential a run starts from: random weights, or those of a checkpoint with its configuration changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlipfm_interfaces.checkpoint import build, load_model
from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure

from .head_scales import with_scales
from .recipe import Recipe
from .survey import Survey, mean_neighbors


@dataclass(frozen=True)
class Start:
    """A potential and how it came to be.

    Attributes:
        copied, dropped, fresh: parameters; all are fresh without a checkpoint.
        origin: manifest of the checkpoint; {} for a potential of which nothing is known, None for random weights.
    """

    potential: Potential
    copied: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    origin: Mapping[str, Any] | None = None


def start_fresh(recipe: Recipe, facts: Survey, frames: Sequence[Structure]) -> Start:
    """Random weights. What the recipe leaves open comes from the data: elements, levels, references, energy scale and mean number of neighbours.

    A potential plug-in that is trained from scratch accepts the keys `elements`, `levels`, `references`, `scale`, `dtype` and `seed`; its heads, if
    it has any, the options `scale` and `shift` (see `head_scales`).
    """
    name = recipe.potential.name
    assert name is not None  # a recipe has a name or init_from
    from_data: dict[str, Any] = {
        "elements": [symbol(z) for z in facts.elements],
        "levels": sorted(facts.levels),
        "references": _references(facts),
        "dtype": recipe.dtype,
        "seed": recipe.seed,
    }
    if facts.rms_force > 0:
        from_data["scale"] = facts.rms_force
    config = from_data | recipe.potential.options
    if isinstance(config.get("heads"), dict):
        config["heads"] = with_scales(config["heads"], frames, config["elements"], recipe.seed)
    potential = build(name, config)
    if "mean_neighbors" in potential.config.get("backbone", {}) and "mean_neighbors" not in recipe.potential.options.get("backbone", {}):
        counted = mean_neighbors(frames, potential.spec.graphs[0].cutoff, recipe.seed)
        potential = build(name, config | {"backbone": {**config.get("backbone", {}), "mean_neighbors": counted}})
    _refuse_untrained(potential, facts.elements, facts)
    return Start(potential, fresh=tuple(key for key, _ in potential.named_parameters()))


def start_from(recipe: Recipe, facts: Survey) -> Start:
    """Weights of `recipe.init_from`, in a potential of its configuration with the recipe's changes and the data's new elements and levels.

    Energy scale and the references of known levels stay, so that energies are what they were; new levels bring references of their own.

    Raises:
        RecipeError: if the potential cannot take weights over and its configuration is not the same.
    """
    old, manifest = load_model(str(recipe.init_from))
    config = json.loads(json.dumps(old.config))
    changes = dict(recipe.potential.options)
    if "levels" in config:
        config["levels"] = [*config["levels"], *(level for level in sorted(facts.levels) if level not in config["levels"])]
    if "elements" in config:
        config["elements"] = [symbol(z) for z in sorted({*old.spec.elements, *facts.elements})]
    if "references" in config:
        config["references"] = _merged(config["references"], _references(facts))
    if "backbone" in changes and isinstance(config.get("backbone"), dict):
        changes["backbone"] = {**config["backbone"], **changes["backbone"]}
    if changes.get("forces", config.get("forces")) != config.get("forces"):
        config.pop("short_range", None)  # a repulsion goes with conservative forces: the default of the new kind, unless the recipe says
    config = {**config, "dtype": recipe.dtype, **changes}
    if "references" in config and "levels" in config:  # levels that the recipe drops take their references with them
        config["references"] = {level: values for level, values in config["references"].items() if level in config["levels"]}
    new = build(old.plugin, config)
    _refuse_untrained(new, {*old.spec.elements, *facts.elements}, facts)
    take = getattr(new, "load_from", None)
    if take is not None:
        report = take(old, recipe.level_starts)
        return Start(new, tuple(report["copied"]), tuple(report["dropped"]), tuple(report["fresh"]), manifest)
    if new.config != old.config:
        raise RecipeError(
            f"a {old.plugin!r} potential cannot take over weights into another configuration",
            where="init_from",
            mend="change nothing of it",
        )
    new.load_state_dict(old.state_dict())
    return Start(new, copied=tuple(key for key, _ in new.named_parameters()), origin=manifest)


def _refuse_untrained(potential: Potential, trained: Collection[int], facts: Survey) -> None:
    """A row of the element table that no data touch would answer with noise: such a model must not say that it knows the element."""
    idle = [symbol(z) for z in potential.spec.elements if z not in trained]
    if facts.n and idle:
        raise RecipeError(
            f"no training structure has {', '.join(idle)}",
            where="potential.elements",
            mend="leave them out, or leave out `elements` altogether",
        )


def _references(facts: Survey) -> dict[str, dict[str, float]]:
    return {level: {symbol(z): e for z, e in found.energies.items()} for level, found in facts.references.items()}


def _merged(old: Mapping[str, Mapping[str, float]], new: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """References of both; where a level is in both, the old ones win and new elements are added."""
    merged = {level: {**new.get(level, {}), **old.get(level, {})} for level in {**old, **new}}
    return {level: dict(sorted(values.items(), key=lambda item: number(item[0]))) for level, values in sorted(merged.items())}
