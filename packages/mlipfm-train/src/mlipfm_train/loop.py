"""`fit`: the only training loop. New behaviour is a new Source, Objective, Strategy or WeightRule, never a line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .open_run import open_run
from .recipe import Recipe
from .run import FitResult
from .schedules import learning_rate


def fit(recipe: Recipe, out: Path | str, **seams: Any) -> FitResult:
    """Train as `recipe` says in the run folder `out`, or continue what is there; the result is the same bits as without the interruption.

    Args:
        extensions: parts given as objects instead of by name, and listeners; see `open_run`.

    Raises:
        MlipfmError: preflight refuses what cannot work; see `preflight` and `open_run`.
    """
    with open_run(recipe, Path(out), **seams) as run:
        for step in run.steps_left():
            run.begin(step)
            batch = run.collate(run.source.next_batch(run.current_potential()), step)
            terms = run.strategy.step(batch, learning_rate(recipe, step))
            run.weight_rule.update(run.strategy.live_parameters(), step)
            run.record(step, terms, batch)
            if run.due(step, recipe.evaluate_every):
                run.validate(step)
            if run.ends(step) or run.due(step, recipe.checkpoint_every):
                run.save(step)
            if run.ended:
                break
        return run.result()
