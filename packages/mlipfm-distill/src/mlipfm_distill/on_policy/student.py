"""Training of the student: shipped recipes of `density`, continued from the student before, with as many steps as a time allows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_data.store.store import Store
from mlipfm_data.strict_yaml import parse_yaml
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_train.loop import fit
from mlipfm_train.recipe import Recipe, make_recipe
from mlipfm_train.recipe_library import recipe_file

#: Size of a student -> shipped recipe.
SIZES = {"small": "density-small", "medium": "density-medium", "large": "density"}
#: Time of a step beside that of `medium`.
COST = {"small": 0.8, "medium": 1.0, "large": 4.0}
#: Fewest and most steps of a training, and those of the first, of which the time of a step is learned.
STEPS, FIRST_STEPS = (100, 100_000), 400
#: A training that takes longer than planned by this factor is ended: the computer has other work to do.
PATIENCE = 1.3
#: Weights of the energy per atom in eV and of the stress in eV/Å³ beside 10 for forces in eV/Å: with the 1 and 10 of fine-tuning, copper was 19 %
#: too soft (decisions/0004).
ENERGY_WEIGHT, STRESS_WEIGHT = 10.0, 100.0
#: Weights of rows of the Hessian and of its products with random vectors, in eV/Å², beside 10 for forces: that of rows is their ratio in
#: arXiv:2501.09009, and a product is about as large as 10 rows.
ROWS_WEIGHT, PRODUCTS_WEIGHT = 40.0, 4.0
#: Structures that are evaluated together.
TOGETHER = 8


@dataclass(frozen=True)
class Trained:
    """A student, and the time of a training step, validation included."""

    path: Path
    steps: int
    seconds_per_step: float


def training_recipe(size: str, train: Path, valid: Path, steps: int, before: Path | None, seed: int) -> Recipe:
    """Return the recipe of one training.

    Args:
        size: key of `SIZES`. train, valid: stores with the teacher's labels. before: student whose weights are continued.

    Raises:
        RecipeError: an unknown size.
    """
    if size not in SIZES:
        raise RecipeError(f"there is no size {size!r}", where="--sizes", hint=f"choose from {', '.join(SIZES)}")
    document: dict[str, Any] = parse_yaml(recipe_file(SIZES[size]).read_text(encoding="utf-8"))
    with Store(train) as store:
        known = store.structure_table().count(lambda kind: kind.labels)
    if before is not None:
        document["potential"], document["init_from"] = {}, str(before)
    else:  # the uncertainty has to see that atoms come nearer than in the data, so that such frames are labelled
        document["potential"]["backbone"]["shortest_distances"] = {}
    weights = {"energy_weight": ENERGY_WEIGHT} | ({"stress_weight": STRESS_WEIGHT} if known.get("stress") else {})
    rows, products = (bool(known.get(key)) for key in ("hessian_rows", "hvp"))
    if rows or products:  # energies, forces and the Hessian on one view
        hessian = {"hessian_weight": ROWS_WEIGHT * rows, "products_weight": PRODUCTS_WEIGHT * products}
        document["objectives"] = [{"name": "distill", **weights, "forces_weight": 10.0, **hessian}]
    else:
        document["objectives"][0] |= weights
    every = max(1, min(steps // 4, max(100, steps // 20)))
    document |= {"seed": seed, "steps": steps, "evaluate_every": every, "checkpoint_every": every}
    document["data"] |= {"train": [str(train)], "valid": [str(valid)]}
    document["schedule"] |= {"warmup": min(100, steps // 10)}
    return make_recipe(document)


def train_student(recipe: Recipe, folder: Path, student: Path, seconds: float, interrupted: Callable[[], bool]) -> Trained:
    """Train in `folder`, or go on there, and write the best model to `student`; the folder is removed.

    Args:
        seconds: planned; the training ends after `PATIENCE` times as long.

    Raises:
        KeyboardInterrupt: `interrupted` said so; the state is saved.
    """
    watch = _Stopwatch(PATIENCE * seconds, interrupted)
    result = fit(recipe, folder, interrupted=watch)
    if interrupted():
        raise KeyboardInterrupt
    atomic_write(student, (result.best or result.last).read_bytes())
    shutil.rmtree(folder)
    return Trained(student, result.steps, watch.per_step)


class _Stopwatch:
    """Asked after every step whether the training should end; knows how long a step took."""

    def __init__(self, seconds: float, interrupted: Callable[[], bool]) -> None:
        self.seconds, self.interrupted = seconds, interrupted
        self.asked: list[float] = []

    def __call__(self) -> bool:
        self.asked.append(time.monotonic())
        return self.interrupted() or self.asked[-1] - self.asked[0] > self.seconds

    @property
    def per_step(self) -> float:
        """Seconds; 0.1 where too few steps were made to tell."""
        return (self.asked[-1] - self.asked[0]) / (len(self.asked) - 1) if len(self.asked) > 10 else 0.1


def steps_within(seconds: float, per_step: float | None) -> int:
    """Return the number of steps that take `seconds`; `FIRST_STEPS` where nothing is known of their time."""
    return FIRST_STEPS if per_step is None else int(min(max(seconds / per_step, STEPS[0]), STEPS[1]))


def predictions(model: Potential | Path, structures: Sequence[Structure]) -> list[dict[str, np.ndarray]]:
    """Return energy and forces of each structure."""
    potential = load_potential(model) if isinstance(model, Path) else model
    found: list[dict[str, np.ndarray]] = []
    for k in range(0, len(structures), TOGETHER):
        found += evaluate(potential, structures[k : k + TOGETHER])
    return found


def force_error(model: Potential | Path, structures: Sequence[Structure]) -> float:
    """Return the mean absolute error of the force components, eV/Å."""
    pairs = zip(predictions(model, structures), structures, strict=True)
    return float(np.mean(np.concatenate([np.abs(p["forces"] - s.labels["forces"]).ravel() for p, s in pairs])))
