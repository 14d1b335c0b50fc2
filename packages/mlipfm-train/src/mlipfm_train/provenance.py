"""What a model comes from: the data it was trained on, the models whose weights it started from, and the licences of all of them.

It stands in `extra` of the manifest. Nothing that is unknown gets lost on the way: data and ancestors that have no licence give the licence "", by
which a registry refuses to promote the model and every model that starts from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mlipfm_data.store.store import Store
from mlipfm_data.store.structure_table import StructureTable
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.frame_hashes import LISTED, encode, frame_hashes
from mlipfm_interfaces.licences import ancestors_of, is_known
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.trained_states import DEFAULT_STATES, PAIRS, merge_states, states_of

from .frames import Frames


def provenance(
    train: Frames,
    table: StructureTable,
    origin: Mapping[str, Any] | None,
    valid: Frames,
    held_out: StructureTable,
    *,
    readouts_only: bool = False,
) -> dict[str, Any]:
    """Entries for `extra`.

    Args:
        table: of `train`. origin: manifest of the model whose weights are the start; {} if nothing is known of them, None for random weights.
        valid, held_out: structures that choose the best model, and their table.
        readouts_only: what a charge or multiplicity means keeps its weights (`adapt` of the modes `frozen` and `heads`): this data shows none.

    Returns:
        `licences`: of data, validation data and ancestors, each once, "" for what gives none. `data`: of each training store its `name`, the SHA-256
        of its `manifest`, the number of `structures`, their `licences` and `sources`, and the `frames`: hashes of up to 20,000 of the
        geometries (a random part of more, see `mlipfm_interfaces.frame_hashes`), by which an evaluation knows them again.
        `validation_data`: the same of validation stores. `ancestors`: models that it starts from, nearest first, see `ancestors_of`.
        `trained_states`: see `trained_states`; left out where they are not known.
    """
    data, validation = _stores(train, table), _stores(valid, held_out)
    ancestors = [] if origin is None else _lineage(origin)
    own = [licence for entry in data for licence in entry["licences"]] or [""]  # a Source that makes its data states nothing
    return {
        "licences": sorted({*own, *(licence for entry in (*validation, *ancestors) for licence in entry["licences"])}),
        "data": data,
        "validation_data": validation,
        "ancestors": ancestors,
        **({} if (states := trained_states(table, origin, readouts_only)) is None else {"trained_states": states}),
    }


def trained_states(table: StructureTable, origin: Mapping[str, Any] | None, readouts_only: bool = False) -> dict[str, list[Any]] | None:
    """Charges and multiplicities of the training data (not if `readouts_only` train) and of the data of the model it starts from, see
    `mlipfm_interfaces.trained_states`; None where that model does not say (as those of earlier versions), or nothing is shown. What the data do not
    give is the default where that model always saw it given."""
    before = {} if origin is None else states_of(origin.get("extra"))
    if readouts_only or before is None or not (len(table) or before):
        return {key: list(values) for key, values in (before or {}).items()} or None
    charges = np.unique(table.total_charge[table.charge_stated]).tolist()
    multiplicities = np.unique(table.spin_multiplicity).tolist()  # 0 where not given
    together = np.stack([np.where(table.charge_stated, table.total_charge, 0), np.maximum(table.spin_multiplicity, 1)], axis=1)
    own: dict[str, list[Any]] = {
        "total_charge": [*([] if table.charge_stated.all() else [None]), *charges],
        "spin_multiplicity": [value or None for value in multiplicities],
        PAIRS: np.unique(together, axis=0).tolist(),
    }
    for name, (default, _) in DEFAULT_STATES.items():  # see `AssembledPotential.take_unstated_as_default`
        if before.get(name) and None not in before[name] and None in own[name]:
            own[name] = sorted({default if value is None else value for value in own[name]})
    return merge_states(before, own)


def describe(sources: Mapping[str, Any]) -> Iterator[str]:
    """Yield what preflight says of validation data, of ancestors, and of licences that are not known."""
    held_out = sorted({licence for entry in sources["validation_data"] for licence in entry["licences"]})
    if held_out:
        yield f"licences of the validation data, which choose the best model: {_listed(held_out)}"
    for entry in sources["ancestors"]:
        name = f"the model {entry['digest'][:12]}" if entry["digest"] else "a potential without a checkpoint"
        yield f"starts from {name}, licences of its data: {_listed(entry['licences'])}"
    unknown = [licence for licence in sources["licences"] if not is_known(licence)]
    if unknown:
        yield f"licences that are not known: {_listed(unknown)}; a registry will promote neither this model nor one that starts from it"


def _listed(licences: Sequence[str]) -> str:
    return ", ".join(licence or "not given" for licence in licences)


def _stores(frames: Frames, table: StructureTable) -> list[dict[str, Any]]:
    set_of = frames.set_of
    return [_store(store, frames, table, np.flatnonzero(set_of == k)) for k, store in enumerate(frames.stores)]


def _store(store: Store, frames: Frames, table: StructureTable, rows: np.ndarray) -> dict[str, Any]:
    """Return what structures of a store were used: `rows` of `frames` and of the table."""
    listed = rows if len(rows) <= LISTED else np.sort(stream(0, "frame hashes").choice(rows, LISTED, replace=False))
    kinds = [table.kinds[k] for k in np.unique(table.kind[rows]).tolist()]
    return {
        "name": store.name,
        "manifest": sha256(store.path / "manifest.json"),
        "structures": len(rows),
        "licences": sorted({kind.licence or "" for kind in kinds}),
        "sources": sorted({source for kind in kinds for source in kind.sources}),
        "frames": encode(frame_hashes(frames[int(k)] for k in listed)),
    }


def _lineage(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a model and those that it starts from, nearest first."""
    found = manifest.get("extra")
    extra = found if isinstance(found, Mapping) else {}
    first = {"digest": manifest.get("digest"), "licences": extra.get("licences"), "data": extra.get("data", [])}
    return ancestors_of({"ancestors": [first, *ancestors_of(extra)]})
