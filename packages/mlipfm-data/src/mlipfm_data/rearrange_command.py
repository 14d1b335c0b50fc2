"""`mlipfm data merge` and `mlipfm data filter`."""

from __future__ import annotations

from pathlib import Path

import typer


def merge(
    stores: list[Path] = typer.Argument(..., help="Folders of complete stores."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the new store."),
    name: str = typer.Option(None, help="Name of the new data set [default: the folder's name]."),
    keep_duplicates: bool = typer.Option(False, "--keep-duplicates", help="Accept structures that are there more than once."),
) -> None:
    """Put stores together; records are not touched, files are linked or copied and every hash is verified."""
    from .rearranging import merge_stores

    done = merge_stores(stores, out, name or out.name, keep_duplicates=keep_duplicates)
    typer.echo(f"{out}: {done.structures} structures of {len(stores)} stores")


def filter_(
    store: Path = typer.Argument(..., help="Folder of a store."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the new store."),
    level: list[str] = typer.Option([], help="Keep this level of theory; may be repeated."),
    elements: str = typer.Option("", help="Keep structures of these elements only, comma separated: H,C,O."),
    min_atoms: int = typer.Option(None),
    max_atoms: int = typer.Option(None),
    max_force: float = typer.Option(None, help="Largest norm of the force on an atom, eV/Angstrom."),
    label: list[str] = typer.Option([], help="Keep structures that have this label; may be repeated."),
    unique: bool = typer.Option(False, "--unique", help="Of structures with the same geometry and level keep the first."),
) -> None:
    """Keep part of a store in a new one. Prints how many were dropped for which reason."""
    from .rearranging import Wanted, filter_store

    names = tuple(word.strip() for word in elements.split(",") if word.strip())
    done = filter_store(store, out, Wanted(level, names, min_atoms, max_atoms, max_force, label, unique))
    reasons = ", ".join(f"{count} {reason}" for reason, count in done.dropped.items()) or "none"
    typer.echo(f"{out}: {done.structures} structures kept; dropped: {reasons}")
