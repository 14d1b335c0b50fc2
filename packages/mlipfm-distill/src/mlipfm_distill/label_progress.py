"""A progress bar for labelling, or the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlipfm_interfaces.console import counter

#: Called with the number of structures that were done.
Advance = Callable[[int], None]


@contextmanager
def label_progress(total: int, done: int, advance: Advance | None) -> Iterator[Advance]:
    """`advance` itself; without one, a bar on the terminal, if there is one."""
    if advance is not None:
        advance(done)
        yield advance
        return
    with counter("rows of the Hessian", total, done=done) as shown:
        yield shown
