"""`mlipfm scaling`: plan, run, fit and report a sweep of training runs; check the widths of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Scaling laws: how errors fall with parameters, data and compute.\n\nExample: mlipfm scaling plan sweep.yaml",
    no_args_is_help=True,
)

Document = Annotated[Path, typer.Argument(help="Sweep (YAML; `mlipfm scaling plan --example` prints one)")]
Out = Annotated[Path | None, typer.Option(help="Folder of the sweep [default: the name of the document without its ending]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]


@app.command("plan")
def plan(
    document: Annotated[Path | None, typer.Argument(help="Sweep (YAML)")] = None,
    out: Out = None,
    speed: Annotated[
        float | None, typer.Option(min=1e-3, max=1e9, help="GFLOP/s of matrix products of another machine: print its hours as well")
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print an example of a sweep, and stop")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the runs of a sweep with parameters, atoms, operations and hours. It makes the training sets and measures one step of each model.

    Examples:

        mlipfm scaling plan --example > sweep.yaml

        mlipfm scaling plan sweep.yaml --speed 20000
    """
    from . import command_work

    if example:
        return typer.echo(command_work.EXAMPLE, nl=False)
    if document is None:
        raise typer.BadParameter("give a sweep; `mlipfm scaling plan --example > sweep.yaml` writes one to change")
    command_work.show_plan(document, out, speed, as_json)


@app.command("run")
def run(
    document: Document,
    out: Out = None,
    workers: Annotated[int, typer.Option(min=1, max=4096, help="Processes that train at the same time")] = 1,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler that gets the runs, such as tcp://node1:8786")] = None,
    slurm: Annotated[Path | None, typer.Option(help="Write the script of a SLURM array to this file instead, and stop")] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="Make the largest runs, after `fit` has predicted them")] = False,
    only: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="Make this job only, counted from 0: what a task of an array does")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the runs of a sweep that are not done yet. Interrupt it at any moment; the same command goes on, and nothing is done twice.

    The largest run of each model waits until `mlipfm scaling fit` has predicted it.

    Examples:

        mlipfm scaling run sweep.yaml --workers 2

        mlipfm scaling run sweep.yaml --slurm sweep.sh

        mlipfm scaling run sweep.yaml --held-out
    """
    from . import command_work

    if slurm is not None and (held_out or only is not None or dask or workers > 1):
        raise typer.BadParameter("`--slurm` writes a file and takes none of `--held-out`, `--only`, `--dask` and `--workers`")
    if dask is not None and workers > 1:
        raise typer.BadParameter("`--workers` are processes of this machine; those of `--dask` are what its scheduler has")
    command_work.run(document, out, workers=workers, dask=dask, slurm=slurm, held_out=held_out, only=only, as_json=as_json)


@app.command("fit")
def fit(
    document: Document,
    out: Out = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOSS=VALUE",
            help="What a loss does not fall below, such as the noise of the labels, in its unit; by default it is fitted",
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=40, max=100_000, help="Of the bootstrap over runs and seeds")] = 400,
    as_json: AsJson = False,
) -> None:
    """Fit laws to the points of a sweep and predict the largest runs before they start.

    Examples:

        mlipfm scaling fit sweep.yaml

        mlipfm scaling fit sweep.yaml --floor "force MAE=1.5" --floor energy=0.2
    """
    from . import command_work

    command_work.fit(document, out, floor or [], resamples, as_json)


@app.command("report")
def report(
    document: Document,
    out: Out = None,
    page: Annotated[Path | None, typer.Option(help="Page to write [default: report.html in the folder of the sweep]")] = None,
    floor: Annotated[list[str] | None, typer.Option(metavar="LOSS=VALUE", help="As in `fit` [default: as it was fitted before]")] = None,
) -> None:
    """Write an HTML page with points, laws, frontiers per operation and core-second, and the held-out runs.

    Example:

        mlipfm scaling report sweep.yaml
    """
    from . import command_work

    command_work.report(document, out, page, floor or [])


@app.command("push")
def push(
    document: Document,
    name: Annotated[str, typer.Option(help="Name of the sweep in the hub")],
    out: Out = None,
    registry: Annotated[
        str | None,
        typer.Option(help="Address or folder of the hub [default: $MLIPFM_REGISTRY, $MLFLOW_TRACKING_URI or http://127.0.0.1:5000]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send the points and the last fit of a sweep to a hub, whose page shows them: laws, held-out runs, and which runs are models there.

    Example:

        mlipfm scaling push sweep.yaml --name oxides
    """
    from . import command_work

    command_work.push(document, out, name, registry, as_json)


@app.command("cost")
def cost(
    recipe: Annotated[Path, typer.Argument(help="Recipe (YAML), or the name of one that `mlipfm train --list` shows")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes: key=value")] = None,
    processes: Annotated[
        list[int] | None, typer.Option(min=1, max=100_000, help="Number of processes to predict; repeat it [default: 8 64 512 4096]")
    ] = None,
    faster: Annotated[
        float, typer.Option(min=1e-3, max=1e6, help="How many times faster than one core here a device there computes a batch")
    ] = 100.0,
    bandwidth: Annotated[float, typer.Option(min=1e-3, max=1e5, help="GB/s of each device for the exchange of gradients")] = 25.0,
    latency: Annotated[float, typer.Option(min=0.0, max=1e6, help="Microseconds of a message between devices")] = 10.0,
    check: Annotated[
        int | None, typer.Option(min=3, max=16, help="Measure this number of processes here as well, and compare with the prediction")
    ] = None,
    steps: Annotated[int, typer.Option(min=5, max=10_000, help="Steps that are measured")] = 30,
    out: Annotated[Path | None, typer.Option(help="Folder for the table (cost.csv) and the picture (cost.png)")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a step with one and two processes here, and predict it for many: time, waiting, exchange of gradients, efficiency.

    Examples:

        mlipfm scaling cost recipe.yaml --check 3

        mlipfm scaling cost recipe.yaml --processes 8 --processes 64 --faster 200 --bandwidth 50 --out cost
    """
    from . import command_work

    command_work.cost(recipe, overrides or [], processes or [8, 64, 512, 4096], (faster, bandwidth, latency), check, steps, out, as_json)


@app.command("coordinates")
def coordinates(
    backbones: Annotated[list[str] | None, typer.Argument(help="Backbones [default: all that are installed]")] = None,
    width: Annotated[list[int] | None, typer.Option(min=1, max=4096, help="Width of a model; repeat it [default: 32 64 128 256]")] = None,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Training steps")] = 4,
    lr: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Learning rate of the narrowest model")] = 3e-3,
    seeds: Annotated[int, typer.Option(min=2, max=100, help="Models of each width, whose mean is taken")] = 12,
    without_mup: Annotated[bool, typer.Option("--without-mup", help="One learning rate for all widths, for comparison")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that activations, and what training changes of them, keep their size at every width, as muP predicts: slopes near zero are flat.

    Examples:

        mlipfm scaling coordinates painn

        mlipfm scaling coordinates density --width 32 --width 128 --without-mup
    """
    from . import command_work

    command_work.coordinates(backbones or [], width or [], steps, lr, seeds, mup=not without_mup, as_json=as_json)
