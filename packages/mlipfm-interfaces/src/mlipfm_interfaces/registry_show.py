"""What a version of a registry is, as lines of text, and how two differ: from their manifests and records, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .checkpoint_file import verify_checkpoint
from .elements import symbol
from .licences import stated_licences
from .registry import fetch
from .registry_http import Server
from .registry_push import records_of
from .registry_versions import Version, get_version as get_by_number, parse_address, promotion_of
from .result_records import Record

SHOWN = 6  # figures of an evaluation


def version_at(where: Server, address: str) -> Version:
    """Return the version at NAME@ALIAS or NAME/VERSION.

    Raises:
        RegistryError: there is none.
    """
    wanted = parse_address(address)
    if wanted.alias is None:
        return get_by_number(where, wanted.name, wanted.version or 0)
    promotion = promotion_of(where, wanted.name, wanted.alias)
    if promotion is None:
        raise where.fault(f"has no {wanted}", "see `mlipfm models list`")
    return get_by_number(where, wanted.name, promotion.version)


def facts(where: Server, version: Version) -> dict[str, str]:
    """What distinguishes a model: elements, levels, outputs, licences, errors with intervals, speed, check; the file is downloaded and verified."""
    manifest = verify_checkpoint(fetch(where, version))
    spec = manifest["spec"]
    found = {
        "digest": version.digest,
        "elements": " ".join(symbol(z) for z in spec["elements"]),
        "levels of theory": ", ".join(spec["levels"]),
        "gives": ", ".join(spec["outputs"]),
        "depends also on": ", ".join(spec["conditions"]) or "nothing else",
        "licences": ", ".join(one or "not given" for one in stated_licences(manifest.get("extra") or {})) or "not given",
    }
    return found | dict(_measured({record["kind"]: record for record in records_of(where, version)}))


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(what, of the first, of the second) where they differ."""
    return [(key, a.get(key, "-"), b.get(key, "-")) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]


def _measured(latest: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    check, evaluation = latest.get("check"), latest.get("evaluation")
    yield "check", "none" if check is None else "passed" if check["passed"] else "failed"
    if evaluation is None:
        yield "errors", "not measured"
        return
    for metric in evaluation["metrics"][:SHOWN]:
        yield str(metric["name"]) + (f" ({metric['set']})" if metric.get("set") else ""), _figure(metric)
    speed = evaluation["details"].get("microseconds_per_atom")
    values = list(speed.values()) if isinstance(speed, Mapping) else [speed]
    if values and isinstance(values[0], int | float):
        yield "speed", f"{values[0]:.3g} µs/atom"


def _figure(metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        return f"no value ({metric['n_ok']} of {metric['n_total']} answered)"
    interval = "" if metric["ci95"] is None else " [{:.3g}, {:.3g}]".format(*metric["ci95"])
    failed = metric["n_total"] - metric["n_ok"]
    return f"{metric['value']:.3g}{interval} {metric['unit']}" + (f", {failed} of {metric['n_total']} failed" if failed else "")
