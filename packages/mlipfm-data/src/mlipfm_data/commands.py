"""`mlipfm data ...`: import native files into a store, look at one, check it, export it, label it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .catalogue.commands import add_to as add_catalogue
from .curation.commands import add_to as add_curation
from .exporting.command import export
from .import_sets_command import import_sets
from .label_command import label
from .rearrange_command import filter_, merge
from .trust.command import trust

if TYPE_CHECKING:
    from .importing import ImportReport

app = typer.Typer(help="Read, check, look at and export atomistic data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Read, check, look at and export atomistic data."""


app.command()(label)
app.command()(merge)
app.command("filter")(filter_)
app.command()(import_sets)
app.command()(export)
app.command()(trust)
add_curation(app)
add_catalogue(app)


@app.command("import")
def import_(
    context: typer.Context,
    files: list[Path] = typer.Argument(..., help="Files to import (extxyz, traj, db, cif, vasprun.xml, ...)."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the store, new or old."),
    level: str = typer.Option(None, help="Level of theory of the labels, e.g. wb97m-d3bj/def2-tzvppd."),
    name: str = typer.Option(None, help="Name of a new data set [default: the folder's name]."),
    reader: str = typer.Option(None, help="Reader [default: by the file's name]."),
    unlabelled: bool = typer.Option(False, "--unlabelled", help="Accept frames without labels."),
    require: str = typer.Option(None, help="Labels without which a frame is refused, comma separated. [default: energy]"),
    energy_key: str = typer.Option(None, help="Key of the energy; likewise below. [default: found by its usual names]"),
    forces_key: str = typer.Option(None),
    stress_key: str = typer.Option(None),
    virial_key: str = typer.Option(None),
    dipole_key: str = typer.Option(None),
    charges_key: str = typer.Option(None),
    charge_key: str = typer.Option(None, help="Key of the total charge."),
    spin_key: str = typer.Option(None, help="Key of the spin multiplicity."),
    group_key: str = typer.Option(None, help="Key of what must never be split between training and test: molecule, trajectory."),
    energy_unit: str = typer.Option(
        None, help="Unit of the energies; likewise below. [default: as the file or its layout says, else eV, Angstrom, eV/Angstrom, ...]"
    ),
    length_unit: str = typer.Option(None),
    forces_unit: str = typer.Option(None),
    stress_unit: str = typer.Option(None),
    dipole_unit: str = typer.Option(None),
    forces_sign: int = typer.Option(None, min=-1, max=1, help="-1 if the forces are gradients."),
    stress_sign: int = typer.Option(None, min=-1, max=1, help="-1 if stress is positive under compression (VASP, LAMMPS pressure)."),
    stress_order: str = typer.Option(None, help="Order of six stress components, e.g. xx,yy,zz,xy,yz,xz."),
    spin_meaning: str = typer.Option(None, help="`multiplicity` (2S+1) or `unpaired` (number of unpaired electrons)."),
    mask_zero_forces: bool = typer.Option(
        None,
        "--mask-zero-forces",
        help="Leave forces that are exactly zero out of loss and errors, where others of the frame are not zero.",
    ),
    accept_unconverged: bool = typer.Option(
        None, "--accept-unconverged", help="Take labels although the file says that their calculation did not converge."
    ),
    reader_options: list[str] = typer.Option(
        [],
        "--option",
        help="Another option of the reader, KEY=VALUE: cell='10 10 20', format=vasp-out, periodic=false, keys=homo=E_homo,lumo=E_lumo.",
    ),
    licence: str = typer.Option(None, "--licence", "--license", help="SPDX identifier of the data, or LicenseRef-NAME for one of its own."),
    sampling: str = typer.Option(None, help="How the geometries were made."),
    skip_refused: bool = typer.Option(False, "--skip-refused", help="Exit 0 although frames were refused."),
    accept_faults: bool = typer.Option(
        False, "--accept-faults", help="Import a file although its labels contradict the units or signs that it or its layout states."
    ),
) -> None:
    """Import files into a store. Prints which key was read as what; exits 2 if frames were refused, which are listed in OUT.refused.jsonl.

    Frames that are there already are kept as they are; where they differ, or where a geometry is there at another level, a warning says so.

    Examples:

        mlipfm data import set.xyz md.traj --out store --level wb97m-d3bj/def2-tzvppd --group-key molecule

        mlipfm data import systems.deepmd --out store --level pbe

        mlipfm data import ani.h5 --out store --reader hdf5 --option group=ani
    """
    from mlipfm_interfaces.errors import MlipfmError, UnknownQuantityError

    from .importing import Importer
    from .licensing import checked_licence
    from .readers.option_text import options_for

    named = {key: context.params[key] for key in _OPTIONS}
    if licence is not None:
        named["licence"] = checked_licence(licence)
    if unlabelled and require is not None:
        raise UnknownQuantityError("--unlabelled accepts frames without labels, --require refuses them", mend="give one of them")
    if unlabelled or require is not None:
        named["require"] = tuple(word.strip() for word in (require or "").split(",") if word.strip())
    reports: list[ImportReport] = []
    failed: MlipfmError | None = None
    with Importer(out, name=name, inspected=True, accept_faults=accept_faults) as importer:
        for path in files:
            try:
                options = options_for(path, reader, reader_options, named)
                if "licence" in options:
                    options["licence"] = checked_licence(options["licence"])
                reports.append(importer.add(path, reader, **options))
            except MlipfmError as error:
                if len(files) == 1:
                    raise
                failed = failed or error
                typer.echo(f"{path}: not imported: {error}")
                continue
            typer.echo("\n".join(reports[-1].lines()))
    _finish(reports, out, importer.quarantine, skip_refused)
    if failed is not None:
        raise failed


_OPTIONS = ("level", "energy_key", "forces_key", "stress_key", "virial_key", "dipole_key", "charges_key", "charge_key", "spin_key", "group_key",
            "energy_unit", "length_unit", "forces_unit", "stress_unit", "dipole_unit", "forces_sign", "stress_sign", "stress_order", "spin_meaning",
            "mask_zero_forces", "accept_unconverged", "licence", "sampling")  # fmt: skip


def _finish(reports: list[ImportReport], out: Path, quarantine: Path, skip_refused: bool) -> None:
    """One line about the whole import; raises the most frequent refusal unless the user accepts refusals."""
    frames, stored = sum(r.frames for r in reports), sum(r.stored + r.duplicates for r in reports)
    refused = sum(r.refused.total() for r in reports)
    if stored:
        typer.echo(f"{out}: {stored} of {frames} frames are in the store")
    if not refused or skip_refused:
        return
    worst = max((r for r in reports if r.refused), key=lambda r: r.refused.total())
    code = worst.refused.most_common(1)[0][0]
    error = worst.first[code]
    what = f"{refused} of {frames} frames refused ({_counted(reports)}); first {code}: {error.what}"
    mend = "; ".join(text for text in (error.mend, f"all are listed in {quarantine}", "--skip-refused accepts this") if text)
    raise type(error)(what, where=error.where, mend=mend)


def _counted(reports: list[ImportReport]) -> str:
    from collections import Counter

    total: Counter[str] = sum((r.refused for r in reports), Counter())
    return ", ".join(f"{count} {code}" for code, count in total.most_common())


@app.command()
def show(store: Path = typer.Argument(..., help="Folder of a store.")) -> None:
    """Levels, elements, sizes and forces of a store."""
    from .looking import describe
    from .store import Store

    with Store(store) as opened:
        for line in describe(opened):
            typer.echo(line)


@app.command()
def verify(store: Path = typer.Argument(..., help="Folder of a store.")) -> None:
    """Read every record of a store and check every hash. Exits 2 if anything is wrong."""
    from .store import Store

    with Store(store) as opened:
        faults = opened.verify()
        if not faults:
            typer.echo(
                f"{store}: {len(opened)} structures, all records and hashes are right" + ("" if opened.complete else "; not complete yet")
            )
            return
        for fault in faults[1:]:
            typer.echo(str(fault))
        raise faults[0]
