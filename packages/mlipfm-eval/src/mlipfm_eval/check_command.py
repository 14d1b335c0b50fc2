"""The work behind `mlipfm check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.errors import ContractError
from mlipfm_interfaces.result_records import write_record
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .check import Outcome, broken, check_model, check_record, held_to, rules_of, unjudged
from .check_subject import LIMITS
from .opening import opened

_STYLE = {"held": "green", "measured": "cyan", "skipped": "dim", "broken": "bold red"}


def run(address: str, record: Path | None, precision: str | None, everything: bool = False, required: Sequence[str] = ()) -> None:
    """Check, print the table, write the record, and exit with 1 if a rule is broken, naming it. required: promises that it must keep."""
    if precision is not None and precision not in LIMITS:
        raise ContractError(f"no precision is named {precision!r}", mend=f"choose one of: {', '.join(LIMITS)}")
    for promise in required:
        rules_of(promise)  # refuses what no rule is about before anything is measured
    console = open_console()
    with opened(address) as model, Progress(
        TextColumn("rules"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:  # fmt: skip
        task = bar.add_task("rules", total=None)
        outcomes = check_model(model.model, precision, lambda done, total: bar.update(task, completed=done, total=total))
        outcomes = held_to(outcomes, *required)
        if record is not None:
            write_record(record, check_record(model, outcomes, required))
    console.print(table(outcomes, everything))
    if not everything:
        held = sum(_plain(o) for o in outcomes)
        if held:
            console.print(f"and {held} rules of the contract held (--all shows them)", style="dim", highlight=False)
    failed = broken(outcomes)
    if failed:
        typer.echo(f"mlipfm: {address} breaks {len(failed)} rule{'s' * (len(failed) > 1)}: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
    style = "bold yellow" if unjudged(outcomes, "conservative") else "bold green"
    console.print(verdict(address, outcomes), style=style, highlight=False, soft_wrap=True)


def verdict(address: str, outcomes: list[Outcome]) -> str:
    """One sentence on a model that breaks no rule, and what was not held against it if it is not conservative."""
    count = {status: sum(o.status == status for o in outcomes) for status in _STYLE}
    rest = ", ".join(f"{count[status]} {status}" for status in ("measured", "skipped") if count[status])
    text = f"{address} breaks no rule: {count['held']} held" + (f", {rest}" if rest else "")
    loose = unjudged(outcomes, "conservative")
    if not loose:
        return text
    figures = ", ".join(f"{o.rule} {o.value:.2g} {o.unit} (limit {o.limit:.2g})" for o in loose if o.rule == "nve-drift")
    others = ", ".join(o.rule for o in loose if o.rule != "nve-drift")
    return (
        f"{text}. It is NOT CONSERVATIVE: its forces are no gradient of its energy, and energy conservation was not held against it: "
        f"{figures}{', ' * bool(figures and others)}{others}. --require conservative does"
    )


def _plain(outcome: Outcome) -> bool:
    """A rule of which there is nothing to say but that it held."""
    return outcome.status == "held" and outcome.value is None


def _once(outcomes: list[Outcome]) -> list[Outcome]:
    """A rule of both suites in one row, that with the figure: broken if either is, and then with the reason."""
    seen = {o.rule for o in outcomes if o.suite == "behaviour"}
    inside = {o.rule: o for o in outcomes if o.suite == "contract" and o.rule in seen}
    rows = [o for o in outcomes if o.suite == "behaviour" or o.rule not in seen]
    return [_joined(inside[o.rule], o) if o.suite == "behaviour" and o.rule in inside else o for o in rows]


def _joined(contract: Outcome, o: Outcome) -> Outcome:
    if contract.status != "broken":
        return o
    inside = [f"contract: {contract.remark}"] if contract.remark else []
    own = [o.remark] if o.status == "broken" and o.remark else []
    return replace(o, status="broken", remark="; ".join([*inside, *own]))


def table(outcomes: list[Outcome], everything: bool = True) -> Table:
    """Rule, figure, limit, verdict, remark; without `everything` each rule once, only those with a figure or a trouble, and remarks only where they
    explain one. With it a column says which suite saw the rule."""
    if not everything:
        outcomes = _once(outcomes)
        outcomes = [o if o.status in ("broken", "skipped") else replace(o, remark="") for o in outcomes if not _plain(o)]
    remarks = any(o.remark for o in outcomes)
    shown = Table()
    names = [("suite", "left")] * everything + [("rule", "left")]
    columns = [*names, ("figure", "right"), ("limit", "right"), ("unit", "left"), ("verdict", "left")]
    for name, justify in columns + [("remark", "left")] * remarks:
        shown.add_column(name, justify=justify, overflow="fold", no_wrap=name in ("suite", "rule", "verdict"))  # type: ignore[arg-type]  # the two words are what rich takes
    for k, o in enumerate(outcomes):
        if k and o.suite != outcomes[k - 1].suite:
            shown.add_section()
        figure, limit = (("-" if number is None else f"{number:.2g}") for number in (o.value, o.limit))
        named = [o.suite, o.rule] if everything else [o.rule]
        cells = [*named, figure, limit, o.unit if o.value is not None else "", f"[{_STYLE[o.status]}]{o.status}[/]"]
        shown.add_row(*cells, *([escape(o.remark)] if remarks else []))
    return shown
