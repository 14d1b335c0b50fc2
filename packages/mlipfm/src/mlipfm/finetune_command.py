"""`mlipfm finetune`: continue a model on a file with labels."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from mlipfm_train.commands import SplitBy

from .own_file.modes import MODES

app = typer.Typer(add_completion=False)


class Choice(enum.StrEnum):
    """How structures to train on again are chosen."""

    random = "random"
    farthest = "farthest"


@app.command("finetune")
def finetune(
    file: Annotated[Path, typer.Argument(help="File with structures and labels that `mlipfm data import` reads, or a store")],
    changes: Annotated[list[str] | None, typer.Argument(help="Changes of the recipe, key=value: optimizer.lr=5e-4 data.budget=500")] = None,
    model: Annotated[
        str | None,
        typer.Option("--from", help="Checkpoint, or NAME@ALIAS of a registry, to start from [default: mlipfm-mol-medium]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result [default: the file's name and -finetuned]")] = None,
    valid: Annotated[Path | None, typer.Option(help="File or store to choose the best model by [default: a part of FILE]")] = None,
    test: Annotated[Path | None, typer.Option(help="File or store to measure errors on [default: a part of FILE]")] = None,
    split: Annotated[
        SplitBy | None,
        typer.Option(
            help="How FILE is divided. auto: whole groups where there are many, blocks of time of a trajectory, else at random [default: auto]"
        ),
    ] = None,
    level: Annotated[str | None, typer.Option(help="Level of theory of the labels [default: what the file says, else its name]")] = None,
    read: Annotated[
        list[str] | None, typer.Option(help="How the file is read, KEY=VALUE: energy_key=E, energy_unit=kcal/mol; may be repeated")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", "--license", help="SPDX identifier of the data")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, max=100_000, help="Minutes of training [default: 10]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=999_999_999, help="Steps of training, in place of --minutes")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar=f"<{'|'.join(MODES)}>", help="; ".join(f"{name}: {mode.help}" for name, mode in MODES.items()) + " [default: naive]"
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, max=4096, help="With --mode lora: rank of the changes [default: 4]")] = None,
    quantity: Annotated[str | None, typer.Option(help="With --mode new-head: dipole, charges, band_gap, ...")] = None,
    replay: Annotated[Path | None, typer.Option(help="With --mode replay: store to choose structures from, which the model labels")] = None,
    replay_structures: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="With --mode replay: how many structures [default: 500]")
    ] = None,
    replay_choice: Annotated[
        Choice | None, typer.Option(help="With --mode replay: random, or farthest from each other in the last layer [default: random]")
    ] = None,
    forgetting: Annotated[
        Path | None,
        typer.Option(help="Store on which the force errors before and after are compared [default: examples in the checkpoint]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Random seed (split, order of the data) [default: 0]")] = None,
    new_elements: Annotated[bool, typer.Option("--new-elements", help="Train elements that the model does not support")] = False,
    accept_label_errors: Annotated[
        bool, typer.Option("--accept-label-errors", help="Train although labels contradict physics or the units of the file")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, everything else on stderr")] = False,
) -> None:
    """Continue a model on your file: report of the import, split, preflight, errors before and after, uncertainty, one HTML page.

    Minutes on a laptop. Ctrl-C saves and stops; the same command goes on. OUT holds model.safetensors (for MlipfmCalculator), report.html, card.md,
    result.json, predictions.xyz (labels and predictions of the test part), recipe.yaml, data/ (train, valid, test), trained/ (the run), records/.

    Examples:

        mlipfm finetune molecules.xyz --level wb97x/6-31g*

        mlipfm finetune train.xyz --test test.xyz --from pretrained.safetensors --level pbe

        mlipfm finetune set.xyz --from pretrained.safetensors --mode lora --rank 8

        mlipfm finetune set.xyz --from pretrained.safetensors --mode replay --replay data/pretrain --forgetting data/pretrain-valid

        mlipfm finetune vasprun.xml --from model@production --minutes 3 --out tuned

        mlipfm finetune set.xyz --from pretrained.safetensors --read energy_unit=kcal/mol --read forces_unit=kcal/mol/Angstrom
    """
    from .own_file.command import model_to_start_from, reading_of, run
    from .own_file.request import Request

    request = Request(
        file,
        out or Path(f"{file.name.partition('.')[0]}-finetuned"),
        model=model_to_start_from(model),
        valid=valid,
        test=test,
        split=(split or SplitBy.auto).value,
        level=level,
        licence=licence,
        reading=reading_of(file, read or ()),
        minutes=minutes,
        steps=steps,
        mode=mode or "naive",
        rank=rank,
        quantity=quantity,
        replay=replay,
        replay_structures=replay_structures,
        replay_choice=replay_choice.value if replay_choice else None,
        forgetting=forgetting,
        new_elements=new_elements,
        accept_label_errors=accept_label_errors,
        seed=seed or 0,
        changes=tuple(changes or ()),
    )
    run(request, as_json)
