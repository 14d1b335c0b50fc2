"""`mlipfm check`, `mlipfm evaluate` and `mlipfm report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

check_app = typer.Typer(add_completion=False)
evaluate_app = typer.Typer(add_completion=False)
report_app = typer.Typer(add_completion=False)

_MODEL = "Checkpoint, NAME@ALIAS of a registry, or a model of another package (tblite:GFN2, emt:)"


@check_app.command("check")
def check(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    record: Annotated[Path | None, typer.Option(help="Write a result record (JSON) to this file")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Limits to hold it to: float64, converged (iterated to a threshold) or float32 [default: found out]")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show also the rules of the contract that held, and all remarks")] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Hold it also to what it does not promise: conservative (before dynamics), invariant, local-charge; may be repeated"
        ),
    ] = None,
) -> None:
    """Check that a model is what a potential must be: symmetries, derivatives, smoothness, no hidden state, energy conservation.

    Exits with 1 and names the rules if one is broken. What a model does not promise (direct forces: that energy is conserved) is only measured.

    Examples:

        mlipfm check run/best.safetensors --record check.json

        mlipfm check tblite:GFN2

        mlipfm check run/direct.safetensors --require conservative
    """
    from .check_command import run

    run(model, record, precision, everything, require or [])


@evaluate_app.command("evaluate")
def evaluate(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    stores: Annotated[list[Path], typer.Argument(help="Stores with labels like those of the training")],
    ood: Annotated[
        list[Path] | None, typer.Option(help="Store with other structures: other molecules, higher temperatures; may be repeated")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Write a result record (JSON) to this file")] = None,
    level: Annotated[str | None, typer.Option(help="Level of theory to ask a model of several levels for")] = None,
) -> None:
    """Errors of energies and forces on labelled stores, with 95 % intervals over molecules or trajectories; failures are counted and penalised.

    Example: mlipfm evaluate run/best.safetensors data/test --ood data/hot --record evaluation.json
    """
    from .evaluate_command import run

    run(model, stores, ood or [], record, level)


@report_app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a quickstart, of training runs, or of one run")],
    out: Annotated[Path | None, typer.Option(help="File to write [default: FOLDER/report.html]")] = None,
) -> None:
    """One HTML file, complete in itself, of a quickstart or of training runs: curves, parity, drift, speed, tables with intervals, model cards.

    Example: mlipfm report quickstart
    """
    from .report_command import run

    run(folder, out)
