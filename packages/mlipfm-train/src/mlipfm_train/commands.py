"""`mlipfm train`: train a potential from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command("train")
def train(
    recipe: Annotated[Path | None, typer.Argument(help="Recipe (YAML); `--example` prints one")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, key=value with dotted keys: steps=1000 optimizer.lr=1e-3")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder; if it holds a run of this recipe, that is continued, also with more steps")] = Path(
        "run"
    ),
    report: Annotated[bool, typer.Option("--report", help="Run preflight, say what would happen, and stop before step 0")] = False,
    fit_costs: Annotated[
        Path | None, typer.Option(help="Measure steps, write the recipe with the fitted cost model (data.cost) to this file, and stop")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(help="Save and stop after this long (45s, 90min, 2h, 1d12h), exit status 0; the same command goes on"),
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print an example recipe with every key and stop")] = False,
) -> None:
    """Train a potential; resume by running the same command again.

    Example: mlipfm train recipe.yaml steps=2000 optimizer.lr=5e-4 --out runs/first
    """
    from . import train_command

    if example and (recipe is not None or overrides or fit_costs is not None or time_limit is not None):
        raise typer.BadParameter("`--example` takes no recipe and no changes; write it to a file and give changes when you train")
    if example:
        typer.echo(train_command.EXAMPLE, nl=False)
    elif recipe is None:
        raise typer.BadParameter("give a recipe; `mlipfm train --example > recipe.yaml` writes one to start from")
    elif fit_costs is not None:
        if report or time_limit is not None:
            raise typer.BadParameter("`--fit-costs` takes neither `--report` nor `--time-limit`")
        train_command.write_fitted(recipe, overrides or [], fit_costs)
    else:
        train_command.run(recipe, overrides or [], out, report, time_limit)
