"""The work behind `mlipfm check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer
from mlipfm_interfaces.console import open_console
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import ContractError, MissingLabelsError
from mlipfm_interfaces.result_records import write_record
from mlipfm_interfaces.structure import Structure
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .check import Outcome, broken, check_model, check_record, held_to, rules_of, unjudged
from .check_behaviour import within
from .check_subject import LIMITS
from .opening import opened

_STYLE = {"held": "green", "measured": "cyan", "skipped": "dim", "broken": "bold red"}


def run(
    address: str,
    record: Path | None,
    precision: str | None,
    everything: bool = False,
    required: Sequence[str] = (),
    *,
    data: Path | None = None,
    elements: str | None = None,
    quick: bool = False,
) -> None:
    """Check, print the table, write the record, and exit with 1 if a rule is broken, naming it. required: promises that it must keep."""
    own, numbers = structures_in(data), elements_of(elements)
    if precision is not None and precision not in LIMITS:
        raise ContractError(f"no precision is named {precision!r}", mend=f"choose one of: {', '.join(LIMITS)}")
    for promise in required:
        rules_of(promise)  # refuses what no rule is about before anything is measured
    console = open_console()
    with opened(address) as model, Progress(
        TextColumn("rules"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:  # fmt: skip
        task = bar.add_task("rules", total=None)
        outcomes = check_model(
            model.model,
            precision,
            lambda done, total: bar.update(task, completed=done, total=total),
            data=own,
            elements=numbers,
            quick=quick,
        )
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


def structures_in(path: Path | None) -> list[Structure]:
    """A few structures of a store or a file, those first that bring elements the others lack; none without a path.

    Raises:
        what the store and the readers raise; MissingLabelsError: there are no structures.
    """
    if path is None:
        return []
    from mlipfm_data.readers.registry import read
    from mlipfm_data.store.store import Store
    from mlipfm_interfaces.examples import chosen

    if (path / "manifest.json").exists():
        with Store(path) as store:
            found = chosen(store)
    else:
        found = chosen([s for s in read(path) if isinstance(s, Structure)])
    if not found:
        raise MissingLabelsError("there are no structures in it", where=str(path))
    return found


def elements_of(names: str | None) -> list[int]:
    """Atomic numbers of `H,C,O` or `H C O`.

    Raises:
        UnknownElementError: for a name that no element has.
    """
    return sorted({number(name) for name in (names or "").replace(",", " ").split()})


def figure(value: float | None, limit: float | None) -> tuple[str, str]:
    """Both as text, with as many digits as keep them in their order: what is above its limit is shown above it, what is not is not."""
    if value is None or limit is None:
        return "-" if value is None else f"{value:.2g}", "-" if limit is None else f"{limit:.2g}"
    for digits in range(2, 18):
        shown = f"{value:.{digits}g}", f"{limit:.{digits}g}"
        if (float(shown[0]) <= float(shown[1])) == within(value, limit):
            break
    return shown


def _once(outcomes: list[Outcome]) -> list[Outcome]:
    """A rule of both suites in one row, that with the figure, unless the contract alone is broken: then in two, each with its own verdict."""
    seen = {o.rule: o for o in outcomes if o.suite == "behaviour"}
    inside = {o.rule: o for o in outcomes if o.suite == "contract" and o.rule in seen}
    rows = []
    for o in outcomes:
        if o.suite == "contract" and o.rule in seen:
            if o.status == "broken" and seen[o.rule].status != "broken":
                rows.append(replace(o, remark=f"contract: {o.remark}"))
        elif o.suite == "behaviour" and o.status == "broken" and o.rule in inside and inside[o.rule].status == "broken":
            rows.append(replace(o, remark="; ".join(filter(None, [f"contract: {inside[o.rule].remark}", o.remark]))))
        else:
            rows.append(o)
    return rows


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
        value, limit = figure(o.value, o.limit)
        named = [o.suite, o.rule] if everything else [o.rule]
        cells = [*named, value, limit, o.unit if o.value is not None else "", f"[{_STYLE[o.status]}]{o.status}[/]"]
        shown.add_row(*cells, *([escape(o.remark)] if remarks else []))
    return shown
