"""`mlipfm distill`: a student of a teacher in one command; and its steps by themselves: labels of a teacher, and the recipe of a student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

#: Options of `mlipfm distill` that take several words: `--temperature 300 600`.
SEVERAL = ("--temperature", "--sizes")


class _Distill(TyperGroup):
    """The group, whose own options `SEVERAL` take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeated: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in SEVERAL else None
                if option is None:
                    repeated.append(word)
            elif option is not None:
                repeated += [option, word]
            else:
                repeated.append(word)
        return super().parse_args(ctx, repeated)


app = typer.Typer(cls=_Distill, no_args_is_help=True, invoke_without_command=True)


@app.callback()
def distill(
    context: typer.Context,
    teacher: Annotated[
        str | None, typer.Option(help="Address or checkpoint of the model that labels: sevennet:7net-0, chgnet:0.3.0, mace:FILE, FILE")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="File with one or more structures, of any format that ASE reads")] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(min=1, max=20_000, help="K, of the dynamics that the student is for; several may follow")
    ] = None,
    budget: Annotated[str, typer.Option(help="What it may cost: 45min, 2h, or 300labels of the teacher")] = "45min",
    out: Annotated[Path | None, typer.Option(help="Folder of the result [default: the file's name and -distilled]")] = None,
    sizes: Annotated[list[str] | None, typer.Option(help="small, medium, large: the first leads the dynamics [default: medium]")] = None,
    level: Annotated[str | None, typer.Option(help="Level of theory the teacher is asked at, if it supports several")] = None,
    dt: Annotated[float | None, typer.Option(min=0.05, max=10, help="Time step in fs [default: 0.5 with hydrogen, 1 without]")] = None,
    charge: Annotated[int | None, typer.Option(min=-1000, max=1000, help="Total charge of structures whose file gives none")] = None,
    multiplicity: Annotated[int | None, typer.Option(min=1, max=1000, help="2S+1 of structures whose file gives none")] = None,
    timeout: Annotated[float, typer.Option(min=1, max=1e6, help="Seconds after which a label is given up")] = 600.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of displacements, velocities and training")] = 0,
    hessian_rows: Annotated[
        int,
        typer.Option(min=0, max=1000, help="Rows of the teacher's Hessian on every frame to train on, for phonons; each costs two labels"),
    ] = 0,
    hessian_products: Annotated[
        int,
        typer.Option(
            min=0, max=1000, help="Products of the teacher's Hessian with random vectors on every frame to train on; each costs two labels"
        ),
    ] = 0,
    register: Annotated[str | None, typer.Option(help="Put the student into the registry under this name")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, everything else on stderr")] = False,
) -> None:
    """Distill a teacher into a fast student that is trained on frames of its own dynamics.

    The teacher labels displaced copies of your structures, a student learns them and runs at your temperatures, the teacher labels where it goes, and
    so on until the budget is spent. Then errors, speed, energy drift and more are measured on new dynamics. Ctrl-C stops; the same command goes on.
    OUT holds student.safetensors, its uncertainty and range, report.html, result.json, run_ase.py, lammps/, labels/.

    Examples:

        mlipfm distill --teacher sevennet:7net-0 --start POSCAR --temperature 300 600 --budget 45min

        mlipfm distill --teacher chgnet:0.3.0 --start Si.cif --temperature 300 --hessian-rows 2 --budget 500labels

        mlipfm distill --teacher model.safetensors --start water.xyz --temperature 330 --sizes small medium large --budget 300labels
    """
    if context.invoked_subcommand is not None:
        return
    from mlipfm_interfaces.errors import RecipeError

    from .on_policy.distillation import distill_teacher
    from .on_policy.page import summary
    from .on_policy.request import DistillationRequest, parse_budget

    if teacher is None or start is None or temperature is None:
        raise RecipeError(
            "--teacher, --start and --temperature are needed",
            hint="for instance --teacher sevennet:7net-0 --start POSCAR --temperature 300",
        )
    folder = out or Path(f"{start.name.partition('.')[0]}-distilled")
    request = DistillationRequest(teacher, start, folder, tuple(temperature), parse_budget(budget), tuple(sizes or ("medium",)), level, dt, charge,
                      multiplicity, timeout, seed, hessian_rows, hessian_products)  # fmt: skip
    if register is not None:  # a wrong name or address is said before hours of work
        from mlipfm_interfaces.registry_http import server
        from mlipfm_interfaces.registry_versions import check_name, list_versions

        check_name(register)
        list_versions(server(None), register)
    found = distill_teacher(request, lambda text: typer.echo(text, err=as_json))
    for line in [*summary(found), f"page: {(folder / 'report.html').resolve().as_uri()}"]:
        typer.echo(line, err=as_json)
    if register is not None:
        from mlipfm_interfaces.registry_push import push

        version = push(folder / "student.safetensors", register, [folder / "student.errors.json"])
        typer.echo(f"{version.name}/{version.number}  {version.digest}", err=as_json)
    if as_json:
        typer.echo(json.dumps(found))


@app.command("label")
def label(
    store: Annotated[Path, typer.Argument(help="Store whose structures are labelled")],
    teacher: Annotated[str, typer.Option(help="Model checkpoint or address, with conservative forces")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="New store: the geometries with the teacher's energies and forces. Without it, rows are added to STORE as an overlay"
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows of the Hessian of each structure")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of rows")] = 0,
    level: Annotated[str | None, typer.Option(help="Level the teacher is asked at, with --out, if it supports several")] = None,
    uncertainty: Annotated[
        Path | None, typer.Option(help="File of `mlipfm uncertainty fit` of the teacher: leave out what it is not sure of; needs --like")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Store of structures like those the teacher was trained on, such as its validation data")
    ] = None,
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
            "--level needs --out: rows that are added to a store have the level of its structures", hint="leave it out, or give --out"
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
