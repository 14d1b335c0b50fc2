"""`mlipfm check`, `mlipfm evaluate`, `mlipfm compare` and `mlipfm report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

check_app = typer.Typer(add_completion=False)
evaluate_app = typer.Typer(add_completion=False)
compare_app = typer.Typer(add_completion=False)
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
    data: Annotated[
        Path | None,
        typer.Option(help="Store or file whose structures it is tested on [default: those in the checkpoint, or made of its elements]"),
    ] = None,
    elements: Annotated[
        str | None, typer.Option(help="Elements to test it on, such as Si or Li,P,S [default: what the model states or answers]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter dynamics and smaller systems, for slow models")] = False,
) -> None:
    """Check that a model is what a potential must be: symmetries, derivatives, smoothness, no hidden state, energy conservation.

    Exits with 1 and names the rules if one is broken. What a model does not promise (direct forces: that energy is conserved) is only measured.

    Examples:

        mlipfm check run/best.safetensors --record check.json

        mlipfm check tblite:GFN2

        mlipfm check sevennet:7net-0 --elements Si,O --quick

        mlipfm check run/direct.safetensors --require conservative
    """
    from .check_command import run

    run(model, record, precision, everything, require or [], data=data, elements=elements, quick=quick)


_READ = "How a FILE is read, KEY=VALUE as in `mlipfm data import`: energy_key=E, energy_unit=kcal/mol, reader=ase; may be repeated"


@evaluate_app.command("evaluate")
def evaluate(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    data: Annotated[list[Path], typer.Argument(help="Stores, or files that `mlipfm data import` reads, with energies, forces or stress")],
    ood: Annotated[
        list[Path] | None, typer.Option(help="Store or file of other structures: other molecules, higher temperatures; may be repeated")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Write a result record (JSON) to this file")] = None,
    level: Annotated[str | None, typer.Option(help="Level of theory to ask a model of several levels for")] = None,
    out: Annotated[Path | None, typer.Option(help="Write structures with labels and predictions to this file (extended XYZ)")] = None,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page with parity plots and the worst structures to this file")] = None,
    read: Annotated[list[str] | None, typer.Option(help=_READ)] = None,
) -> None:
    """Errors of energies, forces and stress, of whichever labels are there, with 95 % intervals; failures are counted and penalised.

    Intervals are over molecules or trajectories, or over blocks of time where there is only one. Data that the model was trained on are marked.

    Examples:

        mlipfm evaluate run/best.safetensors test.xyz --page test.html --out predictions.xyz

        mlipfm evaluate run/best.safetensors data/test --ood data/hot --record evaluation.json
    """
    from .evaluate_command import run

    run(model, data, ood or [], record, level, out=out, page=page, reading=_reading(read or []))


@compare_app.command("compare")
def compare(
    models: Annotated[list[str], typer.Argument(help=_MODEL + "; two or more, the first is the one to beat")],
    data: Annotated[list[Path], typer.Option(help="Store or file with labels, as for `mlipfm evaluate`; may be repeated")],
    level: Annotated[str | None, typer.Option(help="Level of theory to ask models of several levels for")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the differences to this file (JSON)")] = None,
    read: Annotated[list[str] | None, typer.Option(help=_READ)] = None,
) -> None:
    """Which of two models is better, by paired differences of their errors on the same structures, with 95 % intervals.

    Examples:

        mlipfm compare old.safetensors new.safetensors --data data/test

        mlipfm compare tblite:GFN1 tblite:GFN2 --data test.xyz --level pbe
    """
    from .compare_command import run

    run(models, data, level, out, _reading(read or []))


def _reading(texts: list[str]) -> dict[str, str]:
    """Options of readers from `KEY=VALUE`."""
    from mlipfm_interfaces.errors import UnknownQuantityError

    for text in texts:
        if "=" not in text:
            raise UnknownQuantityError(f"--read needs KEY=VALUE, got {text!r}", mend="for instance --read energy_key=E")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


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
