"""A progress bar for labelling, or the caller's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Called with the number of structures that were done.
Advance = Callable[[int], None]


@contextmanager
def label_progress(total: int, done: int, advance: Advance | None) -> Iterator[Advance]:
    """`advance` itself; without one, a bar on the terminal, if there is one."""
    if advance is not None:
        advance(done)
        yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("rows of the Hessian", total=total, completed=done)
        yield lambda count: bar.advance(task, count)
