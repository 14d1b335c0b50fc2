"""`fit_costs`: measure real steps of a recipe's model on its data and put the cost model that explains them into the recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mlipfm_data.batches import CostFit, fit_cost_model
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure

from .open_run import open_run
from .recipe import Cost, Recipe
from .run import Run

#: Batches measured, repeats of each (the fastest counts), and structures they are drawn from.
BATCHES, REPEATS, POOL = 24, 3, 2000


def fit_costs(recipe: Recipe, batches: int = BATCHES, repeats: int = REPEATS) -> tuple[Recipe, CostFit]:
    """Return the recipe with `data.cost` fitted in milliseconds, and `data.budget` changed to what its batches take now.

    Steps are whole steps of the training loop: collating, forward, backward, update. They happen in a scratch run; nothing is kept of it.
    On one thread of a CPU the time is that of the processor, which other processes do not lengthen; otherwise that on the wall.

    Raises:
        what `open_run` raises; MissingLabelsError: no training stores; RecipeError: structures of one size only, from one batch.
    """
    with TemporaryDirectory() as scratch, open_run(recipe, Path(scratch)) as run:
        frames = run.train
        if not len(frames):
            raise MissingLabelsError("there are no training structures to measure steps of", where="data.train")
        rng = stream(recipe.seed, "step-costs")
        pool = [frames[int(k)] for k in rng.choice(len(frames), min(POOL, len(frames)), replace=False)]
        sizes = np.array([[len(s), len(neighbor_pairs(s, run.exported.spec.graphs[0].cutoff)[0])] for s in pool])
        chosen = _batches(sizes, recipe, batches, rng)
        times = np.array([_milliseconds(run, [pool[k] for k in batch], repeats) for batch in chosen])
    sums = np.array([sizes[batch].sum(axis=0) for batch in chosen])
    fit = fit_cost_model(sums[:, 0], sums[:, 1], times)
    old = recipe.data.cost
    share = fit.model.of(*sizes.sum(axis=0)) / (old.atom * sizes[:, 0] + old.edge * sizes[:, 1]).sum()
    budget = float(share * (recipe.data.budget - old.batch) + fit.model.per_batch)
    cost = Cost(
        atom=_rounded(fit.model.per_atom), edge=_rounded(fit.model.per_edge), batch=_rounded(fit.model.per_batch), error=_rounded(fit.error)
    )
    data = recipe.data.model_copy(update={"cost": cost, "budget": _rounded(budget)})
    return recipe.model_copy(update={"data": data}), fit


def _batches(sizes: np.ndarray, recipe: Recipe, n: int, rng: np.random.Generator) -> list[list[int]]:
    """Batches of a twentieth of the budget up to all of it; of small, of large and of mixed structures in turn, so that atoms and edges part."""
    costs = recipe.data.cost.atom * sizes[:, 0] + recipe.data.cost.edge * sizes[:, 1]
    dense = np.argsort(sizes[:, 1] / sizes[:, 0], kind="stable")
    found = []
    for k, room in enumerate(np.geomspace(0.05, 1.0, n) * (recipe.data.budget - recipe.data.cost.batch)):
        half = len(dense) // 2 + 1
        order = rng.permutation((dense[:half], dense[-half:], dense)[k % 3])
        fitting = int(np.searchsorted(np.cumsum(costs[order]), room, "right"))
        found.append(order[: max(fitting, 1)].tolist())
    return found


def _milliseconds(run: Run, structures: Sequence[Structure], repeats: int) -> float:
    now: Callable[[], float] = time.perf_counter
    if run.strategy.device.type == "cpu" and torch.get_num_threads() == 1:
        now = time.process_time
    found = []
    for step in range(repeats + 1):  # the first is not counted: memory of this size is taken for the first time
        run.begin(step)
        begin = now()
        run.strategy.step(run.collate(structures, step), 0.0)
        found.append(1000 * (now() - begin))
    return min(found[1:])


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
