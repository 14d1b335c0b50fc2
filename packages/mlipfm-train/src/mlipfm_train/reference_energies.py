"""Reference energies that a run starts from: of its data, or of the checkpoint that it starts from with the smallest shift that fits its data.

The shift is fitted to the errors of the starting model, not to its references: what its network already says of bonds is not counted twice (as
"estimated" references of fine-tuned MACE foundation models are).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.reference_fit import LevelSums, Prior, ReferenceReport, fit_level, given_energies
from mlipfm_interfaces.reference_rank import UndeterminedReferences
from mlipfm_interfaces.structure import Structure

from .data_statistics import DataStatistics
from .recipe import Recipe

#: Of larger training sets the energies of the starting model are computed for a sample of this size.
ASKED = 2000
#: Atoms evaluated in one batch.
BATCH_ATOMS = 512

Energies = Mapping[int, float]


def stated_references(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe gives under `potential.references`: element -> eV for all levels, or level -> element -> eV. What is left out is fitted.

    Raises:
        RecipeError: for anything else.
    """
    stated = recipe.potential.options.get("references") or {}
    by_level = stated.values() if isinstance(stated, Mapping) else [stated]
    for value in [e for some in by_level for e in (some.values() if isinstance(some, Mapping) else [some])]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise RecipeError(f"{value!r} is no energy in eV", where="potential.references", hint="for instance {pbe: {Cu: -996.49}}")
    return dict(stated)


def of_reports(reports: Mapping[str, ReferenceReport]) -> dict[str, dict[str, float]]:
    """Level -> element symbol -> eV, as configurations have it."""
    return {level: {symbol(z): e for z, e in report.references.energies.items()} for level, report in reports.items()}


def open_of_reports(reports: Mapping[str, ReferenceReport]) -> dict[str, Any]:
    """Level -> what the data leave open of its references, as configurations have it; only where something is open."""
    return {level: report.undetermined.as_json() for level, report in reports.items() if report.undetermined is not None}


def priors_of(old: Potential, recipe: Recipe, facts: DataStatistics) -> dict[str, Prior]:
    """What the references of each level of the data start from: of a level that the model supports they stay, but for what its data left open; of a
    new one they are those of the level it starts from, or of the level with the nearest energies."""
    references: Mapping[str, Mapping[str, float]] = old.config.get("references", {})
    left = {level: UndeterminedReferences.from_json(value) for level, value in old.config.get("undetermined", {}).items()}
    known = {
        level: {number(name): e for name, e in references.get(level, {}).items()} or dict.fromkeys(old.spec.elements, 0.0)
        for level in old.spec.levels
    }
    priors = {}
    for level in facts.levels:
        if level in known:
            priors[level] = Prior(known[level], f"level {level} of the model", fixed=bool(references.get(level)), free=left.get(level))
        else:
            origin = recipe.level_starts.get(level) or _nearest(known, facts.sums.get(level))
            if origin in known:
                priors[level] = Prior(known[origin], f"level {origin} of the model", free=left.get(origin))
    return priors


def _nearest(known: Mapping[str, Energies], sums: LevelSums | None) -> str:
    """Return the level from whose references those of the data are shifted least."""
    if sums is None:
        return next(iter(known))
    return min(known, key=lambda level: float(np.linalg.norm(list(fit_level("", sums, prior=Prior(known[level], "")).shift.values()))))


def provisional(priors: Mapping[str, Prior], facts: DataStatistics) -> dict[str, dict[str, float]]:
    """References with which the model can be asked before they are fitted: those of the priors, and zero for new elements."""
    return {
        level: {**{symbol(z): 0.0 for z in facts.elements}, **{symbol(z): e for z, e in p.energies.items()}} for level, p in priors.items()
    }


def shifted(
    model: Potential, priors: Mapping[str, Prior], stated: Mapping[str, Any], facts: DataStatistics, structures: Sequence[Structure]
) -> dict[str, ReferenceReport]:
    """References of every level with a prior, by the smallest shift that fits the errors of `model`, which has `provisional` references.

    Args:
        structures: a sample of the training data.
    """
    given = given_energies({k: v for k, v in stated.items() if k in priors or not isinstance(v, Mapping)}, priors)
    base = {level: {number(name): e for name, e in values.items()} for level, values in provisional(priors, facts).items()}
    moving = {level for level, p in priors.items() if not p.fixed or p.free or not set(facts.elements) <= set(p.energies)}
    sums = _without_network(model, base, [s for s in structures if s.level in moving and "energy" in s.labels])
    return {level: fit_level(level, sums.get(level, LevelSums()), given=given[level], prior=prior) for level, prior in priors.items()}


def _without_network(model: Potential, base: Mapping[str, Energies], structures: Sequence[Structure]) -> dict[str, LevelSums]:
    """Labels minus what the network adds to the references `base`, by level."""
    sums: dict[str, LevelSums] = {}
    ends = np.cumsum([len(s) for s in structures]) // BATCH_ATOMS
    for part in np.unique(ends):
        chunk = [structures[k] for k in np.flatnonzero(ends == part).tolist()]
        for s, found in zip(chunk, evaluate(model, chunk, ("energy",)), strict=True):
            references = sum(base[str(s.level)][int(z)] for z in s.atomic_numbers)
            network = float(found["energy"]) - references
            sums.setdefault(str(s.level), LevelSums()).add(s, float(s.labels["energy"]) - network)
    return sums
