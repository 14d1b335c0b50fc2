"""`mlipfm dev`: commands for those who extend mlipfm."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="For those who extend mlipfm.\n\nExample: mlipfm dev contracts --contract potential")


@app.callback()
def _dev() -> None:
    """For those who extend mlipfm.

    Example: mlipfm dev contracts --contract potential
    """


@app.command()
def contracts(
    contract: str = typer.Option("", "--contract", help="Only this contract: potential, reader, sampler, objective, ..."),
) -> None:
    """List every rule of every contract that a plug-in must pass; `mlipfm_interfaces.testing.contract_suites` has them as pytest classes.

    Example: mlipfm dev contracts --contract objective
    """
    from rich.table import Table

    from .console import open_console
    from .errors import ContractError
    from .testing.contracts import CONTRACTS

    if contract and contract not in CONTRACTS:
        raise ContractError(f"no contract is named {contract!r}", hint=f"known: {', '.join(CONTRACTS)}")
    table = Table()
    table.add_column("rule", no_wrap=True)
    table.add_column("statement")
    for name in [contract] if contract else CONTRACTS:
        table.add_section()
        table.add_row(f"[bold]{name}[/]")
        for rule in CONTRACTS[name]:
            table.add_row(rule.name, rule.statement)
    open_console().print(table)
