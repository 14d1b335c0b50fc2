"""What the hub has, in the dialect of MLflow's REST API, for reading only. Earlier clients of mlipfm pull by it, and MLflow's own (`models:`).

Writing in that dialect is not answered: there a client says where files are, what they hash to and what an alias means, and here the hub does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from mlipfm_interfaces.asgi import absent, bad
from mlipfm_interfaces.files import canonical_json
from mlipfm_interfaces.registry_versions import CARD_FILE, MODEL_FILE, PROMOTION_TAG

from .api import Hub, Wanted, role
from .registry import Row

router = APIRouter(dependencies=[role("read")], include_in_schema=False)
_AT = "/api/2.0/mlflow"
_FILES = "/api/2.0/mlflow-artifacts/artifacts"
_PLACE = re.compile(r"0/([0-9a-f]{32})/artifacts/(model|records)(?:/([A-Za-z0-9._-]{1,100}))?")
_FILTER = re.compile(r"name\s*(=|LIKE|ILIKE)\s*'([A-Za-z0-9._%-]{1,100})'", re.IGNORECASE)
#: MLflow's client adds this to every search: the hub keeps models and no prompts.
_NO_PROMPTS = re.compile(r"(\s+AND\s+)?tag\.`mlflow\.prompt\.is_prompt`\s*!=\s*'true'\s*$")
Most = Annotated[int, Query(ge=1, le=200_000)]
Token = Annotated[int, Query(ge=0, le=10**9)]


class Asked(Wanted):
    name: str
    alias: str
    promotion: dict[str, Any]


@router.get(f"{_AT}/registered-models/get")
def get_model(name: str, hub: Hub) -> dict[str, Any]:
    if name not in hub.registry.names():
        raise absent(f"there is no model {name[:100]!r}")
    return {"registered_model": _model(hub, name)}


@router.get(f"{_AT}/registered-models/search")
def search_models(request: Request, hub: Hub, filter: str = "", max_results: Most = 1000, page_token: Token = 0) -> dict[str, Any]:
    _only(request)
    names = [name for name in hub.registry.names() if _fits(name, filter)]
    return _page(names, "registered_models", max_results, page_token, lambda name: _model(hub, name))


@router.get(f"{_AT}/registered-models/alias")
def get_by_alias(name: str, alias: str, hub: Hub) -> dict[str, Any]:
    found = hub.registry.aliases(name).get(alias)
    if found is None:
        raise absent(f"there is no {name[:100]}@{alias[:100]}")
    return {"model_version": _version(hub.registry.version(name, found["version"]))}


@router.get(f"{_AT}/model-versions/get")
def get_version(name: str, version: Annotated[int, Query(ge=1, le=10**9)], hub: Hub) -> dict[str, Any]:
    return {"model_version": _version(hub.registry.version(name, version))}


@router.get(f"{_AT}/model-versions/get-download-uri")
def get_place(name: str, version: Annotated[int, Query(ge=1, le=10**9)], hub: Hub) -> dict[str, Any]:
    return {"artifact_uri": _source(hub.registry.version(name, version))}


@router.get(f"{_AT}/model-versions/search")
def search_versions(request: Request, hub: Hub, filter: str = "", max_results: Most = 1000, page_token: Token = 0) -> dict[str, Any]:
    _only(request)
    found = [row for name in hub.registry.names() if _fits(name, filter) for row in hub.registry.versions(name)]
    return _page(found, "model_versions", max_results, page_token, _version)


@router.get(_FILES)
def list_files(path: str, hub: Hub) -> dict[str, Any]:
    version, folder, name = _place(hub, path)
    listed = _listed(version, folder)
    if name is not None and name not in listed:
        raise absent("there is no such file")
    shown = listed if name is None else {}  # MLflow's client asks for the files in a file before it takes that for a file
    return {"files": [{"path": called, "is_dir": False, "file_size": size} for called, (_, size) in shown.items()]}


@router.get(_FILES + "/{path:path}")
def get_file(path: str, hub: Hub) -> Response:
    version, folder, name = _place(hub, path)
    found = _listed(version, folder).get(name or "")
    if found is None:
        raise absent("there is no such file")
    sha256, size = found
    if hub.blobs.size(sha256) != size:
        raise absent("the file is damaged or gone")
    headers = {"content-length": str(size), "etag": f'"{sha256}"', "content-disposition": "attachment"}
    return StreamingResponse(_read(hub, sha256), media_type="application/octet-stream", headers=headers)


@router.post("/mlipfm/verify")
def verify(asked: Asked, hub: Hub) -> dict[str, Any]:
    """Whether the hub stands by a promotion."""
    valid, reason = hub.registry.stands_by(asked.name, asked.alias, asked.promotion)
    return {"valid": valid, "reason": reason}


def _only(request: Request) -> None:
    """Refuse parameters that a search here does not take: a result in another order would look right."""
    for name in request.query_params:
        if name not in ("filter", "max_results", "page_token"):
            raise bad(f"the hub searches by filter, max_results and page_token, not by {name[:40]}")


def _fits(name: str, text: str) -> bool:
    """Whether a model fits a filter: none, name = 'NAME', or name LIKE 'PART%'."""
    text = _NO_PROMPTS.sub("", text).strip()
    if not text:
        return True
    found = _FILTER.fullmatch(text)
    if found is None:
        raise bad("the hub searches by name = 'NAME' or name LIKE 'PART%'")
    if found[1] == "=":
        return name == found[2]
    pattern = ".*".join(re.escape(part) for part in found[2].split("%"))
    return re.fullmatch(pattern, name, re.IGNORECASE if found[1].upper() == "ILIKE" else 0) is not None


def _page(found: list[Any], key: str, most: int, first: int, shown: Callable[[Any], Row]) -> dict[str, Any]:
    rest = {"next_page_token": str(first + most)} if first + most < len(found) else {}
    return {key: [shown(one) for one in found[first : first + most]], **rest}


def _read(hub: Any, sha256: str) -> Iterator[bytes]:
    yield from hub.blobs.read(sha256)


def _place(hub: Any, path: str) -> tuple[Row, str, str | None]:
    found = _PLACE.fullmatch(path.rstrip("/"))
    if found is None:
        raise bad("files are at 0/RUN/artifacts/model and 0/RUN/artifacts/records")
    return hub.registry.version_of_run(found[1]), found[2], found[3]


def _listed(version: Row, folder: str) -> dict[str, tuple[str, int]]:
    """Name -> SHA-256 and size of the files in a folder of a version."""
    if folder == "model":
        return {MODEL_FILE: (version["file"], version["size"]), CARD_FILE: (version["card"], version["card_size"])}
    return {f"{row['sha256']}.json": (row["blob"], row["size"]) for row in version["records"]}


def _model(hub: Any, name: str) -> Row:
    aliases = hub.registry.aliases(name)
    tags = [{"key": PROMOTION_TAG + alias, "value": canonical_json(promotion).decode()} for alias, promotion in aliases.items()]
    pointers = [{"alias": alias, "version": str(promotion["version"])} for alias, promotion in aliases.items()]
    return {"name": name, "tags": tags, "aliases": pointers, "latest_versions": []}


def _version(row: Row) -> Row:
    files = {name: {"sha256": sha256, "size": size} for name, (sha256, size) in _listed(row, "model").items()}
    tags = {"mlipfm.digest": row["digest"], "mlipfm.files": canonical_json(files).decode()}
    tags |= {f"mlipfm.record.{r['sha256']}": f"{r['kind']} {'passed' if r['passed'] else 'failed'} {r['created']}" for r in row["records"]}
    created = round(datetime.fromisoformat(row["created"]).timestamp() * 1000)
    return {
        "name": row["name"], "version": str(row["number"]), "creation_timestamp": created, "last_updated_timestamp": created,
        "source": _source(row), "run_id": row["run"], "status": "READY", "description": f"mlipfm model {row['digest']}",
        "current_stage": "None", "tags": [{"key": key, "value": value} for key, value in tags.items()], "user_id": row["by"],
    }  # fmt: skip


def _source(row: Row) -> str:
    return f"mlflow-artifacts:/0/{row['run']}/artifacts/model"
