"""`mlipfm train`: train a potential from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command("train")
def train(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe: a file (YAML; `--example` prints one), or one of `--list` by its name, such as mace")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, key=value with dotted keys: steps=1000 optimizer.lr=1e-3")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option(help="Store to train on, in place of those of the recipe; may be repeated")] = None,
    valid: Annotated[
        list[Path] | None,
        typer.Option(help="Held-out store, by which the best model is chosen, in place of those of the recipe; may be repeated"),
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
    example: Annotated[
        bool, typer.Option("--example", help="Print an example recipe with every key, or the text of RECIPE, and stop")
    ] = False,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="List the recipes that come with mlipfm, with purpose and time, and stop")
    ] = False,
) -> None:
    """Train a potential; resume by running the same command again.

    Examples:

        mlipfm train --list

        mlipfm train mace --data data/train --valid data/valid --out runs/mace

        mlipfm train recipe.yaml steps=2000 optimizer.lr=5e-4 --out runs/first
    """
    from . import train_command
    from .recipe import load_recipe
    from .recipe_library import recipe_file

    if example or list_recipes:
        if (
            overrides
            or data
            or valid
            or fit_costs is not None
            or time_limit is not None
            or report
            or (list_recipes and (example or recipe))
        ):
            raise typer.BadParameter("`--example` and `--list` take no changes and no other option; give those when you train")
        if list_recipes:
            train_command.listed()
        else:
            typer.echo(train_command.EXAMPLE if recipe is None else recipe_file(recipe).read_text(encoding="utf-8"), nl=False)
        return
    if recipe is None:
        raise typer.BadParameter(
            "give a recipe; `mlipfm train --list` shows some, `mlipfm train --example > recipe.yaml` writes one to change"
        )
    changes = (overrides or []) + ([f"time_limit={time_limit}"] if time_limit is not None else [])
    if fit_costs is not None and (report or time_limit is not None):
        raise typer.BadParameter("`--fit-costs` takes neither `--report` nor `--time-limit`")
    loaded = load_recipe(recipe, changes, train=data or (), valid=valid or ())
    if fit_costs is not None:
        train_command.write_fitted(loaded, fit_costs)
    else:
        train_command.run(loaded, out, report)
