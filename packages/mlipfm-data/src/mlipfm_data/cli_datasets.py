"""`mlipfm data catalogue` and `mlipfm data download`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from .datasets.catalogue import Wish
    from .datasets.download import Wanted


def add_to(app: typer.Typer) -> None:
    """Register the commands of this folder."""
    app.command()(catalogue)
    app.command()(download)


def catalogue(
    name: str = typer.Argument(None, help="Name of a set: everything about it, with sources."),
    element: list[str] = typer.Option([], "--element", help="Only sets that hold this element; may be given several times."),
    level: str = typer.Option(None, "--level", help="Only sets with a level of theory whose name holds this, e.g. wb97m."),
    label: list[str] = typer.Option([], "--label", help="Only sets with this label: energy, forces, stress, dipole, ..."),
    charged: bool = typer.Option(False, "--charged", help="Only sets with ions."),
    open_shell: bool = typer.Option(False, "--open-shell", help="Only sets with open shells."),
    open_licence: bool = typer.Option(False, "--open-licence", help="Only sets whose licence lets everyone use and change them."),
    downloadable: bool = typer.Option(False, "--downloadable", help="Only sets with the address of a file."),
    readable: bool = typer.Option(False, "--readable", help="Only sets with a layout that a reader takes."),
    evidence: bool = typer.Option(False, "--evidence", help="What each reader was tested on."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Public data sets: elements, levels of theory, labels, licences, layouts, sizes and addresses, each with the source it was read from.

    Examples:

        mlipfm data catalogue --element Fe --label forces

        mlipfm data catalogue spice2
    """
    from .datasets.catalogue import Wish

    if evidence:
        return _show_evidence(as_json)
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
    from .datasets.catalogue import catalogue as entries
    from .datasets.catalogue import choose

    fitting, unknown = choose(wish, entries().values())
    if as_json:
        told = {"sets": [tables.as_json(entry) for entry in fitting], "unknown": [entry.id for entry in unknown]}
        return typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
    typer.echo("\n".join(tables.overview(fitting)))
    if unknown:
        text = f"no source read says whether they fit: {', '.join(entry.id for entry in unknown)}"
        typer.echo("\n".join(textwrap.wrap(text, tables.WIDTH, break_on_hyphens=False)))


def _show_evidence(as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from .datasets.evidence import evidence, lines

    typer.echo(json.dumps([asdict(claim) for claim in evidence()], indent=1) if as_json else "\n".join(lines()))


def download(
    what: str = typer.Argument(..., metavar="NAME|URL", help="Name of a set of the catalogue, or the address of a file."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the files."),
    file: list[str] = typer.Option([], "--file", help="Of a set of several files: those whose name fits, e.g. 'train_10k*'."),
    all_files: bool = typer.Option(False, "--all", help="All files of the set."),
    name: str = typer.Option(None, "--as", help="Name of the file [default: the end of the address]."),
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
    for wanted in _wanted(what, file, all_files, name, sha256):
        for line in run(wanted, out, unpacking=unpacking, limits=limits):
            typer.echo(line)


def _wanted(what: str, patterns: list[str], all_files: bool, name: str | None, sha256: str | None) -> list[Wanted]:
    from mlipfm_interfaces.errors import UnknownQuantityError

    from .datasets.catalogue import chosen, find
    from .datasets.download import wanted_from

    if "://" in what:
        if patterns or all_files:
            raise UnknownQuantityError("--file and --all are for sets of the catalogue, an address is one file", mend="leave them out")
        return [wanted_from(what, name, sha256)]
    if name or sha256:
        raise UnknownQuantityError("--as and --sha256 are for an address, the catalogue knows them for its sets", mend="leave them out")
    return chosen(find(what), patterns, all_files)
