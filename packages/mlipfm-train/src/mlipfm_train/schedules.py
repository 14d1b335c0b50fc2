"""Learning-rate schedules: plain functions of the step, so that there is no state to save."""

from __future__ import annotations

import math
from typing import assert_never

from .recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of step `step` (counted from 0) of `recipe.steps`.

    All schedules start with `warmup` linear steps (the first at lr / warmup). `cosine` then falls to `final * lr` along half a cosine
    (arXiv:1608.03983, one cycle); `wsd` (warm-up, stable, decay; arXiv:2404.06395) stays at lr and falls linearly to `final * lr` over the
    last `decay` share of the run; `constant` stays.
    """
    schedule, total = recipe.schedule, recipe.steps
    if step < schedule.warmup:
        return recipe.optimizer.lr * (step + 1) / schedule.warmup
    final = schedule.final or 0.0
    if schedule.name == "cosine":
        done = (step - schedule.warmup) / max(1, total - schedule.warmup)
        factor = final + (1 - final) * (1 + math.cos(math.pi * min(1.0, done))) / 2
    elif schedule.name == "wsd":
        length = max(1.0, (schedule.decay or 0.0) * total)
        left = min(1.0, (total - step) / length)
        factor = final + (1 - final) * left
    elif schedule.name == "constant":
        factor = 1.0
    else:
        assert_never(schedule.name)
    return recipe.optimizer.lr * factor
