"""`mlipfm distill`: labels of a teacher, and the recipe of a student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Distil a teacher into a fast student.\n\nExample: mlipfm distill label store --teacher model.safetensors --out labels",
    no_args_is_help=True,
)


@app.command("label")
def label(
    store: Annotated[Path, typer.Argument(help="Store whose structures are labelled")],
    teacher: Annotated[str, typer.Option(help="Model checkpoint or address, with conservative forces")],
    out: Annotated[
        Path | None,
        typer.Option(help="New store: the geometries with the teacher's energies and forces. Without it, rows are laid over STORE"),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows of the Hessian of each structure")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of rows")] = 0,
    level: Annotated[str | None, typer.Option(help="Level the teacher is asked at, with --out, if it knows several")] = None,
    uncertainty: Annotated[
        Path | None, typer.Option(help="File of `mlipfm uncertainty fit` of the teacher: leave out what it is not sure of; needs --like")
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Store of structures that the teacher knows, such as its validation data")] = None,
    quantile: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of --like of which the teacher is surer than of the worst that is labelled [default: 0.95]"
        ),
    ] = None,
) -> None:
    """Label structures by a teacher, with rows of its Hessian. Run it again to resume.

    Examples:

        mlipfm distill label data/pretrain --teacher runs/finetuned/best.safetensors --out data/teacher

        mlipfm distill label data/pretrain --teacher T.safetensors --out data/teacher --uncertainty sure.safetensors --like data/valid
    """
    from mlipfm_data.store.store import Store
    from mlipfm_interfaces.errors import RecipeError

    from .teacher_labels import label_geometries, label_hessian_rows

    if (
        (uncertainty is None) != (like is None)
        or (quantile is not None and uncertainty is None)
        or (uncertainty is not None and out is None)
    ):
        raise RecipeError("--uncertainty, --like and --out belong together, and --quantile to them", hint="give all three, or none")
    if out is not None:
        share = 0.95 if quantile is None else quantile
        with Store(store) as opened, Store(like if like is not None else store) as known:
            report = label_geometries(
                list(opened), teacher, out, rows=rows, seed=seed, level=level, uncertainty=uncertainty, like=known, quantile=share
            )
    elif level is not None:
        raise RecipeError(
            "--level needs --out: rows laid over a store have the level of its structures", hint="leave it out, or give --out"
        )
    else:
        report = label_hessian_rows(store, teacher, rows=rows, seed=seed)
    typer.echo("\n".join(report.lines()))


@app.command("recipe")
def recipe(
    train: Annotated[list[Path], typer.Argument(help="Stores with the teacher's labels")],
    teacher: Annotated[str, typer.Option(help="Model checkpoint or address")],
    valid: Annotated[list[Path] | None, typer.Option(help="Held-out stores")] = None,
    student: Annotated[str, typer.Option(help="Potential plug-in")] = "density",
    steps: Annotated[int, typer.Option(min=1, max=999_999_999)] = 2000,
    out: Annotated[Path | None, typer.Option(help="File to write; without it the recipe is printed")] = None,
) -> None:
    """Write the recipe of a student, to be changed at will and run by `mlipfm train`.

    Example: mlipfm distill recipe data/teacher --teacher runs/finetuned/best.safetensors --out student.yaml
    """
    from mlipfm_interfaces.files import atomic_write
    from mlipfm_train.recipe import dump_recipe

    from .recipes import distill_recipe

    text = dump_recipe(distill_recipe(teacher, train, valid or (), student=student, steps=steps))
    if out is None:
        typer.echo(text, nl=False)
    else:
        atomic_write(out, text.encode())
        typer.echo(f"{out}: run it with `mlipfm train {out} --out RUN`")
