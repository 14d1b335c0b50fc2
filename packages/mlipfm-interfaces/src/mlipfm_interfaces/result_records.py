"""Result records: what was measured on a model, as one JSON object that carries the hash of its own content.

A record says of one model (its digest, or the address of a model of another package) what was evaluated or checked, on which data, and with which
figures. Reports and leaderboards read records, and a registry promotes a model by them.

    record = make_record("check", digest, passed=True, metrics=[...], data={"water.xyz": sha256(path)}, details={"rules": ...})
    write_record("check.json", record)

What `mlipfm report` shows of a record, beside its model, outcome and metrics:

- of a metric: `set` (data set), `split` (`id` or `ood`), `key` (`energy_mae`, `force_mae`, ...) and `element`, for the tables of errors; `limit`
  and `status` of a rule that is broken; the unit `steps/s`, for the chart of speed and accuracy;
- of `details`: `benchmark` (which one measured; the heading of its section), `address` (what the model is called where no training run has its
  digest), `title` (what stands beside the figures instead of the model, such as "student / teacher"), `statements` (sentences that stand first in
  the section), `notes` (sentences, or data set -> sentences, at the end of the page), `broken` (names of rules);
- of `details` with `benchmark` `result`, at the top of the page: `statements`, `code` (lines that use the model), `frames` (`symbols`, `positions`
  [frames, atoms, 3] in Å, `caption`: a molecule that moves), beside the parity of the model's evaluation;
- of `details` of an evaluation, by data set: `structures` (how many), `intervals`, `known` (a sentence on data that the model was trained on),
  `parity` (quantity -> `what`, `unit`, `reference`, `predicted`, and `of`: how many points there are), `worst` (objects with `frame`, `formula`,
  `group`, `energy`, `forces`), `microseconds_per_atom`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import ContractError, DamagedFileError, FormatVersionError, RefusedFileError
from .files import atomic_write, canonical_json, read_bytes
from .metrics import Metric

FORMAT = 1
MAX_BYTES = 16 * 2**20
Record = dict[str, Any]

KINDS = ("evaluation", "check")
_KEYS = {"kind", "format", "model", "created", "passed", "data", "metrics", "details", "versions", "sha256"}
_DISTRIBUTIONS = (
    "mlipfm",
    *(f"mlipfm-{part}" for part in ("data", "distill", "eval", "interfaces", "md", "models", "train")),
    "numpy",
    "torch",
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODEL = re.compile(r"[0-9a-f]{64}|[a-z][a-z0-9_+.-]*:[^\x00-\x1f]{0,500}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")


def make_record(
    kind: str,
    model: str,
    *,
    passed: bool,
    metrics: Iterable[Metric | Mapping[str, Any]],
    data: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
    created: datetime | None = None,
) -> Record:
    """Return a record, complete with its hash.

    Args:
        kind: `evaluation` or `check`.
        model: digest of the model checkpoint (64 hex digits), or the address of a model of another package, such as `tblite:GFN2`.
        passed: a check: every rule passed. An evaluation: no case failed.
        metrics: figures, as `Metric` or as what `Metric.as_dict` returns; a mapping may have further keys (data set, split, element).
        data: name of each set that was used -> SHA-256 of its file, or digest of its store.
        details: whatever else explains the figures; JSON-ready, without NaN.
        created: now, unless given.

    Raises:
        ContractError: what was given is no record, with the fault.
    """
    when = (created or datetime.now(UTC)).astimezone(UTC)
    record: Record = {
        "kind": kind,
        "format": FORMAT,
        "model": model,
        "created": when.isoformat(),
        "passed": passed,
        "data": dict(data or {}),
        "metrics": [metric.as_dict() if isinstance(metric, Metric) else dict(metric) for metric in metrics],
        "details": dict(details or {}),
        "versions": dict(_versions()),
    }
    try:
        record = json.loads(canonical_json(record))  # what a reader will see: lists for tuples, text for keys
    except (TypeError, ValueError) as error:
        raise ContractError(f"a record must be JSON without NaN: {error}", hint="`Metric.as_dict` writes None for NaN") from error
    record["sha256"] = _hash(record)
    faults = faults_of(record)
    if faults:
        raise ContractError(f"no result record: {faults[0]}")
    return record


def write_record(path: Path | str, record: Mapping[str, Any]) -> None:
    """Write a record atomically, one line of canonical JSON: the same record gives the same bytes."""
    atomic_write(path, record_bytes(record))


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record's file."""
    return canonical_json(dict(record)) + b"\n"


def read_record(path: Path | str) -> Record:
    """Read and verify a record; see `parse_record` for the errors, and UnreadableFileError if there is no such file."""
    return parse_record(read_bytes(path), str(path))


def parse_record(data: bytes, where: str) -> Record:
    """Return the record in these bytes.

    Raises:
        RefusedFileError: not JSON, or JSON of something else. DamagedFileError: the hash does not match. FormatVersionError: newer than we read.
    """
    if len(data) > MAX_BYTES:
        raise RefusedFileError(f"has {len(data)} bytes, a result record has at most {MAX_BYTES}", where=where)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RefusedFileError(f"is no JSON: {error}", where=where, hint="give a record that `mlipfm check` or `evaluate` wrote") from error
    if not isinstance(record, dict) or record.get("kind") not in KINDS or type(record.get("format")) is not int:
        raise RefusedFileError("is no result record", where=where, hint="give a record that `mlipfm check` or `evaluate` wrote")
    if record["format"] > FORMAT:
        raise FormatVersionError(
            f"record format {record['format']}, this mlipfm reads up to {FORMAT}", where=where, hint="upgrade mlipfm-interfaces"
        )
    try:
        hashed = _hash(record)
    except ValueError as error:
        raise DamagedFileError(f"holds a number that is not finite: {error}", where=where) from error
    if record.get("sha256") != hashed:
        raise DamagedFileError("the hash does not match the content: the record was changed or damaged", where=where, hint="measure again")
    faults = faults_of(record)
    if faults:
        raise DamagedFileError(faults[0], where=where, hint="measure again")
    return record


def faults_of(record: Mapping[str, Any]) -> list[str]:
    """Return what keeps this from being a record of the present format; empty if it is one."""
    faults = [f"key {key!r} is {'missing' if key in _KEYS else 'unknown'}" for key in sorted(_KEYS ^ record.keys())]
    if faults:
        return faults
    if record["kind"] not in KINDS:
        faults.append(f"kind must be one of {', '.join(KINDS)}, got {record['kind']!r}")
    if not (isinstance(record["model"], str) and _MODEL.fullmatch(record["model"])):
        faults.append(f"model must be a digest (64 hex digits) or the address of a foreign model, got {record['model']!r}")
    if type(record["passed"]) is not bool:
        faults.append(f"passed must be true or false, got {record['passed']!r}")
    if not (isinstance(record["created"], str) and _TIME.fullmatch(record["created"])):
        faults.append(f"created must be a UTC time such as 2026-01-31T12:00:00+00:00, got {record['created']!r}")
    for name, digest in _items(record["data"], faults, "data"):
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            faults.append(f"data {name!r} must be named with its SHA-256, got {digest!r}")
    _items(record["details"], faults, "details")
    if _has_huge_number(record["details"]):
        faults.append("details hold a whole number of more than 300 digits")
    _items(record["versions"], faults, "versions")
    if not isinstance(record["metrics"], list):
        return [*faults, "metrics must be a list"]
    return faults + [fault for metric in record["metrics"] for fault in _metric_faults(metric)]


def _metric_faults(metric: Any) -> list[str]:
    if not isinstance(metric, dict) or not {"name", "unit", "value", "ci95", "n_ok", "n_total"} <= metric.keys():
        return [f"a metric must have name, unit, value, ci95, n_ok and n_total, got {metric!r}"]
    what = f"metric {metric['name']!r}"
    ci95 = metric["ci95"]
    faults = []
    if not (isinstance(metric["name"], str) and isinstance(metric["unit"], str)):
        faults.append(f"{what}: name and unit must be text")
    if not isinstance(metric.get("set", ""), str):
        faults.append(f"{what}: the set must be text, got {metric['set']!r}")
    if metric["value"] is not None and not _is_number(metric["value"]):
        faults.append(f"{what}: value must be a finite number or null, got {metric['value']!r}")
    if ci95 is not None and not (isinstance(ci95, list) and len(ci95) == 2 and all(map(_is_number, ci95)) and ci95[0] <= ci95[1]):
        faults.append(f"{what}: ci95 must be [low, high] or null, got {ci95!r}")
    counts = metric["n_ok"], metric["n_total"]
    if not all(type(n) is int for n in counts) or not 0 <= counts[0] <= counts[1]:
        faults.append(f"{what}: counts must be whole numbers with 0 <= n_ok <= n_total, got {counts}")
    return faults


def _items(value: Any, faults: list[str], name: str) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    faults.append(f"{name} must be an object, got {value!r}")
    return []


def _has_huge_number(value: Any) -> bool:
    """Return whether a whole number is in it that no float can hold, which JSON can write."""
    if isinstance(value, dict | list):
        return any(_has_huge_number(item) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) > 10**300


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({key: value for key, value in record.items() if key != "sha256"})).hexdigest()


@functools.cache
def _versions() -> Mapping[str, str]:
    """Versions of what figures depend on, and as `mlipfm-code` the hash of the source; read once, for it takes a while."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"mlipfm-code": _source_hash()}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):  # an extra or a package that is not installed
            found[name] = version(name)
    return found


def _source_hash() -> str:
    """SHA-256 over the names and bytes of all source files of the installed mlipfm packages: versions stay the same while code is changed."""
    from importlib.util import find_spec

    hasher = hashlib.sha256()
    for name in sorted(name.replace("-", "_") for name in _DISTRIBUTIONS if name.startswith("mlipfm")):
        spec = find_spec(name)
        for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
            for file in sorted(folder.rglob("*.py")):
                data = file.read_bytes()
                hasher.update(f"{name}/{file.relative_to(folder).as_posix()} {len(data)}\n".encode() + data)
    return hasher.hexdigest()
