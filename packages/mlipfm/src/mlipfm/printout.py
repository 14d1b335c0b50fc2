"""What the quickstart prints at its end: tables of errors, dynamics, checks and speed, the verdicts, and the seconds of each stage."""

from __future__ import annotations

from collections.abc import Mapping

from mlipfm_interfaces.metrics import Metric
from rich.console import Console
from rich.table import Table

from .findings import SETS, Findings, median
from .training_stage import TITLES


def print_findings(console: Console, findings: Findings, seconds: Mapping[str, float]) -> None:
    """Everything that was measured."""
    for table in (_errors(findings), _dynamics(findings), _checks(findings)):
        console.print(table)
    for sentence in findings.verdicts:
        console.print(sentence, style="bold", highlight=False)
    console.print(_registry(findings.registry), highlight=False)
    console.print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()), style="dim", highlight=False)


def _errors(findings: Findings) -> Table:
    table = Table(title="Force MAE in meV/Å at GFN2-xTB, 95 % intervals over molecules")
    table.add_column("model")
    for what in SETS.values():
        table.add_column(what, justify="right")
    for name in ("known", "test"):
        table.add_column(f"energy, {SETS[name]}, meV/atom", justify="right")
    for model in findings.evaluations:
        if model != "pretrained":
            figures = {name: findings.figures(model, name) for name in SETS}
            table.add_row(
                TITLES[model],
                *(_figure(row["force_mae"]) for row in figures.values()),
                *(_figure(figures[name]["energy_mae"]) for name in ("known", "test")),
            )
    return table


def _dynamics(findings: Findings) -> Table:
    table = Table(title="Dynamics of the held-out molecules at 300 K, steps of 0.5 fs")
    table.add_column("model")
    for what in ("energy drift, meV/atom/ps", "broke off", "temperature with thermostat, K", "steps/s, all at once"):
        table.add_column(what, justify="right")
    for model, row in findings.dynamics.items():
        kind = "direct forces" if model == "pretrained" else "conservative"
        speed = f"{median(findings.speeds[model]):.0f}" if model in findings.speeds else "-"
        warm = _figure(row["temperature"]) if "temperature" in row else "-"
        table.add_row(f"{TITLES[model]} ({kind})", _figure(row["drift"]), f"{row['drift'].failed} of {row['drift'].n_total}", warm, speed)
    table.add_row("GFN2-xTB itself", "-", "-", "-", f"{median(findings.speeds['gfn2-xtb']):.1f}")
    return table


def _checks(findings: Findings) -> Table:
    table = Table(title="Checks: physics that dynamics need")
    for name in ("model", "verdict", "rules broken"):
        table.add_column(name)
    for model, record in findings.checks.items():
        broken = record["details"]["broken"]
        table.add_row(
            TITLES[model], "passed" if record["passed"] else "failed", ", ".join(broken) or "-", style=None if record["passed"] else "red"
        )
    return table


def _registry(found: Mapping[str, object]) -> str:
    if "skipped" in found:
        return f"Registry left out: {found['skipped']}."
    if "failed" in found:
        return f"Registry failed: {found['failed']}"
    versions, promoted, refused = found["versions"], found["promoted"], found["refused"]
    assert isinstance(versions, dict)
    assert isinstance(promoted, dict)
    assert isinstance(refused, dict)
    ((address, digest),) = promoted.items()
    best = TITLES[str(found["best"])]
    lines = [f"Registry: {len(versions)} models pushed; {address} is {best}, which another process pulled: the same digest, {digest[:12]}."]
    lines += [f"Not promoted: {TITLES[model]}: {why}" for model, why in refused.items()]
    return "\n".join(lines)


def _figure(metric: Metric) -> str:
    interval = f" [{metric.ci95[0]:.3g}, {metric.ci95[1]:.3g}]" if metric.ci95 is not None else ""
    failed = f", {metric.failed} of {metric.n_total} failed" if metric.failed else ""
    return f"{metric.value:.3g}{interval}{failed}"
