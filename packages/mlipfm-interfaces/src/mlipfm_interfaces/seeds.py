"""One root seed, named streams: every random number of a run comes from `stream(seed, name, ...)`.

Streams of different names or keys are independent, and a stream depends on nothing but its arguments: not on ranks, workers or call order.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str, *keys: int | str) -> np.random.Generator:
    """Return the generator of the stream `name` (data, views, dropout, sampler, md, ...) for `keys` such as (epoch, structure key)."""
    text = "\x1f".join([name, *(str(key) for key in keys)])
    words = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(int(w) for w in words))))
