"""Commands of curation, added to `mlipfm data`."""

from __future__ import annotations

import typer

from .coverage_command import coverage
from .duplicate_commands import duplicates, leakage
from .energy_commands import references, weights
from .split_command import split


def add_to(app: typer.Typer) -> None:
    """Register every command of this folder."""
    for command in (duplicates, leakage, split, weights, references, coverage):
        app.command()(command)
