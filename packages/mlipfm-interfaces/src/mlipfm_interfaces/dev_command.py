"""`mlipfm dev`: commands for those who extend mlipfm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from .testing.contracts import Trial

app = typer.Typer(no_args_is_help=True, help="For those who extend mlipfm.")


@app.callback()
def _dev() -> None:
    """For those who extend mlipfm."""


@app.command()
def contracts(
    only_list: bool = typer.Option(False, "--list", help="List the rules and their violators without running them."),
    contract: str = typer.Option("", "--contract", help="Only this contract: potential, reader, sampler, objective, ..."),
) -> None:
    """Show every rule of every contract, and run the violator that was planted for it: exit 1 if one gets through."""
    from rich.progress import track

    from .console import open_console
    from .errors import ContractError
    from .testing.contracts import CONTRACTS, PLANTED, Trial, trials

    if contract and contract not in CONTRACTS:
        raise ContractError(f"no contract is named {contract!r}", mend=f"known: {', '.join(CONTRACTS)}")
    console = open_console()
    names = [contract] if contract else list(CONTRACTS)
    rows = [Trial(name, rule, PLANTED.get(rule.name), None) for name in names for rule in CONTRACTS[name]]
    if not only_list:
        rows = list(track(trials(names), "Running violators", total=len(rows), console=open_console(stderr=True), transient=True))
    console.print(_table(rows, outcome=not only_list))
    if only_list:
        return
    through = [row.rule.name for row in rows if not row.rejected]
    console.print(
        f"{len(rows) - len(through)} of {len(rows)} rules reject their violator by name"
        + (f"; not: {', '.join(through)}" if through else "")
    )
    if through:
        raise typer.Exit(1)


def _table(rows: list[Trial], *, outcome: bool) -> Table:
    """One section per contract; the outcome is a column only if the violators were run."""
    from rich.table import Table

    table = Table()
    table.add_column("rule", no_wrap=True)
    for title in ("statement", "violator", *(("outcome",) if outcome else ())):
        table.add_column(title)
    for k, row in enumerate(rows):
        if k == 0 or rows[k - 1].contract != row.contract:
            table.add_section()
            table.add_row(f"[bold]{row.contract}[/]")
        result = "[green]rejected[/]" if row.rejected else "[red]got through[/]"
        mistake = row.violator.mistake if row.violator else "[red]none[/]"
        table.add_row(row.rule.name, row.rule.statement, mistake, *((result,) if outcome else ()))
    return table
