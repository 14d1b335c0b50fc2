"""`mlipfm check`, `evaluate`, `compare`, `report` and `uncertainty`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

check_app = typer.Typer(add_completion=False)
evaluate_app = typer.Typer(add_completion=False)
compare_app = typer.Typer(add_completion=False)
report_app = typer.Typer(add_completion=False)
uncertainty_app = typer.Typer(
    help="Fit and evaluate the uncertainty of a model's energies and forces.\n\n"
    "Example: mlipfm uncertainty fit model.safetensors --train data/train --calibrate data/calibrate --out uncertainty.safetensors",
    add_completion=False,
)

_MODEL = "Checkpoint, NAME@ALIAS of a registry, or a model of another package (tblite:GFN2, emt:)"


@check_app.command("check")
def check(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    record: Annotated[Path | None, typer.Option(help="Write a result record (JSON) to this file")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Limits of the checks: float64, converged (iterated to a threshold) or float32 [default: found out]")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "--all", help="Show also the rules of the contract that passed, and all remarks")
    ] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Require also what it does not declare: conservative (before dynamics), invariant, local-charge; may be repeated"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Store or file whose structures it is tested on [default: those in the checkpoint, or made of its elements]"),
    ] = None,
    elements: Annotated[
        str | None, typer.Option(help="Elements to test it on, such as Si or Li,P,S [default: what the model declares or predicts]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter dynamics and smaller systems, for slow models")] = False,
) -> None:
    """Check that a model is what a potential must be: symmetries, derivatives, smoothness, no hidden state, energy conservation.

    Exits with 1 and names the rules if one is broken. What a model does not declare (direct forces: that energy is conserved) is only measured.

    Examples:

        mlipfm check run/best.safetensors --record check.json

        mlipfm check tblite:GFN2

        mlipfm check sevennet:7net-0 --elements Si,O --quick

        mlipfm check run/direct.safetensors --require conservative
    """
    from .benchmarks import run_by_name

    options = {"precision": precision, "require": ",".join(require or []), "elements": elements or "", "quick": quick, "verbose": verbose}
    run_by_name("check", model, [data] if data else [], record=record, options=options)


_READ = "How a FILE is read, KEY=VALUE as in `mlipfm data import`: energy_key=E, energy_unit=kcal/mol, reader=ase; may be repeated"


@evaluate_app.command("evaluate")
def evaluate(
    model: Annotated[str, typer.Argument(help=_MODEL)] = "",
    data: Annotated[
        list[Path] | None, typer.Argument(help="Stores, or files that `mlipfm data import` reads, with energies, forces or stress")
    ] = None,
    ood: Annotated[
        list[Path] | None, typer.Option(help="Store or file of other structures: other molecules, higher temperatures; may be repeated")
    ] = None,
    benchmark: Annotated[str, typer.Option(help="What to measure: see --list")] = "accuracy",
    option: Annotated[list[str] | None, typer.Option(help="Option of the benchmark, KEY=VALUE; may be repeated")] = None,
    record: Annotated[Path | None, typer.Option(help="Write a result record (JSON) to this file")] = None,
    level: Annotated[str | None, typer.Option(help="Level of theory to ask a model of several levels for")] = None,
    out: Annotated[Path | None, typer.Option(help="Write structures with labels and predictions to this file (extended XYZ)")] = None,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page with parity plots and the worst structures to this file")] = None,
    read: Annotated[list[str] | None, typer.Option(help=_READ)] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the installed benchmarks with their options")] = False,
) -> None:
    """Measure a model with a benchmark; without --benchmark the errors of energies, forces and stress, of whichever labels are there.

    Errors have 95 % intervals over molecules or trajectories, or over blocks of time where there is only one; failures are counted and penalised.
    Data that the model was trained on are marked.

    Examples:

        mlipfm evaluate run/best.safetensors test.xyz --page test.html --out predictions.xyz

        mlipfm evaluate run/best.safetensors data/test --ood data/hot --record evaluation.json

        mlipfm evaluate --list

        mlipfm evaluate run/best.safetensors --benchmark check --option quick=true
    """
    from .benchmarks import _print_benchmarks, run_by_name

    if list_all:
        _print_benchmarks()
        return
    if not model:
        raise typer.BadParameter("name a model, or see --list for the benchmarks", param_hint="MODEL")
    files = {key: str(path) for key, path in (("out", out), ("page", page)) if path is not None}
    options = _key_values(option or [], "--option", "quick=true") | files
    reading = _reading(read or [])
    run_by_name(benchmark, model, data or [], ood or [], record=record, level=level, reading=reading, options=options)


@compare_app.command("compare")
def compare(
    models: Annotated[list[str], typer.Argument(help=_MODEL + "; two or more, the first is the one to beat")],
    data: Annotated[list[Path], typer.Option(help="Store or file with labels, as for `mlipfm evaluate`; may be repeated")],
    level: Annotated[str | None, typer.Option(help="Level of theory to ask models of several levels for")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the differences to this file (JSON)")] = None,
    read: Annotated[list[str] | None, typer.Option(help=_READ)] = None,
) -> None:
    """Compare two models or more by paired differences of their errors on the same structures, with 95 % intervals.

    Examples:

        mlipfm compare old.safetensors new.safetensors --data data/test

        mlipfm compare tblite:GFN1 tblite:GFN2 --data test.xyz --level pbe
    """
    from .comparison import compare_models

    compare_models(models, data, level, out, _reading(read or []))


def _reading(texts: list[str]) -> dict[str, str]:
    """Options of the reader of a file."""
    from mlipfm_interfaces.errors import OptionError

    found = _key_values(texts, "--read", "energy_key=E")
    for name in {"level", "stores", "ood", "path"} & found.keys():
        hint = "the level is given by --level" if name == "level" else "see `mlipfm data import --help`"
        raise OptionError(f"--read has no option {name!r}", hint=hint)
    return found


def _key_values(texts: list[str], option: str, example: str) -> dict[str, str]:
    """Options from `KEY=VALUE`."""
    from mlipfm_interfaces.errors import OptionError

    for text in texts:
        if "=" not in text:
            raise OptionError(f"{option} needs KEY=VALUE, got {text!r}", hint=f"for instance {option} {example}")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


@report_app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with result records (*.json) or training runs, such as that of a quickstart")],
    out: Annotated[Path | None, typer.Option(help="File to write [default: FOLDER/report.html]")] = None,
) -> None:
    """Write one HTML file, complete in itself, of all result records and training runs in a folder: errors, parity, checks, curves, cards.

    Example: mlipfm evaluate run/best.safetensors data/test --record run/test.json && mlipfm report run
    """
    from mlipfm_interfaces.console import open_console

    from .report import write_report

    console = open_console()
    with console.status("reading"):
        path = write_report(folder, out)
    console.print(f"Report: {path} ({path.stat().st_size / 1024:.0f} KiB)", highlight=False)


@uncertainty_app.command("fit")
def fit(
    model: Annotated[str, typer.Argument(help="Checkpoint, or NAME@ALIAS of a registry")],
    train: Annotated[list[Path], typer.Option(help="Store that the model was trained on; may be repeated")],
    calibrate: Annotated[list[Path], typer.Option(help="Labelled store of the same kind that it was not trained on; may be repeated")],
    out: Annotated[Path, typer.Option(help="File to write")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Fit the uncertainty of a model without training it again: one pass over its training data, one over the calibration data.

    Example: mlipfm uncertainty fit run/best.safetensors --train data/train --calibrate data/calibrate --out sure.safetensors
    """
    import json

    from .uncertainty import fit_uncertainty

    found = fit_uncertainty(model, train, calibrate, out)
    if as_json:
        print(json.dumps(found))
        return
    fitted = ", ".join(found["alpha"])
    print(f"{out}: {found['train']} structures of the training, {found['calibrate']} of the calibration; for {fitted}")
    if found["warning"]:
        print(f"warning: {found['warning']}")
    if "forces" not in found["alpha"]:
        print("forces: not fitted, direct forces are no derivative of the last layer")


@uncertainty_app.command("evaluate")
@uncertainty_app.command("judge", hidden=True)
def evaluate_uncertainty(
    model: Annotated[str, typer.Argument(help="Checkpoint, or NAME@ALIAS of a registry")],
    file: Annotated[Path, typer.Argument(help="What `mlipfm uncertainty fit` wrote for this model")],
    stores: Annotated[list[Path], typer.Argument(help="Labelled stores like those of the calibration")],
    ood: Annotated[list[Path] | None, typer.Option(help="Store with other structures; may be repeated")] = None,
    coverage: Annotated[float, typer.Option(min=0.01, max=0.9999, help="What the intervals shall cover")] = 0.9,
    record: Annotated[Path | None, typer.Option(help="Write a result record (JSON) to this file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Measure how many structures the intervals cover, how wide they are beside the ideal, and how well the standard deviations are calibrated.

    The ideal is the half width of the narrowest interval, the same for every structure, that covers as many of these very errors: who knows them
    beforehand needs no more. Forces count as covered if those of all atoms are.

    Example: mlipfm uncertainty evaluate run/best.safetensors sure.safetensors data/test --ood data/hot
    """
    import json

    from .benchmarks import run_by_name

    options = {"file": str(file), "coverage": coverage}
    result, found = run_by_name("uncertainty", model, stores, ood or [], record=record, quiet=as_json, options=options)
    if as_json:
        print(json.dumps({"model": found["model"], **result.details}))
