"""Which frames a model was trained on: short hashes of geometries that travel with its checkpoint.

Charge, spin and labels do not enter: a file that gives no charge is recognised in a store that does.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .structure import Structure

#: Frames of a store that are listed at most; of a larger store a random part is.
LISTED = 20_000
_BYTES = 6  # two different geometries share a hash with a probability of 4e-15

Hashes = NDArray[np.uint64]


def frame_hash(structure: Structure) -> int:
    """Of elements and positions (and the cell of periodic structures) to 1e-4 Å."""
    digest = hashlib.blake2b(structure.atomic_numbers.astype("<i4").tobytes(), digest_size=_BYTES)
    digest.update(_rounded(structure.positions))
    if structure.pbc.any():
        digest.update(_rounded(structure.cell))
    return int.from_bytes(digest.digest(), "little")


def frame_hashes(structures: Iterable[Structure]) -> Hashes:
    """[structures] hash of each."""
    return np.fromiter((frame_hash(s) for s in structures), dtype=np.uint64)


def encode(hashes: Hashes) -> str:
    """Sorted hashes as text for JSON, each once; `decode` reads it."""
    raw = np.unique(hashes).astype("<u8").view(np.uint8).reshape(-1, 8)[:, :_BYTES]
    return base64.b64encode(raw.tobytes()).decode()


def decode(text: Any) -> Hashes:
    """Sorted hashes of `encode`; none of what is no such text."""
    try:
        raw = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (TypeError, ValueError):
        return np.zeros(0, dtype=np.uint64)
    whole = np.zeros((len(raw) // _BYTES, 8), dtype=np.uint8)
    whole[:, :_BYTES] = raw[: len(whole) * _BYTES].reshape(-1, _BYTES)
    return np.asarray(whole.reshape(-1).view("<u8"), dtype=np.uint64)


def seen_frames(extra: Mapping[str, Any], hashes: Hashes) -> dict[str, int]:
    """How many of the frames a model of this `extra` (of a manifest) knows: `training`, `validation`, and `ancestors`, the models it starts from."""
    ancestors = [entry for model in _entries(extra.get("ancestors")) for entry in _entries(model.get("data"))]
    listed = {"training": _entries(extra.get("data")), "validation": _entries(extra.get("validation_data")), "ancestors": ancestors}
    return {kind: int(np.isin(hashes, _known(entries)).sum()) for kind, entries in listed.items()}


def _known(entries: list[Mapping[str, Any]]) -> Hashes:
    found = [decode(entry.get("frames")) for entry in entries]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _rounded(values: np.ndarray) -> bytes:
    return np.round(values * 1e4).astype("<i8").tobytes()
