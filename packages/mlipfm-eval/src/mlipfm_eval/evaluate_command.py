"""The work behind `mlipfm evaluate`."""

from __future__ import annotations

from pathlib import Path

from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import write_record
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .evaluation import Evaluated, evaluate_set, evaluation_record, ood_ratio, open_sets
from .opening import opened

COLUMNS = {"energy_mae": "energy MAE", "energy_rmse": "energy RMSE", "force_mae": "force MAE", "force_rmse": "force RMSE", "force_p99": "force P99",
           "force_cosine": "cosine"}  # fmt: skip


def run(address: str, stores: list[Path], ood: list[Path], record: Path | None, level: str | None) -> None:
    """Evaluate, print tables, write the record."""
    sets, console = open_sets(stores, ood, level), open_console()
    total = sum(len(data.structures) for data in sets)
    with opened(address) as model, Progress(
        TextColumn("structures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:  # fmt: skip
        task, done, results = bar.add_task("structures", total=total), 0, []
        for data in sets:
            results.append(
                evaluate_set(model.model, data, level=level, progress=lambda n, before=done: bar.update(task, completed=before + n))  # type: ignore[misc]  # a default binds the loop variable
            )
            done += len(data.structures)
        if record is not None:
            write_record(record, evaluation_record(model, results, level))
    _print(console, results)
    silent = [r.set.name for r in results if sum(r.reasons.values()) >= len(r.set.structures)]
    if silent:
        raise MlipfmError(
            "no structure was answered", where=", ".join(silent), mend="the reasons stand above; another model, or other data?"
        )


def _print(console: Console, results: list[Evaluated]) -> None:
    shown = Table(title="Errors, 95 % intervals over molecules or trajectories")
    shown.add_column("", no_wrap=True)
    for r in results:
        counts = f"{len(r.set.structures)} structures, {len(set(r.predictions.groups))} groups"
        shown.add_column(f"{escape(r.set.name)} ({r.set.split.upper()})\n{counts}", justify="right")
    for key, name in COLUMNS.items():
        unit = results[0].figures[key].unit
        shown.add_row(name + (f", {unit}" if unit != "1" else ""), *(figure(r.figures[key]) for r in results))
    console.print(shown)
    elements = sorted({symbol for r in results for symbol in r.elements})
    by_element = Table(title="Force MAE by element, meV/Å")
    for name in ("set", *elements):
        by_element.add_column(name, justify="left" if name == "set" else "right")
    for r in results:
        by_element.add_row(escape(r.set.name), *(figure(r.elements[e]) if e in r.elements else "-" for e in elements))
    console.print(by_element)
    for r in results:
        if len(set(r.predictions.groups)) == 1:
            console.print(
                f"{escape(r.set.name)}: no intervals, which need two molecules or trajectories or more; all structures are of one"
            )
    ratio = ood_ratio(results)
    if ratio is not None:
        console.print(f"{ratio.name}: {figure(ratio)}")
    for r in results:
        for reason, n in r.reasons.items():
            console.print(
                f"{escape(r.set.name)}: {n} of {len(r.set.structures)} structures without an answer: {escape(reason)}", style="yellow"
            )
        if r.reasons:
            console.print(
                f"{escape(r.set.name)}, failures penalised: "
                + ", ".join(f"{COLUMNS[key]} {value:.4g}" for key, value in r.penalised.items())
            )


def figure(metric: Metric) -> str:
    """`353.8 [293.3, 394.9]`."""
    if metric.ci95 is None:
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"
