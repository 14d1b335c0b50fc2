"""Reader of recomputed Transition1x paths: a JSON list of geometries with `wB97x.energy` and `ccsd.energy` in eV, of which some failed.

Layout: github.com/benediktpabinger/CCSD-Transition1x; wB97X/6-31G(d) of Transition1x itself, CCSD/cc-pVTZ of the repository's author.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, LabelingError, MlipfmError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.structure import Structure

from .frame import EV_ANGSTROM, RawFrame, ReadOptions, ReadReport, options_from, refuse_pickle
from .framed import checked, opened
from .json import JsonStream
from .levels import Labels, LevelFrames

_CCSD = Labels("ccsd/cc-pvtz", {"energy": "ccsd.energy"})
LEVELS = (Labels("wb97x/6-31g(d)", {"energy": "wB97x.energy"}), _CCSD)
_NEEDS = ("positions", "atomic_numbers", "wB97x.energy", "ccsd.energy")


class Transition1xJsonReader:
    """Structures at two levels of theory; a failed CCSD calculation is a refused frame. Options: `frames_in.ReadOptions`; `level` chooses one."""

    suffixes = (".json",)

    def recognises(self, path: Path) -> bool:
        try:
            first = next(_entries(path), None)
        except MlipfmError:
            return False
        return isinstance(first, dict) and all(key in first for key in _NEEDS)

    def read(self, path: Path, *, report: ReadReport | None = None, **options: Any) -> Iterator[Structure | Refusal]:
        """Structures and refusals in the file's order; memory is that of a geometry.

        Raises:
            UnreadableFileError: missing, cut, no JSON list; frames before the damage have been yielded. LevelError: no such level.
        """
        path, report = Path(path), report if report is not None else ReadReport()
        refuse_pickle(path)
        yield from checked(_frames(path, options, report), options_from(options), report, path)


def _entries(path: Path) -> Iterator[Any]:
    with opened(path) as stream:
        text = JsonStream(stream, path)
        for _ in text.elements():
            yield text.value()
        if text.peek():
            raise text.fail("something follows the list")


def _frames(path: Path, options: dict[str, Any], report: ReadReport) -> Iterator[tuple[RawFrame, ReadOptions] | MlipfmError]:
    maker = LevelFrames(LEVELS, EV_ANGSTROM, options, report, "Transition1x")
    for k, entry in enumerate(_entries(path)):
        where = f"{path}: entry {k}"
        blank = RawFrame(0, where, path.name, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)), np.zeros(3, bool))
        if k == 0 and not (isinstance(entry, Mapping) and all(key in entry for key in _NEEDS)):
            raise UnreadableFileError(f"the entries have not the keys {', '.join(_NEEDS)}", where=where)
        try:
            geometry = _geometry(entry, blank)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            yield maker.failed(blank, InvalidStructureError(f"not a geometry: {type(error).__name__}: {error}"))
            continue
        energies = any(geometry.info.get(labels.keys["energy"]) is not None for labels in maker.levels)
        if energies:
            yield from maker.frames(geometry)
        if _CCSD in maker.levels and (entry.get("success") is False or not energies):
            reason = str(entry.get("error") or "no reason is given")[:120]
            yield maker.failed(geometry, LabelingError(f"the CCSD calculation failed: {reason}"), _CCSD)


def _geometry(entry: Mapping[str, Any], blank: RawFrame) -> RawFrame:
    positions = np.array(entry["positions"], dtype=np.float64).reshape(-1, 3)
    info = {key: entry.get(key) for labels in LEVELS for key in labels.keys.values()}
    if entry.get("success") is False:
        info["ccsd.energy"] = None
    return RawFrame(
        0,
        blank.where,
        blank.source,
        np.array(entry["atomic_numbers"]),
        positions,
        blank.cell,
        blank.pbc,
        info,
        group=str(entry["rxn"]),
        unread=tuple(str(key) for key, value in entry.items() if value is not None and key not in (*_NEEDS, "rxn", "success", "error")),
    )
