"""Batches of equal cost instead of equal number: a budget of atoms and edges, filled first-fit in a new random order each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.structure import Structure

from .costs import CostModel

#: Tighter budgets tried where first-fit leaves too few batches for the ranks: shares above the mean cost.
SLACK = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08)
#: Open batches that first-fit tries. Keeps planning linear in the number of items; the batch that waited longest is closed.
OPEN_BATCHES = 64


@dataclass(frozen=True)
class PlanQuality:
    """How well a plan uses the hardware.

    Attributes:
        batches, items: numbers. oversize: items above the budget (each its own batch).
        fill: mean cost of a batch over the budget, oversize batches counted as full.
        idle: share of rank time spent waiting for the most expensive batch of the same step.
    """

    batches: int
    items: int
    oversize: int
    fill: float
    idle: float


def plan_batches(
    costs: np.ndarray, budget: float, rng: np.random.Generator, world_size: int = 1, per_batch: float = 0.0
) -> list[list[int]]:
    """Indices of the items of each batch; batch k belongs to rank k % world_size in step k // world_size.

    Every item appears exactly once. An item above the budget is a batch of its own (`plan_quality` counts them). The number of batches is a
    multiple of `world_size`: where first-fit leaves too few, all are filled a little less, and what is still missing is cut from the most expensive.
    Batches of one step have similar costs, so that ranks do not wait for each other; the order of steps is random.

    Args:
        costs: [items], positive (see `edge_costs`). budget: of a whole batch, in the same unit. rng: its state decides the epoch.
        per_batch: the part of the budget that every batch costs, whatever is in it.

    Raises:
        RecipeError: budget or costs that are not positive and finite, or too few items for `world_size` ranks to all have one in each step.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if not budget > 0 or world_size < 1:
        raise RecipeError(f"budget and world size must be positive, got {budget} and {world_size}")
    if not 0 <= per_batch < budget:
        raise RecipeError(
            f"a batch that is empty costs {per_batch:g}, which a budget of {budget:g} does not pay", mend="raise the batch budget"
        )
    if costs.ndim != 1 or not (np.isfinite(costs) & (costs > 0)).all():
        raise RecipeError("every item needs a positive finite cost")
    batches = _filled(costs, budget - per_batch, rng.permutation(len(costs)), world_size)
    _cut_to_multiple(batches, costs, world_size)
    return _deal(batches, costs, rng, world_size)


def _filled(costs: np.ndarray, budget: float, order: np.ndarray, world_size: int) -> list[list[int]]:
    """First-fit; if the number of batches is no multiple of `world_size`, with the tightest budget that gives at most the next multiple."""
    batches = _first_fit(costs, budget, order)
    missing = -len(batches) % world_size
    if not missing:
        return batches
    wanted = len(batches) + missing
    mean = float(costs.sum()) / wanted
    for slack in SLACK:
        if mean * (1 + slack) < budget and len(tighter := _first_fit(costs, mean * (1 + slack), order)) <= wanted:
            return tighter
    return batches


def _first_fit(costs: np.ndarray, budget: float, order: np.ndarray) -> list[list[int]]:
    done: list[list[int]] = []
    open_batches: list[tuple[float, list[int]]] = []
    for item in order.tolist():
        cost = float(costs[item])
        if cost > budget:
            done.append([item])
            continue
        for k, (room, members) in enumerate(open_batches):
            if cost <= room:
                members.append(item)
                open_batches[k] = (room - cost, members)
                break
        else:
            open_batches.append((budget - cost, [item]))
            if len(open_batches) > OPEN_BATCHES:
                done.append(open_batches.pop(0)[1])
    return done + [members for _, members in open_batches]


def _cut_to_multiple(batches: list[list[int]], costs: np.ndarray, world_size: int) -> None:
    """Cut the most expensive divisible batches in two until their number is a multiple of `world_size`."""
    for _ in range(-len(batches) % world_size):
        divisible = [k for k, members in enumerate(batches) if len(members) > 1]
        if not divisible:
            raise RecipeError(
                f"{len(costs)} items fill {len(batches)} batches of one item, which cannot be dealt evenly to {world_size} ranks",
                mend="raise the batch budget, use fewer ranks, or add data",
            )
        largest = max(divisible, key=lambda k: float(costs[batches[k]].sum()))
        members = batches[largest]
        half = _halves(members, costs)
        batches[largest] = members[:half]
        batches.append(members[half:])


def _halves(members: list[int], costs: np.ndarray) -> int:
    sums = np.cumsum(costs[members])
    return int(np.argmin(np.abs(sums[:-1] - sums[-1] / 2))) + 1


def _deal(batches: list[list[int]], costs: np.ndarray, rng: np.random.Generator, world_size: int) -> list[list[int]]:
    by_cost = np.argsort([costs[members].sum() for members in batches], kind="stable")
    steps = by_cost.reshape(-1, world_size)
    steps = rng.permuted(steps, axis=1)[rng.permutation(len(steps))]
    return [batches[k] for k in steps.reshape(-1)]


def plan_quality(
    batches: Sequence[Sequence[int]], costs: np.ndarray, budget: float, world_size: int = 1, per_batch: float = 0.0
) -> PlanQuality:
    """Fill factor and idle share of a plan of `plan_batches`."""
    sums = np.array([np.asarray(costs)[list(members)].sum() + per_batch for members in batches])
    steps = sums.reshape(-1, world_size)
    idle = 1 - steps.mean(axis=1).sum() / steps.max(axis=1).sum() if len(steps) else 0.0
    fill = float(np.minimum(sums / budget, 1).mean()) if len(sums) else 0.0
    return PlanQuality(len(batches), sum(map(len, batches)), int((np.asarray(costs) > budget - per_batch).sum()), fill, float(idle))


def edge_costs(structures: Iterable[Structure], cutoff: float, per_atom: float = 1.0, per_edge: float = 0.1) -> np.ndarray:
    """Cost of each structure, per_atom * atoms + per_edge * edges, [structures]; edges are ordered pairs within `cutoff` Å.

    A sealed store iterates as structures. See `costs.CostModel`.

    Raises:
        OverlapError, DensityError: from the neighbour list.
    """
    counts = [(len(s), len(neighbor_pairs(s, cutoff)[0])) for s in structures]
    return CostModel(per_atom, per_edge).of(*np.array(counts, dtype=np.int64).reshape(-1, 2).T)
