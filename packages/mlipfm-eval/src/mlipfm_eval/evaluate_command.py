"""The work behind `mlipfm evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import write_record
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .evaluation import Evaluated, LabelledSet, evaluate_set, evaluation_record, ood_ratio, open_sets, seen_text
from .evaluation_page import FIGURES, write_evaluation_page
from .opening import Opened, opened


def run(
    address: str,
    data: Sequence[Path],
    ood: Sequence[Path],
    record: Path | None,
    level: str | None,
    *,
    out: Path | None = None,
    page: Path | None = None,
    reading: Mapping[str, Any] | None = None,
) -> None:
    """Evaluate, print tables, write the record, the predictions and the page."""
    sets, console = open_sets(data, ood, level, **(reading or {})), open_console()
    for one in sets:
        for note in one.notes:
            console.print(f"{escape(one.name)}: {escape(note)}", style="dim")
    with opened(address) as model:
        results = evaluated(model, sets, level, console)
        if record is not None:
            write_record(record, evaluation_record(model, results, level))
        if page is not None:
            write_evaluation_page(page, model, results)
    if out is not None:
        _write_predictions(out, results)
    _print(console, results)
    for written in (out, page, record):
        if written is not None:
            console.print(f"written: {escape(str(written))}")
    silent = [r.set.name for r in results if sum(r.reasons.values()) >= len(r.set.structures)]
    if silent:
        raise MlipfmError(
            "no structure was answered", where=", ".join(silent), mend="the reasons stand above; another model, or other data?"
        )


def evaluated(model: Opened, sets: Sequence[LabelledSet], level: str | None, console: Console) -> list[Evaluated]:
    """Evaluate one model on all sets, with a progress bar."""
    total, done, results = sum(len(data.structures) for data in sets), 0, []
    with Progress(
        TextColumn("structures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:  # fmt: skip
        task = bar.add_task("structures", total=total)

        def shown(before: int) -> Callable[[int], None]:
            return lambda n: bar.update(task, completed=before + n)

        for data in sets:
            results.append(evaluate_set(model.model, data, level=level, progress=shown(done), manifest=model.manifest))
            done += len(data.structures)
    return results


def _write_predictions(path: Path, results: Sequence[Evaluated]) -> None:
    """All structures with their labels (`REF_...`) and predictions (`pred_...`) as extended XYZ; those without an answer have no prediction."""
    from mlipfm_data import export_extxyz

    structures = [s for r in results for s in r.predictions.structures]
    export_extxyz(structures, path, [_predicted(r, k) for r in results for k in range(len(r.predictions.structures))])


def _predicted(result: Evaluated, k: int) -> dict[str, np.ndarray]:
    p = result.predictions
    if k in p.failures:
        return {}
    values = {"energy": np.array(p.energies[k]), "forces": p.forces[k]}
    return values | ({"stress": p.stresses[k]} if np.isfinite(p.stresses[k]).all() else {})


def _print(console: Console, results: Sequence[Evaluated]) -> None:
    shown = Table(title="Errors with 95 % intervals")
    shown.add_column("", no_wrap=True)
    for r in results:
        known = "\nKNOWN FROM TRAINING" if r.seen else ""
        shown.add_column(f"{escape(r.set.name)} ({r.set.split.upper()})\n{len(r.set.structures)} structures{known}", justify="right")
    for key in ("energy", "forces", "stress"):
        if any(key in r.predictions.cases for r in results):
            shown.add_row(f"structures with {key}", *(str(len(r.predictions.cases.get(key, ()))) for r in results))
    for key, name in FIGURES.items():
        if any(key in r.figures for r in results):
            shown.add_row(name, *(figure(r.figures[key]) if key in r.figures else "-" for r in results))
    console.print(shown)
    elements = sorted({symbol for r in results for symbol in r.elements})
    if elements:
        by_element = Table(title="Force MAE by element, meV/Å")
        for name in ("set", *elements):
            by_element.add_column(name, justify="left" if name == "set" else "right")
        for r in results:
            by_element.add_row(escape(r.set.name), *(figure(r.elements[e]) if e in r.elements else "-" for e in elements))
        console.print(by_element)
    for r in results:
        _print_remarks(console, r)
    ratio = ood_ratio(results)
    if ratio is not None:
        console.print(f"{ratio.name}: {figure(ratio)}")


def _print_remarks(console: Console, r: Evaluated) -> None:
    name = escape(r.set.name)
    if r.seen:
        console.print(f"{name}: {escape(seen_text(r))}", style="bold red")
    console.print(f"{name}: {r.predictions.interval_over}")
    if r.left_out:
        console.print(f"{name}: {r.left_out} structures of weight 0 are left out")
    if r.masked_atoms:
        console.print(f"{name}: forces of {r.masked_atoms} atoms are left out (forces_weight 0)")
    if any("stress" in s.labels for s in r.set.structures) and "stress" not in r.predictions.cases:
        console.print(
            f"{name}: labels of stress are not compared: the model has no stress, or the structures are not periodic in three directions"
        )
    for reason, n in r.reasons.items():
        console.print(f"{name}: {n} of {len(r.set.structures)} structures without an answer: {escape(reason)}", style="yellow")
    if r.reasons:
        console.print(f"{name}, failures penalised: " + "; ".join(f"{FIGURES[key]} {value:.4g}" for key, value in r.penalised.items()))


def figure(metric: Metric) -> str:
    """`353.8 [293.3, 394.9]`."""
    if metric.ci95 is None:
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]"
