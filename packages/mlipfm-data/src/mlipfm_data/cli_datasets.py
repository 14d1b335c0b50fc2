"""`mlipfm data list|get|download`, and the table that imports of several sets print."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from .datasets.catalogue import Wish
    from .datasets.download import FileRequest
    from .datasets.manifest import SetDescription


def add_to(app: typer.Typer) -> None:
    """Register the commands of this folder."""
    app.command("list")(list_sets)
    app.command()(download)
    app.command()(get)


class Overlap(enum.StrEnum):
    """How the sets of a store are compared with each other."""

    near = "near"
    exact = "exact"
    none = "none"


def import_described(sets: list[SetDescription], root: Path, out: Path, jobs: int, overlap: Overlap, as_json: bool = False) -> None:
    """Import described sets into a store and print a row for each, then the statistics of the store, label errors and overlaps."""
    import json
    from dataclasses import asdict

    from .datasets import import_many

    if not as_json:
        typer.echo(import_many.HEAD)
    rows = import_many.import_sets(sets, root, out, workers=jobs, done=None if as_json else lambda row: typer.echo("\n".join(row.lines())))
    imported = any(row.imported for row in rows)
    if as_json:
        report = import_many.overlaps(out, near=overlap == Overlap.near, workers=jobs) if imported and overlap != Overlap.none else None
        document = {"store": str(out), "sets": [asdict(row) for row in rows], "overlap": report and report.as_json()}
        return typer.echo(json.dumps(document, indent=1))
    typer.echo("\n".join(import_many.totals(rows, out)))
    if imported:
        for line in import_many.tables(out, overlap.value, jobs):
            typer.echo(line)


def list_sets(
    name: str = typer.Argument(None, help="Name of a set: everything about it, with sources."),
    element: list[str] = typer.Option([], "--element", help="Only sets that hold this element; may be given several times."),
    level: str = typer.Option(None, "--level", help="Only sets with a level of theory whose name holds this, e.g. wb97m."),
    label: list[str] = typer.Option([], "--label", help="Only sets with this label: energy, forces, stress, dipole, ..."),
    charged: bool = typer.Option(False, "--charged", help="Only sets with ions."),
    open_shell: bool = typer.Option(False, "--open-shell", help="Only sets with open shells."),
    open_licence: bool = typer.Option(False, "--open-licence", help="Only sets whose licence lets everyone use and change them."),
    downloadable: bool = typer.Option(False, "--downloadable", help="Only sets with the address of a file."),
    readable: bool = typer.Option(False, "--readable", help="Only sets with a layout that a reader takes."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List public data sets: elements, levels of theory, labels, licences, layouts, sizes and addresses, each with the source it was read from.

    Examples:

        mlipfm data list --element Fe --label forces

        mlipfm data list spice2
    """
    from .datasets.catalogue import Wish

    wish = Wish(tuple(element), level, tuple(label), charged, open_shell, open_licence, downloadable, readable)
    return _show_one(name, as_json) if name else _show_all(wish, as_json)


def _show_one(name: str, as_json: bool) -> None:
    import json

    from .datasets import tables
    from .datasets.catalogue import find

    entry = find(name)
    typer.echo(json.dumps(tables.as_json(entry), indent=1, ensure_ascii=False) if as_json else "\n".join(tables.one_set(entry)))


def _show_all(wish: Wish, as_json: bool) -> None:
    import json
    import textwrap

    from .datasets import tables
    from .datasets.catalogue import catalogue as entries, choose

    fitting, unknown = choose(wish, entries().values())
    if as_json:
        told = {"sets": [tables.as_json(entry) for entry in fitting], "unknown": [entry.id for entry in unknown]}
        return typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
    typer.echo("\n".join(tables.overview(fitting)))
    if unknown:
        text = f"no source read says whether they fit: {', '.join(entry.id for entry in unknown)}"
        typer.echo("\n".join(textwrap.wrap(text, tables.WIDTH, break_on_hyphens=False)))


def download(
    what: str = typer.Argument(..., metavar="NAME|URL", help="Name of a set of the catalogue, or the address of a file."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the files."),
    file: list[str] = typer.Option([], "--file", help="Of a set of several files: those whose name fits, e.g. 'train_10k*'."),
    all_files: bool = typer.Option(False, "--all", help="All files of the set."),
    file_name: str = typer.Option(None, "--file-name", help="Name of the file [default: the end of the address]."),
    sha256: str = typer.Option(None, "--sha256", help="SHA-256 that the file must have."),
    unpacking: bool = typer.Option(True, "--unpack/--no-unpack", help="Unpack archives (zip, tar, gz, bz2, xz) beside them."),
    max_unpacked: float = typer.Option(None, "--max-unpacked", min=0, help="GB that an archive may become [default: what is free]."),
) -> None:
    """Download a data set, resuming where an earlier try stopped. Sizes and digests are verified; OUT/downloads.json records them.

    Exits 2 with one line if there is no connection, no such file, or anything wrong with what came. Run it again to go on.

    Example: mlipfm data download spice1 --out spice
    """
    from .datasets.download import download as run
    from .datasets.unpack import Limits

    limits = Limits(size=None if max_unpacked is None else int(max_unpacked * 1e9))
    for wanted in _wanted(what, file, all_files, file_name, sha256):
        for line in run(wanted, out, unpacking=unpacking, limits=limits):
            typer.echo(line)


def get(
    name: str = typer.Argument(..., help="Name of a set of the catalogue."),
    out: Path = typer.Option(None, "--out", "-o", help="Folder of the store, new or old. [default: the set's id]"),
    file: list[str] = typer.Option([], "--file", help="Of a set of several files: those whose name fits, e.g. 'train_10k*'."),
    all_files: bool = typer.Option(False, "--all", help="All files of the set."),
    downloads: Path = typer.Option(None, "--downloads", help="Folder for the files [default: $MLIPFM_CACHE/downloads/ID]. They are kept."),
    max_unpacked: float = typer.Option(None, "--max-unpacked", min=0, help="GB that an archive may become [default: what is free]."),
    jobs: int = typer.Option(1, "--jobs", min=1, max=4096, help="Processes that read and compare."),
) -> None:
    """Download a set of the catalogue and import it with its reader, options, level, units and licence. Run it again to go on after a stop.

    Prints a row for each file, the statistics of the store and likely label errors. `mlipfm data download` only downloads.

    Examples:

        mlipfm data get rmd17 --out store

        mlipfm data get md17 --file "ethanol*" --file "aspirin*" --out store
    """
    from mlipfm_interfaces.files import cache_dir

    from .datasets.catalogue import chosen, described, find
    from .datasets.download import download as run
    from .datasets.unpack import Limits

    entry = find(name)
    wanted = chosen(entry, file, all_files)
    folder = downloads or cache_dir() / "downloads" / entry.id
    described(entry, wanted, folder)  # refuse before the download what no reader takes
    for one in wanted:
        for line in run(one, folder, limits=Limits(size=None if max_unpacked is None else int(max_unpacked * 1e9))):
            typer.echo(line)
    import_described(described(entry, wanted, folder), folder, out or Path(entry.id), jobs, Overlap.none)


def _wanted(what: str, patterns: list[str], all_files: bool, name: str | None, sha256: str | None) -> list[FileRequest]:
    from mlipfm_interfaces.errors import OptionError

    from .datasets.catalogue import chosen, find
    from .datasets.download import file_request

    if "://" in what:
        if patterns or all_files:
            raise OptionError("--file and --all are for sets of the catalogue, an address is one file", hint="leave them out")
        return [file_request(what, name, sha256)]
    if name or sha256:
        raise OptionError("--file-name and --sha256 are for an address, the catalogue knows them for its sets", hint="leave them out")
    return chosen(find(what), patterns, all_files)
