"""A progress bar on a terminal for what takes long enough to wonder; silent elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]
_SMALL = 1 << 23  # bytes


@contextlib.contextmanager
def bar(title: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Call what this yields with the number of new bytes. `total` None: unknown."""
    if total is not None and total - done < _SMALL:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(title, total=total, completed=done)
        yield lambda count: shown.update(task, advance=count)
