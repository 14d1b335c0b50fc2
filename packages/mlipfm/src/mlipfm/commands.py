"""`mlipfm quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.callback(invoke_without_command=True)
def quickstart(
    out: Annotated[Path | None, typer.Option(help="Folder of the run [default: quickstart, or quickstart-quick]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run, about five minutes on two cores; figures are rough")] = False,
    hub: Annotated[bool, typer.Option(help="Keep the models in a registry of the run, half a gigabyte of memory while it works")] = True,
) -> None:
    """Take 24 small molecules the whole path, from SMILES to a registered model, and print what was measured.

    Labels are real quantum chemistry (GFN2-xTB). Interrupted, it goes on where it stopped when it is called again.

    Examples:

        mlipfm quickstart

        mlipfm quickstart --quick --out /tmp/try
    """
    from mlipfm_interfaces.console import open_console

    from .plan import FULL, QUICK
    from .quickstart import quickstart as run

    plan = QUICK if quick else FULL
    run(out or Path("quickstart-quick" if quick else "quickstart"), plan, open_console(), hub)
