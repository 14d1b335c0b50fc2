"""`mlipfm train`: train a potential from a recipe, or on a file with labels."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from mlipfm_interfaces.cli import given_parameters

app = typer.Typer(add_completion=False)

#: Parameters of a training by a recipe, of one on a file, and of both.
OF_RECIPE = {"data", "fit_costs", "time_limit", "report", "register"}
OF_FILE = {"test", "split", "backbone", "minutes", "level", "read", "licence"}
OF_BOTH = {"recipe", "overrides", "valid", "steps", "out", "accept_label_errors", "as_json"}


class SplitBy(enum.StrEnum):
    """How a file is divided into parts for training, validation and test."""

    auto = "auto"
    random = "random"
    group = "group"
    time = "time"


@app.command("train")
def train(
    context: typer.Context,
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
    from .recipe_library import is_recipe

    if ui is not None:
        return _show_ui(context, ui)
    if example or list_recipes:
        return _print_recipe(context, recipe, list_recipes)
    if recipe is None:
        raise typer.BadParameter(
            "give a recipe; `mlipfm train --list` shows some, `mlipfm train --example > recipe.yaml` writes one to change"
        )
    if is_recipe(recipe):
        changes = [f"{key}={value}" for key, value in (("steps", steps), ("time_limit", time_limit)) if value is not None]
        stores = {"train": data or (), "valid": valid or ()}
        how = {"report": report, "as_json": as_json, "register": register, "accept_label_errors": accept_label_errors}
        _train_recipe(context, recipe, [*(overrides or ()), *changes], stores, fit_costs, out or Path("run"), **how)
    else:
        options: dict[str, Any] = {
            "backbone": backbone,
            "minutes": minutes,
            "steps": steps,
            "level": level,
            "licence": licence,
            "test": test,
        }
        options |= {"split": (split or SplitBy.auto).value, "accept_label_errors": accept_label_errors, "changes": tuple(overrides or ())}
        _train_file(context, recipe, out, valid or [], reading=read or (), as_json=as_json, **options)


def refuse_given(context: typer.Context, allowed: set[str], why: str) -> None:
    """Refuse what the command line gives beside the parameters of the names `allowed`.

    Raises:
        typer.BadParameter: with the options and `why`.
    """
    given = [spelling for name, spelling in given_parameters(context).items() if name not in allowed]
    if given:
        raise typer.BadParameter(f"leave out {', '.join(given)}: {why}")


def _show_ui(context: typer.Context, address: str) -> None:
    from . import train_command

    refuse_given(context, {"ui"}, "`--ui` takes no recipe and no other option")
    train_command.open_ui(address)


def _print_recipe(context: typer.Context, recipe: Path | None, all_recipes: bool) -> None:
    """Print the list of recipes, an example, or the text of one."""
    from . import train_command
    from .recipe_library import recipe_file

    allowed = {"list_recipes"} if all_recipes else {"example", "recipe"}
    refuse_given(context, allowed, "`--example` and `--list` take no changes and no other option; give those when you train")
    if all_recipes:
        train_command.listed()
    else:
        typer.echo(train_command.EXAMPLE if recipe is None else recipe_file(recipe).read_text(encoding="utf-8"), nl=False)


def _train_file(context: typer.Context, file: Path, out: Path | None, valid: list[Path], **options: Any) -> None:
    """Train on a file with structures and labels."""
    from . import train_command

    refuse_given(context, OF_BOTH | OF_FILE, f"such options belong to a recipe, and {file} is data; or train by a recipe")
    if len(valid) > 1:
        raise typer.BadParameter("with a file of structures `--valid` is one file or store")
    train_command.run_on_file(file, out, valid=valid[0] if valid else None, **options)


def _train_recipe(
    context: typer.Context,
    recipe: Path,
    changes: Sequence[str],
    stores: Mapping[str, Sequence[Path]],
    fit_costs: Path | None,
    out: Path,
    **how: Any,
) -> None:
    """Train by a recipe, or fit its cost model. stores: in place of those of the recipe. how: options of `train_command.run`."""
    from . import train_command
    from .recipe import load_recipe

    refuse_given(context, OF_BOTH | OF_RECIPE, f"such options belong to a file with structures and labels, and {recipe} is a recipe")
    if fit_costs is not None:
        allowed = (OF_BOTH | {"data", "fit_costs"}) - {"accept_label_errors"}
        refuse_given(context, allowed, "`--fit-costs` measures steps and does not train")
    loaded = load_recipe(recipe, changes, **stores)
    if fit_costs is not None:
        train_command.write_fitted(loaded, fit_costs)
    else:
        train_command.run(loaded, out, **how)
