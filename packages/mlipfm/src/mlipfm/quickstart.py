"""The quickstart: label, pre-train, fine-tune, simulate and measure, on two levels of real quantum chemistry, in minutes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from mlipfm_data.label_pool import worker_pool
from mlipfm_eval.report import write_report
from mlipfm_interfaces.files import atomic_write, lock
from mlipfm_interfaces.metrics import Metric
from rich.console import Console
from rich.table import Table

from .data_stage import make_data
from .measure_stage import Findings, checkpoint_digest, measure
from .plan import Plan, claim
from .stages import Stages
from .training_stage import Models, train_models


def quickstart(out: Path, plan: Plan, console: Console) -> dict[str, Any]:
    """Run every stage in `out` (what an earlier run finished is not done again), print the table, write and return `quickstart.json`.

    Raises:
        TrainingError: if `out` holds a quickstart of other settings. LockedError: another process is at work there.
    """
    start = time.perf_counter()
    out = out.resolve()  # recipes name the stores: however the folder is spelt, they are the same
    claim(out, plan)
    stages = Stages(console)
    with lock(out / "lock"), worker_pool(max(2, os.cpu_count() or 1)) as pool:
        stores = make_data(out, plan, stages, pool)
        models = train_models(out, plan, stores, stages, pool)
        findings = measure(plan, stores, models, stages, pool)
    seconds = time.perf_counter() - start
    report(console, findings, stages, seconds)
    record = findings.as_dict() | {
        "plan": plan.name,
        "models": {name: checkpoint_digest(getattr(models, name)) for name in Models.__dataclass_fields__},
        "seconds": {name: round(value, 1) for name, value in stages.seconds.items()} | {"total": round(seconds, 1)},
    }
    atomic_write(out / "quickstart.json", json.dumps(record, indent=1).encode())
    page = write_report(out)
    console.print(
        f"Figures: {out / 'quickstart.json'}, as a page: {page}. Models: {models.finetuned} (conservative), {models.pretrained} (direct)."
    )
    return record


def report(console: Console, findings: Findings, stages: Stages, seconds: float) -> None:
    """The table of errors and drifts, the verdict, and the seconds of each stage."""
    errors = Table(title="Errors on held-out molecules at GFN2-xTB, 95 % intervals over molecules")
    errors.add_column("model")
    for key in ("energy MAE, meV/atom", "force MAE, meV/Å", "force cosine"):
        errors.add_column(key, justify="right")
    for model, row in findings.accuracy.items():
        errors.add_row(model, *(_figure(row[key]) for key in ("energy_mae", "force_mae", "force_cosine")))
    drifts = Table(title="Energy drift in constant-energy dynamics at 300 K, 95 % intervals over molecules")
    drifts.add_column("forces")
    drifts.add_column("drift, meV/atom/ps", justify="right")
    drifts.add_column("size of it", justify="right")
    drifts.add_column("broke off", justify="right")
    for model, kind in (("direct", "direct (pre-trained)"), ("fine-tuned", "conservative (fine-tuned)")):
        metric = findings.drift[model]
        drifts.add_row(kind, _figure(metric), _figure(findings.size[model]), f"{findings.unstable[model]} of {metric.n_total}")
    console.print(errors)
    console.print(drifts)
    console.print(findings.verdict, style="bold")
    console.print(", ".join(f"{name} {value:.0f} s" for name, value in stages.seconds.items()) + f"; total {seconds:.0f} s")


def _figure(metric: Metric) -> str:
    interval = f" [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]" if metric.ci95 is not None else ""
    failed = f", {metric.failed} of {metric.n_total} failed" if metric.failed else ""
    return f"{metric.value:.3g}{interval}{failed}"
