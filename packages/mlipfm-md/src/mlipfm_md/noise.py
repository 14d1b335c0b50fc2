"""Normal random numbers as a function of (seed, name, replica, step, index): the generator Philox4x32-10 and the transform of Box and Muller.

A counter-based generator (Salmon et al. 2011, doi:10.1145/2063384.2063405) has no state: all numbers of a step are made at once for any number of
replicas, a restart makes the same ones, and a replica's do not depend on how many run beside it. Numbers 4 b to 4 b + 3 of a replica are those of the
counter (b, replica, step, step >> 32) under the key that `seed` and `name` give; decision 0002 says how another program makes them.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

__all__ = ["normals", "philox", "uniforms"]

Array = np.ndarray

#: Steps whose numbers are made together where there are few: a call of NumPy costs as much for ten numbers as for a thousand.
AHEAD, FEW = 16, 4096

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def normals(seed: int, name: str, step: int, counts: Array) -> Array:
    """Return counts[k] standard normal numbers of each replica k, end to end [sum of counts]; not to be written to."""
    wanted = np.ascontiguousarray(counts, dtype=np.int64)
    ahead = AHEAD if wanted.sum() <= FEW else 1
    return _of_steps(seed, name, step // ahead * ahead, ahead, wanted.tobytes())[step % ahead]


@lru_cache(maxsize=4)
def _of_steps(seed: int, name: str, first: int, steps: int, counts: bytes) -> Array:
    """Those of several steps, [steps, sum of counts], for counts of int64."""
    index, replica, used = _blocks(counts)
    step = np.repeat(np.arange(first, first + steps, dtype=np.uint64), len(index))
    counters = np.stack([np.tile(index, steps), np.tile(replica, steps), step & _LOW, step >> _HALF])
    parts = (philox(counters, key(seed, name)) + 1.0) * 2.0**-32  # in (0, 1]
    radius, angle = np.sqrt(-2 * np.log(parts[::2])), 2 * np.pi * parts[1::2]
    pairs = np.stack(
        [radius[0] * np.cos(angle[0]), radius[0] * np.sin(angle[0]), radius[1] * np.cos(angle[1]), radius[1] * np.sin(angle[1])]
    )
    drawn = np.asarray(pairs.T.reshape(steps, -1)[:, used])
    drawn.setflags(write=False)
    return drawn


def uniforms(seed: int, name: str, step: int, replicas: int) -> Array:
    """Return one number in (0, 1] for each replica [replicas]."""
    replica = np.arange(replicas, dtype=np.uint64)
    none = np.zeros_like(replica)
    counters = np.stack([none, replica, none + np.uint64(step & 0xFFFFFFFF), none + np.uint64(step >> 32)])
    return np.asarray((philox(counters, key(seed, name))[0] + 1.0) * 2.0**-32)


def philox(counters: Array, words: tuple[int, int]) -> Array:
    """Return four words of 32 bits for each counter, [4, n] uint64.

    Args:
        counters: [4, n] uint64, each below 2^32. words: the two words of the key.
    """
    even, odd = counters[::2], counters[1::2]  # words 0 and 2, 1 and 3
    for round_key in _round_keys(words):
        product = _MULTIPLIERS * even  # below 2^64
        even, odd = (product >> _HALF)[::-1] ^ odd ^ round_key, (product & _LOW)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


@lru_cache(maxsize=64)
def _round_keys(words: tuple[int, int]) -> list[Array]:
    """Return the key of each of ten rounds, [2, 1] uint64."""
    return [np.array([[(words[0] + k * 0x9E3779B9) % 2**32], [(words[1] + k * 0xBB67AE85) % 2**32]], dtype=np.uint64) for k in range(10)]


@lru_cache(maxsize=64)
def key(seed: int, name: str) -> tuple[int, int]:
    """Return the two words of the key: the first 8 bytes, little endian, of the BLAKE2b hash of `seed`, 0x1f, `name`."""
    digest = hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@lru_cache(maxsize=16)
def _blocks(counts: bytes) -> tuple[Array, Array, Array]:
    """Block and replica of each counter, and which of four numbers of each are used [4 blocks], for counts of int64."""
    wanted = np.frombuffer(counts, dtype=np.int64)
    blocks = (wanted + 3) // 4
    replica = np.repeat(np.arange(len(wanted)), blocks)
    index = np.arange(blocks.sum()) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    used = (4 * index[:, None] + np.arange(4) < wanted[replica][:, None]).reshape(-1)
    return index.astype(np.uint64), replica.astype(np.uint64), used
