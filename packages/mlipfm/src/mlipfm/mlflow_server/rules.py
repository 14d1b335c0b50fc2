"""What the hub lets through to MLflow: an allow-list of routes, plain paths inside the artifact folder without links, and plain JSON.

The threat is a shared machine: other users can reach the port, and MLflow by itself answers everybody, stores artifacts wherever a client asks,
follows links and deletes on request. Whoever has the token may add models and records; nobody may delete, or choose where anything is stored.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from mlipfm_interfaces.asgi import Refused, bad, containers, forbidden, plain_json, too_large

MAX_JSON = 16 * 2**20  # bytes of a request's JSON, as of an answer's
MAX_ARTIFACT = 4 * 2**30

_API = re.compile(r"/(?:ajax-)?api/[23]\.0/mlflow/([a-z0-9/-]+)")
_ARTIFACTS = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts(?:/(.*))?")
_PLACE = re.compile(r"\d{1,20}/[0-9a-f]{32}/artifacts(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,199}){0,8}")
_SOURCE = re.compile(r"mlflow-artifacts:/{1,3}\d{1,20}/[0-9a-f]{32}/artifacts/model")
_RUN = re.compile(r"[0-9a-f]{32}")

#: Requests that change nothing although they are POSTs.
_SEARCHES = {
    "experiments/search", "runs/search", "registered-models/search", "registered-models/get-latest-versions", "model-versions/search",
    "metrics/get-history-bulk", "logged-models/search", "traces/search", "experiments/search-datasets",
}  # fmt: skip
#: POSTs that add.
_ADDITIONS = {
    "registered-models/create", "registered-models/alias", "registered-models/set-tag", "model-versions/create", "model-versions/set-tag",
    "experiments/create", "experiments/set-experiment-tag", "runs/create", "runs/update", "runs/set-tag", "runs/log-batch", "runs/log-metric",
    "runs/log-parameter", "runs/log-inputs",
}  # fmt: skip
#: Fields by which a client would choose where MLflow keeps or looks for files.
_PLACES = {"artifact_location", "artifact_uri", "storage_location", "artifact_root"}


def check_route(method: str, raw_path: bytes, query: bytes, root: Path) -> str:
    """`read`, `add` or `store` for a request that is on the list, its path inside `root` free of links.

    Raises:
        Refused: anything else.
    """
    path = _plain(raw_path)
    artifact = _ARTIFACTS.fullmatch(path)
    if artifact is not None:
        place = artifact[1] if artifact[1] is not None else _query(query).get("path", "")
        if method not in ("GET", "HEAD", "PUT") or (method == "PUT" and artifact[1] is None):
            raise forbidden(f"{method} of artifacts: the hub deletes nothing")
        check_place(place, root)
        return "store" if method == "PUT" else "read"
    api = _API.fullmatch(path)
    if method in ("GET", "HEAD"):
        _check_read(path, api[1] if api else None, query, root)
        return "read"
    if method == "POST" and (path == "/graphql" or (api and api[1] in _SEARCHES)):
        return "read"
    if method == "POST" and api and api[1] in _ADDITIONS:
        return "add"
    raise forbidden(f"{method} {path[:100]} is not among what the hub does; it deletes and renames nothing")


def _plain(raw_path: bytes) -> str:
    path = raw_path.decode("latin-1")
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*", path) or "//" in path or any(part in (".", "..") for part in path.split("/")):
        raise bad("a path of the hub has letters, digits and . _ - only, no encoded characters and no '..'")
    return path


def _check_read(path: str, call: str | None, query: bytes, root: Path) -> None:
    if path in ("/", "/health", "/version", "/favicon.ico") or path.startswith("/static-files/"):
        return
    if call in ("artifacts/list", "get-artifact") or path == "/get-artifact":
        asked = _query(query)
        run = asked.get("run_id") or asked.get("run_uuid") or ""
        if not _RUN.fullmatch(run):
            raise bad("no such run")
        found = [entry.name for entry in os.scandir(root) if (root / entry.name / run).is_dir()] if root.is_dir() else []
        if len(found) != 1:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", "the hub keeps no files of this run")
        check_place(f"{found[0]}/{run}/artifacts" + (f"/{asked['path']}" if asked.get("path") else ""), root)
        return
    if call is None or any(word in call for word in ("artifact", "gateway", "proxy", "download", "upload", "presign")):
        raise forbidden(f"GET {path[:100]} is not among what the hub does")


def check_place(place: str, root: Path) -> None:
    """A place in the artifact folder: `EXPERIMENT/RUN/artifacts/...`, with no link on the way.

    Raises:
        Refused: another place, or a link (also a second name of a file).
    """
    if place in ("", "/"):
        raise forbidden("the artifacts of all runs are not listed")
    if not _PLACE.fullmatch(place.rstrip("/")) or ".." in place:
        raise bad("artifacts are at EXPERIMENT/RUN/artifacts/NAME, in letters, digits and . _ -")
    here = root
    for part in ["", *place.rstrip("/").split("/")]:
        here = here / part if part else here
        try:
            status = os.lstat(here)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
            raise forbidden("a link in the artifact folder is not followed")


def check_body(path: str, data: bytes) -> dict[str, Any]:
    """Return the JSON object of a request: no key twice, no NaN, not deep, and nothing that says where to store or to look.

    Raises:
        Refused: with what is wrong.
    """
    body = request_json(data)
    for key, value in _entries(body):
        if key in _PLACES and value not in (None, ""):
            raise forbidden(f"{key!r} is not for clients to choose: the hub keeps files in its own folder")
    if path.endswith("model-versions/create") and not _SOURCE.fullmatch(str(body.get("source"))):
        raise forbidden("the files of a version are those of its run in the hub: mlflow-artifacts:/EXPERIMENT/RUN/artifacts/model")
    return body


def request_json(data: bytes) -> dict[str, Any]:
    """Return an object from JSON; Refused for anything else."""
    if len(data) > MAX_JSON:
        raise too_large(f"more than {MAX_JSON} bytes of JSON")
    value = plain_json(data or b"{}")
    if not isinstance(value, dict):
        raise bad("the JSON of a request is an object")
    return value


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    for _, here in containers(value):
        if isinstance(here, dict):
            yield from here.items()


def _query(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), max_num_fields=50)
    except ValueError:
        raise bad("the query of the address cannot be read") from None
    if len(dict(pairs)) < len(pairs):
        raise bad("a key stands twice in the query")
    return dict(pairs)
