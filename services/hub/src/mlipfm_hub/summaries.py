"""What pages show of models: taken from manifests and result records, never typed by hand."""

from __future__ import annotations

import json
from typing import Any

from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.licences import ancestors_of, stated_licences
from mlipfm_interfaces.promotion_records import unknown_sets

from .registry import Registry, Row


def card(registry: Registry, version: Row) -> Row:
    """Everything that a card says of a version."""
    manifest = json.loads(version["manifest"])
    spec, extra = manifest["spec"], manifest.get("extra") or {}
    records = registry.records_of(version)
    latest = {record["kind"]: record for record in records}
    evaluation, check = latest.get("evaluation"), latest.get("check")
    metrics = [shown_metric(metric) for metric in (evaluation or {}).get("metrics", []) if metric["n_total"]]
    per_atom = (evaluation or {}).get("details", {}).get("microseconds_per_atom")
    return {
        **{key: version[key] for key in ("name", "number", "digest", "file", "size", "created", "by")},
        "elements": [symbol(z) for z in spec["elements"]],
        "levels": list(spec["levels"]),
        "outputs": spec["outputs"],
        "kind": spec["kind"],
        "conditions": spec["conditions"],
        "reach": spec.get("interaction_range"),
        "dtype": spec["dtype"],
        "plugin": manifest["plugin"],
        "made_with": manifest.get("versions", {}),
        "licences": stated_licences(extra),
        "ancestors": ancestors_of(extra),
        "data": [entry for entry in _list(extra.get("data")) if isinstance(entry, dict)],
        "validation": [entry for entry in _list(extra.get("validation_data")) if isinstance(entry, dict)],
        "metrics": metrics,
        "speed": _speed(per_atom),
        "tested": _tested(evaluation, manifest),
        "check": check,
        "broken": _list((check or {}).get("details", {}).get("broken")),
        "records": [{key: record[key] for key in ("kind", "created", "passed", "sha256")} for record in records],
    }


def overview(registry: Registry, name: str) -> Row:
    """One line for a model: its version in production, or its latest."""
    versions, aliases = registry.versions(name), registry.aliases(name)
    chosen = next((promotion["version"] for promotion in (aliases.get("production"), *aliases.values()) if promotion), None)
    shown = next((row for row in versions if row["number"] == chosen), versions[-1] if versions else None)
    if shown is None:
        return {"name": name, "count": 0, "aliases": aliases, "elements": [], "levels": [], "metrics": [], "speed": "", "number": None}
    return {**card(registry, shown), "count": len(versions), "aliases": aliases}


def matches(row: Row, element: str, level: str, text: str) -> bool:
    """Whether a line has the element and the level, and the text in its name."""
    wanted = {one.strip().capitalize() for one in element.replace(",", " ").split() if one.strip()}
    return wanted <= set(row["elements"]) and (not level or level in row["levels"]) and text.lower() in row["name"].lower()


def leaderboard(registry: Registry, metric: str, data: str, everything: bool) -> Row:
    """Errors on one set of all versions that were tested on it, the best first; those without a value last, with what failed.

    Args:
        everything: also versions that no alias names.
    """
    rows = [row for name in registry.names() for row in _figures(registry, name, everything)]
    sets = sorted({(row["set"], row["digest_of_set"]) for row in rows})
    named = sorted({row["metric"] for row in rows})
    metric = metric if metric in named else next((one for one in named if "force" in one.lower()), named[0] if named else "")
    shown = [row for row in rows if row["metric"] == metric and (not data or row["digest_of_set"] == data)]
    sign = -1.0 if metric.lower().endswith("cosine") else 1.0  # of errors the smallest is the best, of agreement the largest
    shown.sort(key=lambda row: (row["value"] is None, sign * (row["value"] or 0.0), row["model"]))
    return {"rows": shown, "metric": metric, "metrics": named, "data": data, "sets": sets}


def _figures(registry: Registry, name: str, everything: bool) -> list[Row]:
    aliases = registry.aliases(name)
    found = []
    for version in registry.versions(name):
        called = [alias for alias, promotion in aliases.items() if promotion["version"] == version["number"]]
        if not called and not everything:
            continue
        summary = card(registry, version)
        for record in registry.records_of(version):
            if record["kind"] != "evaluation":
                continue
            clean = unknown_sets(record, json.loads(version["manifest"]))
            for metric in record["metrics"]:
                belongs = metric.get("set") or next(iter(record["data"]), "")
                row = {"model": f"{name}/{version['number']}", "aliases": called, "speed": summary["speed"], "levels": summary["levels"]}
                row |= {"metric": metric["name"], "digest_of_set": record["data"].get(belongs, ""), "known": belongs not in clean}
                found.append(row | shown_metric(metric) | {"set": belongs})
    return found


def data_sets(registry: Registry) -> list[Row]:
    """Each set by its digest, with the models that it trained, chose and tested, and the licences that are given for it."""
    found: dict[str, Row] = {}

    def note(digest: str, what: str, model: str, name: str = "", licences: list[str] | None = None) -> None:
        row = found.setdefault(digest, {"digest": digest, "names": set(), "licences": set(), "trained": [], "chose": [], "tested": []})
        row["names"] |= {name} if name else set()
        row["licences"] |= set(licences or [])
        if model not in row[what]:
            row[what].append(model)

    for name in registry.names():
        for version in registry.versions(name):
            model = f"{name}/{version['number']}"
            extra = json.loads(version["manifest"]).get("extra") or {}
            for key, what in (("data", "trained"), ("validation_data", "chose")):
                for entry in _list(extra.get(key)):
                    if isinstance(entry, dict) and entry.get("manifest"):
                        note(str(entry["manifest"]), what, model, str(entry.get("name", "")), stated_licences(entry))
            for record in registry.records_of(version):
                for called, digest in record["data"].items():
                    note(digest, "tested", model, called)
    return sorted(found.values(), key=lambda row: (-len(row["trained"]), row["digest"]))


def lineage(registry: Registry, version: Row) -> list[Row]:
    """From the data through the models it starts from to this one, each with where it is in this hub."""
    extra = json.loads(version["manifest"]).get("extra") or {}
    known = {row["digest"]: f"{row['name']}/{row['number']}" for name in registry.names() for row in registry.versions(name)}
    steps = []
    for entry in reversed(ancestors_of(extra)):
        steps.append(
            {"digest": entry["digest"], "at": known.get(entry["digest"], ""), "licences": entry["licences"], "data": _stores(entry["data"])}
        )
    own = {"digest": version["digest"], "at": f"{version['name']}/{version['number']}", "licences": stated_licences(extra)}
    return [*steps, own | {"data": _stores(extra.get("data"))}]


def shown_metric(metric: Row) -> Row:
    """A figure with its interval, unit and counts, as pages show it."""
    kept = {key: metric.get(key) for key in ("name", "unit", "value", "ci95", "n_ok", "n_total", "set", "split", "limit", "status")}
    return kept | {"failures": metric["n_total"] - metric["n_ok"]}


def figure(value: float | None) -> str:
    """Three digits."""
    return "no value" if value is None else f"{value:.3g}"


def interval(ci95: list[float] | None) -> str:
    """`0.01 to 0.03`; empty where there is none."""
    return "" if ci95 is None else f"{ci95[0]:.3g} to {ci95[1]:.3g}"


def _tested(evaluation: Row | None, manifest: Row) -> list[Row]:
    if evaluation is None:
        return []
    clean = unknown_sets(evaluation, manifest)
    return [{"name": name, "digest": digest, "known": name not in clean} for name, digest in evaluation["data"].items()]


def _speed(per_atom: Any) -> str:
    values = [value for value in per_atom.values() if isinstance(value, int | float)] if isinstance(per_atom, dict) else [per_atom]
    return f"{values[0]:.3g} µs/atom" if values and isinstance(values[0], int | float) else ""


def _stores(entries: Any) -> list[str]:
    return [str(entry.get("manifest", ""))[:12] for entry in _list(entries) if isinstance(entry, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
