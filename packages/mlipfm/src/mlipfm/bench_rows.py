"""Figures of a quickstart as rows of the project's benchmarks: one object per figure, with what it is compared with."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlipfm_interfaces.metrics import Metric

from .findings import COMPARED, SETS, Findings
from .training_stage import TITLES

Row = dict[str, Any]

#: What a model is compared with; the others are controls themselves.
_PEERS = {"finetuned": "scratch", "student": "finetuned"}


def bench_rows(findings: Findings, seconds: Mapping[str, float]) -> list[Row]:
    """Rows with `bench`, `name`, `value`, `unit`, `n`, `q1`, `q3`, `threads`, `peer`, `peer_value`, `ratio`, `commit`.

    `n` counts repeats, over which `q1` and `q3` are quartiles: all but the timings of dynamics come from one run with one seed. Their intervals
    over molecules are in `quickstart.json`. A figure that could not be measured has no row.
    """
    commit = commit_of(Path(__file__).parent)
    rows = [*_errors(findings), *_ratios(findings), *_dynamics(findings), *_speeds(findings)]
    rows += [_row(f"seconds, {name}", [value], "s") for name, value in seconds.items()]
    return [row | {"commit": commit} for row in rows if row["value"] is not None]


def commit_of(folder: Path) -> str:
    """Short hash of the commit that is checked out around `folder`, `+` for changed files; `unknown` outside a repository."""

    def git(*arguments: str) -> str:
        found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
        return found.stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _errors(findings: Findings) -> list[Row]:
    rows = []
    for name in SETS:
        figures = {model: findings.figures(model, name) for model in findings.evaluations if model != "pretrained"}
        for model, row in figures.items():
            for key in ("energy_mae", "force_mae", "force_cosine"):
                peer = (TITLES[_PEERS[model]], figures[_PEERS[model]][key]) if model in _PEERS else None
                rows.append(_metric_row(f"{row[key].name}, {name}, {TITLES[model]}", row[key], peer))
    return rows


def _ratios(findings: Findings) -> list[Row]:
    rows = []
    for comparison, row in findings.ratios.items():
        first, second = (TITLES[model] for model in COMPARED[comparison])
        rows += [_metric_row(f"force MAE ratio, {name}, {first} over {second}", found) for name, found in row.items()]
    return rows


def _dynamics(findings: Findings) -> list[Row]:
    rows = []
    for model, row in findings.dynamics.items():
        peer = findings.dynamics.get("finetuned", {}) if model != "finetuned" else {}
        for key, found in row.items():
            rows.append(_metric_row(f"{found.name}, {TITLES[model]}", found, (TITLES["finetuned"], peer[key]) if key in peer else None))
    return rows


def _speeds(findings: Findings) -> list[Row]:
    teacher = findings.speeds["finetuned"]
    rows = []
    for model, values in findings.speeds.items():
        peer = (TITLES["finetuned"], statistics.median(teacher)) if model != "finetuned" else None
        rows.append(_row(f"dynamics, {TITLES.get(model, model)}", values, "steps/s", peer))
    return rows


def _metric_row(name: str, found: Metric, peer: tuple[str, Metric] | None = None) -> Row:
    other = None if peer is None else (peer[0], peer[1].as_dict()["value"])
    return _row(name, [found.as_dict()["value"]], found.unit, other)


def _row(name: str, values: Sequence[Any], unit: str, peer: tuple[str, Any] | None = None) -> Row:
    """The row of repeated measurements; `value` is None if one of them failed, and there is no peer if that failed."""
    good = None not in values
    q1, value, q3 = _quartiles(values) if good else (None,) * 3
    row = {"bench": "quickstart", "name": name, "value": value, "unit": unit, "n": len(values), "q1": q1, "q3": q3, "threads": 1}
    if peer is None or not good or not peer[1]:
        return row | {"peer": None, "peer_value": None, "ratio": None}
    return row | {"peer": peer[0], "peer_value": peer[1], "ratio": value / peer[1]}


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    q1, middle, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, middle, q3
