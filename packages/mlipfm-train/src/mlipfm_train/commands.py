"""`mlipfm train`: train a potential from a recipe, or on a file with labels."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


class SplitBy(enum.StrEnum):
    """How a file is divided into parts for training, validation and test."""

    auto = "auto"
    random = "random"
    group = "group"
    time = "time"


@app.command("train")
def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="Recipe: a file (YAML; `--example` prints one), or one of `--list` by its name, such as mace; or a FILE with structures and labels"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, key=value with dotted keys: steps=1000 optimizer.lr=1e-3")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option(help="Store to train on, in place of those of the recipe; may be repeated")] = None,
    valid: Annotated[
        list[Path] | None,
        typer.Option(
            help="Held-out store, by which the best model is chosen, in place of those of the recipe; may be repeated. Of a FILE: one file"
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="With a FILE: file or store to measure errors on [default: a part of FILE]")] = None,
    split: Annotated[
        SplitBy | None,
        typer.Option(
            help="With a FILE: how it is divided. auto: whole groups if many, blocks of time of a trajectory, else at random [default: auto]"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; a run of this recipe in it is continued, also with more steps [default: run; of a FILE its name and -trained]"
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Run preflight, say what would happen, and stop before step 0")] = False,
    fit_costs: Annotated[
        Path | None, typer.Option(help="Measure steps, write the recipe with the fitted cost model (data.cost) to this file, and stop")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(help="Save and stop after this long (45s, 90min, 2h, 1d12h), exit status 0; the same command goes on"),
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="Name in MLflow's model registry that gets the best model as a new version (needs tracking.mlflow)")
    ] = None,
    ui: Annotated[
        str | None, typer.Option(help="Open the pages of MLflow for this tracking address, such as sqlite:///mlflow.db, and stop at Ctrl-C")
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print an example recipe with every key, or the text of RECIPE, and stop")
    ] = False,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="List the recipes that come with mlipfm, with purpose and time, and stop")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, max=999_999_999, help="Steps of training, in place of those of the recipe")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="With a FILE: density (fastest), mace, painn, ... of `--list` [default: density]")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, max=100_000, help="With a FILE: minutes of training [default: 10]")] = None,
    level: Annotated[
        str | None, typer.Option(help="With a FILE: level of theory of the labels [default: what the file says, else its name]")
    ] = None,
    read: Annotated[
        list[str] | None, typer.Option(help="With a FILE: how it is read, KEY=VALUE: energy_key=E, energy_unit=kcal/mol; may be repeated")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", "--license", help="With a FILE: SPDX identifier of the data")] = None,
    accept_label_errors: Annotated[bool, typer.Option("--accept-label-errors", help="Train although labels contradict physics")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result, or with --report what preflight found, as JSON")] = False,
) -> None:
    """Train a potential from a recipe, or on a FILE from the import to a page with errors; resume by running the same command again.

    Examples:

        mlipfm train set.xyz --level pbe --minutes 10

        mlipfm train train.xyz --valid valid.xyz --test test.xyz --level pbe

        mlipfm train --list

        mlipfm train mace --data data/train --valid data/valid --out runs/mace

        mlipfm train recipe.yaml steps=2000 optimizer.lr=5e-4 --out runs/first

        mlipfm train recipe.yaml tracking.mlflow=sqlite:///mlflow.db --register copper --out runs/first

        mlipfm train --ui sqlite:///mlflow.db
    """
    from . import train_command
    from .recipe import load_recipe
    from .recipe_library import is_recipe, recipe_file

    of_file: dict[str, Any] = {
        "test": test,
        "split": split.value if split else None,
        "backbone": backbone,
        "minutes": minutes,
        "level": level,
        "reading": read or (),
        "licence": licence,
    }
    of_recipe = {
        "--data": data,
        "--valid": valid,
        "--fit-costs": fit_costs,
        "--time-limit": time_limit,
        "--report": report,
        "--register": register,
    }
    others = (steps, accept_label_errors, as_json)
    if ui is not None:
        if recipe or overrides or any(of_recipe.values()) or any(of_file.values()) or any(others) or example or list_recipes:
            raise typer.BadParameter("`--ui` takes no recipe and no other option")
        return train_command.open_ui(ui)
    if example or list_recipes:
        if overrides or any(of_recipe.values()) or any(of_file.values()) or any(others) or (list_recipes and (example or recipe)):
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
    if not is_recipe(recipe):
        if given := [option for option, value in of_recipe.items() if value and option != "--valid"]:
            verb = "belongs" if len(given) == 1 else "belong"
            raise typer.BadParameter(
                f"{recipe} is data and no recipe; {', '.join(given)} {verb} to a recipe: leave it out, or train by a recipe"
            )
        if valid and len(valid) > 1:
            raise typer.BadParameter("with a file of structures `--valid` is one file or store")
        of_file |= {"valid": valid[0] if valid else None, "split": of_file["split"] or "auto"}
        of_file |= {"steps": steps, "changes": tuple(overrides or ()), "accept_label_errors": accept_label_errors, "as_json": as_json}
        return train_command.run_on_file(recipe, out, **of_file)
    if given := [f"--{key.replace('_', '-')}".replace("--reading", "--read") for key, value in of_file.items() if value]:
        raise typer.BadParameter(
            f"{', '.join(given)} belong to a file with structures and labels, and {recipe} is a recipe: leave them out"
        )
    changes = [
        *(overrides or []),
        *([f"steps={steps}"] if steps else []),
        *([f"time_limit={time_limit}"] if time_limit is not None else []),
    ]
    if fit_costs is not None and (report or time_limit is not None or register is not None or accept_label_errors):
        raise typer.BadParameter("`--fit-costs` takes neither `--report`, `--time-limit`, `--register` nor `--accept-label-errors`")
    loaded = load_recipe(recipe, changes, train=data or (), valid=valid or ())
    if fit_costs is not None:
        train_command.write_fitted(loaded, fit_costs)
    else:
        train_command.run(loaded, out or Path("run"), report, as_json, register, accept_label_errors)
