"""`mlipfm data ...`: import native files into a store, look at it, merge, filter and export it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from mlipfm_interfaces.cli import old_names

from .cli_curation import add_to as add_curation
from .cli_datasets import Overlap, add_to as add_datasets, import_described
from .cli_generate import add_to as add_generate
from .cli_labels import add_to as add_labels

if TYPE_CHECKING:
    from mlipfm_interfaces.errors import MlipfmError

    from .importing import Importer, ImportReport

app = typer.Typer(
    help="Read, check, split and export atomistic data.\n\nExample: mlipfm data import set.xyz --out store --level pbe",
    no_args_is_help=True,
    context_settings=old_names(
        {
            "catalogue": "list",
            "trust": "check-labels",
            "--accept-faults": "--accept-label-errors",
            "--skip-refused": "--allow-refused",
            "--instead-of": "--replace-licence",
            "--as": "--file-name",
        }
    ),
)


@app.callback()
def _group() -> None:
    """Read, check, split and export atomistic data.

    Example: mlipfm data import set.xyz --out store --level pbe
    """


@app.command("import")
def import_(
    context: typer.Context,
    files: list[Path] = typer.Argument(None, help="Files to import (extxyz, traj, db, cif, vasprun.xml, ...)."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the store, new or old."),
    level: str = typer.Option(None, help="Level of theory of the labels, e.g. wb97m-d3bj/def2-tzvppd."),
    name: str = typer.Option(None, help="Name of a new data set [default: the folder's name]."),
    reader: str = typer.Option(None, help="Reader [default: by the file's name]."),
    unlabelled: bool = typer.Option(False, "--unlabelled", help="Accept frames without labels."),
    require: str = typer.Option(None, help="Labels without which a frame is refused, comma separated. [default: energy]"),
    energy_key: str = typer.Option(None, help="Key of the energy. [default of all keys: found by their usual names]"),
    forces_key: str = typer.Option(None, help="Key of the forces."),
    stress_key: str = typer.Option(None, help="Key of the stress."),
    virial_key: str = typer.Option(None, help="Key of the virial, which is converted to a stress."),
    dipole_key: str = typer.Option(None, help="Key of the dipole."),
    charges_key: str = typer.Option(None, help="Key of the partial charges of the atoms."),
    charge_key: str = typer.Option(None, help="Key of the total charge."),
    spin_key: str = typer.Option(None, help="Key of the spin multiplicity."),
    group_key: str = typer.Option(None, help="Key of what must never be split between training and test: molecule, trajectory."),
    energy_unit: str = typer.Option(
        None,
        help="Unit of the energies, e.g. kcal/mol. [default of all units: as the file or its layout says, else eV, Angstrom, eV/Angstrom, ...]",
    ),
    length_unit: str = typer.Option(None, help="Unit of positions and cell, e.g. bohr."),
    forces_unit: str = typer.Option(None, help="Unit of the forces, e.g. Hartree/bohr."),
    stress_unit: str = typer.Option(None, help="Unit of the stress, e.g. GPa or kbar."),
    dipole_unit: str = typer.Option(None, help="Unit of the dipole, e.g. Debye."),
    polarizability_unit: str = typer.Option(None, help="Unit of the polarizability, e.g. bohr^3."),
    forces_sign: int = typer.Option(None, min=-1, max=1, help="-1 if the forces are gradients."),
    stress_sign: int = typer.Option(
        None, min=-1, max=1, help="-1 if stress is positive (or a virial negative) under compression: VASP, LAMMPS."
    ),
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
    allow_refused: bool = typer.Option(False, "--allow-refused", help="Exit 0 although frames were refused."),
    accept_label_errors: bool = typer.Option(
        False, "--accept-label-errors", help="Import a file although its labels contradict the units or signs by which they are read."
    ),
    manifest: Path = typer.Option(
        None,
        "--manifest",
        help="TOML or JSON file that describes many files: sets with name, licence and files (path, reader, level, options).",
    ),
    only: list[str] = typer.Option([], "--only", help="With --manifest: name of a set; may be repeated. [default: all]"),
    jobs: int = typer.Option(1, "--jobs", min=1, max=4096, help="With --manifest: processes that read and compare."),
    overlap: Overlap = typer.Option(
        Overlap.near, help="With --manifest: compare the sets with each other: near geometries too, exact coordinates only, or not at all."
    ),
    as_json: bool = typer.Option(False, "--json", help="With --manifest: print the rows and the overlap as JSON."),
) -> None:
    """Import files into a store. Prints which key was read as what; exits 2 if frames were refused, which are listed in OUT.refused.jsonl.

    Frames that are there already are kept as they are; where they differ, or where a geometry is there at another level, a warning says so.

    Examples:

        mlipfm data import set.xyz md.traj --out store --level wb97m-d3bj/def2-tzvppd --group-key molecule

        mlipfm data import systems.deepmd --out store --level pbe

        mlipfm data import ani.h5 --out store --reader hdf5 --option group=ani

        mlipfm data import --manifest sets.toml --out store --jobs 2

    With --manifest it prints a row for each set, the statistics of the store, likely label errors, and which sets share geometries. Run it again to
    go on after an interruption: complete sets are not read again.
    """
    from mlipfm_interfaces.cli import given_parameters
    from mlipfm_interfaces.errors import OptionError

    from .importing import Importer

    given = given_parameters(context).keys() - {"out"}
    if manifest is not None:
        if single := sorted(given - _MANIFEST):
            flags = ", ".join(key.replace("_", "-") for key in single)
            raise OptionError(f"with --manifest the file gives {flags}", where=str(manifest), hint="leave them out, or write them there")
        return _import_manifest(manifest, out, only, jobs, overlap, as_json)
    if not files or given & _MANIFEST:
        what = "no file is given" if not files else "--only, --jobs, --overlap and --json are for --manifest"
        raise OptionError(what, hint="mlipfm data import FILE --out STORE, or --manifest FILE")
    if unlabelled and require is not None:
        raise OptionError("--unlabelled accepts frames without labels, --require refuses them", hint="give one of them")
    named = {key: context.params[key] for key in _OPTIONS}
    if unlabelled or require is not None:
        named["require"] = tuple(word.strip() for word in (require or "").split(",") if word.strip())
    with Importer(out, name=name, inspected=True, accept_label_errors=accept_label_errors) as importer:
        reports, failed = _import_files(files, importer, reader, reader_options, named)
    _finish(reports, out, importer.quarantine, allow_refused)
    if failed is not None:
        raise failed


def _import_files(
    files: list[Path], importer: Importer, reader: str | None, texts: list[str], named: dict[str, Any]
) -> tuple[list[ImportReport], MlipfmError | None]:
    """Import one file after the other, print what became of each, and return the reports and the first error of a file that was not imported.

    Raises:
        MlipfmError: the only file cannot be imported.
    """
    from mlipfm_interfaces.errors import MlipfmError

    from .licensing import checked_licence
    from .readers.option_text import options_for

    reports: list[ImportReport] = []
    failed: MlipfmError | None = None
    before: list[str] = []
    for path in files:
        try:
            options = options_for(path, reader, texts, named)
            if options.get("licence") is not None:
                options["licence"] = checked_licence(options["licence"])
            reports.append(importer.add(path, reader, **options))
        except MlipfmError as error:
            if len(files) == 1:
                raise
            failed = failed or error
            typer.echo(f"{path}: not imported: {error}")
            continue
        counts, *said = reports[-1].lines()
        typer.echo(f"{counts}; read as the file before" if said and said == before else "\n".join([counts, *said]))
        before = said
    return reports, failed


_MANIFEST = {"manifest", "only", "jobs", "overlap", "as_json"}


def _import_manifest(manifest: Path, out: Path, only: list[str], jobs: int, overlap: Overlap, as_json: bool) -> None:
    from mlipfm_interfaces.errors import UnreadableFileError

    from .datasets.manifest import read_manifest

    sets = read_manifest(manifest)
    if missing := sorted(set(only) - {one.name for one in sets}):
        names = ", ".join(one.name for one in sets)
        raise UnreadableFileError(f"has no set named {', '.join(missing)}", where=str(manifest), hint=f"it has {names}")
    import_described([one for one in sets if not only or one.name in only], manifest.parent, out, jobs, overlap, as_json)


_OPTIONS = ("level", "energy_key", "forces_key", "stress_key", "virial_key", "dipole_key", "charges_key", "charge_key", "spin_key", "group_key",
            "energy_unit", "length_unit", "forces_unit", "stress_unit", "dipole_unit", "polarizability_unit", "forces_sign", "stress_sign",
            "stress_order", "spin_meaning", "mask_zero_forces", "accept_unconverged", "licence", "sampling")  # fmt: skip


def _finish(reports: list[ImportReport], out: Path, quarantine: Path, allow_refused: bool) -> None:
    """One line about the whole import; raises the most frequent refusal unless the user accepts refusals."""
    frames, stored = sum(r.frames for r in reports), sum(r.stored + r.duplicates for r in reports)
    refused = sum(r.refused.total() for r in reports)
    if stored:
        typer.echo(f"{out}: {stored} of {frames} frames are in the store")
    faults = sorted({item.code for r in reports for item in r.findings if item.severity == "fault"})
    if faults:
        typer.echo(
            f"warning: stored with labels that contradict physics ({', '.join(faults)}): `mlipfm train` refuses them; `mlipfm data check-labels`"
        )
    if not refused or allow_refused:
        return
    worst = max((r for r in reports if r.refused), key=lambda r: r.refused.total())
    code = worst.refused.most_common(1)[0][0]
    error = worst.first[code]
    what = f"{refused} of {frames} frames refused ({_counted(reports)}); first {code}: {error.what}"
    hint = "; ".join(text for text in (error.hint, f"all are listed in {quarantine}", "--allow-refused accepts this") if text)
    raise type(error)(what, where=error.where, hint=hint)


def _counted(reports: list[ImportReport]) -> str:
    from collections import Counter

    total: Counter[str] = sum((r.refused for r in reports), Counter())
    return ", ".join(f"{count} {code}" for code, count in total.most_common())


@app.command()
def show(store: Path = typer.Argument(..., help="Folder of a store.")) -> None:
    """Levels, elements, sizes and forces of a store.

    Example: mlipfm data show store
    """
    from .store.describe import describe
    from .store.store import Store

    with Store(store) as opened:
        for line in describe(opened):
            typer.echo(line)


@app.command()
def verify(store: Path = typer.Argument(..., help="Folder of a store.")) -> None:
    """Read every record of a store and check every hash. Exits 2 if anything is wrong.

    Example: mlipfm data verify store
    """
    from .store.store import Store

    with Store(store) as opened:
        faults = opened.verify()
        if not faults:
            typer.echo(
                f"{store}: {len(opened)} structures, all records and hashes match" + ("" if opened.complete else "; not complete yet")
            )
            return
        for fault in faults[1:]:
            typer.echo(str(fault))
        raise faults[0]


@app.command()
def merge(
    stores: list[Path] = typer.Argument(..., help="Folders of complete stores."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the new store."),
    name: str = typer.Option(None, help="Name of the new data set [default: the folder's name]."),
    keep_duplicates: bool = typer.Option(False, "--keep-duplicates", help="Accept structures that are there more than once."),
) -> None:
    """Put stores together; records are not touched, files are linked or copied and every hash is verified.

    Example: mlipfm data merge first second --out both
    """
    from .store.merge import merge_stores

    done = merge_stores(stores, out, name or out.name, keep_duplicates=keep_duplicates)
    typer.echo(f"{out}: {done.structures} structures of {len(stores)} stores")


@app.command("filter")
def filter_(
    store: Path = typer.Argument(..., help="Folder of a store."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the new store."),
    level: list[str] = typer.Option([], help="Keep this level of theory; may be repeated."),
    elements: str = typer.Option("", help="Keep structures of these elements only, comma separated: H,C,O."),
    min_atoms: int = typer.Option(None, min=1, help="Keep structures with at least this number of atoms."),
    max_atoms: int = typer.Option(None, min=1, help="Keep structures with at most this number of atoms."),
    max_force: float = typer.Option(None, min=0, help="Largest norm of the force on an atom, eV/Angstrom."),
    label: list[str] = typer.Option([], help="Keep structures that have this label; may be repeated."),
    unique: bool = typer.Option(False, "--unique", help="Of structures with the same geometry and level keep the first."),
    near_duplicates: bool = typer.Option(
        False,
        "--near-duplicates",
        help="Of structures that `data duplicates` finds equal (rotated, reordered, noise) keep the first.",
    ),
    licence: str = typer.Option(None, "--licence", "--license", help="SPDX expression, given to the structures that have no licence."),
    replace_licence: str = typer.Option(
        None, "--replace-licence", help="With --licence: give it to those that give this text, and to no others."
    ),
    incomplete: bool = typer.Option(False, "--incomplete", help="Take what a store holds so far whose writer is at work or was killed."),
) -> None:
    """Keep part of a store in a new one. Prints how many were dropped for which reason; exits 1, writing nothing, if nothing is left.

    Stores are never edited: a licence that was not given at import is given to a copy.

    Examples:

        mlipfm data filter store --out small --max-atoms 30 --max-force 20 --unique

        mlipfm data filter store --out licensed --licence CC-BY-4.0

        mlipfm data filter store --out spelled --licence CC-BY-4.0 --replace-licence "CC BY 4.0"
    """
    from mlipfm_interfaces.errors import OptionError
    from mlipfm_interfaces.quantities import quantity

    from .store.merge import StoreFilter, filter_store

    if replace_licence is not None and licence is None:
        raise OptionError("no licence is given", where="--replace-licence", hint="name it: --licence CC-BY-4.0")
    names = tuple(word.strip() for word in elements.split(",") if word.strip())
    for key in label:
        quantity(key)
    wanted = StoreFilter(level, names, min_atoms, max_atoms, max_force, label, unique)
    near = _near_duplicates(store) if near_duplicates else ()
    done = filter_store(store, out, wanted, licence=licence, replace_licence=replace_licence, incomplete=incomplete, near_duplicates=near)
    if not done.structures:
        typer.echo(_nothing_left(store, wanted.reasons(), done.dropped), err=True)
        raise typer.Exit(1)
    reasons = ", ".join(f"{count} {reason}" for reason, count in done.dropped.items()) or "none"
    typer.echo(f"{out}: {done.structures} structures kept; dropped: {reasons}")
    if licence is not None:
        typer.echo(f"  licence {licence}: given to {done.licensed} structures, {done.structures - done.licensed} keep what they state")
        for text, count in done.unclear.items():
            typer.echo(f"  kept, but no SPDX expression: {text!r} of {count} structures (--replace-licence {text!r} replaces it)")
    if not done.complete:
        typer.echo(f"  warning: {store} is not complete: {out} holds what was there so far, and itself counts as complete")


def _near_duplicates(store: Path) -> list[int]:
    """Positions of duplicates of structures that stay."""
    from .duplicates.report import find_duplicates
    from .parallel import processes
    from .store.store import Store

    with Store(store) as opened, processes(2) as executor:
        return find_duplicates(opened, executor=executor).removable()


def _nothing_left(store: Path, reasons: list[str], dropped: dict[str, int]) -> str:
    left = sum(dropped.values())
    if not left:
        return f"{store}: holds no structures; nothing is written"
    steps = []
    for reason in reasons:
        left -= dropped.get(reason, 0)
        steps.append(f"{left} after dropping {dropped.get(reason, 0)} ({reason})")
    return f"{store}: the filter keeps none of {sum(dropped.values())} structures, nothing is written; left: {', then '.join(steps)}"


@app.command()
def export(
    store: Path = typer.Argument(..., help="Folder of a store."),
    out: Path = typer.Option(..., "--out", "-o", help="File to write (.xyz, .extxyz, .db), or folder of DeePMD systems (.deepmd)."),
    format: str = typer.Option(None, "--format", help="extxyz, ase-db or deepmd [default: by the end of the name]."),
    force: bool = typer.Option(False, "--force", help="Replace what is there."),
    incomplete: bool = typer.Option(False, "--incomplete", help="Export what a store holds so far whose writer is at work or was killed."),
) -> None:
    """Write a store as extended XYZ, ASE database or DeePMD systems: importing it again gives equal structures.

    What the format cannot hold is counted and said. DeePMD systems are grouped by level of theory, composition and order of atoms; there a stress
    comes back from the virial, with a relative error of 2e-16. Everything else comes back with all its bits.

    Examples:

        mlipfm data export store --out store.xyz

        mlipfm data export store --out store.db

        mlipfm data export store --format deepmd --out systems
    """
    from .export.formats import export as write, format_of
    from .store.store import Store

    format_of(out, format)  # before the store is opened
    with Store(store) as opened:
        if not incomplete:
            opened.require_complete("finish it first: run again what wrote it; or export what it holds so far (--incomplete)")
        report = write(opened, out, format, replace=force)
        typer.echo("\n".join(report.lines(out)))
        if not opened.complete:
            typer.echo(f"  warning: {store} is not complete: these are the structures that it holds so far")


add_labels(app)
add_generate(app)
add_curation(app)
add_datasets(app)
