"""`mlipfm data coverage`."""

from __future__ import annotations

from pathlib import Path

import typer


def coverage(
    store: Path = typer.Argument(..., help="Folder of a store."),
    out: Path = typer.Option(..., "--out", "-o", help="HTML file to write; the overview goes beside it as PNG."),
) -> None:
    """What a set covers, as a page and a picture: elements, states, forces, contacts, levels, and the gaps of the field."""
    from mlipfm_interfaces.files import atomic_write

    from ..store import Store
    from .coverage import cover, gaps
    from .coverage_figures import overview
    from .coverage_page import page

    with Store(store) as opened:
        found, name = cover(opened), opened.name
    picture = out.with_suffix(".png")
    atomic_write(picture, overview(found, name))
    atomic_write(out, page(found, name).encode())
    for gap in gaps(found):
        typer.echo(f"{gap.letter}  {gap.name:36s} {gap.seen}")
    typer.echo(f"{out}, {picture}")
