"""Work on many structures in parallel, on any Executor: parts of a sequence go out, answers come back in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar, overload

from mlipfm_interfaces.errors import LabelingError, MlipfmError
from mlipfm_interfaces.protocols import Labeler
from mlipfm_interfaces.records import HEAD, LAYOUT, Layouts, check, decode, encode
from mlipfm_interfaces.structure import Provenance, Structure

from .store.store import Store

# Labels from a pool of processes, as they come: `labelled` gives the answer to one task after the other.
#
# Structures travel as records, which are checked on arrival; labelled ones are written to the log as they come. Workers ignore Ctrl-C, which their
# parent handles, and end when it dies. A structure that kills its worker is found by trying the suspects one at a time; it is refused and the
# others go on.

#: Seconds of work in one task, at most `MOST` structures: small enough to lose, large enough to hide the cost of sending.
TASK_SECONDS, MOST = 0.25, 128


@dataclass(frozen=True)
class Answer:
    """What became of a task.

    Attributes:
        records: of the labelled structures in the order of the task; the index of their provenance is their position.
        layouts: of these records. errors: by position, of the structures without labels.
    """

    records: Sequence[bytes]
    layouts: Layouts
    errors: Mapping[int, MlipfmError]


_Parts = tuple[bytes, dict[int, MlipfmError], float]  # what was labelled, the errors by position, seconds


def labelled(
    structures: Sequence[Structure], todo: Sequence[int], labeler: Labeler, workers: int, executor: Executor | None = None
) -> Iterator[Answer]:
    """Label `structures[i]` for i in `todo`, in any order; see `labeling.label_all` for the arguments.

    Raises:
        LabelingError: the workers cannot start, or the labeller fails otherwise than with an MlipfmError.
    """
    if not todo:
        return
    if workers < 1:
        raise LabelingError(f"`workers` must be at least 1, got {workers}")
    left, suspects, in_flight = deque(todo), deque[int](), dict[int, None]()
    if executor is not None:
        yield from _run(structures, left, labeler, executor, 2 * max(workers, os.cpu_count() or 1), MOST, in_flight)
        return
    while left or suspects:
        alone = bool(suspects)  # one suspect at a time: if the process dies again, it is that one
        pool = worker_pool(1 if alone else min(workers, len(left)))
        in_flight.clear()
        try:
            if alone:
                yield from _run(structures, suspects, labeler, pool, 1, 1, in_flight)
            else:
                yield from _run(structures, left, labeler, pool, 2 * workers, MOST, in_flight)
        except BrokenProcessPool:
            if alone:
                [i] = in_flight
                yield Answer((), Layouts(), {i: LabelingError(f"{structures[i].formula}: the process that labelled it died")})
            else:
                suspects = deque(in_flight)
        finally:
            pool.shutdown(cancel_futures=True)


def _run(
    structures: Sequence[Structure],
    todo: deque[int],
    labeler: Labeler,
    executor: Executor,
    window: int,
    most: int,
    in_flight: dict[int, None],
) -> Iterator[Answer]:
    """Take positions from `todo` until it is empty, `most` a task, `window` tasks at a time; `in_flight` names those without an answer yet."""
    running: dict[Future[_Parts], list[int]] = {}
    size = 1
    while todo or running:
        while todo and len(running) < window:
            task = [todo.popleft() for _ in range(min(size, 1 + len(todo) // window))]  # small ones at the end: all stop together
            in_flight.update(dict.fromkeys(task))
            running[executor.submit(_label, labeler, task, pack([structures[i] for i in task]))] = task
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            try:
                blob, errors, seconds = future.result()
            except BrokenProcessPool:
                raise
            except Exception as error:
                place = f"structure {running[future][0]}"
                raise LabelingError(f"the labeller failed: {type(error).__name__}: {error}", where=place) from error
            task = running.pop(future)
            size = max(1, min(most, int(TASK_SECONDS * len(task) / max(seconds, 1e-6))))
            for i in task:
                del in_flight[i]
            yield Answer(*split(blob), errors)


def _label(labeler: Labeler, positions: Sequence[int], blob: bytes) -> _Parts:
    """Runs in a worker."""
    start, good, errors = time.perf_counter(), list[Structure](), dict[int, MlipfmError]()
    for i, structure in zip(positions, unpack(blob), strict=True):
        try:
            good.append(_at(labeler.label(structure), replace(structure.provenance, index=i)))
        except MlipfmError as error:
            errors[i] = error
    return pack(good), errors, time.perf_counter() - start


def _at(structure: Structure, provenance: Provenance) -> Structure:
    """Return the same structure, which was checked when it was labelled, of another origin."""
    return structure.replace_trusted(provenance=provenance)


def pack(structures: Sequence[Structure]) -> bytes:
    """Structures as bytes that describe themselves."""
    layouts, parts = Layouts(), []
    for structure in structures:
        record, new = encode(structure, None, layouts)
        parts += [new, record]
    return b"".join(parts)


def unpack(blob: bytes) -> list[Structure]:
    """Return the structures that were packed. Raises `DamagedFileError` if the bytes are others."""
    records, layouts = split(blob)
    return [decode(record, layouts)[0] for record in records]


def split(blob: bytes) -> tuple[list[bytes], Layouts]:
    """Return the records that were packed, which `decode` checks, and their layouts. Raises `DamagedFileError` if a layout is damaged."""
    layouts, records, at = Layouts(), list[bytes](), 0
    while at < len(blob):
        _, _, kind, _, length = HEAD.unpack_from(blob, at)
        record = blob[at : at + HEAD.size + length]
        at += len(record)
        if kind == LAYOUT:
            check(record)
            layouts.learn(record)
        else:
            records.append(record)
    return records, layouts


class InThisProcess(Executor):
    """Runs what is submitted at once, in this process: starting a process costs as much as 500 labels."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **options))
        except BaseException as error:
            future.set_exception(error)
        return future


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool whose workers have answered once. Spawned, not forked: libraries with threads do not survive a fork."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_follow_parent)
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise LabelingError(
            "the worker processes could not start", hint="in a script, call label_all under `if __name__ == '__main__':`"
        ) from None
    return pool


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it has died: a worker of a killed pool would otherwise wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


PartAnswer = TypeVar("PartAnswer")
#: Structures of one task. Tasks in flight: enough to keep workers busy, few enough to bound the memory.
TASK, IN_FLIGHT = 256, 8


class View(Sequence[Structure], ABC):
    """Structures of other sequences, each taken on first use."""

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
    work: Callable[..., PartAnswer],
    structures: Sequence[Structure],
    parts: Sequence[Sequence[int]],
    executor: Executor | None,
    *more: Sequence[Any],
    title: str,
) -> Iterator[PartAnswer]:
    """`work(structures of the part, *more[..][k])` for each part k of positions, in order; in this process without an executor.

    `title` says on the terminal what is done, beside a bar.
    """
    from mlipfm_interfaces.console import counter

    with counter(title, len(parts)) as advance:
        for answer in _answers(work, structures, parts, executor, more):
            advance(1)
            yield answer


def _answers(
    work: Callable[..., PartAnswer],
    structures: Sequence[Structure],
    parts: Sequence[Sequence[int]],
    executor: Executor | None,
    more: Sequence[Sequence[Any]],
) -> Iterator[PartAnswer]:
    jobs = ((_parcel(structures, part, executor is not None), *(extra[k] for extra in more)) for k, part in enumerate(parts))
    if executor is None:
        for parcel, *extra in jobs:
            yield work(_opened(parcel), *extra)
        return
    waiting: list[Future[PartAnswer]] = []
    try:
        for parcel, *extra in jobs:
            waiting.append(executor.submit(_run_part, work, parcel, *extra))
            if len(waiting) >= IN_FLIGHT:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


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
    """Return what goes to a worker: the store and the positions, or the structures packed without their labels."""
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


def _run_part(work: Callable[..., PartAnswer], parcel: Any, *extra: Any) -> PartAnswer:
    """Runs in a worker."""
    return work(_opened(parcel), *extra)
