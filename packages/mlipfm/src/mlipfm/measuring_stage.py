"""The tasks that judge models: errors, checks, dynamics, speed; and what came of them all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data_stage import Stores
from .dynamics_stage import dynamics_of, speeds
from .findings import COMPARED, SETS, Findings, metric
from .judging_stage import Judged, check_one, evaluate_one
from .plan import Plan
from .tasks import Results, Task
from .training_stage import CONSERVATIVE, TITLES

#: Models whose dynamics are run -> whether also with a thermostat. Direct forces show what they do to the energy.
_DYNAMICS = {"finetuned": True, "student": True, "pretrained": False}
_TIMED = ("finetuned", "student")


def measuring_tasks(out: Path, plan: Plan, stores: Stores) -> dict[str, Task]:
    """Tasks on the results of the trainings, whose names are those of the models."""
    tasks = {}
    for name, thermostat in _DYNAMICS.items():
        tasks[f"dynamics {name}"] = _task(
            "dynamics", dynamics_of, name, stores.test, plan, out / "measured" / f"dynamics-{name}.json", thermostat
        )
    for name in TITLES:
        record = out / "records" / f"check-{name}.json"
        tasks[f"check {name}"] = _task("checks", check_one, name, record)
    for name in TITLES:
        record = out / "records" / f"evaluation-{name}.json"
        inside, outside = ([stores.known], [stores.test, stores.hot]) if name in CONSERVATIVE else ([stores.pretrain_valid], [])
        tasks[f"evaluate {name}"] = _task("errors", evaluate_one, name, inside, outside, record)
    tasks["speeds"] = Task(
        "speed",
        speeds,
        lambda done: ({name: done[name] for name in _TIMED}, stores.test, plan, out / "measured" / "speeds.json"),
        (*TITLES, *tasks),
    )
    return tasks


def gather(stores: Stores, results: Results, registry: Mapping[str, Any]) -> Findings:
    """Findings from the results of all tasks."""
    judged: dict[str, Judged] = {name: results[f"evaluate {name}"] for name in TITLES}
    return Findings(
        evaluations={name: found.record for name, found in judged.items()},
        checks={name: results[f"check {name}"] for name in TITLES},
        ratios=_ratios(stores, judged),
        dynamics={name: {key: metric(m) for key, m in results[f"dynamics {name}"].items()} for name in _DYNAMICS},
        speeds=results["speeds"],
        registry=registry,
    )


def _task(title: str, work: Any, model: str, *arguments: Any) -> Task:
    return Task(title, work, lambda done: (done[model], *arguments), (model,))


def _ratios(stores: Stores, judged: Mapping[str, Judged]) -> dict[str, dict[str, Any]]:
    """Comparison -> set -> paired ratio of force errors."""
    from mlipfm_data.store.store import Store
    from mlipfm_eval.accuracy import Predictions, force_error_ratio

    ratios: dict[str, dict[str, Any]] = {comparison: {} for comparison in COMPARED}
    for name in SETS:
        with Store(getattr(stores, name)) as store:
            structures = list(store)
        for comparison, pair in COMPARED.items():
            first, second = (Predictions(structures, *judged[model].answers[name]) for model in pair)
            ratios[comparison][name] = force_error_ratio(first, second)
    return ratios
