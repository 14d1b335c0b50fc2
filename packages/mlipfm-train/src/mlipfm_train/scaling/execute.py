"""Runs of a sweep, on any `concurrent.futures.Executor`. What is done stands in `points.jsonl`; the same call goes on after a kill, bit for bit.

Each run is one of `mlipfm train` in a folder of its own name. Where the schedule is `wsd` and the sweep has several `steps`, these share a trunk: it
is trained up to the step where the first decay begins, its folder is copied, the copy decays, and the trunk goes on (arXiv:2404.06395, section 4).
A branch has the bits of a run that was made alone, since the rate before the decay does not depend on the number of steps.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.errors import TrainingError
from mlipfm_interfaces.files import atomic_write, lock
from mlipfm_interfaces.metrics import group_of

from ..events import Event, read_events
from ..frames import Frames, frame_costs, in_budget
from ..loop import fit
from ..recipe import dump_recipe, load_recipe
from ..run import DIVERGED
from ..training_state import states
from ..validation import Errors, validated, validation_errors, validation_metrics
from .laws import ScalingError
from .learned_symmetries import STRUCTURES, learned_symmetries
from .plan import Cost, plan
from .points import Point, check_distinct, line_of, read_points
from .sweep import PlannedRun, Sweep, fine_tuning_recipe

POINTS, PREDICTION = "points.jsonl", "prediction.json"

_log = logging.getLogger("mlipfm.train")


def run_sweep(
    sweep: Sweep,
    folder: Path,
    executor: Executor | None = None,
    *,
    held_out: bool = False,
    only: int | None = None,
    said: Callable[[str], None] = lambda text: None,
) -> list[Point]:
    """Make the runs that are not points yet, and return all points there are.

    Args:
        executor: None trains one after the other in this process.
        held_out: make the largest runs of the architectures that have been predicted, instead of all others.
        only: number of one job, as `jobs_of` counts them: what a task of an array of a cluster does. Its points stand in a file of their own.
        said: receives a line for each run that has ended.

    Raises:
        ScalingError: the sweep has changed since its first run; the largest runs have not been predicted, or the others not all made; no such job.
        LockedError: another process makes runs of this sweep.
    """
    runs, costs = plan(sweep, folder, said)
    file = folder / POINTS if only is None else folder / f"points-{only}.jsonl"
    with lock(folder / ("run.lock" if only is None else f"run-{only}.lock")):
        done = {point.run for point in collected(folder)}
        if only is None:
            _deliver_rest(runs, folder, done)
        if held_out:
            runs = _predicted_runs(runs, done, folder)
        jobs = jobs_of(runs, held_out)
        if only is not None and not 0 <= only < len(jobs):
            raise ScalingError(f"there is no job {only}", hint=f"jobs are 0 to {len(jobs) - 1}")
        chosen = jobs if only is None else [jobs[only]]
        left = [[run for run in job if run.name not in done] for job in chosen]
        for points in _made([job for job in left if job], folder, {cost.name: cost for cost in costs}, sweep, executor):
            for point in points:
                _append(file, point)
                said(f"{point.run}: {point.failed or ', '.join(f'{name} {value:.4g}' for name, value in point.losses.items())}")
    return collected(folder)


def jobs_of(runs: Sequence[PlannedRun], held_out: bool) -> list[list[PlannedRun]]:
    """Return what one worker does after the other: single runs, or those that share a trunk, shortest first."""
    chosen = [run for run in runs if run.largest == held_out]
    if not any(run.recipe.schedule.name == "wsd" for run in chosen):
        return [[run] for run in chosen]
    ordered = sorted(chosen, key=lambda run: (run.trunk, run.recipe.steps))
    return [list(members) for _, members in itertools.groupby(ordered, key=lambda run: run.trunk)]


def collected(folder: Path) -> list[Point]:
    """Return all points: those of this machine, and those that tasks of an array have written. Raises `ScalingError` for equal ones."""
    points = [point for file in (folder / POINTS, *sorted(folder.glob("points-*.jsonl"))) for point in read_points(file)]
    check_distinct(points)
    return points


def write_array(sweep: Sweep, folder: Path, document: Path, file: Path) -> int:
    """Write the script of a SLURM array whose tasks are the jobs of a sweep; return their number."""
    runs, costs = plan(sweep, folder)
    jobs, seconds = jobs_of(runs, held_out=False), {cost.name: cost.seconds for cost in costs}
    longest = max(sum(seconds[run.name] for run in job) for job in jobs)
    minutes = max(10, round(3 * longest / 60))
    text = f"""#!/bin/bash
#SBATCH --job-name=scaling
#SBATCH --array=0-{len(jobs) - 1}
#SBATCH --cpus-per-task=1
#SBATCH --time={minutes}
#SBATCH --requeue
# A task that was stopped goes on with its last training state. Minutes are three times the longest job on the machine of the plan.
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun mlipfm scaling run {shlex.quote(str(document))} --out {shlex.quote(str(folder))} --only $SLURM_ARRAY_TASK_ID
"""
    atomic_write(file, text.encode())
    return len(jobs)


def train_job(job: Sequence[PlannedRun], folder: Path, sweep: Sweep, costs: Mapping[str, Cost]) -> list[Point]:
    """Train the runs of one job, one after the other; a run that diverges is a point with its reason."""
    found = []
    for run in job:
        out, failed = folder / run.name, ""
        with ExitStack() as tracked:
            try:
                if run.trunk_steps and run.recipe.schedule.name == "wsd":
                    _branch(run, folder)
                out.mkdir(exist_ok=True)
                tracked.enter_context(_tracking(run, out))
                fit(run.recipe, out)
            except TrainingError as error:
                failed = str(error)
            out.mkdir(exist_ok=True)
            found.append(_point(run, out, sweep, costs[run.name], failed))
            atomic_write(out / "point.json", line_of(found[-1]).encode())  # MLflow gets it when `tracked` ends
    return found


def _tracking(run: PlannedRun, out: Path) -> AbstractContextManager[object]:
    """What delivers a run to MLflow, where its recipe says so."""
    tracking = run.recipe.tracking
    if tracking.mlflow is None:
        return nullcontext()
    from ..mlflow_listener import MlflowDrain

    return MlflowDrain(out, tracking.mlflow, tracking.experiment)


def _deliver_rest(runs: Sequence[PlannedRun], folder: Path, done: set[str]) -> None:
    """Deliver runs that ended while MLflow did not answer, up to the first that it does not take now either."""
    from ..mlflow_listener import delivered

    for run in runs:
        out = folder / run.name
        if run.recipe.tracking.mlflow is None or run.name not in done or not (out / "point.json").exists() or delivered(out):
            continue
        with _tracking(run, out):
            pass
        if not delivered(out):
            return


def _made(
    jobs: Sequence[Sequence[PlannedRun]], folder: Path, costs: Mapping[str, Cost], sweep: Sweep, executor: Executor | None
) -> Iterator[list[Point]]:
    """Points of each job as it ends."""
    if executor is None:
        yield from (train_job(job, folder, sweep, costs) for job in jobs)
        return
    futures: list[Future[list[Point]]] = [executor.submit(train_job, job, folder, sweep, costs) for job in jobs]
    waiting = as_completed(futures) if all(isinstance(future, Future) for future in futures) else futures  # Dask has futures of its own
    yield from (future.result() for future in waiting)


def _branch(run: PlannedRun, folder: Path) -> None:
    """Make the folder of a run from the trunk, which is trained as far as the decay of the run."""
    if (folder / run.name).exists():
        return
    trunk = folder / f"trunk-{run.trunk}"
    decay = run.recipe.schedule.decay or 0.0
    until = run.recipe.steps - max(1, int(np.ceil(decay * run.recipe.steps)))
    tracking = run.recipe.tracking.model_copy(update={"mlflow": None})
    longest = run.recipe.model_copy(update={"steps": run.trunk_steps, "tracking": tracking})
    if until > 0:
        reached = [_last_step(trunk)]

        def follow(event: Event) -> None:
            if event["kind"] == "step":
                reached[0] = event["step"] + 1

        if reached[0] < until:
            fit(longest, trunk, listeners=[follow], interrupted=lambda: reached[0] >= until)
        making = folder / f"making-{run.name}"
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(trunk, making, ignore=shutil.ignore_patterns("lock"))
        own = load_recipe(making / "recipe.yaml").model_copy(update={"steps": run.recipe.steps, "tracking": run.recipe.tracking})
        atomic_write(making / "recipe.yaml", dump_recipe(own).encode())
        os.rename(making, folder / run.name)


def _last_step(folder: Path) -> int:
    found = states(folder / "state")
    return int(found[0].stem.removeprefix("step-")) if found else 0


def _point(run: PlannedRun, folder: Path, sweep: Sweep, cost: Cost, failed: str) -> Point:
    """What a run that has ended is in `points.jsonl`."""
    atoms, seconds, untrained = 0, 0.0, {}
    flops = cost.flops / cost.atoms
    for event in read_events(folder / "events.jsonl"):
        if event["kind"] == "step":
            atoms, seconds = atoms + event["values"]["atoms"], seconds + event["values"]["seconds"]
        elif event["kind"] == "preflight":
            untrained = event["values"]
    threads = torch.get_num_threads()
    if not failed and (folder / "last.safetensors").exists():
        failed = _diverged(load_model(folder / "last.safetensors")[1]["extra"]["validation"], untrained)
    if failed:
        return Point(run.name, run.group, run.seed, cost.parameters, atoms, flops * atoms, seconds * threads, failed=failed)
    potential, manifest = load_model(folder / "last.safetensors")
    metrics = {f"{m['name']} ({m['unit']})": m["value"] for m in manifest["extra"]["validation"]}
    if run.recipe.data.valid:
        held_out = Frames(run.recipe.data.valid, run.recipe.data.levels)
        metrics |= learned_symmetries(potential, [held_out[k] for k in range(min(STRUCTURES, len(held_out)))])
        if len(potential.spec.levels) > 1:
            metrics |= _errors_of_levels(potential, run, held_out)
    for name, store in sweep.evaluate.items():
        frames = Frames([store])
        metrics |= {f"{name} {key}": value for key, value in _named(_errors(potential, run, frames), frames).items()}
    for name, changes in sweep.finetune.items():
        metrics |= {f"fine-tuned on {name} {key}": value for key, value in _fine_tuned(run, folder, name, changes).items()}
    losses = {key: float(value) for key, value in metrics.items() if value is not None and np.isfinite(value)}
    return Point(run.name, run.group, run.seed, cost.parameters, atoms, flops * atoms, seconds * threads, losses, manifest["digest"])


def _diverged(validation: Sequence[Mapping[str, Any]], untrained: Mapping[str, Any]) -> str:
    """Return why a run that came to its end has no losses to fit: it is far worse than before its first step. "" if it is not."""
    for metric in validation:
        before = 1000 * untrained.get(
            {"force MAE": "baseline_force_mae", "energy MAE": "baseline_energy_mae"}.get(metric["name"], ""), np.inf
        )
        if metric["value"] is None or not np.isfinite(metric["value"]) or metric["value"] > DIVERGED * before:
            value = "not finite" if metric["value"] is None else f"{metric['value']:.4g} {metric['unit']}"
            return f"training has diverged: {metric['name']} is {value} at its end and was {before:.4g} before it"
    return ""


def _errors(potential: Any, run: PlannedRun, frames: Frames) -> Errors:
    """Errors of a model on the structures of `frames`."""
    batches = in_budget(frame_costs(frames, potential.spec.graphs[0].cutoff), run.recipe.data.budget)
    return validation_errors(
        potential, frames, batches, validated([k for k in ("energy", "forces", "stress") if k in potential.spec.outputs])
    )


def _fine_tuned(run: PlannedRun, folder: Path, name: str, changes: Mapping[str, Any]) -> dict[str, float]:
    """Train the last model of a run on with these changes of its recipe, in a folder of its own; its errors, none where it diverged."""
    recipe = fine_tuning_recipe(run.recipe, folder / "last.safetensors", name, changes)
    out = folder / f"finetune-{name}"
    try:
        fit(recipe, out)
    except TrainingError as error:
        _log.warning("%s, fine-tuned on %s: %s", run.name, name, error)
        return {}
    validation = load_model(out / "last.safetensors")[1]["extra"]["validation"]
    return {f"{m['name']} ({m['unit']})": m["value"] for m in validation}


def _errors_of_levels(potential: Any, run: PlannedRun, frames: Frames) -> dict[str, float]:
    """Errors on the validation data of each level of theory, such as `pbe: force MAE (meV/A)`."""
    found: dict[str, float] = {}
    errors = _errors(potential, run, frames)
    for level in sorted({frames[k].level or "" for k in errors}):
        own = {k: value for k, value in errors.items() if (frames[k].level or "") == level}
        found |= {f"{level}: {key}": value for key, value in _named(own, frames).items()}
    return found


def _named(errors: Errors, frames: Frames) -> dict[str, float]:
    """Mean absolute errors, named as those of the validation data."""
    return {f"{m.name} ({m.unit})": m.value for m in validation_metrics(errors, [group_of(s) for s in frames])}


def _append(file: Path, point: Point) -> None:
    """Add a line, after what a kill has left of one is cut off; it is on the device when this returns."""
    with open(file, "ab+") as lines:
        lines.seek(0)
        lines.truncate(lines.read().rfind(b"\n") + 1)
        lines.write(f"{line_of(point)}\n".encode())
        lines.flush()
        os.fsync(lines.fileno())


def _predicted_runs(runs: Sequence[PlannedRun], done: set[str], folder: Path) -> list[PlannedRun]:
    """Return the runs of architectures whose largest runs have been predicted; refused where there are none."""
    if not any(run.largest for run in runs):
        raise ScalingError("this sweep holds no run out", hint="leave `--held-out`")
    file = folder / PREDICTION
    predicted = set(json.loads(file.read_text(encoding="utf-8"))["groups"]) if file.exists() else set()
    if chosen := [run for run in runs if run.group in predicted]:
        return chosen
    if missing := [run.name for run in runs if not run.largest and run.name not in done]:
        raise ScalingError(f"{len(missing)} other runs are not done, such as {missing[0]}", hint="run them first, without `--held-out`")
    first = next(run.name for run in runs if run.largest)
    raise ScalingError(
        f"{first} has not been predicted, and a prediction after the fact is none", hint="`mlipfm scaling fit SWEEP` predicts it"
    )
