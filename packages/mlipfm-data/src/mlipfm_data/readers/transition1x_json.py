"""Reader of recomputed Transition1x paths: a JSON list of geometries with `wB97x.energy` and `ccsd.energy` in eV, of which some failed.

Layout: github.com/benediktpabinger/CCSD-Transition1x; wB97X/6-31G(d) of Transition1x itself, CCSD/cc-pVTZ of the repository's author.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, LabelingError, UnreadableFileError
from mlipfm_interfaces.raw_frame import EV_ANGSTROM, At, Conventions, LevelKeys, RawFrame

from .compressed import opened
from .json import JsonStream

LEVELS = (LevelKeys("wb97x/6-31g(d)", {"energy": "wB97x.energy"}), LevelKeys("ccsd/cc-pvtz", {"energy": "ccsd.energy"}))
_NEEDS = ("positions", "atomic_numbers", "wB97x.energy", "ccsd.energy")


class Transition1xJsonReader:
    """Geometries at two levels of theory; a failed CCSD calculation is a refused frame. Memory is that of a geometry."""

    suffixes = (".json",)
    conventions = Conventions("Transition1x", EV_ANGSTROM, LEVELS)

    def recognises(self, path: Path) -> bool:
        return _is_entry(next(_entries(path), None))

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the geometries. Raises `UnreadableFileError`: cut, no JSON list; the frames before the damage were yielded."""
        for k, entry in enumerate(_entries(path)):
            if k == 0 and not _is_entry(entry):
                raise UnreadableFileError(f"the entries have not the keys {', '.join(_NEEDS)}", where="entry 0")
            yield At(f"entry {k}", _geometry, entry)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(key in entry for key in _NEEDS)


def _entries(path: Path) -> Iterator[Any]:
    with opened(path) as stream:
        text = JsonStream(stream, path)
        for _ in text.elements():
            yield text.value()
        if text.peek():
            raise text.fail("something follows the list")


def _geometry(entry: Mapping[str, Any]) -> RawFrame:
    if not isinstance(entry, Mapping):
        raise InvalidStructureError(f"not a geometry, but a {type(entry).__name__}")
    positions = np.array(entry["positions"], dtype=np.float64).reshape(-1, 3)
    info = {key: entry.get(key) for labels in LEVELS for key in labels.keys.values()}
    failed = entry.get("success") is False
    missing = {}
    if failed or not any(value is not None for value in info.values()):
        info["ccsd.energy"] = None
        reason = str(entry.get("error") or "no reason is given")[:120]
        missing["ccsd.energy"] = LabelingError(f"the CCSD calculation failed: {reason}")
    unread = tuple(str(key) for key, value in entry.items() if value is not None and key not in (*_NEEDS, "rxn", "success", "error"))
    return RawFrame(np.array(entry["atomic_numbers"]), positions, info=info, group=str(entry["rxn"]), unread=unread, missing=missing)
