"""What an evaluation must show before an alias moves: data that nobody was trained on, and errors no larger than the incumbent's beyond the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import RegistryError
from .resampling import bootstrap
from .result_records import Record

#: Errors that decide, in this order; the first that both records have.
DECIDING = ("forces", "energy", "stress")
_AGAIN = "run `mlipfm evaluate` on a test set and push the model again with --record FILE"


def unknown_sets(record: Record, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Name -> digest of the sets of an evaluation of which no structure trained or chose the model or one that it starts from."""
    seen = record["details"].get("seen", {})
    used = _lineage_digests(manifest)
    return {
        name: digest for name, digest in record["data"].items() if not (isinstance(seen, Mapping) and seen.get(name)) and digest not in used
    }


def _lineage_digests(manifest: Mapping[str, Any]) -> set[str]:
    """Digests of the stores that trained or chose a model or one that it starts from, as its manifest lists them."""
    extra = manifest.get("extra")
    found = extra if isinstance(extra, Mapping) else {}
    ancestors = [entry for entry in _list(found.get("ancestors")) if isinstance(entry, Mapping)]
    stores = [*_list(found.get("data")), *_list(found.get("validation_data"))]
    stores += [store for entry in ancestors for key in ("data", "validation_data") for store in _list(entry.get(key))]
    return {str(store.get("manifest")) for store in stores if isinstance(store, Mapping)}


def require_test_set(record: Record, manifest: Mapping[str, Any], where: str) -> dict[str, str]:
    """`unknown_sets`, at least one of which has errors by group.

    Raises:
        RegistryError: the evaluation does not say what the model knew, or all of its data are known to the model.
    """
    if not isinstance(record["details"].get("errors"), Mapping) or "seen" not in record["details"]:
        raise RegistryError("its evaluation does not say which structures the model knew", where=where, hint=_AGAIN)
    clean = unknown_sets(record, manifest)
    if not clean:
        raise RegistryError(
            f"its evaluation is on data that it was trained on, chosen by or pre-trained on: {', '.join(sorted(record['data'])) or 'no data'}",
            where=where,
            hint=f"{_AGAIN}, of structures that were in no training or validation data",
        )
    return clean


def require_no_worse(
    new: Record, new_sets: Mapping[str, str], old: Sequence[Record], old_manifest: Mapping[str, Any], where: str, incumbent: str
) -> None:
    """The new model is not worse than the incumbent on a test set of both, by the paired difference of their errors.

    Raises:
        RegistryError: the incumbent was not evaluated on any of the new model's test sets, or is better there: the 95 % interval of the difference
        lies above zero (without an interval: the difference does).
    """
    shared = [
        (name, record, other)
        for name, digest in new_sets.items()
        for record in reversed(old)
        if record["kind"] == "evaluation" and "errors" in record["details"]
        for other, known in unknown_sets(record, old_manifest).items()
        if known == digest
    ]
    differences = [(name, found) for name, record, other in shared if (found := paired_difference(new, name, record, other)) is not None]
    if not differences:
        raise RegistryError(
            f"{incumbent} was evaluated on none of its test sets ({', '.join(sorted(new_sets))}), so that nobody knows which is better",
            where=where,
            hint=f"run `mlipfm evaluate {incumbent}` on the same data and push it again with --record FILE",
        )
    for name, (what, value, interval) in differences:
        if value > 0 and (interval is None or interval[0] > 0):
            said = f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else f"{value:.3g}, without an interval"
            raise RegistryError(
                f"it is worse than {incumbent} on {name}: {what} larger by {said}",
                where=where,
                hint="promote a better model; --rollback REASON goes back to an older version",
            )


def paired_difference(new: Record, name: str, old: Record, old_name: str) -> tuple[str, float, tuple[float, float] | None] | None:
    """Mean absolute error of `new` less that of `old` on one set, over the groups that both predicted whole; None without common groups.

    Returns:
        what was compared, with its unit; the difference; its 95 % interval, from drawing the same groups for both, or None for fewer than two groups.
    """
    ours, theirs = (record["details"]["errors"].get(key, {}) for record, key in ((new, name), (old, old_name)))
    for key in DECIDING:
        a, b = _sums(ours.get(key)), _sums(theirs.get(key))
        groups = sorted(group for group in a.keys() & b.keys() if a[group][1] == b[group][1] > 0)
        if not groups:
            continue
        difference = np.array([a[g][0] - b[g][0] for g in groups])
        count = np.array([a[g][1] for g in groups])
        interval = bootstrap(lambda k, d=difference, c=count: float(d[k].sum() / c[k].sum()), groups, np.arange(len(groups)))  # type: ignore[misc]  # defaults bind the loop variables
        unit = {"forces": "force MAE (meV/Å)", "energy": "energy MAE (meV/atom)", "stress": "stress MAE (meV/Å³)"}[key]
        return unit, float(difference.sum() / count.sum()), interval
    return None


def _sums(found: Any) -> dict[str, tuple[float, float]]:
    """Group -> (sum of errors, components), of what a record holds."""
    items = found.items() if isinstance(found, Mapping) else ()
    return {
        g: (float(v[0]), float(v[1]))
        for g, v in items
        if isinstance(v, list) and len(v) == 2 and all(isinstance(x, int | float) for x in v)
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
