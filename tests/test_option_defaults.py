"""A default of an option can override what a file, reader, checkpoint or record knows: each one stands in a table with its reason.

The table is `.github/OPTION_DEFAULTS.md`. An option whose default is None, False or empty gives nothing and needs no row.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from mlipfm_interfaces.cli import app
from typer.testing import CliRunner

TABLE = Path(__file__).parents[1] / ".github" / "OPTION_DEFAULTS.md"


def stated_defaults(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    """(command, option, default) of every option, and optional argument, whose default states something."""
    if hasattr(command, "list_commands"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from stated_defaults(command.get_command(context, name), (*path, name))
        return
    for parameter in command.params:
        default = parameter.default() if callable(parameter.default) else parameter.default
        if default is not None and default is not False and default not in ("", (), []):
            yield " ".join(path), max(parameter.opts, key=len), str(default.value if isinstance(default, enum.Enum) else default)


def table_rows(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """(command, option) -> (default, what it may hide and why it stands)."""
    rows = (re.match(r"\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \| (.*) \|$", line) for line in text.splitlines())
    return {(row[1], row[2]): (row[3], row[4].strip()) for row in rows if row}


def problems(found: dict[tuple[str, str], str], rows: dict[tuple[str, str], tuple[str, str]]) -> list[str]:
    """What has no row, another default than its row says, no reason, or a row and is no default."""
    said = [
        f"{command} {option}: default {default!r} has no row"
        for (command, option), default in found.items()
        if (command, option) not in rows
    ]
    said += [
        f"{' '.join(key)}: the row says {rows[key][0]}, the default is {found[key]}"
        for key in found
        if key in rows and rows[key][0] != found[key]
    ]
    said += [f"{' '.join(key)}: has a row and no such default" for key in rows if key not in found]
    return said + [f"{' '.join(key)}: the row gives no reason" for key, (_, reason) in rows.items() if len(reason) < 20]


def test_every_default_of_a_command_stands_in_the_table_with_what_it_may_hide():
    found = {(command, option): default for command, option, default in stated_defaults(typer.main.get_command(app))}
    assert len(found) > 20  # all commands were found
    assert problems(found, table_rows(TABLE.read_text(encoding="utf-8"))) == []


def test_import_has_no_default_that_could_override_a_reader():
    """Every option of a reader is not given unless the user gives it."""
    found = {
        option for command, option, _ in stated_defaults(typer.main.get_command(app)) if command in ("data import", "data check-labels")
    }
    assert found == {"--jobs", "--overlap"}  # of a manifest, which states all that readers use


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "default 'eV' has no row"),
        ({("data import", "--energy-unit"): ("Hartree", "a reason that is long enough")}, "the row says Hartree, the default is eV"),
        ({("data import", "--energy-unit"): ("eV", "")}, "the row gives no reason"),
        ({("data import", "--energy-unit"): ("eV", "x" * 30), ("md run", "--gone"): ("1", "x" * 30)}, "has a row and no such default"),
    ],
)
def test_a_new_default_without_a_reason_is_refused(rows, message):
    planted = typer.Typer()

    @planted.command()
    def import_(energy_unit: str = typer.Option("eV"), level: str = typer.Option(None), quiet: bool = typer.Option(False)) -> None: ...

    found = {("data import", option): default for _, option, default in stated_defaults(typer.main.get_command(planted))}
    assert message in "; ".join(problems(found, rows))


def test_help_of_import_says_where_units_come_from():
    result = CliRunner().invoke(app, ["data", "import", "--help"], terminal_width=200)
    assert "as the file or its layout says" in " ".join(result.output.split())
