"""`mlipfm data label`: compute labels for a store or a file of structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlipfm_interfaces.protocols import Labeler, Refusal
    from mlipfm_interfaces.structure import Structure


def label(
    source: Path = typer.Argument(..., metavar="IN", help="Folder of a store, or a file that a reader knows (extxyz, ...)."),
    method: str = typer.Option(..., "--method", help="Labeller, e.g. GFN2-xTB."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the new store."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes."),
    charge: int = typer.Option(None, min=-1000, max=1000, help="Total charge of structures that state none."),
    reader: str = typer.Option(None, help="Reader of a file [default: by the file's name]."),
    reader_options: list[str] = typer.Option([], "--option", help="An option of the reader of a file, KEY=VALUE: length_unit=bohr."),
    skip_refused: bool = typer.Option(False, "--skip-refused", help="Exit 0 although structures were refused."),
) -> None:
    """Compute labels. Run it again to resume; exits 2 if structures were refused, which are listed in OUT/labeling.json."""
    from mlipfm_interfaces.errors import LabelingError

    from .labeling import RECORD, label_all

    labeler = _labeler(method)
    structures, refusals = _structures(_frames(source, reader, reader_options), source, charge)
    typer.echo("\n".join(_reading_lines(source, len(structures), refusals)))
    if not structures:
        raise refusals[0].error if refusals else LabelingError("there are no structures", where=str(source))
    report = label_all(structures, labeler, out, workers=workers)
    typer.echo("\n".join(report.lines()))
    if skip_refused or not (refusals or report.refused):
        return
    first = refusals[0].error if refusals else report.refused[0].text
    raise LabelingError(
        f"{len(refusals)} of {len(refusals) + len(structures)} structures could not be read, {len(report.refused)} not labelled; first: {first}",
        where=str(source),
        mend=f"those not labelled are listed in {out / RECORD}; --skip-refused accepts this",
    )


def _reading_lines(source: Path, read: int, refusals: list[Refusal]) -> list[str]:
    """What became of the frames of the source, for people: the counts add up."""
    lines = [f"{source}: {read + len(refusals)} structures = {read} read + {len(refusals)} refused"]
    for code in sorted({refusal.error.code for refusal in refusals}):
        errors = [refusal.error for refusal in refusals if refusal.error.code == code]
        lines.append(f"  refused: {len(errors)} x {code}, first: {errors[0]}")
    return lines


def _labeler(method: str) -> Labeler:
    """The labeller of a method, by the canonical name of its level. Raises `PluginError` with the nearest known one."""
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.theory import canonical_level

    labeler: Labeler = plugins.load("labelers", canonical_level(method))()
    return labeler


def _frames(source: Path, reader: str | None, texts: list[str]) -> Iterator[Structure | Refusal]:
    """Of a store, or of a file (or folder) that a reader knows.

    Raises:
        UnknownQuantityError: options of a reader for a store.
    """
    from mlipfm_interfaces.errors import UnknownQuantityError

    from .readers.option_text import options_for
    from .readers.reading import read
    from .store import Store

    if not (source / "manifest.json").exists():
        return read(source, reader, **options_for(source, reader, texts, {"require": ()}))
    if reader or texts:
        raise UnknownQuantityError("--reader and --option are for files", where=str(source), mend="this is a store: leave them out")
    return iter(Store(source))


def _structures(frames: Iterator[Structure | Refusal], source: Path, charge: int | None) -> tuple[list[Structure], list[Refusal]]:
    """What is to be labelled, without labels, and the frames that could not be read."""
    from mlipfm_interfaces.structure import Structure

    from .importing import shown

    structures, refusals = [], []
    for item in shown(frames, source.name):
        if isinstance(item, Structure):
            stated = charge if item.total_charge is None else item.total_charge
            structures.append(item.replace(total_charge=stated, level=None, labels={}, label_std={}))
        else:
            refusals.append(item)
    return structures, refusals
