"""The quickstart: label, pre-train, fine-tune, distil, simulate, check, measure, register, on two levels of real quantum chemistry, in minutes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlipfm_data.parallel import worker_pool
from mlipfm_eval.report import write_report
from mlipfm_interfaces.errors import MlipfmError, RegistryError
from mlipfm_interfaces.files import atomic_write, lock
from rich.console import Console

from . import registry_stage
from .bench_rows import bench_rows
from .data_stage import make_data
from .dynamics_stage import checkpoint_digest
from .findings import Findings
from .measuring_stage import gather, measuring_tasks
from .plan import Plan, claim
from .printout import print_findings
from .stages import Stages
from .tasks import Task, run_tasks
from .training_stage import TITLES, training_tasks


def quickstart(out: Path, plan: Plan, console: Console, registry: bool = True) -> dict[str, Any]:
    """Run every stage in `out` (what an earlier run finished is not done again), print tables, write and return `quickstart.json`.

    Args:
        registry: start a hub, push the models and promote the best.

    Raises:
        TrainingError: if `out` holds a quickstart of other settings. LockedError: another process is at work there. RegistryError: the registry
        failed; everything else is written.
    """
    start = time.perf_counter()
    out = out.resolve()  # recipes name the stores: however the folder is spelt, they are the same
    claim(out, plan)
    stages, skipped = Stages(console), registry_stage.missing() if registry else "not wanted"
    with lock(out / "lock"), worker_pool(max(2, os.cpu_count() or 1)) as pool:
        stores = make_data(out, plan, stages, pool)
        tasks = training_tasks(out, plan, stores, out / ".stop")
        tasks |= measuring_tasks(out, plan, stores)
        if skipped is None and not registry_stage.is_done(out):
            tasks["hub"] = Task("registry starts", registry_stage.start_hub, lambda done: (out / "hub",), ("pretrained",))
        try:
            results = run_tasks(tasks, stages, pool, out / ".stop")
            models = {name: str(results[name]) for name in TITLES}
            published, failure = _published(out, models, stages, skipped, results.get("hub"))
        finally:
            registry_stage.stop_hub(out / "hub")
    findings = gather(stores, results, published)
    seconds = {name: round(value, 1) for name, value in stages.seconds.items()} | {"total": round(time.perf_counter() - start, 1)}
    print_findings(console, findings, seconds)
    record = _write(out, plan, findings, models, seconds)
    page = write_report(out)
    said = f"Figures: {out / 'quickstart.json'}\nModels: {', '.join(models.values())}\nReport: {page.as_uri()}"
    console.print(said, soft_wrap=True, highlight=False)
    if failure is not None:
        raise failure
    return record


def _published(
    out: Path, models: Mapping[str, str], stages: Stages, skipped: str | None, fault: str | None
) -> tuple[dict[str, Any], MlipfmError | None]:
    """What came of the registry; a failure (`fault`: of its start) is kept until everything else is written."""
    if skipped is not None:
        return {"skipped": skipped}, None
    try:
        if fault is not None:
            raise RegistryError(f"the registry did not start: {fault}", mend="run the command again, or with --no-hub")
        with stages.stage("registry", len(models)):
            return registry_stage.publish(out, models, by="test"), None
    except MlipfmError as error:
        return {"failed": str(error)}, error


def _write(out: Path, plan: Plan, findings: Findings, models: Mapping[str, str], seconds: Mapping[str, float]) -> dict[str, Any]:
    """`quickstart.json`, and its figures once more, one a line, in `bench.json`, as result files of `tools/bench` are."""
    rows = bench_rows(findings, seconds)
    record = findings.as_dict() | {
        "plan": plan.name,
        "models": {name: checkpoint_digest(path) for name, path in models.items()},
        "seconds": dict(seconds),
        "rows": rows,
    }
    atomic_write(out / "quickstart.json", json.dumps(record, indent=1).encode())
    atomic_write(out / "bench.json", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
    return record
