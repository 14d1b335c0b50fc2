"""`mlipfm uncertainty fit` and `mlipfm uncertainty judge`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="How sure a model is of its energies and forces, and whether it is right about that.", add_completion=False)

_MODEL = typer.Argument(help="Checkpoint, or NAME@ALIAS of a registry")


@app.command("fit")
def fit(
    model: Annotated[str, _MODEL],
    train: Annotated[list[Path], typer.Option(help="Store that the model was trained on; may be repeated")],
    calibrate: Annotated[list[Path], typer.Option(help="Labelled store of the same kind that it was not trained on; may be repeated")],
    out: Annotated[Path, typer.Option(help="File to write")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Fit the uncertainty of a model without training it again: one pass over its training data, one over the calibration data.

    Example: mlipfm uncertainty fit run/best.safetensors --train data/train --calibrate data/calibrate --out sure.safetensors
    """
    from .uncertainty_command import run_fit

    run_fit(model, train, calibrate, out, as_json)


@app.command("judge")
def judge(
    model: Annotated[str, _MODEL],
    file: Annotated[Path, typer.Argument(help="What `mlipfm uncertainty fit` wrote for this model")],
    stores: Annotated[list[Path], typer.Argument(help="Labelled stores like those of the calibration")],
    ood: Annotated[list[Path] | None, typer.Option(help="Store with other structures; may be repeated")] = None,
    coverage: Annotated[float, typer.Option(min=0.01, max=0.9999, help="What the intervals shall cover")] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """How many structures the intervals cover, how wide they are beside the ideal, and what the standard deviations are worth.

    The ideal is the half width of the narrowest interval, the same for every structure, that covers as many of these very errors: who knows them
    beforehand needs no more. Forces count as covered if those of all atoms are.

    Example: mlipfm uncertainty judge run/best.safetensors sure.safetensors data/test --ood data/hot
    """
    from .uncertainty_command import run_judge

    run_judge(model, file, stores, ood or [], coverage, as_json)
