"""The quickstart: the commands of mlipfm that lead from SMILES to a model in use, and a comparison of the ways to it."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlipfm_data.parallel import worker_pool
from mlipfm_eval import write_report
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import atomic_write, lock
from mlipfm_interfaces.plugins import DEFAULT_MODEL
from rich.console import Console

from . import registry
from .data import LEVEL, make_data
from .jobs import Job, run_lanes, seconds_of
from .measure import compare_models, measure_dynamics, measure_speeds
from .plan import Plan, claim
from .results import SETS, Results, print_comparison, print_model, write_result, write_start

#: All models, by the folder of their run. The first is the released model as it comes.
MODELS = ("released", "finetuned", "from-scratch", "student", "student-without-rows", "student-without-teacher")

#: Pairs that answer a question: the model that should win, and its control.
COMPARED = {
    "finetuning": ("finetuned", "released", "fine-tuning"),
    "pretraining": ("finetuned", "from-scratch", "pre-training"),
    "distillation": ("student", "student-without-teacher", "distillation"),
    "rows": ("student", "student-without-rows", "rows of the teacher's Hessian"),
    "student": ("student", "finetuned", "the student in place of its teacher"),
}


def quickstart(out: Path, plan: Plan, console: Console, registry_wanted: bool = True) -> dict[str, Any]:
    """Run all commands in `out`, print what became of them, write the report and `quickstart.json`, and return what is in that.

    What an earlier run finished is not done again.

    Args:
        registry_wanted: start a hub in the folder, push the models and promote the best.

    Raises:
        TrainingError: `out` holds a quickstart of other settings. LockedError: another process is at work there. MlipfmError: a command failed.
        RegistryError: the registry failed; everything else is written.
    """
    start, out = time.perf_counter(), out.resolve()
    claim(out, plan)
    (out / "records").mkdir(exist_ok=True)
    with lock(out / "lock"), worker_pool(max(2, os.cpu_count() or 1)) as pool:
        make_data(out, plan, pool, console)
        run_lanes(out, training(plan), pool, console)
        run_lanes(out, distillation(plan), pool, console)
        registry_done, missing = (out / "records" / "registry.json").exists(), registry.missing()
        wanted = registry_wanted and missing is None
        starting = pool.submit(registry.start_hub, out / "hub") if wanted and not registry_done else None
        try:
            run_lanes(out, measurements(plan), pool, console)
            best = Results.read(out).best
            speed = _call("speed", "records/speed-student.json", measure_speeds, ("finetuned", "student"), plan)
            run_lanes(out, [using(best), [speed]], pool, console)
            failure = _publish(out, best, starting, pool, console) if wanted else None
        finally:
            registry.stop_hub(out / "hub")
    results = Results.read(out)
    seconds = {**seconds_of(out), "this run": round(time.perf_counter() - start, 1)}
    cpu = round(sum(seconds_of(out, "cpu").values()))
    page = write_report(out)
    print_model(console, out, results, page)
    print_comparison(console, results)
    if registry_wanted and missing is not None:
        console.print(f"The registry was left out: {missing}.", highlight=False)
    spent = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    console.print(f"Seconds: {spent}; CPU seconds of all commands: {cpu}", style="dim", highlight=False)
    document = {
        "plan": asdict(plan),
        "models": results.digests,
        "best": best,
        "conclusions": results.conclusions,
        "seconds": seconds,
        "cpu_seconds": cpu,
    }
    atomic_write(out / "quickstart.json", json.dumps(document, indent=1).encode())
    if failure is not None:
        raise failure
    return document


def training(plan: Plan) -> list[list[Job]]:
    """Fine-tune the released model on few labels; the same backbone from scratch. The fine-tuned model labels all training geometries."""
    few = f"{_often(plan.finetune_steps)} --data data/finetune --valid data/valid"
    scratch = f"{{name: density, conditions: [total_charge, spin_multiplicity], backbone: {plan.backbone}}}"
    return [
        [
            _call("released", "released/best.safetensors", copy_released),
            _training("finetuned", plan.finetune_steps, f"train finetune init_from={DEFAULT_MODEL} potential.levels=[{LEVEL}] "
                      f"optimizer.lr=1e-3 {few}"),
            _command("teacher-labels", "data/teacher/teacher.json", "distill label data/unlabelled --teacher finetuned/best.safetensors "
                     f"--out data/teacher --rows {plan.rows}"),
        ],
        [
            _training("from-scratch", plan.finetune_steps, f"train finetune init_from=null {shlex.quote(f'potential={scratch}')} {few}"),
            _command("student-recipe", "student.yaml", "distill recipe data/finetune --teacher from-scratch/best.safetensors "
                     f"--valid data/valid --steps {plan.student_steps} --out student.yaml"),
            _training("student-without-teacher", plan.student_steps, f"train student.yaml {plan.student} objectives.0.hessian_weight=0"),
        ],
    ]  # fmt: skip


def distillation(plan: Plan) -> list[list[Job]]:
    """Train students on the teacher's labels, with rows of its Hessian and without, then on the few true labels.

    There energies weigh ten times as much: they have to move by a constant for each molecule (decision 0010).
    """
    last = plan.student_steps // 3
    again = "'potential={}' optimizer.lr=2e-3 data.budget=250 objectives.0.hessian_weight=0 objectives.0.energy_weight=50"
    first = plan.student_steps - last
    lanes = []
    for name, weight in {"student": plan.hessian_weight, "student-without-rows": 0}.items():
        copy = f"{name}-of-teacher-labels"
        words = f"train student.yaml {plan.student} objectives.0.hessian_weight={weight:g} {_often(first)} --data data/teacher"
        true = f"train student.yaml init_from={copy}/best.safetensors {again} {_often(last)}"
        lanes.append([_training(copy, first, words), _training(name, last, true)])
    return lanes


def measurements(plan: Plan) -> list[list[Job]]:
    """Check and evaluate every model, run dynamics with some, and compare."""
    moved = ("finetuned", "student", "released")
    lanes = [[_call(f"dynamics-{name}", f"records/dynamics-{name}.json", measure_dynamics, name, plan)] for name in moved]
    for name in MODELS:
        model, sets = f"{name}/best.safetensors", "data/known --ood data/test --ood data/hot"
        check, evaluation = f"records/check-{name}.json", f"records/evaluation-{name}.json"
        lanes.append([
            _command(f"check-{name}", check, f"check {model} --quick --require conservative --record {check}"),
            _command(f"evaluate-{name}", evaluation, f"evaluate {model} {sets} --record {evaluation}"),
        ])  # fmt: skip
    return [*lanes, [_call("compare", "records/comparison-rows.json", compare_models, COMPARED, tuple(SETS))]]


def copy_released() -> None:
    """Copy the released model that fine-tuning starts from to where those of this run are."""
    from mlipfm_interfaces.checkpoint import resolve

    Path("released").mkdir(exist_ok=True)
    atomic_write(Path("released", "best.safetensors"), Path(resolve(DEFAULT_MODEL)).read_bytes())


def using(best: str) -> list[Job]:
    """Run dynamics of a molecule with the best model."""
    run = f"md run {best}/best.safetensors start.xyz --ensemble langevin --temperature 300 --friction 0.02 --steps 600 --every 10"
    return [
        _call("start", "start.xyz", write_start),
        _command(f"dynamics-of-a-molecule-{best}", f"md-{best}.xyz", f"{run} --out md-{best} --export md-{best}.xyz"),
        _call("result", "records/result.json", write_result, best, Path(f"md-{best}")),
    ]


def _often(steps: int) -> str:
    """Return the length of a training and what depends on it."""
    return f"steps={steps} schedule.warmup={max(1, steps // 20)} evaluate_every={max(1, steps // 5)} checkpoint_every={max(1, steps // 10)}"


def _training(name: str, steps: int, words: str) -> Job:
    return Job(name, f"{name}/best.safetensors", (*shlex.split(words), "--out", name), steps=steps)


def _command(name: str, makes: str, words: str) -> Job:
    return Job(name, makes, tuple(words.split()))


def _call(name: str, makes: str, call: Callable[..., None], *arguments: Any) -> Job:
    return Job(name, makes, call=call, arguments=arguments)


def _publish(out: Path, best: str, starting: Future[None] | None, pool: Executor, console: Console) -> MlipfmError | None:
    """Push and promote in the hub of the run; return what failed, which is raised when everything else is written."""
    try:
        if starting is not None:
            starting.result()
        run_lanes(out, [[_call("registry", "records/registry.json", registry.publish, MODELS, best)]], pool, console)
    except MlipfmError as error:
        return error
    return None
