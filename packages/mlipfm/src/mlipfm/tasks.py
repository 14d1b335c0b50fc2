"""Work that depends on other work, on a pool of processes: each task starts when what it needs is there and a worker is free, the first first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .stages import Stages

#: Name of a task -> what it returned.
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        title: of its bar; tasks of one title share it. work: an importable function.
        arguments: makes its arguments from the results of `needs`; runs in the parent. needs: names of tasks that must be done before.
        total: of its bar. progress: how much of that is done.
    """

    title: str
    work: Callable[..., Any]
    arguments: Callable[[Results], tuple[Any, ...]]
    needs: tuple[str, ...] = ()
    total: int = 1
    progress: Callable[[], int] = lambda: 0


def run_tasks(tasks: Mapping[str, Task], stages: Stages, pool: Executor, stop: Path) -> dict[str, Any]:
    """Run all tasks, at most as many at once as there are cores; what each returned. `stages.seconds` gets the seconds of work of each title.

    No more are given to the pool than it can start: its own queue would let a task that came early, but matters little, go before one that
    others wait for.

    Args:
        tasks: by name, the most urgent first; in no circle.
        stop: file that appears when a task fails or Ctrl-C is pressed; tasks that take long watch for it.

    Raises:
        whatever a task raises.
    """
    stop.unlink(missing_ok=True)
    results: dict[str, Any] = {}
    running: dict[str, Future[Any]] = {}
    begun: dict[str, float] = {}
    with stages.bars(_totals(tasks)) as update:
        try:
            while len(results) < len(tasks):
                for name in _startable(tasks, results, running)[: max(2, os.cpu_count() or 1) - len(running)]:
                    begun[name] = time.perf_counter()
                    running[name] = pool.submit(tasks[name].work, *tasks[name].arguments(results))
                wait(running.values(), timeout=0.5, return_when=FIRST_COMPLETED)
                for name in [name for name, future in running.items() if future.done()]:
                    results[name], title = running.pop(name).result(), tasks[name].title
                    stages.seconds[title] = stages.seconds.get(title, 0.0) + time.perf_counter() - begun[name]
                for title, done in _progress(tasks, results, running).items():
                    update(title, done)
        except BaseException:
            stop.touch()  # no Ctrl-C reaches the workers
            raise
    return results


def _startable(tasks: Mapping[str, Task], results: Results, running: Mapping[str, Any]) -> list[str]:
    fresh = [name for name in tasks if name not in results and name not in running]
    return [name for name in fresh if all(need in results for need in tasks[name].needs)]


def _totals(tasks: Mapping[str, Task]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for task in tasks.values():
        totals[task.title] = totals.get(task.title, 0) + task.total
    return totals


def _progress(tasks: Mapping[str, Task], results: Results, running: Mapping[str, Any]) -> dict[str, int]:
    """What is done of each title that was started."""
    done: dict[str, int] = {}
    for name, task in tasks.items():
        if name in results or name in running:
            done[task.title] = done.get(task.title, 0) + (task.total if name in results else task.progress())
    return done
