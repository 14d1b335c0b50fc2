"""`mlipfm data import-sets`: every known set of a folder into one store, a row for each, and tables of what the store then holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from .known_sets.importing_sets import SetRow


def import_sets(
    folder: Path = typer.Argument(..., help="Folder of unpacked sets, or of their .tar.xz archives."),
    store: Path = typer.Argument(..., help="Folder of the store, new or old."),
    only: list[str] = typer.Option([], "--only", help="Name of a set; may be given several times. [default: all that are known]"),
    jobs: int = typer.Option(1, "--jobs", min=1, help="Processes that read."),
    as_json: bool = typer.Option(False, "--json", help="Print the rows as JSON."),
) -> None:
    """Import every known data set of a folder into one store. Run it again to resume; sets without a reader are named with the reason."""
    import json
    from dataclasses import asdict

    from .known_sets.importing_sets import import_sets as run

    if not as_json:
        typer.echo(_HEAD)
    rows = run(folder, store, only=only, workers=jobs, done=None if as_json else _show)
    if as_json:
        typer.echo(json.dumps({"store": str(store), "sets": [asdict(row) for row in rows]}, indent=1))
        return
    typer.echo("\n".join(_totals(rows, store)))
    if any(row.imported for row in rows):
        for line in tables(store):
            typer.echo(line)


def tables(store: Path) -> Iterator[str]:
    """What is printed about the store after an import: levels, elements, sizes and forces. Further tables are added here."""
    from .looking import describe
    from .store import Store
    from .trust.command import store_lines

    with Store(store) as opened:
        yield ""
        yield from describe(opened)
    yield ""
    yield from store_lines(store)


_HEAD = f"{'set':<30}{'frames':>8}{'stored':>8}{'there':>7}{'refused':>8}{'slope':>8}  levels"


def _show(row: SetRow) -> None:
    typer.echo("\n".join(_lines(row)))


def _lines(row: SetRow) -> Iterator[str]:
    if row.files == 0 and row.reason:
        yield f"{row.name:<30}not imported: {row.reason}"
        return
    slope = "-" if row.slope is None else f"{row.slope:.3f}"
    refused = sum(row.refused.values())
    levels = ", ".join(f"{level} {count}" for level, count in sorted(row.levels.items()))
    yield f"{row.name:<30}{row.frames:>8}{row.stored:>8}{row.duplicates:>7}{refused:>8}{slope:>8}  {levels}"
    for code, count in sorted(row.refused.items()):
        yield f"{'':<30}  refused: {count} x {code}, first: {row.first[code]}"
    if row.reason:
        yield f"{'':<30}  left out: {row.reason}"


def _totals(rows: list[SetRow], store: Path) -> Iterator[str]:
    refused = sum(sum(row.refused.values()) for row in rows)
    frames, stored, there = (sum(getattr(row, key) for row in rows) for key in ("frames", "stored", "duplicates"))
    levels = {level for row in rows for level in row.levels if level != "none"}
    yield f"{'all':<30}{frames:>8}{stored:>8}{there:>7}{refused:>8}{'':>8}  {len(levels)} levels"
    imported = sum(row.imported for row in rows)
    yield f"{store}: {imported} of {len(rows)} sets, {frames} frames = {stored} stored + {there} already there + {refused} refused"
