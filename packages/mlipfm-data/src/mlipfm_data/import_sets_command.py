"""`mlipfm data import-sets`: every known set of a folder into one store, a row for each, and tables of what the store then holds."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from .duplicates.report import OverlapReport
    from .known_sets.importing_sets import SetRow


class Compared(enum.StrEnum):
    """How the sets of a store are compared with each other."""

    near = "near"
    exact = "exact"
    none = "none"


def import_sets(
    folder: Path = typer.Argument(..., help="Folder of unpacked sets, or of their .tar.xz archives."),
    store: Path = typer.Argument(..., help="Folder of the store, new or old."),
    only: list[str] = typer.Option([], "--only", help="Name of a set; may be given several times. [default: all that are known]"),
    jobs: int = typer.Option(1, "--jobs", min=1, max=4096, help="Processes that read and compare."),
    overlap: Compared = typer.Option(
        Compared.near, help="Compare the sets with each other: near geometries too, exact coordinates only, or not at all."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the rows and the overlap as JSON."),
) -> None:
    """Import every known data set of a folder into one store. Run it again to resume; sets without a reader are named with the reason.

    Structures of sets that an earlier run completed count as already there; the last line says how many sets are new.

    Then prints what the store holds (coverage), likely faults of its labels, and which sets share geometries with each other (leakage).

    Examples:

        mlipfm data import-sets sets store --jobs 2

        mlipfm data import-sets sets store --only md17 --only ethanol_ccsdt

        mlipfm data import-sets sets store --overlap exact
    """
    import json
    from dataclasses import asdict

    from .known_sets.importing_sets import import_sets as run

    if not as_json:
        typer.echo(_HEAD)
    rows = run(folder, store, only=only, workers=jobs, done=None if as_json else _show)
    imported = any(row.imported for row in rows)
    if as_json:
        report = overlaps(store, overlap, jobs) if imported and overlap != Compared.none else None
        document = {"store": str(store), "sets": [asdict(row) for row in rows], "overlap": report and report.as_json()}
        typer.echo(json.dumps(document, indent=1))
        return
    typer.echo("\n".join(_totals(rows, store)))
    if imported:
        for line in tables(store, overlap, jobs):
            typer.echo(line)


def overlaps(store: Path, how: Compared, jobs: int) -> OverlapReport:
    """What the sets of a store share; `how` is near or exact."""
    from .duplicates.report import find_overlaps
    from .known_sets.importing_sets import holders
    from .parallel import processes
    from .store.store import Store

    with Store(store) as opened, processes(jobs) as executor:
        return find_overlaps(opened, holders(store), near=how == Compared.near, executor=executor)


def tables(store: Path, overlap: Compared, jobs: int) -> Iterator[str]:
    """What is printed about the store after an import: coverage, faults, and what its sets share. Further tables are added here."""
    from .cli import store_lines
    from .known_sets.importing_sets import unrecorded
    from .store.describe import describe
    from .store.store import Store

    with Store(store) as opened:
        yield ""
        yield from describe(opened)
    yield ""
    yield from store_lines(store)
    yield ""
    if overlap == Compared.none:
        yield "overlap between sets: not compared (--overlap near or exact)"
        return
    yield from overlaps(store, overlap, jobs).lines()
    for name, count in unrecorded(store).items():
        yield f"  not counted: which sets had brought the {count} structures of {name} that were there already; imported by an earlier version"


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
    imported, before, fresh = (
        sum(of) for of in zip(*((r.imported, r.before and r.imported, not r.before and r.stored > 0) for r in rows), strict=True)
    )
    yield f"{store}: {imported} of {len(rows)} sets, {frames} frames = {stored} stored + {there} already there + {refused} refused"
    if before:
        new = f"{fresh} sets with {stored} structures are new" if fresh else "nothing is new"
        yield f"  {before} sets were imported before, {new}"
