"""Work on many structures in parallel, on any Executor: parts of a sequence go out, answers come back in order."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar, overload

from mlipfm_interfaces.structure import Structure

from ..label_pool import pack, unpack, worker_pool
from ..store import Store

Answer = TypeVar("Answer")
#: Structures of one task. Tasks in flight: enough to keep workers busy, few enough to bound the memory.
TASK, IN_FLIGHT = 256, 8


class View(Sequence[Structure], ABC):
    """Structures of other sequences, each taken when it is asked for."""

    @abstractmethod
    def at(self, k: int) -> Structure:
        """Structure `k`."""

    @overload
    def __getitem__(self, k: int) -> Structure: ...

    @overload
    def __getitem__(self, k: slice) -> list[Structure]: ...

    def __getitem__(self, k: int | slice) -> Structure | list[Structure]:
        if isinstance(k, slice):
            return [self.at(i) for i in range(*k.indices(len(self)))]
        return self.at(k)


class Chosen(View):
    """Some structures of a sequence, by their positions, in any order and any number of times."""

    def __init__(self, of: Sequence[Structure], positions: Sequence[int]) -> None:
        self.of, self.positions = of, positions

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, k: int) -> Structure:
        return self.of[self.positions[k]]


def over(
    work: Callable[..., Answer],
    structures: Sequence[Structure],
    parts: Sequence[Sequence[int]],
    executor: Executor | None,
    *more: Sequence[Any],
    title: str,
) -> Iterator[Answer]:
    """`work(structures of the part, *more[..][k])` for each part k of positions, in order; in this process without an executor.

    `title` says on the terminal what is done, beside a bar.
    """
    with bar(len(parts), title) as advance:
        for answer in _answers(work, structures, parts, executor, more):
            advance()
            yield answer


def _answers(
    work: Callable[..., Answer],
    structures: Sequence[Structure],
    parts: Sequence[Sequence[int]],
    executor: Executor | None,
    more: Sequence[Sequence[Any]],
) -> Iterator[Answer]:
    jobs = ((_parcel(structures, part, executor is not None), *(extra[k] for extra in more)) for k, part in enumerate(parts))
    if executor is None:
        for parcel, *extra in jobs:
            yield work(_opened(parcel), *extra)
        return
    waiting: list[Future[Answer]] = []
    try:
        for parcel, *extra in jobs:
            waiting.append(executor.submit(_run, work, parcel, *extra))
            if len(waiting) >= IN_FLIGHT:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


@contextlib.contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[], None]]:
    """`advance()` for one more of `total`; nothing is shown where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=total)
        yield lambda: shown.advance(task)


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Executor | None]:
    """A pool of worker processes, or None for one worker: this process."""
    if workers <= 1:
        yield None
        return
    pool = worker_pool(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def blocks(n: int, size: int = TASK) -> list[range]:
    """0..n-1 in runs of `size`."""
    return [range(start, min(n, start + size)) for start in range(0, n, size)]


def _parcel(structures: Sequence[Structure], part: Sequence[int], sent: bool) -> Any:
    """What goes to a worker: the store and the positions, or the structures packed without their labels."""
    if isinstance(structures, Chosen):
        return _parcel(structures.of, [structures.positions[k] for k in part], sent)
    if isinstance(structures, Store):
        return structures, list(part)
    chosen = [structures[k] for k in part]
    return pack([s.replace(labels={}, label_std={}) for s in chosen]) if sent else chosen


def _opened(parcel: Any) -> list[Structure]:
    if isinstance(parcel, bytes):
        return unpack(parcel)
    if isinstance(parcel, tuple):
        store, part = parcel
        return [store[k] for k in part]
    return list(parcel)


def _run(work: Callable[..., Answer], parcel: Any, *extra: Any) -> Answer:
    """Runs in a worker."""
    return work(_opened(parcel), *extra)
