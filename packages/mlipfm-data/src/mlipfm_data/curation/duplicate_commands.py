"""`mlipfm data duplicates` and `mlipfm data leakage`."""

from __future__ import annotations

import enum
from pathlib import Path

import typer


class Leak(enum.StrEnum):
    """What makes `leakage` exit with 1."""

    geometry = "geometry"
    group = "group"
    molecule = "molecule"
    composition = "composition"


def duplicates(
    store: Path = typer.Argument(..., help="Folder of a store."),
    tolerance: float = typer.Option(
        0.01, min=0, max=5, help="Noise on each coordinate, Angstrom, below which two structures are the same."
    ),
    mirrors: bool = typer.Option(False, "--mirrors", help="Mirror images are duplicates too."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with every pair."),
) -> None:
    """Structures that are the same up to motion, order, cell, supercell and noise; neighbours within a trajectory are counted apart."""
    from ..store import Store
    from .duplicates import find_duplicates
    from .pool import processes

    with Store(store) as opened, processes(workers) as executor:
        report = find_duplicates(opened, tolerance=tolerance, mirrors=mirrors, executor=executor)
    _print(report.as_json() if as_json else None, report.lines())


def leakage(
    train: Path = typer.Argument(..., help="Folder of the training store."),
    test: Path = typer.Argument(..., help="Folder of the test store."),
    tolerance: float = typer.Option(
        0.01, min=0, max=5, help="Noise on each coordinate, Angstrom, below which two structures are the same."
    ),
    mirrors: bool = typer.Option(False, "--mirrors", help="Mirror images leak too."),
    fail_on: Leak = typer.Option(Leak.geometry, help="Exit with 1 if test structures share this, or more, with the training set."),
    workers: int = typer.Option(2, min=1, max=4096, help="Processes."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with every pair."),
) -> None:
    """What a test set shares with a training set. Exits 1 if anything leaks."""
    from ..store import Store
    from .leakage import find_leakage
    from .pool import processes

    with Store(train) as first, Store(test) as second, processes(workers) as executor:
        report = find_leakage(first, second, tolerance=tolerance, mirrors=mirrors, executor=executor)
    _print(report.as_json() if as_json else None, report.lines())
    if report.leaks(fail_on.value):
        raise typer.Exit(1)


def _print(document: object, lines: object) -> None:
    import json
    from collections.abc import Iterable
    from typing import cast

    if document is not None:
        typer.echo(json.dumps(document, indent=1))
    else:
        typer.echo("\n".join(cast("Iterable[str]", lines)))
