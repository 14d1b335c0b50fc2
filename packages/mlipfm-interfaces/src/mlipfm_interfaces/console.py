"""Where commands print tables and long lines: as wide as the terminal, and uncut where there is none (a pipe, a file, a log)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

#: Columns where there is no terminal; rich would take 80 and cut what is wider.
UNCUT = 10_000


def open_console(*, stderr: bool = False) -> Console:
    """Return a rich console on stdout, or on stderr. Nothing it prints is cut or wrapped unless it goes to a terminal.

    FORCE_COLOR, which Jupyter sets, colours what goes elsewhere, and does not make a terminal of it: bars would fill a notebook with their steps.
    """
    made = Console(stderr=stderr)
    if not made.file.isatty():
        made = Console(stderr=stderr, width=UNCUT, force_terminal=False, color_system=made.color_system)  # type: ignore[arg-type]  # its own word
    return made


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a bar on a terminal's stderr while the block runs; call what it yields with the number done, and the number of all if it was not known."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = open_console(stderr=True)
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of=total: bar.update(task, completed=done, total=of)


@contextmanager
def counter(
    what: str, total: int | None = None, *, done: int = 0, in_bytes: bool = False, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal's stderr while the block runs; call what it yields with the number of new items.

    Args:
        total: items in all, None if not known. done: items done before. in_bytes: the items are bytes. show: False for no bar.
    """
    from rich import progress

    console = open_console(stderr=True)
    if not (show and console.is_terminal):
        yield lambda count: None
        return
    amount = (progress.DownloadColumn(), progress.TransferSpeedColumn()) if in_bytes else (progress.MofNCompleteColumn(),)
    columns = progress.TextColumn("{task.description}"), progress.BarColumn(), *amount, progress.TimeRemainingColumn()
    with progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
