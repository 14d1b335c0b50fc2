"""Ctrl-C ends a run after the step that is being done, with its state saved; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def until_interrupted(say: Callable[[str], None] = lambda text: None, *, also_terminated: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the user has pressed Ctrl-C inside the block; the handler of before comes back afterwards.

    Args:
        say: receives one line at the first Ctrl-C. Outside of the main thread, where Python allows no handler, nothing changes.
        also_terminated: SIGTERM, which batch systems send before they kill, counts as Ctrl-C. Not for processes that wait for each other.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def handle(number: int, frame: FrameType | None) -> Any:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        say("stopping after this step; press Ctrl-C again to stop at once")

    signals = [signal.SIGINT, *([signal.SIGTERM] if also_terminated else [])]
    before = [signal.signal(number, handle) for number in signals]
    try:
        yield pressed.is_set
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
