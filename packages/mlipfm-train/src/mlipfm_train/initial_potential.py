"""The potential a run starts from: random weights, or those of a checkpoint with its configuration changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlipfm_interfaces.checkpoint import build, load_model
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.reference_fit import ReferenceReport
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level

from .data_statistics import DataStatistics, has_neighbors, mean_neighbors, shortest_distances
from .head_scales import with_scales
from .recipe import Recipe
from .reference_energies import of_reports, open_of_reports, priors_of, provisional, shifted, stated_references


@dataclass(frozen=True)
class Start:
    """A potential and how it came to be.

    Attributes:
        copied, dropped, fresh: parameters; all are fresh without a checkpoint.
        origin: manifest of the checkpoint; {} for a potential of which nothing is known, None for random weights.
        references: of the levels of the data, how the energies of atoms were found.
    """

    potential: Potential
    copied: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    origin: Mapping[str, Any] | None = None
    references: Mapping[str, ReferenceReport] = field(default_factory=dict)


def start_fresh(recipe: Recipe, facts: DataStatistics, frames: Sequence[Structure]) -> Start:
    """Random weights. What the recipe leaves open comes from the data: elements, levels, references, energy scale, mean number of neighbours and
    shortest distances.

    A potential plug-in that is trained from scratch accepts the keys `elements`, `levels`, `references`, `scale`, `dtype` and `seed`; its heads, if
    it has any, the options `scale` and `shift` (see `head_scales`). If its configuration declares `references`, it accepts `undetermined` as well,
    what the data leave open of them.
    """
    name = recipe.potential.name
    assert name is not None  # a recipe has a name or init_from
    from_data: dict[str, Any] = {
        "elements": [symbol(z) for z in facts.elements],
        "levels": sorted(facts.levels),
        "dtype": recipe.dtype,
        "seed": recipe.seed,
    }
    if facts.rms_force > 0:
        from_data["scale"] = facts.rms_force
    config = from_data | recipe.potential.options
    config["references"] = _stated_levels(recipe) | of_reports(facts.reports)
    if isinstance(config.get("heads"), dict):
        config["heads"] = with_scales(config["heads"], frames, config["elements"], recipe.seed)
    potential = build(name, config)
    left = open_of_reports(facts.reports)
    if left and "references" in potential.config:
        config["undetermined"] = left
        potential = build(name, config)
    left_open = potential.config.get("backbone", {}).keys() - recipe.potential.options.get("backbone", {}).keys()
    cutoff, counted = potential.spec.graphs[0].cutoff if potential.spec.graphs else 0.0, dict[str, Any]()
    if cutoff > 0 and not has_neighbors(frames, cutoff, recipe.seed):
        what = f"no atom of the training structures has a neighbour within the cutoff of {cutoff:g} Å"
        raise RecipeError(what, where="potential.backbone.cutoff", hint="give a longer one, 4 to 6 Å")
    if "mean_neighbors" in left_open:
        counted["mean_neighbors"] = mean_neighbors(frames, cutoff, recipe.seed)
    if "shortest_distances" in left_open:
        counted["shortest_distances"] = shortest_distances(frames, cutoff, recipe.seed)
    if counted:
        potential = build(name, config | {"backbone": {**config.get("backbone", {}), **counted}})
    _refuse_untrained(potential, facts.elements, facts.levels, facts)
    bound = {level: report.bound for level, report in facts.reports.items() if report.given}
    move = getattr(potential, "shift_atomic_energies", None)
    if bound and move is not None:  # kept energies of isolated atoms leave the binding energy to the network
        move(bound)
    return Start(potential, fresh=tuple(key for key, _ in potential.named_parameters()), references=facts.reports)


def start_from(recipe: Recipe, facts: DataStatistics, structures: Sequence[Structure]) -> Start:
    """Weights of `recipe.init_from`, in a potential of its configuration with the recipe's changes and the data's new elements and levels.

    Energy scale and the references of known levels stay, so that energies are what they were. References of a new level are those of the level it
    starts from with the smallest shift that fits the data; new elements are fitted with the known ones fixed (see `reference_energies`).

    Args:
        structures: a sample of the training data, to which references are fitted.

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
    if "backbone" in changes and isinstance(config.get("backbone"), dict):
        changes["backbone"] = {**config["backbone"], **changes["backbone"]}
    trained = config["backbone"].get("shortest_distances") if isinstance(config.get("backbone"), dict) else None
    if trained and "shortest_distances" not in changes.get("backbone", {}) and facts.n:
        new = shortest_distances(structures, old.spec.graphs[0].cutoff, recipe.seed)
        nearest = {pair: min(value, trained.get(pair, value)) for pair, value in (trained | new).items()}
        changes["backbone"] = {**config["backbone"], **changes.get("backbone", {}), "shortest_distances": nearest}
    if isinstance(changes.get("heads"), dict):
        added = {key: options for key, options in changes["heads"].items() if key not in config.get("heads", {})}
        changes["heads"] = {**changes["heads"], **with_scales(added, structures, config.get("elements", []), recipe.seed)}
    stated = stated_references(recipe)
    config = {**config, "dtype": recipe.dtype, **{key: value for key, value in changes.items() if key != "references"}}
    for level in _stated_levels(recipe):
        if level not in config.get("levels", [level]):
            raise RecipeError(
                f"{level!r} is no level of this model", where="potential.references", hint=f"it has {', '.join(config['levels'])}"
            )
    reports: dict[str, ReferenceReport] = {}
    if "references" in config and facts.n:
        known, left = config["references"], config.pop("undetermined", {})
        known = known | {level: {**known.get(level, {}), **values} for level, values in _stated_levels(recipe).items()}
        priors = {level: prior for level, prior in priors_of(old, recipe, facts).items() if level in config.get("levels", [level])}
        start = _taken_over(old, recipe, facts, _of_levels({**config, "references": known | provisional(priors, facts)}))
        reports = shifted(start.potential, priors, stated, facts, structures)
        config["references"] = known | of_reports(reports)
        config["undetermined"] = {level: value for level, value in left.items() if level not in reports} | open_of_reports(reports)
    return replace(_taken_over(old, recipe, facts, _of_levels(config)), origin=manifest, references=reports)


def _of_levels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without the references of levels that it does not have: levels that the recipe drops take theirs with them."""
    if "levels" not in config:
        return dict(config)
    parts = {key: config[key] for key in ("references", "undetermined") if key in config}
    return {**config, **{key: {level: value for level, value in part.items() if level in config["levels"]} for key, part in parts.items()}}


def _taken_over(old: Potential, recipe: Recipe, facts: DataStatistics, config: Mapping[str, Any]) -> Start:
    """Return a potential of this configuration with the weights of `old`."""
    new = build(old.plugin, config)
    _refuse_untrained(new, {*old.spec.elements, *facts.elements}, {*old.spec.levels, *facts.levels}, facts)
    take = getattr(new, "load_from", None)
    if take is not None:
        report = take(old, recipe.level_starts)
        return Start(new, tuple(report["copied"]), tuple(report["dropped"]), tuple(report["fresh"]))
    if new.config != old.config:
        raise RecipeError(
            f"a {old.plugin!r} potential cannot take over weights into another configuration",
            where="init_from",
            hint="change nothing of it",
        )
    new.load_state_dict(old.state_dict())
    return Start(new, copied=tuple(key for key, _ in new.named_parameters()))


def _refuse_untrained(potential: Potential, elements: Collection[int], levels: Collection[str], facts: DataStatistics) -> None:
    """A row of the tables of elements and levels that no data touch would predict noise: such a model must not say that it supports them."""
    idle = [symbol(z) for z in potential.spec.elements if z not in elements]
    if facts.n and idle:
        raise RecipeError(
            f"no training structure has {', '.join(idle)}",
            where="potential.elements",
            hint="leave them out, or leave out `elements` altogether",
        )
    unknown = [level for level in potential.spec.levels if find_level(level, tuple(levels)) is None]
    if facts.n and unknown:
        raise RecipeError(
            f"no training structure is at level {', '.join(unknown)}",
            where="potential.levels",
            hint="leave it out, or leave out `levels` altogether",
        )


def _stated_levels(recipe: Recipe) -> dict[str, dict[str, float]]:
    """References that the recipe gives level by level."""
    return {level: dict(values) for level, values in stated_references(recipe).items() if isinstance(values, Mapping)}
