"""The work behind `mlipfm check`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer
from mlipfm_interfaces.errors import ContractError
from mlipfm_interfaces.result_records import write_record
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .check import Outcome, broken, check_model, check_record
from .check_subject import LIMITS
from .opening import opened

_STYLE = {"held": "green", "measured": "cyan", "skipped": "dim", "broken": "bold red"}


def run(address: str, record: Path | None, precision: str | None, everything: bool = False) -> None:
    """Check, print the table, write the record, and exit with 1 if a rule is broken, naming it."""
    if precision is not None and precision not in LIMITS:
        raise ContractError(f"no precision is named {precision!r}", mend=f"choose one of: {', '.join(LIMITS)}")
    console = Console()
    with opened(address) as model, Progress(
        TextColumn("rules"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bar:  # fmt: skip
        task = bar.add_task("rules", total=None)
        outcomes = check_model(model.model, precision, lambda done, total: bar.update(task, completed=done, total=total))
        if record is not None:
            write_record(record, check_record(model, outcomes))
    console.print(table(outcomes, everything))
    if not everything:
        held = sum(_plain(o) for o in outcomes)
        if held:
            console.print(f"and {held} rules of the contract held (--all shows them)", style="dim", highlight=False)
    failed = broken(outcomes)
    if failed:
        typer.echo(f"mlipfm: {address} breaks {len(failed)} rule{'s' * (len(failed) > 1)}: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
    count = {status: sum(o.status == status for o in outcomes) for status in _STYLE}
    rest = ", ".join(f"{count[status]} {status}" for status in ("measured", "skipped") if count[status])
    console.print(f"{address} breaks no rule: {count['held']} held" + (f", {rest}" if rest else ""), style="bold green", highlight=False)


def _plain(outcome: Outcome) -> bool:
    """A rule of which there is nothing to say but that it held."""
    return outcome.status == "held" and outcome.value is None


def table(outcomes: list[Outcome], everything: bool = True) -> Table:
    """Rule, figure, limit, verdict, remark; without `everything` only rules with a figure or a trouble, and remarks only where they explain one."""
    if not everything:
        outcomes = [o if o.status in ("broken", "skipped") else replace(o, remark="") for o in outcomes if not _plain(o)]
    remarks = any(o.remark for o in outcomes)
    shown = Table()
    columns = [("rule", "left"), ("figure", "right"), ("limit", "right"), ("unit", "left"), ("verdict", "left")]
    for name, justify in columns + [("remark", "left")] * remarks:
        shown.add_column(name, justify=justify, overflow="fold", no_wrap=name in ("rule", "verdict"))  # type: ignore[arg-type]  # the two words are what rich takes
    for k, o in enumerate(outcomes):
        if k and o.suite != outcomes[k - 1].suite:
            shown.add_section()
        figure, limit = (("-" if number is None else f"{number:.2g}") for number in (o.value, o.limit))
        cells = [o.rule, figure, limit, o.unit if o.value is not None else "", f"[{_STYLE[o.status]}]{o.status}[/]"]
        shown.add_row(*cells, *([o.remark] if remarks else []))
    return shown
