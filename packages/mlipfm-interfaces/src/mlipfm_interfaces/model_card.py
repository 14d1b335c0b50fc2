"""The model card: what a manifest says about a model, for people. The same manifest gives the same text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .elements import symbol
from .licences import ancestors_of, stated_licences


def manifest_faults(manifest: Mapping[str, Any]) -> list[str]:
    """Return what a card cannot be made of: entries that are missing or of another kind. Whoever takes manifests of others asks this first."""
    spec, extra = manifest.get("spec"), manifest.get("extra") or {}
    if not isinstance(spec, Mapping) or not isinstance(extra, Mapping):
        return ["`spec` and `extra` of the manifest must be tables"]
    faults = [f"`{key}` must be text" for key in ("digest", "plugin") if not isinstance(manifest.get(key), str)]
    faults += [f"`spec.{key}` must be text" for key in ("kind", "dtype") if not isinstance(spec.get(key), str)]
    faults += [f"`spec.{key}` must be a list of texts" for key in ("levels", "outputs", "conditions") if not _all(spec.get(key), str)]
    if not _all(spec.get("elements"), int) or not all(0 < z < 119 for z in spec["elements"]):
        faults.append("`spec.elements` must be a list of atomic numbers")
    reach = spec.get("interaction_range")
    if reach is not None and (type(reach) not in (int, float) or not 0 <= reach < 1e9):
        faults.append("`spec.interaction_range` must be a length in Å, or null")
    versions = manifest.get("versions", {})
    if not isinstance(versions, Mapping) or not all(isinstance(value, str) for value in versions.values()):
        faults.append("`versions` must be a table of texts")
    for key in ("data", "validation_data", "ancestors"):
        entries = extra.get(key) or []
        if not _all(entries, dict) or not all(type(entry.get("structures", 0)) is int for entry in entries):
            faults.append(f"`extra.{key}` must be a list of tables, whose `structures` are whole numbers")
    return faults


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown from the manifest of a model checkpoint."""
    spec, extra = manifest["spec"], manifest.get("extra") or {}
    facts = {
        "digest": f"`{manifest['digest']}`",
        "potential": f"`{manifest['plugin']}`",
        "elements": " ".join(symbol(z) for z in spec["elements"]),
        "levels of theory": ", ".join(f"`{level}`" for level in spec["levels"]),
        "gives": ", ".join(spec["outputs"]),
        "forces": {"conservative": "minus the gradient of its energy", "direct": "a head of their own"}.get(spec["kind"], spec["kind"]),
        "depends also on": ", ".join(spec["conditions"]) or "nothing else",
        "far apart": _separation(spec),
        "computes in": spec["dtype"],
        "licences of its data": _listed(stated_licences(extra)),
        "made with": ", ".join(f"{name} {version}" for name, version in sorted(manifest.get("versions", {}).items())),
    }
    lines = ["# Model card", "", "| | |", "|---|---|", *(f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()), ""]
    before = [f"`{entry['digest']}` ({_listed(entry['licences'])})" for entry in ancestors_of(extra)]
    if before:
        lines.insert(-1, f"| starts from | {_cell(', which starts from '.join(before))} |")
    recipe = extra.get("recipe")
    if isinstance(recipe, Mapping):
        lines += ["## Training", "", "| setting | value |", "|---|---|"]
        lines += [f"| {_cell(key)} | `{_cell(value)}` |" for key, value in _settings(recipe)] + [""]
    return "\n".join(lines)


def _settings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting of a recipe that is set, by its dotted key as `mlipfm train` takes it: `optimizer.lr`, `objectives.0.name`."""
    if isinstance(value, list) and not any(isinstance(item, Mapping) for item in value):
        value = ", ".join(map(str, value)) or None
    if isinstance(value, Mapping | list):
        for name, item in sorted(value.items()) if isinstance(value, Mapping) else enumerate(value):
            yield from _settings(item, f"{key}.{name}" if key else str(name))
    elif value is not None:
        yield key, str(value)


def _listed(licences: list[str]) -> str:
    return ", ".join(licence or "not given" for licence in licences) or "not given"


def _separation(spec: Mapping[str, Any]) -> str:
    """Return what is known of two systems out of each other's reach."""
    reach = (
        "no range is given"
        if spec.get("interaction_range") is None
        else f"atoms {spec['interaction_range']:g} Å apart do not feel each other"
    )
    states = [name for name in ("total_charge", "spin_multiplicity") if name in spec["conditions"]]
    if not states:
        return reach
    shared = f"except through {' and '.join(states)}, which are of the whole system"
    return f"{reach}, {shared}: the rule `charge-stays-home` of its check has a figure"


def _cell(value: Any) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
