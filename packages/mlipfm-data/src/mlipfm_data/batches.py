"""Batches of equal cost instead of equal number: a budget of atoms and edges, filled first-fit in a new random order each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.structure import Structure

# What a batch costs: a constant, and a part for every atom and every neighbour pair; given, or fitted to measured times of steps.


@dataclass(frozen=True)
class CostModel:
    """Cost of a batch = per_batch + sum over its structures of (per_atom x atoms + per_edge x edges), in any unit.

    Edges are ordered pairs within the cutoff. The defaults weigh an edge as a tenth of an atom, so that budgets read as "about so many atoms".

    Raises:
        RecipeError: for a negative or infinite part, and if atoms and edges both cost nothing.
    """

    per_atom: float = 1.0
    per_edge: float = 0.1
    per_batch: float = 0.0

    def __post_init__(self) -> None:
        parts = (self.per_atom, self.per_edge, self.per_batch)
        if not all(np.isfinite(part) and part >= 0 for part in parts) or self.per_atom + self.per_edge == 0:
            raise RecipeError(f"costs must be finite and not negative, and an atom or an edge must cost something, got {parts}")

    def of(self, atoms: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Cost of structures (or of sums of them), without the constant of the batch."""
        return self.per_atom * np.asarray(atoms, dtype=np.float64) + self.per_edge * np.asarray(edges, dtype=np.float64)


@dataclass(frozen=True)
class CostFit:
    """A fitted model.

    Attributes:
        model: in the unit of the times it was fitted to. error: median of |predicted / measured - 1|. n: steps measured.
    """

    model: CostModel
    error: float
    n: int


def fit_cost_model(atoms: np.ndarray, edges: np.ndarray, times: np.ndarray) -> CostFit:
    """Return the cost model with the smallest sum of squared *relative* errors among those without negative parts in which size costs something.

    Args:
        atoms, edges: [steps] of the batch of each step. times: [steps] that it took.

    Non-negative least squares in three unknowns: the best of the (at most six) unconstrained solutions on subsets of the columns that are not
    negative; the solution is one of them (Lawson and Hanson, Solving Least Squares Problems, chapter 23).

    Raises:
        RecipeError: fewer than three steps, times that are not positive, or steps that are all alike.
    """
    columns = np.stack([np.asarray(atoms), np.asarray(edges), np.ones(len(times))], axis=1).astype(np.float64)
    times = np.asarray(times, dtype=np.float64)
    if len(times) < 3 or not (np.isfinite(times) & (times > 0)).all():
        raise RecipeError(f"a cost model is fitted to at least three steps of positive duration, got {times.tolist()}")
    if np.ptp(columns[:, :2], axis=0).max() == 0:
        raise RecipeError("all measured batches have the same size", hint="measure batches of different sizes")
    relative = columns / times[:, None]
    best, least = np.zeros(3), np.inf
    for chosen in (subset for size in (1, 2, 3) for subset in combinations(range(3), size) if subset != (2,)):
        found = np.zeros(3)
        found[list(chosen)] = np.linalg.lstsq(relative[:, chosen], np.ones(len(times)), rcond=None)[0]
        error = float(((relative @ found - 1) ** 2).sum())
        if (found >= 0).all() and found[:2].any() and error < least:
            best, least = found, error
    return CostFit(CostModel(*best.tolist()), float(np.median(np.abs(relative @ best - 1))), len(times))


# Mixtures of data sets: how often each is drawn in an epoch, by a temperature or by explicit ratios, so that nothing is left out.
#
# With p_d the wanted share of set d of |D_d| structures, an epoch has n_d = p_d x max_k(|D_k| / p_k) draws of it: each structure comes at least
# once, and those of the set that is wanted least often exactly once. Temperature T gives p_d proportional to |D_d|^(1/T): T = 1 leaves the sets as
# they are, a high T makes them equal (JMP, arXiv:2310.16802).


def temperature_shares(sizes: Sequence[int] | np.ndarray, temperature: float) -> np.ndarray:
    """[sets] shares that sum to 1.

    Raises:
        RecipeError: a temperature below 1 (it would make large sets larger), or an empty set.
    """
    if not (np.isfinite(temperature) and temperature >= 1):
        raise RecipeError(f"the temperature of a mixture must be at least 1, got {temperature}")
    return _normal(np.asarray(sizes, dtype=np.float64) ** (1 / temperature), sizes)


def ratio_shares(sizes: Sequence[int] | np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """[sets] shares that sum to 1, proportional to `ratios`.

    Raises:
        RecipeError: not one positive ratio for each set, or an empty set.
    """
    if len(ratios) != len(sizes) or not all(np.isfinite(r) and r > 0 for r in ratios):
        raise RecipeError(
            f"{len(sizes)} sets need as many positive ratios, got {list(ratios)}",
            hint="leave a set out of the recipe instead of giving it 0",
        )
    return _normal(np.asarray(ratios, dtype=np.float64), sizes)


def draws(sizes: Sequence[int] | np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[sets] int64: how many structures of each set an epoch has; at least all of them, shares exact to half a structure."""
    counts = np.asarray(sizes, dtype=np.int64)
    return np.maximum(counts, np.rint(shares * (counts / shares).max()).astype(np.int64))


def draw_epoch(set_of: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of the structures of an epoch: each `counts[d] // |D_d|` times, and a random choice of those of set d once more.

    Args:
        set_of: [structures] number of the set of each. counts: of `draws`.
    """
    parts = []
    for d, count in enumerate(counts.tolist()):
        members = np.flatnonzero(set_of == d)
        whole, rest = divmod(count, len(members))
        parts += [np.tile(members, whole), np.sort(rng.choice(members, rest, replace=False))]
    return np.concatenate(parts)


def _normal(weights: np.ndarray, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    if not len(sizes) or min(sizes) < 1:
        raise RecipeError(f"every set of a mixture needs structures, they have {list(map(int, sizes))}")
    return weights / weights.sum()


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
    """Return indices of the items of each batch; batch k belongs to rank k % world_size in step k // world_size.

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
            f"a batch that is empty costs {per_batch:g}, which a budget of {budget:g} does not pay", hint="raise the batch budget"
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
                hint="raise the batch budget, use fewer ranks, or add data",
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
    """Return the fill factor and idle share of a plan of `plan_batches`."""
    sums = np.array([np.asarray(costs)[list(members)].sum() + per_batch for members in batches])
    steps = sums.reshape(-1, world_size)
    idle = 1 - steps.mean(axis=1).sum() / steps.max(axis=1).sum() if len(steps) else 0.0
    fill = float(np.minimum(sums / budget, 1).mean()) if len(sums) else 0.0
    return PlanQuality(len(batches), sum(map(len, batches)), int((np.asarray(costs) > budget - per_batch).sum()), fill, float(idle))


def edge_costs(structures: Iterable[Structure], cutoff: float, per_atom: float = 1.0, per_edge: float = 0.1) -> np.ndarray:
    """Return the cost of each structure, per_atom * atoms + per_edge * edges, [structures]; edges are ordered pairs within `cutoff` Å.

    A sealed store iterates as structures. See `costs.CostModel`.

    Raises:
        OverlapError, DensityError: from the neighbour list.
    """
    counts = [(len(s), len(neighbor_pairs(s, cutoff)[0])) for s in structures]
    return CostModel(per_atom, per_edge).of(*np.array(counts, dtype=np.int64).reshape(-1, 2).T)
