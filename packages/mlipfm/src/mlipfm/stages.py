"""Progress and times of work that has several stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class Stages:
    """Shows a bar for each stage and keeps how long it took in this run. Stages that were already done take no time again.

    Attributes:
        seconds: stage -> seconds.
    """

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of `total` units; call the yielded function with the number of units that were done since the last call."""
        done, start = 0, time.perf_counter()
        with self.bars({title: total}) as update:

            def advance(n: int) -> None:
                nonlocal done
                done += n
                update(title, done)

            advance(0)
            yield advance
            update(title, total)
        self.seconds[title] = time.perf_counter() - start

    @contextmanager
    def bars(self, totals: Mapping[str, int]) -> Iterator[Callable[[str, int], None]]:
        """Several bars that move side by side; call the yielded function with a title and how much of it is done.

        A bar is shown from the first call for it.
        """
        columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as shown:
            tasks = {title: shown.add_task(title, total=total, start=False, visible=False) for title, total in totals.items()}

            def update(title: str, done: int) -> None:
                if not shown.tasks[tasks[title]].started:
                    shown.start_task(tasks[title])
                shown.update(tasks[title], completed=done, visible=True)

            yield update
