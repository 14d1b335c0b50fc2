"""Ctrl-C ends a run after the step that is being done, with its state saved; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def until_interrupted(say: Callable[[str], None] = lambda text: None) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the user has pressed Ctrl-C inside the block; the handler of before comes back afterwards.

    Args:
        say: receives one line at the first Ctrl-C. Outside of the main thread, where Python allows no handler, nothing changes.

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

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
