"""Versions side by side: what they are, their errors, and the settings of their training that differ; and their runs in MLflow."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from mlipfm_interfaces.asgi import bad

from . import summaries
from .registry import Registry, Row

MOST = 6
_ADDRESS = re.compile(r"([A-Za-z0-9._-]{1,100})/([1-9][0-9]{0,8})")
_PATIENCE = 3.0  # seconds that MLflow may take for an answer
_LARGEST = 2**20


@dataclass(frozen=True)
class Line:
    """One line of the table: what, and a text for each version; `differs` if they are not all the same."""

    what: str
    values: tuple[str, ...]
    note: str = ""

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def chosen(registry: Registry, models: list[str]) -> list[Row]:
    """Return the cards of versions `NAME/NUMBER`, each once. Refused: another spelling, too many, or no such version."""
    found = [_ADDRESS.fullmatch(model) for model in dict.fromkeys(models)]
    if len(found) > MOST:
        raise bad(f"up to {MOST} versions are compared")
    if not all(found):
        raise bad("a version is NAME/NUMBER")
    versions = [registry.version(one[1], int(one[2])) for one in found if one]
    return [summaries.card(registry, version) | {"recipe": _recipe(version)} for version in versions]


def compare(cards: list[Row]) -> dict[str, list[Line]]:
    """Return lines by section: what the models are, their errors by test set, and what differs in how they were trained."""
    return {"What they are": _facts(cards), "Errors": list(_errors(cards)), "Training": _training(cards)}


def _facts(cards: list[Row]) -> list[Line]:
    def line(what: str, text: Any) -> Line:
        return Line(what, tuple(text(card) for card in cards))

    return [
        line("potential", lambda c: f"{c['plugin']}, {c['dtype']}"),
        line("elements", lambda c: " ".join(c["elements"])),
        line("levels of theory", lambda c: ", ".join(c["levels"])),
        line("forces", lambda c: c["kind"]),
        line("charge and spin", lambda c: ", ".join(c["conditions"]) or "not an input"),
        line("range", lambda c: f"{c['reach']} Å" if c["reach"] else ""),
        line("speed", lambda c: c["speed"]),
        line("check", lambda c: "" if c["check"] is None else "passed" if c["check"]["passed"] else "failed"),
        line("training data", lambda c: ", ".join(f"{e.get('name', '')} {str(e.get('manifest', ''))[:12]}".strip() for e in c["data"])),
        line("structures", lambda c: f"{sum(int(e.get('structures', 0)) for e in c['data']):,}" if c["data"] else ""),
        line("licences of its data", lambda c: ", ".join(c["licences"])),
        line("size", lambda c: f"{c['size']:,} bytes"),
    ]


def _errors(cards: list[Row]) -> Iterator[Line]:
    """One line for each figure and test set: sets are the same by their digest."""
    tested = [{test["name"]: str(test["digest"])[:12] for test in card["tested"]} for card in cards]
    table = [
        {(m["name"], m["unit"], of.get(m["set"] or next(iter(of), ""), "")): m for m in card["metrics"]}
        for card, of in zip(cards, tested, strict=True)
    ]
    for name, unit, digest in dict.fromkeys(key for figures in table for key in figures):
        found = [figures.get((name, unit, digest)) for figures in table]
        shown = tuple(f"{summaries.figure(m['value'])} {unit} ({summaries.interval(m['ci95'])})" if m else "" for m in found)
        yield Line(name, shown, f"set {digest}" if digest else "")


def _training(cards: list[Row]) -> list[Line]:
    """Return the settings of the recipes that are not all the same, by their dotted keys."""
    flat = [dict(_flat(card["recipe"])) for card in cards]
    keys = sorted({key for settings in flat for key in settings})
    return [line for key in keys if (line := Line(key, tuple(settings.get(key, "") for settings in flat))).differs]


def _recipe(version: Row) -> dict[str, Any]:
    found = (json.loads(version["manifest"]).get("extra") or {}).get("recipe")
    return found if isinstance(found, dict) else {}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value:
        for k, item in enumerate(value):
            yield from _flat(item, f"{key}.{k}")
    elif value not in (None, {}, []):
        yield key, str(value)[:200]


@dataclass(frozen=True)
class Runs:
    """Runs in MLflow: digest of a model -> page of its run; the page that compares all; or why there is none."""

    pages: Mapping[str, str]
    together: str = ""
    trouble: str = ""


def mlflow_runs(address: str, digests: list[str]) -> Runs:
    """Find the runs that logged these models (`mlipfm train` tags a logged model with its digest) at the MLflow server of the settings."""
    try:
        experiments = [row["experiment_id"] for row in _ask(address, "experiments/search", {"max_results": 1000}).get("experiments", [])]
        found = {digest: _run_of(address, digest, experiments) for digest in digests}
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return Runs({}, trouble=f"MLflow at {address} does not answer")
    known = {digest: run for digest, run in found.items() if run is not None}
    pages = {digest: f"{address}/#/experiments/{quote(experiment)}/runs/{quote(run)}" for digest, (experiment, run) in known.items()}
    if len(known) < 2:
        return Runs(pages)
    runs, places = (json.dumps(sorted({pair[k] for pair in known.values()})) for k in (1, 0))
    return Runs(pages, f"{address}/#/compare-runs?runs={quote(runs)}&experiments={quote(places)}")


def _run_of(address: str, digest: str, experiments: list[str]) -> tuple[str, str] | None:
    """Return experiment and run of the model with this digest."""
    query = {"experiment_ids": experiments, "filter": f"tags.`mlipfm.digest` = '{digest}'", "max_results": 1}
    for model in _ask(address, "logged-models/search", query).get("models", []) if experiments else []:
        return str(model["info"]["experiment_id"]), str(model["info"]["source_run_id"])
    return None


def _ask(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_PATIENCE)
    try:
        connection.request("POST", f"{parts.path}/api/2.0/mlflow/{path}", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(answer.status)
        found = json.loads(answer.read(_LARGEST))
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found
