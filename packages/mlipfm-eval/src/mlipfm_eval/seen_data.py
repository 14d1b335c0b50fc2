"""Data that a model was fitted to are no judges of it: found by the hash of their store, and by the keys of their structures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlipfm_data.store.census import shared
from mlipfm_data.store.store import Store
from mlipfm_interfaces.errors import RefusedFileError
from mlipfm_interfaces.files import sha256

#: A store with a larger share of structures that were seen is refused. Lone atoms and small molecules may well be in both.
FEW = 0.02


def trained_stores(manifest: Mapping[str, Any]) -> set[str]:
    """Hashes of the stores that a model, or one it starts from, was trained on, as its manifest states them."""
    extra = manifest.get("extra") or {}
    entries = [*extra.get("data", ()), *(entry for model in extra.get("ancestors", ()) for entry in model.get("data") or ())]
    return {entry["manifest"] for entry in entries if "manifest" in entry}


def trained_paths(manifest: Mapping[str, Any]) -> list[Path]:
    """Stores of the model's recipe that are still where they were, with the content that they had."""
    known = trained_stores(manifest)
    data = ((manifest.get("extra") or {}).get("recipe") or {}).get("data") or {}
    files = [Path(path) / "manifest.json" for path in data.get("train", ())]
    return [file.parent for file in files if file.is_file() and sha256(file) in known]


def refuse_seen(paths: Sequence[Path], hashes: Collection[str], stores: Sequence[Path], words: str, mend: str) -> None:
    """Refuse stores that were seen.

    Args:
        hashes: of the manifests of stores that were seen. stores: those of them that can be looked into: their structures are compared by key
            and level.

    Raises:
        RefusedFileError: a store of such a hash, or one of which more than `FEW` of the structures are in `stores`.
    """
    censuses = [Store(path).census() for path in stores]
    for path in paths:
        if sha256(path / "manifest.json") in hashes:
            raise RefusedFileError(f"is a store that the model {words}", where=str(path), mend=mend)
        here = Store(path).census()
        known = {int(k) for census in censuses for k in shared(census, here)}
        if len(known) > FEW * len(here):
            raise RefusedFileError(
                f"{len(known)} of {len(here)} structures are of a store that the model {words} (same geometry and level)",
                where=str(path),
                mend=mend,
            )
