"""`mlipfm models matrix` and `mlipfm models table`: what goes together, and what it costs. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

matrix_app = typer.Typer(help="Which backbone takes which head, condition and kind of forces.")
table_app = typer.Typer(help="Parameters, operations and time of every backbone.")

_JSON = typer.Option("--json", help="Print JSON")


@matrix_app.command("matrix")
def matrix(as_json: Annotated[bool, _JSON] = False) -> None:
    """Backbones and what they may have: each pair has a test that shows it, or the reason why it is refused.

    Example: mlipfm models matrix --json
    """
    from .combinations import lines, matrix as make

    table = make()
    if as_json:
        typer.echo(
            json.dumps({backbone: {name: cell.as_dict() for name, cell in row.items()} for backbone, row in table.items()}, indent=1)
        )
    else:
        typer.echo("\n".join(lines(table)))


@table_app.command("table")
def table(
    widths: Annotated[str, typer.Option(help="Channels of the models, comma separated")] = "32,64,128",
    side: Annotated[
        int, typer.Option(min=2, max=100, help="Molecules of water along an edge of the box: 3 x side x side x side atoms")
    ] = 4,
    only: Annotated[str, typer.Option(help="Potential plug-ins, comma separated [default: all]")] = "",
    threads: Annotated[int, typer.Option(min=1, max=4096, help="Threads of torch")] = 1,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Parameters, operations and CPU time per atom of every installed backbone at three widths, on a box of water.

    Example: mlipfm models table --widths 32,64 --only painn,density
    """
    import torch
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.errors import PluginError, RecipeError

    from .speed_table import as_dicts, speed_rows, table_lines

    try:
        numbers = [int(width) for width in widths.split(",")]
    except ValueError:
        raise RecipeError(f"widths {widths!r} are not whole numbers", where="--widths", hint="for instance 32,64,128") from None
    chosen, known = [name.strip() for name in only.split(",") if name.strip()], plugins.names(plugins.POTENTIALS)
    for name in chosen:
        if name not in known:
            raise PluginError(f"no potential is named {name!r}", where="--only", hint=f"known: {', '.join(known)}")
    torch.set_num_threads(threads)
    typer.echo(f"measuring {len(chosen or known)} potentials at {len(numbers)} widths, without a bar that would take time itself", err=True)
    rows = speed_rows(numbers, side, only=chosen)
    typer.echo(json.dumps(as_dicts(rows), indent=1) if as_json else "\n".join(table_lines(rows)))
