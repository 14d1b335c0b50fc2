"""Structures that a model was trained on: counted and marked in an evaluation, refused where a calibration needs new ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlipfm_data.store.store import Store
from mlipfm_data.store.structure_table import shared
from mlipfm_interfaces.benchmark import LabelledSet
from mlipfm_interfaces.errors import RefusedFileError
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.frame_hashes import seen_frames

#: A store that shares more than this part of its structures is refused. Isolated atoms and small molecules may well be in both.
FEW = 0.02


def known_structures(manifest: Mapping[str, Any], data: LabelledSet) -> dict[str, int]:
    """Count the structures of a data set that a model was trained on (`training`), chosen by (`validation`) or pre-trained on (`ancestors`).

    They are found by the geometries that its checkpoint lists and by the hashes of its stores; kinds without any are left out.
    """
    extra = manifest.get("extra")
    if not isinstance(extra, Mapping):
        return {}
    found = seen_frames(extra, data.hashes)
    for kind, key in (("training", "data"), ("validation", "validation_data")):
        listed = extra.get(key)
        entries = listed if isinstance(listed, list) else ()
        if any(isinstance(entry, Mapping) and entry.get("manifest") == data.digest for entry in entries):
            found[kind] = len(data.structures)
    return {kind: count for kind, count in found.items() if count}


def overlap_text(known: Mapping[str, int], structures: int) -> str:
    """Return a sentence on `known_structures`; empty if there are none."""
    what = {"training": "trained on", "validation": "chosen by", "ancestors": "pre-trained on"}
    counts = [f"{what[kind]} {count}" for kind, count in known.items()]
    return f"the model was {', '.join(counts)} of these {structures} structures: errors on them say little about new ones" if counts else ""


def trained_stores(manifest: Mapping[str, Any]) -> set[str]:
    """Return the hashes of the stores that a model, or one it starts from, was trained on, as its manifest lists them."""
    extra = manifest.get("extra") or {}
    entries = [*extra.get("data", ()), *(entry for model in extra.get("ancestors", ()) for entry in model.get("data") or ())]
    return {entry["manifest"] for entry in entries if "manifest" in entry}


def trained_paths(manifest: Mapping[str, Any]) -> list[Path]:
    """Return the stores of the model's recipe that are still where they were, with the content that they had."""
    known = trained_stores(manifest)
    data = ((manifest.get("extra") or {}).get("recipe") or {}).get("data") or {}
    files = [Path(path) / "manifest.json" for path in data.get("train", ())]
    return [file.parent for file in files if file.is_file() and sha256(file) in known]


def refuse_known(paths: Sequence[Path], hashes: Collection[str], stores: Sequence[Path], words: str, hint: str) -> None:
    """Refuse stores that were used already.

    Args:
        hashes: of the manifests of stores that were used. stores: those of them that can be opened: their structures are compared by key and level.
        words: what the model did with them, such as "was trained on".

    Raises:
        RefusedFileError: a store of such a hash, or one of which more than `FEW` of the structures are in `stores`.
    """
    used = [Store(path).structure_table() for path in stores]
    for path in paths:
        if sha256(path / "manifest.json") in hashes:
            raise RefusedFileError(f"is a store that the model {words}", where=str(path), hint=hint)
        here = Store(path).structure_table()
        known = {int(k) for statistics in used for k in shared(statistics, here)}
        if len(known) > FEW * len(here):
            what = f"{len(known)} of {len(here)} structures are of a store that the model {words} (same geometry and level)"
            raise RefusedFileError(what, where=str(path), hint=hint)
