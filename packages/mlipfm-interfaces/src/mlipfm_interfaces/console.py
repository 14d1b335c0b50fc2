"""Where commands print tables and long lines: as wide as the terminal, and uncut where there is none (a pipe, a file, a log)."""

from __future__ import annotations

from rich.console import Console

#: Columns where there is no terminal; rich would take 80 and cut what is wider.
UNCUT = 10_000


def open_console(*, stderr: bool = False) -> Console:
    """A rich console on stdout, or on stderr. Nothing it prints is cut or wrapped unless it goes to a terminal."""
    made = Console(stderr=stderr)
    if not made.file.isatty():
        made.width = UNCUT
    return made
