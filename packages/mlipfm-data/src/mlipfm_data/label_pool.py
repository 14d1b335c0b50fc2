"""Labels from a pool of processes, as they come: `labelled` gives (position, labelled structure or the error that says why not).

Structures travel as records (they are checked on arrival). Workers ignore Ctrl-C, which their parent handles, and end when it dies. A structure
that kills its worker is found by trying the suspects one at a time; it is refused and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for

from mlipfm_interfaces.errors import LabelingError, MlipfmError
from mlipfm_interfaces.protocols import Labeler
from mlipfm_interfaces.records import HEAD, LAYOUT, Layouts, check, decode, encode
from mlipfm_interfaces.structure import Structure

#: Seconds of work in one task, at most `MOST` structures: small enough to lose, large enough to hide the cost of sending.
TASK_SECONDS, MOST = 0.2, 32

_Outcome = tuple[int, Structure | MlipfmError]
_Answer = tuple[bytes, dict[int, MlipfmError], float]  # what was labelled, the errors by place in the task, seconds


def labelled(
    structures: Sequence[Structure], todo: Sequence[int], labeler: Labeler, workers: int, executor: Executor | None = None
) -> Iterator[_Outcome]:
    """Label `structures[i]` for i in `todo`, in any order; see `labeling.label_all` for the arguments.

    Raises:
        LabelingError: the workers cannot start, or the labeller fails otherwise than with an MlipfmError.
    """
    if not todo:
        return
    left, suspects, in_flight = list(todo), list[int](), list[int]()
    if executor is not None:
        yield from _run(structures, left, labeler, executor, 2 * (os.cpu_count() or 1), MOST, in_flight)
        return
    if workers < 1:
        raise LabelingError(f"`workers` must be at least 1, got {workers}")
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
                yield in_flight[0], LabelingError(f"{structures[in_flight[0]].formula}: the process that labelled it died")
            else:
                suspects = in_flight.copy()
        finally:
            pool.shutdown(cancel_futures=True)


def _run(
    structures: Sequence[Structure], todo: list[int], labeler: Labeler, executor: Executor, window: int, most: int, in_flight: list[int]
) -> Iterator[_Outcome]:
    """Take positions from `todo` until it is empty, `most` a task, `window` tasks at a time; `in_flight` names those without an answer yet."""
    running: dict[Future[_Answer], list[int]] = {}
    size = 1
    while todo or running:
        while todo and len(running) < window:
            task, todo[:] = todo[:size], todo[size:]
            in_flight.extend(task)
            running[executor.submit(_label, labeler, pack([structures[i] for i in task]))] = task
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            try:
                blob, errors, seconds = future.result()
            except BrokenProcessPool:
                raise
            except Exception as error:
                place = f"structure {running[future][0]}"
                raise LabelingError(f"the labeller failed: {type(error).__name__}: {error}", where=place) from error
            task, good = running.pop(future), iter(unpack(blob))
            size = max(1, min(most, int(TASK_SECONDS * len(task) / max(seconds, 1e-6))))
            for k, i in enumerate(task):
                in_flight.remove(i)
                yield i, errors[k] if k in errors else next(good)


def _label(labeler: Labeler, blob: bytes) -> _Answer:
    """Runs in a worker."""
    start, good, errors = time.perf_counter(), list[Structure](), dict[int, MlipfmError]()
    for k, structure in enumerate(unpack(blob)):
        try:
            good.append(labeler.label(structure))
        except MlipfmError as error:
            errors[k] = error
    return pack(good), errors, time.perf_counter() - start


def pack(structures: Sequence[Structure]) -> bytes:
    """Structures as bytes that describe themselves."""
    layouts, parts = Layouts(), []
    for structure in structures:
        record, new = encode(structure, None, layouts)
        parts += [new, record]
    return b"".join(parts)


def unpack(blob: bytes) -> list[Structure]:
    """The structures that were packed. Raises `DamagedFileError` if the bytes are others."""
    layouts, structures, at = Layouts(), [], 0
    while at < len(blob):
        record = blob[at : at + HEAD.size + HEAD.unpack_from(blob, at)[4]]
        at += len(record)
        if check(record)[0] == LAYOUT:
            layouts.learn(record)
        else:
            structures.append(decode(record, layouts)[0])
    return structures


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool whose workers have answered once. Spawned, not forked: libraries with threads do not survive a fork."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_follow_parent)
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise LabelingError(
            "the worker processes could not start", mend="in a script, call label_all under `if __name__ == '__main__':`"
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
