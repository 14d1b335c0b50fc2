"""The loop: label, train, run the student, label where it goes, until the budget is spent; then measure what became of it.

Folder: `request.json`; `labels/` (stores, see `label_folder`); `rounds/00` ... (frames that were chosen, the student, `round.json`);
`student.safetensors`, `student-small.safetensors` ...; `result.json` and `report.html`. Every stage leaves a file and is not done again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.console import counter
from mlipfm_interfaces.errors import LabelingError, MlipfmError, RecipeError
from mlipfm_interfaces.files import atomic_write, claim_folder, lock
from mlipfm_interfaces.interruption import until_interrupted
from mlipfm_interfaces.structure import Structure
from mlipfm_md.initial_files import FrameOptions
from mlipfm_train.recipe import load_recipe

from .exploration import Trajectory, explore, load_trajectory, save_trajectory
from .label_folder import Labels
from .measurements import floor
from .plan import Plan, extended, make_plan
from .request import DistillationRequest
from .result import finish
from .selection import last_layers, most_informative
from .start_frames import rattled, read_starts
from .student import COST, Trained, force_error, steps_within, train_student, training_recipe
from .teacher import DistillationTeacher
from .work import FLOOR_STARTS, FRAMES, Say, Work, stored

#: One of so many labelled frames of each round validates, and does not train.
VALIDATES = 8
#: Starts whose dynamics are run in one round.
RUNS = 6
#: ps, of the dynamics of rounds 1, 2, ...: the student's dynamics is longer each time.
LENGTHS = (0.5, 2.0, 5.0, 10.0, 20.0, 20.0)


def distill_teacher(request: DistillationRequest, say: Say) -> dict[str, Any]:
    """Do what is asked, or go on where an earlier command stopped, and return what `result.json` holds.

    Raises:
        LabelingError: the teacher labels none of the starts, or failed again and again. What `claim`, `make_plan` and the training refuse.
        KeyboardInterrupt: after Ctrl-C; nothing is lost.
    """
    request.check()
    starts = read_starts(request.start, FrameOptions(None, request.charge, request.multiplicity), say)
    with DistillationTeacher(request.teacher, level=request.level, timeout=request.timeout) as teacher:
        claim_folder(request.out, request.decides() | {"teacher_digest": teacher.digest}, "distillation")
        with lock(request.out / "lock"), until_interrupted(say, also_terminated=True) as interrupted:
            hydrogen = any((s.atomic_numbers == 1).any() for s in starts)
            dt = request.dt or (0.5 if hydrogen else 1.0)
            labels = Labels(request.out / "labels", teacher, starts[0], request.hessian_rows, request.hessian_products)
            work = Work(request, teacher, labels, starts, dt, say, interrupted)
            try:
                plan = _planned(work)
            except RecipeError:
                if not (work.out / "plan.json").exists():  # nothing was begun: other options may be given for this folder
                    (work.out / "request.json").unlink()
                    work.labels.folder.rmdir()
                raise
            say(plan.line())
            least = floor(teacher, starts[:FLOOR_STARTS])
            if least is not None:
                say(
                    f"the teacher's forces are not the gradient of an energy: on small loops around the starts no student can be nearer to them than "
                    f"{least['value']:.2g} meV/Å (a lower bound)"
                )
            students = _rounds(work, plan)
            return finish(work, plan, students)


def _planned(work: Work) -> Plan:
    """Return the plan that the folder has, or a new one from the time of a label; a larger budget goes on from what was learned."""
    path, asked = work.out / "plan.json", asdict(work.request.budget)
    if path.exists():
        found = json.loads(path.read_bytes())
        if found["budget"] == asked:
            kept: dict[str, Any] = found["plan"]
            return Plan(**kept | {key: tuple(kept[key]) for key in ("learn", "training")})
    request = work.request
    plan = make_plan(request.budget, _seconds_of_a_label(work), len(request.sizes), request.hessian_rows, request.hessian_products)
    done = [json.loads(record.read_bytes())["labelled"] for record in sorted((work.out / "rounds").glob("*/round.json"))]
    if done:
        plan = extended(plan, done)
    atomic_write(path, json.dumps({"budget": asked, "plan": asdict(plan)}, indent=1).encode())
    return plan


def _seconds_of_a_label(work: Work) -> float:
    """Of the first structure, after one to warm up.

    Raises:
        LabelingError: the teacher cannot label it, in its words: an unknown element, a missing charge.
    """
    seconds = []
    for _ in range(3):
        work.stop_if_asked()
        begin = time.monotonic()
        try:
            work.teacher.label(work.starts[0])
        except MlipfmError as error:
            where = str(work.request.start)
            raise LabelingError(f"the teacher cannot label the first structure: {error.what}", where=where, hint=error.hint) from error
        seconds.append(time.monotonic() - begin)
    return min(seconds[1:])


def _rounds(work: Work, plan: Plan) -> dict[str, Trained]:
    """All rounds; the students of each size."""
    before: Trained | None = None
    for k, count in enumerate(plan.learn[:-1]):
        before = _round(work, plan, k, count, before)
    assert before is not None
    k = len(plan.learn) - 1
    last = _round(work, plan, k, plan.learn[-1], before)
    found = {work.request.sizes[0]: last}
    for size in work.request.sizes[1:]:
        per_step = last.seconds_per_step * COST[size] / COST[work.request.sizes[0]]
        found[size] = _trained(work, size, plan.training[-1], per_step, None, work.out / "rounds" / f"{k:02d}", f"student-{size}")
    return found


def _round(work: Work, plan: Plan, k: int, count: int, before: Trained | None) -> Trained:
    """Choose frames, label them, train."""
    folder = work.out / "rounds" / f"{k:02d}"
    record, size = folder / "round.json", work.request.sizes[0]
    if record.exists():
        found = json.loads(record.read_bytes())
        return Trained(folder / "student.safetensors", found["steps"], found["seconds_per_step"])
    begin = time.monotonic()
    facts = _choose(work, k, count, before, folder)
    frames = {part: stored(folder / part) for part in ("train", "valid")}
    total = sum(map(len, frames.values()))
    with counter(f"round {k}: labels", total) as advance:
        for part, some in frames.items():
            work.label(part, some, advance)
    facts |= {"labelled": total, "refused": len(work.labels.refused)}
    if before is not None:
        fresh = work.labelled_among([s for s in (*frames["train"], *frames["valid"]) if s.provenance.index == 0], tuple(frames))
        facts["on_policy_force_mae"] = force_error(before.path, fresh) if fresh else None
    if before is None:  # a short training tells the time of a step
        before = _trained(work, size, plan.training[k], None, None, folder, "student-first")
    rest = plan.training[k] - (before.steps * before.seconds_per_step if k == 0 else 0.0)
    trained = _trained(work, size, rest, before.seconds_per_step, before.path, folder, "student")
    if k == 0 and trained.steps < before.steps:  # too few to tell the time of a step again
        trained = replace(trained, steps=before.steps + trained.steps, seconds_per_step=before.seconds_per_step)
    facts |= {"seconds": time.monotonic() - begin, "steps": trained.steps, "seconds_per_step": trained.seconds_per_step}
    facts["valid_force_mae"] = force_error(trained.path, work.labels.read("valid"))
    atomic_write(record, json.dumps(facts, indent=1).encode())
    work.say(_line(k, facts, len(work.labels.read("train")) + len(work.labels.read("valid"))))
    return trained


def _choose(work: Work, k: int, count: int, before: Trained | None, folder: Path) -> dict[str, Any]:
    """Write the frames of the round into the stores `train` and `valid` of its folder, and return what is reported of their dynamics."""
    path = folder / "chosen.json"
    if path.exists():
        return dict(json.loads(path.read_bytes()))
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {}
    seed = work.request.seed + 1000 * k
    if before is None:
        chosen = rattled(work.starts, count, max(work.request.temperatures), work.request.seed)
        rng = np.random.default_rng(seed)
        validates = set(rng.permutation(len(chosen))[: max(1, count // VALIDATES)].tolist()) - set(range(len(work.starts)))
    else:
        runs = _dynamics(work, before.path, LENGTHS[min(k, len(LENGTHS)) - 1], seed, folder)
        facts = {"ps": runs[0].asked, "runs": len(runs), "broken": sum(run.reason is not None for run in runs)}
        chosen, validates = _chosen_of(work, before.path, runs, count, seed)
    for part in ("train", "valid"):
        with StoreWriter(folder / part, name=part) as writer:
            for i, s in enumerate(chosen):
                if (i in validates) == (part == "valid") and not writer.has(s):
                    writer.add(s)
    atomic_write(path, json.dumps(facts).encode())
    for made in folder.glob("dynamics-*"):
        shutil.rmtree(made)
    return facts


def _dynamics(work: Work, student: Path, picoseconds: float, seed: int, folder: Path) -> list[Trajectory]:
    """Dynamics of the student from some of the starts, at all temperatures; each run is kept in `folder` as soon as it is made."""
    potential = load_potential(student)
    rng = np.random.default_rng(seed)
    few = max(1, RUNS // len(work.request.temperatures))
    which = rng.permutation(len(work.starts))[:few] if len(work.starts) > few else np.arange(few) % len(work.starts)
    runs: list[Trajectory] = []
    for i, index in enumerate(which):
        for kelvin in work.request.temperatures:
            made = folder / f"dynamics-{i:02d}-{kelvin:g}K"
            if not (made / "run.json").exists():
                work.stop_if_asked()
                (found,) = explore(potential, [work.starts[index]], [kelvin], picoseconds, work.dt, FRAMES, seed + i)
                save_trajectory(found, made)
            runs.append(load_trajectory(made))
    return runs


def _chosen_of(work: Work, student: Path, runs: Sequence[Trajectory], count: int, seed: int) -> tuple[list[Structure], set[int]]:
    """Half of `count` at random, of which some validate, half the most informative. `provenance.index` is 0 for those at random, else 1."""
    rng = np.random.default_rng(seed)
    pool = [s for run in runs for s in run.frames]
    if len(pool) < count:  # dynamics broke at once: displaced frames instead
        pool += rattled(work.starts, count + len(work.starts), max(work.request.temperatures), seed + 1)[len(work.starts) :]
    order = rng.permutation(len(pool))
    random = [_marked(pool[k], 0) for k in order[: count // 2]]
    rest = [pool[k] for k in order[count // 2 :]]
    potential = load_potential(student)
    known = last_layers(potential, [*work.labels.read("train"), *random])
    informative = [_marked(rest[k], 1) for k in most_informative(known, last_layers(potential, rest), count - len(random))]
    validates = set(rng.permutation(len(random))[: max(1, count // VALIDATES)].tolist())
    return [*random, *informative], validates


def _marked(s: Structure, index: int) -> Structure:
    return s.replace(provenance=replace(s.provenance, index=index))


def _trained(work: Work, size: str, seconds: float, per_step: float | None, before: Path | None, folder: Path, name: str) -> Trained:
    """Return one training of about `seconds`, or what an earlier command has made of it."""
    student, training, record = (folder / f"{name}{end}" for end in (".safetensors", "-training", "-training.json"))
    if record.exists():
        return Trained(student, **json.loads(record.read_bytes()))
    steps = steps_within(seconds, per_step)
    if (training / "recipe.yaml").exists():
        recipe = load_recipe(training / "recipe.yaml")
    else:
        recipe = training_recipe(size, work.out / "labels" / "train", work.out / "labels" / "valid", steps, before, work.request.seed)
    work.say(f"training {size}: {recipe.steps} steps")
    trained = train_student(recipe, training, student, seconds, work.interrupted)
    atomic_write(record, json.dumps({"steps": trained.steps, "seconds_per_step": trained.seconds_per_step}).encode())
    return trained


def _line(k: int, facts: dict[str, Any], labels: int) -> str:
    words = [f"round {k}: {labels} labels"]
    if "runs" in facts:
        words.append(f"{facts['runs']} runs of {facts['ps']:.3g} ps, {facts['broken']} broke")
    if facts.get("on_policy_force_mae") is not None:
        words.append(f"the student before was off by {1000 * facts['on_policy_force_mae']:.1f} meV/Å on its own frames")
    words.append(f"now {1000 * facts['valid_force_mae']:.1f} on the validation part")
    return "; ".join(words)
