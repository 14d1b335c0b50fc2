"""What a sweep will cost, before it runs: parameters, atoms, floating-point operations and hours of every run.

Operations are those of matrix products in one whole training step, both backward passes included, counted by torch on the first batch of each
architecture, objective, width and depth; a run has them as often as it reads as many atoms.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlipfm_data.batches import CostModel, plan_batches
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.errors import LevelError
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.theory import find_level

from ..frames import Frames, frame_costs
from ..open_run import open_run
from ..recipe import Recipe
from .laws import ScalingError
from .sweep import PlannedRun, Sweep, fine_tuning_recipe, runs_of, with_data


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        invariant: whether its energies do not change with the orientation, by construction.
        atoms: seen in training, repeats counted. flops: of matrix products in all steps. seconds: on this machine, one process.
    """

    name: str
    group: str
    parameters: int
    steps: int
    atoms: int
    flops: float
    seconds: float
    largest: bool
    invariant: bool = True


def plan(sweep: Sweep, folder: Path, said: Callable[[str], None] = lambda text: None) -> tuple[list[PlannedRun], list[Cost]]:
    """Write the training sets of a sweep into `folder`, and return its runs with what each costs.

    The plan is written to `plan.json` and read from there the next time.

    Raises:
        ScalingError: the sweep of this folder was another one, more structures are wanted than there are, or the time is above `core_hours`.
        RecipeError, UnreadableFileError: wrong entries of `finetune`, or a store that is not there. LevelError: errors against another level.
    """
    planned = runs_of(sweep)  # what cannot be is refused before a folder is made
    for name, changes in sweep.finetune.items():
        recipe = fine_tuning_recipe(planned[0].recipe, "last.safetensors", name, changes)
        Frames([*recipe.data.train, *recipe.data.valid])
    trained = _levels(planned[0].recipe.data.train, planned[0].recipe.data.levels)
    for name, store in sweep.evaluate.items():
        if others := sorted(level for level in _levels([store]) if trained and find_level(level, tuple(trained)) is None):
            what = f"its labels are of level {', '.join(others)}, and the models of the sweep learn {', '.join(sorted(trained))}"
            raise LevelError(what, where=f"evaluate.{name}", hint="give structures with labels of what is trained")
    claim(sweep, folder)
    epochs = _Epochs()
    runs = [_placed(run, sweep, folder, epochs) for run in planned]
    file = folder / "plan.json"
    if file.exists():
        costs = [Cost(**cost) for cost in json.loads(file.read_text(encoding="utf-8"))]
    else:
        costs = _costs(runs, epochs, said)
        atomic_write(file, json.dumps([asdict(cost) for cost in costs], indent=1).encode())
    hours = sum(cost.seconds for cost in costs) / 3600
    if sweep.core_hours is not None and hours > sweep.core_hours:
        raise ScalingError(
            f"this sweep takes {hours:.3g} core-hours, its budget is {sweep.core_hours:g}", hint="shorten an axis, or raise core_hours"
        )
    return runs, costs


def _levels(stores: Sequence[str], chosen: Sequence[str] = ()) -> set[str]:
    """Levels of the structures of stores; those that are chosen if any are."""
    found = {str(level) for store in Frames(stores, chosen).stores for level in store.levels if level is not None}
    return {level for level in found if not chosen or find_level(level, tuple(chosen))}


def claim(sweep: Sweep, folder: Path) -> None:
    """Make `folder` that of this sweep. While no run of it has begun, a changed document replaces the earlier one; its budget may change at any time.

    Raises:
        ScalingError: runs of another document have begun there: points of two sweeps would be fitted as one.
    """
    file = folder / "sweep.json"
    document = sweep.model_dump(mode="json")
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        defaults = {
            name: field.get_default(call_default_factory=True) for name, field in Sweep.model_fields.items() if not field.is_required()
        }
        before = defaults | before  # of a version that did not know every key
        changed = sorted(key for key in {*before, *document} - {"core_hours"} if before.get(key) != document.get(key))
        if changed and _begun(folder):
            raise ScalingError(
                f"the sweep has changed since its first run: {', '.join(changed)}",
                where=str(folder),
                hint="put the document back, or give another folder by --out",
            )
        if changed:  # planned only: training sets and costs were those of the earlier document
            (folder / "plan.json").unlink(missing_ok=True)
            shutil.rmtree(folder / "data", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps(document, indent=1, ensure_ascii=False).encode())


def _begun(folder: Path) -> bool:
    """Whether there is a point, or a folder of a run or of a trunk."""
    return any(folder.glob("points*.jsonl")) or any((path / "recipe.yaml").exists() for path in folder.iterdir() if path.is_dir())


def _placed(run: PlannedRun, sweep: Sweep, folder: Path, epochs: _Epochs) -> PlannedRun:
    """The run with its part of the training data, and its steps where the sweep counts epochs."""
    stores = run.recipe.data.train if run.structures is None else [str(_part(run.recipe, run.structures, folder / "data"))]
    steps = None if sweep.epochs is None else max(1, round(sweep.epochs * epochs(run.recipe, stores)[0]))
    return with_data(run, stores, steps)


def _part(recipe: Recipe, count: int, folder: Path) -> Path:
    """A store with the first `count` training structures of one random order; made once."""
    path = folder / f"n{count}"
    if not path.exists():
        frames = Frames(recipe.data.train, recipe.data.levels)
        if count > len(frames):
            raise ScalingError(f"{count:,} structures are wanted, the training data have {len(frames):,}", where="structures")
        making = folder / f"making-n{count}"
        with StoreWriter(making, name=path.name) as writer:
            present = writer.present
            for k in stream(0, "sweep-structures").permutation(len(frames))[:count]:
                structure = frames[int(k)]
                if (writer.key(structure), structure.level) not in present:  # a killed start has written some
                    writer.add(structure)
        making.rename(path)
    return path


class _Epochs:
    """Batches and atoms of one epoch, as the source `store` makes them. Runs of one sweep share them: each is counted once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def __call__(self, recipe: Recipe, stores: Sequence[str]) -> tuple[int, int]:
        data, cutoff = recipe.data, float(recipe.potential.options.get("backbone", {}).get("cutoff", 5.0))
        options = data.model_dump(mode="json", include={"levels", "cost", "budget"})
        key = json.dumps([list(stores), options, cutoff, recipe.seed], sort_keys=True)
        if key not in self._known:
            frames = Frames(stores, data.levels)
            costs = frame_costs(frames, cutoff, recipe.seed, CostModel(data.cost.atom, data.cost.edge, data.cost.batch))
            batches = plan_batches(costs, data.budget, np.random.default_rng(recipe.seed), 1, data.cost.batch)
            self._known[key] = len(batches), int(frames.natoms.sum())
        return self._known[key]


def _costs(runs: Sequence[PlannedRun], epochs: _Epochs, said: Callable[[str], None]) -> list[Cost]:
    measured: dict[str, dict[str, Any]] = {}
    costs = []
    for run in runs:
        document = run.recipe.model_dump(mode="json", include={"potential", "init_from", "objectives", "dtype"})
        key = json.dumps(document, sort_keys=True)  # groups that differ in rates or steps alone cost the same
        if key not in measured:
            smallest = min((r for r in runs if r.group == run.group), key=lambda r: r.structures or 0)
            recipe = run.recipe.model_copy(update={"data": smallest.recipe.data})
            with TemporaryDirectory() as scratch, open_run(recipe, Path(scratch)) as opened:
                facts = opened.preflight.facts
                measured[key] = {**facts, "invariant": bool(opened.step.potential.spec.invariant)}
            said(f"{run.group}, {facts['parameters']:,} parameters: {facts['flops'] / facts['atoms'] / 1e6:.3g} MFLOP per atom and step")
        facts = measured[key]
        batches, in_epoch = epochs(run.recipe, run.recipe.data.train)
        atoms = max(1, round(run.recipe.steps / batches * in_epoch))
        costs.append(
            Cost(
                run.name,
                run.group,
                facts["parameters"],
                run.recipe.steps,
                atoms,
                float(facts["flops"]) / facts["atoms"] * atoms,
                facts["seconds_per_step"] / facts["atoms"] * atoms,
                run.largest,
                facts["invariant"],
            )
        )
    return costs
