"""What a batch costs: a constant, and a part for every atom and every neighbour pair; given, or fitted to measured times of steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from mlipfm_interfaces.errors import RecipeError


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
    """The cost model with the smallest sum of squared *relative* errors among those without negative parts in which size costs something.

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
        raise RecipeError("all measured batches have the same size", mend="measure batches of different sizes")
    relative = columns / times[:, None]
    best, least = np.zeros(3), np.inf
    for chosen in (subset for size in (1, 2, 3) for subset in combinations(range(3), size) if subset != (2,)):
        found = np.zeros(3)
        found[list(chosen)] = np.linalg.lstsq(relative[:, chosen], np.ones(len(times)), rcond=None)[0]
        error = float(((relative @ found - 1) ** 2).sum())
        if (found >= 0).all() and found[:2].any() and error < least:
            best, least = found, error
    return CostFit(CostModel(*best.tolist()), float(np.median(np.abs(relative @ best - 1))), len(times))
