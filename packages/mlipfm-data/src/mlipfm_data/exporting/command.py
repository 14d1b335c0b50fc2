"""`mlipfm data export`: a store in the formats of others."""

from __future__ import annotations

from pathlib import Path

import typer


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
    from ..store import Store
    from .formats import export as write
    from .formats import format_of

    format_of(out, format)  # before the store is opened
    with Store(store) as opened:
        if not incomplete:
            opened.require_complete("finish it first: run again what wrote it; or export what it holds so far (--incomplete)")
        report = write(opened, out, format, replace=force)
        typer.echo("\n".join(report.lines(out)))
        if not opened.complete:
            typer.echo(f"  warning: {store} is not complete: these are the structures that it holds so far")
