"""The report of `pretraining`: data-efficiency ratios with intervals, their geometric mean over tasks, and a chart.

The data-efficiency ratio of an arm at n labels is m / n, m being the labels with which training from scratch reaches the same error; m follows from
scratch at the smallest and the largest n, between which errors fall as a power of n. Above 1 pre-training helps, below it harms. Where the error from
scratch does not fall with n there is no ratio, and the report says so; no ratio goes beyond the numbers of labels that were tried (10 for 50 and
500), where the power is not known. Beside it stands the ratio of the errors themselves, below 1 where pre-training helps. Intervals (95 %) are of
the bootstrap over seeds, those of geometric means over tasks and seeds; with one seed there are none for single tasks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.files import atomic_write

from bench.pretraining import Plan, results

RESAMPLES = 1000


def log_ratio(n: int, scratch: Mapping[int, Any], own: Any) -> Any:
    """Logarithm of the data-efficiency ratio at n labels; nan where the error from scratch does not fall.

    Args:
        scratch: number of labels -> error from scratch, a number or an array of resampled ones. own: error of the pre-trained model.
    """
    low, high = min(scratch), max(scratch)
    most = np.log(high / low)
    fall = np.log(scratch[low] / scratch[high]) / most
    return np.where(fall > 0, np.clip(np.log(scratch[n] / own) / np.where(fall > 0, fall, 1.0), -most, most), np.nan)


def error_ratios(plan: Plan, lines: Sequence[Mapping[str, Any]], scratch_arm: str) -> list[str]:
    """In Markdown: geometric means over tasks of the error beside that from scratch, with 95 % intervals of the bootstrap over tasks."""
    errors, rng, out = errors_of(lines), np.random.default_rng(0), []
    for arm in (arm for arm in plan.arms if arm != scratch_arm):
        cells = []
        for n in plan.sizes:
            keys = [((task, n, arm), (task, n, scratch_arm)) for task in plan.tasks]
            pairs = [(errors[own], errors[scratch]) for own, scratch in keys if {own, scratch} <= errors.keys()]
            logs = np.array([np.log(np.mean(own) / np.mean(scratch)) for own, scratch in pairs])
            again = logs[rng.integers(len(logs), size=(RESAMPLES, len(logs)))].mean(axis=1) if len(logs) > 1 else None
            interval = "" if again is None else " ({:.2f} to {:.2f})".format(*np.exp(np.quantile(again, (0.025, 0.975))))
            cells.append(f"{np.exp(logs.mean()):.2f}{interval}, {len(logs)} tasks" if len(logs) else "-")
        out.append(f"| {arm} | {' | '.join(cells)} |")
    head = [f"error beside `{scratch_arm}`, geometric mean over tasks (95 % interval)", ""]
    return [*head, f"| arm | {' | '.join(f'n = {n}' for n in plan.sizes)} |", "|---" * (1 + len(plan.sizes)) + "|", *out]


def errors_of(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int, str], list[float]]:
    """(task, n, arm) -> the errors of complete cells, one for each seed."""
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for line in lines:
        if "error" in line:
            found[line["task"], line["n"], line["arm"]].append(line["error"])
    return dict(found)


def table(plan: Plan, lines: Sequence[Mapping[str, Any]], scratch_arm: str = "none") -> list[dict[str, Any]]:
    """One row for each arm, n and task (None: the geometric mean), with ratio, interval and number of seeds or tasks, or why there is no ratio.

    Args:
        scratch_arm: what is compared with: from scratch for the whole time, or (`none-brief`) for that of fine-tuning.
    """
    errors, rng, rows = errors_of(lines), np.random.default_rng(0), []
    labels = {(line["task"], line["n"]): line["labels"] for line in lines if "error" in line}  # a set may have fewer than were planned
    means = {key: float(np.mean(values)) for key, values in errors.items()}
    again = {key: rng.choice(values, size=(RESAMPLES, len(values))).mean(axis=1) for key, values in errors.items()}
    for arm in (arm for arm in plan.arms if arm != scratch_arm):
        for n in plan.sizes:
            own, drawn = [], []
            for task in plan.tasks:
                row: dict[str, Any] = {"arm": arm, "n": n, "labels": labels.get((task, n)), "task": task}
                row["seeds"] = len(errors.get((task, n, arm), []))
                scratch = [m for m in plan.sizes if (task, m, scratch_arm) in errors]
                value, samples = np.nan, np.array([])
                if row["seeds"] and n in scratch and len({labels[task, m] for m in scratch}) > 1:
                    value, samples = (
                        log_ratio(labels[task, n], {labels[task, m]: given[task, m, scratch_arm] for m in scratch}, given[task, n, arm])
                        for given in (means, again)
                    )
                if np.isfinite(value):
                    own.append(float(value))
                    drawn.append(samples)
                    rows.append(row | {"ratio": float(np.exp(value)), "ci95": _interval(samples) if row["seeds"] > 1 else None})
                else:
                    reason = _why_not(bool(row["seeds"]), len(scratch))
                    rows.append(row | {"ratio": None, "reason": reason})
            if own:
                picked = rng.integers(len(own), size=(RESAMPLES, len(own)))
                whole = np.nanmean(np.array(drawn)[picked, rng.integers(RESAMPLES, size=picked.shape)], axis=1)
                mean = {"arm": arm, "n": n, "task": None, "tasks": len(own), "ratio": float(np.exp(np.mean(own)))}
                rows.append(mean | {"ci95": _interval(whole) if len(own) > 1 else None})
    return rows


def _why_not(was_run: bool, scratch: int) -> str:
    if not was_run:
        return "not run"
    if scratch < 2:
        return "from scratch was run with one number of labels only"
    return "the error from scratch does not fall with the number of labels"


def _interval(logs: np.ndarray) -> list[float]:
    return [float(np.exp(q)) for q in np.nanquantile(logs, (0.025, 0.975))]


def report(folder: Path) -> list[str]:
    """Write `report.json` and `report.png` into the folder, and return a table in Markdown."""
    plan, lines = Plan.read(folder), results(folder)
    rows = table(plan, lines)
    brief = table(plan, lines, "none-brief") if "none-brief" in plan.arms else []
    cells = {"complete": len(lines), "planned": len(plan.cells())}
    atomic_write(
        folder / "report.json",
        json.dumps({"cells": cells, "rows": rows, "rows_of_equal_fine_tuning": brief, "results": lines}, indent=1).encode(),
    )
    draw(plan, rows, folder / "report.png")
    tables = [*markdown(plan, rows, "none"), "", *error_ratios(plan, lines, "none")]
    if brief:
        tables += ["", *markdown(plan, brief, "none-brief"), "", *error_ratios(plan, lines, "none-brief")]
    return [f"{len(lines)} of {len(plan.cells())} cells", "", *tables, "", *_errors_table(plan, lines)]


def markdown(plan: Plan, rows: Sequence[Mapping[str, Any]], scratch_arm: str) -> list[str]:
    """Ratios by arm and n; a dash is explained in report.json."""
    found = {(row["arm"], row["n"], row["task"]): row for row in rows}
    head = ["arm", "n", *plan.tasks, "geometric mean"]
    lines = [f"data-efficiency ratio beside `{scratch_arm}` (95 % interval)", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm in (arm for arm in plan.arms if arm != scratch_arm):
        for n in plan.sizes:
            cells = [_shown(found.get((arm, n, task))) for task in (*plan.tasks, None)]
            lines.append(f"| {arm} | {n} | {' | '.join(cells)} |")
    return lines


def _shown(row: Mapping[str, Any] | None) -> str:
    if row is None or row["ratio"] is None:
        return "-"
    interval = row.get("ci95")
    return f"{row['ratio']:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _errors_table(plan: Plan, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    errors, units = errors_of(lines), {line["task"]: line["unit"] for line in lines if "unit" in line}
    labels = {(line["task"], line["n"]): line["labels"] for line in lines if "error" in line}
    head = ["task", "n", *plan.arms]
    out = ["mean absolute error on the test structures", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for task in plan.tasks:
        for n in plan.sizes:
            shown = [f"{np.mean(errors[task, n, arm]):.4g}" if (task, n, arm) in errors else "-" for arm in plan.arms]
            out.append(f"| {task}, {units.get(task, '-')} | {labels.get((task, n), n)} | {' | '.join(shown)} |")
    return out


def draw(plan: Plan, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Ratios of all tasks and their geometric means, by arm; one colour for each n. The line at 1 is training from scratch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = [arm for arm in plan.arms if arm != "none"]
    figure = Figure(figsize=(7, 1.5 + 0.5 * len(arms)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1.0, color="0.5", linewidth=1)
    for k, n in enumerate(plan.sizes):
        for row in (row for row in rows if row["n"] == n and row["ratio"] is not None):
            place = arms.index(row["arm"]) + 0.25 * (k - (len(plan.sizes) - 1) / 2)
            if row["task"] is None:
                axes.plot(row["ratio"], place, "D", color=f"C{k}", label=f"n = {n}, geometric mean")
                if row["ci95"]:
                    axes.plot(row["ci95"], [place, place], "-", color=f"C{k}")
            else:
                axes.plot(row["ratio"], place, ".", color=f"C{k}", alpha=0.4)
    labels = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if labels:
        axes.legend(list(labels.values()), list(labels), fontsize=8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(arms)), arms)
    axes.set_xlabel("labels from scratch for the same error / labels (data-efficiency ratio)")
    FigureCanvasAgg(figure).print_png(str(path))
