"""`mlipfm data label|check-labels|sample`: labels by a method, checks of labels, and geometries by a sampler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlipfm_interfaces.protocols import Labeler, Refusal
    from mlipfm_interfaces.structure import Structure


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(label)
    app.command("check-labels")(check_labels)
    app.command()(sample)


def label(
    source: Path = typer.Argument(..., metavar="IN", help="Folder of a store, or a file that a reader reads (extxyz, ...)."),
    method: str = typer.Option(..., "--method", help="Labeller, e.g. GFN2-xTB."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the new store."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes."),
    charge: int = typer.Option(None, min=-1000, max=1000, help="Total charge of structures that give none."),
    reader: str = typer.Option(None, help="Reader of a file [default: by the file's name]."),
    reader_options: list[str] = typer.Option([], "--option", help="An option of the reader of a file, KEY=VALUE: length_unit=bohr."),
    group_key: str = typer.Option(None, help="Key of what must never be split between training and test: molecule, trajectory."),
    allow_refused: bool = typer.Option(False, "--allow-refused", help="Exit 0 although structures were refused."),
) -> None:
    """Compute labels. Run it again to resume; exits 2 if structures were refused, which are listed in OUT/labeling.json.

    Examples:

        mlipfm data label geometries.xyz --method GFN2-xTB --charge 0 --out labelled

        mlipfm data label md.xyz --method GFN2-xTB --charge 0 --group-key trajectory --out labelled

        mlipfm data label store --method GFN1-xTB --workers 8 --out cheap
    """
    from mlipfm_interfaces.errors import LabelingError

    from .labeling import RECORD, label_all

    labeler = _labeler(method)
    structures, refusals = _structures(_frames(source, reader, reader_options, group_key), source, charge)
    typer.echo("\n".join(_reading_lines(source, len(structures), refusals)))
    if not structures:
        raise refusals[0].error if refusals else LabelingError("there are no structures", where=str(source))
    report = label_all(structures, labeler, out, workers=workers)
    typer.echo("\n".join(report.lines()))
    if allow_refused or not (refusals or report.refused):
        return
    first = refusals[0].error if refusals else report.refused[0].text
    raise LabelingError(
        f"{len(refusals)} of {len(refusals) + len(structures)} structures could not be read, {len(report.refused)} not labelled; first: {first}",
        where=str(source),
        hint=f"those not labelled are listed in {out / RECORD}; --allow-refused accepts this",
    )


def _reading_lines(source: Path, read: int, refusals: list[Refusal]) -> list[str]:
    """Return what became of the frames of the source, for people: the counts add up."""
    lines = [f"{source}: {read + len(refusals)} structures = {read} read + {len(refusals)} refused"]
    for code in sorted({refusal.error.code for refusal in refusals}):
        errors = [refusal.error for refusal in refusals if refusal.error.code == code]
        lines.append(f"  refused: {len(errors)} x {code}, first: {errors[0]}")
    return lines


def _labeler(method: str) -> Labeler:
    """Return the labeller of a method, by the canonical name of its level. Raises `PluginError` with the nearest known one."""
    from mlipfm_interfaces import plugins
    from mlipfm_interfaces.theory import canonical_level

    labeler: Labeler = plugins.load("labelers", canonical_level(method))()
    return labeler


def _frames(source: Path, reader: str | None, texts: list[str], group_key: str | None = None) -> Iterator[Structure | Refusal]:
    """Of a store, or of a file (or folder) that a reader knows.

    Raises:
        OptionError: options of a reader for a store.
    """
    from mlipfm_interfaces.errors import OptionError

    from .readers.option_text import options_for
    from .readers.registry import read
    from .store.manifest import is_store
    from .store.store import Store

    if not is_store(source):
        return read(source, reader, **options_for(source, reader, texts, {"require": (), "group_key": group_key}))
    if reader or texts or group_key:
        raise OptionError("--reader, --option and --group-key are for files", where=str(source), hint="this is a store: leave them out")
    return iter(Store(source))


def _structures(frames: Iterator[Structure | Refusal], source: Path, charge: int | None) -> tuple[list[Structure], list[Refusal]]:
    """Return what is to be labelled, without labels, and the frames that could not be read."""
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


def check_labels(
    sources: list[Path] = typer.Argument(..., help="Stores, or files of any format that `import` reads."),
    level: str = typer.Option(None, help="Level of theory of files that do not give it."),
    reader: str = typer.Option(None, help="Reader of the files [default: by their names]."),
    options: list[str] = typer.Option(
        [], "--option", help="Another option of the reader, KEY=VALUE: forces_unit=Hartree/bohr, forces_sign=-1."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with all figures."),
) -> None:
    """Check labels with physics alone: units, signs, orders, mixed levels, copies, outliers. Exits 1 if there are label errors.

    Examples:

        mlipfm data check-labels store

        mlipfm data check-labels set.xyz --level pbe --option forces_sign=-1
    """
    import json

    from .label_checks.columns import counted, findings_of

    found = {str(source): findings_of(source, reader, _settings(source, reader, level, options)) for source in sources}
    if as_json:
        typer.echo(json.dumps({name: [item.as_dict() for item in items] for name, items in found.items()}, indent=1))
    else:
        for name, items in found.items():
            typer.echo("\n".join([f"{name}: {counted(items)}", *(f"  {item}" for item in items)]))
    if any(item.severity == "fault" for items in found.values() for item in items):
        raise typer.Exit(1)


def _settings(source: Path, reader: str | None, level: str | None, texts: list[str]) -> dict[str, object]:
    """Options for the reader of a file. Raises `OptionError` for a store with options: they would do nothing."""
    from mlipfm_interfaces.errors import OptionError

    from .readers.option_text import options_for
    from .store.manifest import is_store

    if is_store(source):
        given = [name for name, value in (("--level", level), ("--reader", reader), ("--option", texts)) if value]
        if given:
            raise OptionError(f"{', '.join(given)} is for files, and {source} is a store", hint="leave it out")
        return {}
    return options_for(source, reader, texts, {"level": level})


def sample(
    source: Path = typer.Argument(None, metavar="IN", help="Folder of a store, or a file that a reader reads (extxyz, cif, ...)."),
    sampler: str = typer.Option(None, "--sampler", help="Name of the sampler; --list shows them."),
    n: int = typer.Option(None, "--n", min=1, max=10**6, help="Geometries of each structure."),
    options: list[str] = typer.Option([], "--option", help="An option of the sampler, KEY=VALUE: temperature=300."),
    model: str = typer.Option(
        None, "--model", help="What forces come from: a checkpoint, NAME@ALIAS of a registry, or a labeller (gfn2-xtb)."
    ),
    charge: int = typer.Option(None, min=-1000, max=1000, help="Total charge of structures that give none."),
    reader: str = typer.Option(None, help="Reader of a file [default: by the file's name]."),
    out: Path = typer.Option(None, "--out", "-o", help="File to write: .xyz, .extxyz or .db."),
    seed: int = typer.Option(0, min=0, max=2**62, help="The same seed gives the same geometries."),
    force: bool = typer.Option(False, "--force", help="Replace what is there."),
    list_all: bool = typer.Option(False, "--list", help="List the installed samplers with their options."),
) -> None:
    """Make geometries around structures by a sampler: normal modes, molecular dynamics, or one of another package.

    The geometries have no labels (`mlipfm data label` computes them) and stay in the group of their structure.

    Examples:

        mlipfm data sample --list

        mlipfm data sample ethanol.xyz --sampler normal-modes --n 10 --option temperature=300 --out samples.xyz

        mlipfm data sample ethanol.xyz --sampler langevin --model gfn2-xtb --charge 0 --n 10 --out samples.xyz
    """
    from mlipfm_interfaces.errors import OptionError, SamplingError

    from .export.formats import export
    from .sampling import list_samplers, make_sampler, sample as samples

    if list_all:
        return typer.echo("\n".join(list_samplers()))
    missing = [flag for flag, value in (("IN", source), ("--sampler", sampler), ("--n", n), ("--out", out)) if value is None]
    if source is None or sampler is None or n is None or out is None:
        raise OptionError(f"{', '.join(missing)} is missing", hint="mlipfm data sample FILE --sampler NAME --n 10 --out FILE.xyz")
    chosen = make_sampler(sampler, options, model)
    structures, refusals = _structures(_frames(source, reader, []), source, charge)
    if refusals or not structures:
        raise refusals[0].error if refusals else SamplingError("there are no structures", where=str(source))
    found = list(samples(structures, chosen, n, seed))
    typer.echo("\n".join(export(found, out, replace=force).lines(out)))
