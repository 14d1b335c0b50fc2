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
    min_atoms: int = typer.Option(None, min=1),
    max_atoms: int = typer.Option(None, min=1),
    max_force: float = typer.Option(None, min=0, help="Largest norm of the force on an atom, eV/Angstrom."),
    label: list[str] = typer.Option([], help="Keep structures that have this label; may be repeated."),
    unique: bool = typer.Option(False, "--unique", help="Of structures with the same geometry and level keep the first."),
    licence: str = typer.Option(None, "--licence", "--license", help="SPDX expression, given to the structures that state no licence."),
    instead_of: str = typer.Option(None, "--instead-of", help="With --licence: give it to those that state this text, and to no others."),
    incomplete: bool = typer.Option(False, "--incomplete", help="Take what a store holds so far whose writer is at work or was killed."),
) -> None:
    """Keep part of a store in a new one. Prints how many were dropped for which reason; exits 1, writing nothing, if nothing is left.

    Stores are never edited: a licence that was not stated at import is given to a copy.

    Examples:

        mlipfm data filter store --out small --max-atoms 30 --max-force 20 --unique

        mlipfm data filter store --out licensed --licence CC-BY-4.0

        mlipfm data filter store --out spelled --licence CC-BY-4.0 --instead-of "CC BY 4.0"
    """
    from mlipfm_interfaces.errors import MlipfmError

    from .rearranging import Wanted, filter_store

    if instead_of is not None and licence is None:
        raise MlipfmError("no licence is given", where="--instead-of", mend="name it: --licence CC-BY-4.0")
    names = tuple(word.strip() for word in elements.split(",") if word.strip())
    wanted = Wanted(level, names, min_atoms, max_atoms, max_force, label, unique)
    done = filter_store(store, out, wanted, licence=licence, instead_of=instead_of, incomplete=incomplete)
    if not done.structures:
        typer.echo(_nothing_left(store, wanted.reasons(), done.dropped), err=True)
        raise typer.Exit(1)
    reasons = ", ".join(f"{count} {reason}" for reason, count in done.dropped.items()) or "none"
    typer.echo(f"{out}: {done.structures} structures kept; dropped: {reasons}")
    if licence is not None:
        typer.echo(f"  licence {licence}: given to {done.licensed} structures, {done.structures - done.licensed} keep what they state")
        for text, count in done.unclear.items():
            typer.echo(f"  kept, but no SPDX expression: {text!r} of {count} structures (--instead-of {text!r} replaces it)")
    if not done.complete:
        typer.echo(f"  warning: {store} is not complete: {out} holds what was there so far, and itself counts as complete")


def _nothing_left(store: Path, reasons: list[str], dropped: dict[str, int]) -> str:
    left = sum(dropped.values())
    if not left:
        return f"{store}: holds no structures; nothing is written"
    steps = []
    for reason in reasons:
        left -= dropped.get(reason, 0)
        steps.append(f"{left} after dropping {dropped.get(reason, 0)} ({reason})")
    return f"{store}: the filter keeps none of {sum(dropped.values())} structures, nothing is written; left: {', then '.join(steps)}"
