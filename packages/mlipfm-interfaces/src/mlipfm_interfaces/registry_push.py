"""Putting models into a registry, in an order that leaves it consistent if the process is killed at any moment.

Files first (in a run of their own, found again by the digest of the model), then the version, whose tags say what the files are and which are
created with it in one transaction. Nothing refers to files before they are complete, and pushing again finishes or finds what is there.
Result records are files named by their hash; a tag of the version makes one count.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .errors import DamagedFileError, RefusedFileError
from .files import canonical_json, lock, read_bytes, sha256
from .registry_http import AnswerError, Server, registry_cache, server
from .registry_versions import (
    CARD_FILE,
    MAX_MODEL,
    MODEL_FILE,
    File,
    Version,
    check_name,
    first_of_digest,
    get_version,
    list_versions,
)
from .result_records import MAX_BYTES, Record, parse_record, read_record, record_bytes

EXPERIMENT = "mlipfm-models"
_RECORD_TAG = re.compile(r"mlipfm\.record\.([0-9a-f]{64})")


def push(
    model: Path | str, name: str, records: Iterable[Path | str] = (), registry: str | None = None, sign_key: Path | None = None
) -> Version:
    """Register a model checkpoint under a name, with result records; pushing it again adds only records that are new.

    Args:
        model: path, or the address of a model that is registered already.
        registry: address of the server; default $MLIPFM_REGISTRY, else this machine.
        sign_key: private key (PEM) whose signature of the file is kept with the version; a hub is needed. See `model_signatures`.

    Returns:
        The version that holds this model: under one name, one content is one version.

    Raises:
        RefusedFileError: not a model checkpoint, or a record of another model. DamagedFileError: a digest or hash does not match. RegistryError:
        the name, or the server's answer. And what `load_model` raises: only a model that loads is registered.
    """
    from . import registry_hub
    from .checkpoint import resolve
    from .model_card import model_card
    from .model_signatures import sign_model

    check_name(name)
    where = server(registry)
    data, manifest = _read_model(model)
    digest = manifest["digest"]
    attached = [_record_of(path, digest) for path in records]
    signature = None
    if sign_key is not None:
        if not registry_hub.is_hub(where):
            said = "does not answer as a hub" if where.token else "is not known to be a hub: no token for it is given"
            hint = "start `mlipfm hub up`, set MLIPFM_REGISTRY_TOKEN, or leave --sign-key out"
            raise where.fault(f"{said}; MLflow keeps no signatures", hint)
        signature = sign_model(resolve(model), sign_key)
    if registry_hub.is_hub(where):
        number = registry_hub.push_version(where, name, data, attached)
        if signature is not None:
            registry_hub.add_signature(where, name, number, signature)
        return get_version(where, name, number)
    content = {MODEL_FILE: data, CARD_FILE: model_card(manifest).encode()}
    with lock(registry_cache() / f"{digest}.push.lock", timeout=600):
        version = first_of_digest(list_versions(where, name), digest) or _register(where, name, digest, content, attached)
        attach(where, version, attached)
    return get_version(where, name, version.number)


def attach(where: Server, version: Version, records: Iterable[Record]) -> None:
    """Add result records to a version; those it has already change nothing."""
    for record in records:
        tag = _record_tag(record)
        if tag["key"] not in version.tags:
            _upload_record(where, version.root, record)
            where.send("model-versions/set-tag", {"name": version.name, "version": str(version.number), **tag})


def records_of(where: Server, version: Version) -> list[Record]:
    """Return all result records of a version, oldest first, each verified and of this model."""
    hashes = [found[1] for key in version.tags if (found := _RECORD_TAG.fullmatch(key))]
    sizes = where.listing(f"{version.root}/records") if hashes else {}
    records = []
    for digest in hashes:
        name = f"{digest}.json"
        size = sizes.get(name)
        if size is None or not 0 <= size <= MAX_BYTES:
            raise where.fault(f"lacks the record {name} of {version}")
        data = b"".join(where.download(f"{version.root}/records/{name}", size))
        record = parse_record(data, f"record {name} of {version} at {where.address}")
        if record["sha256"] != digest or record["model"] != version.digest:
            raise DamagedFileError(
                "is another record than the one that was registered", where=f"record {name} of {version} at {where.address}"
            )
        records.append(record)
    return sorted(records, key=lambda record: (record["created"], record["sha256"]))


def _record_tag(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the tag by which a record belongs to a version."""
    return {
        "key": f"mlipfm.record.{record['sha256']}",
        "value": f"{record['kind']} {'passed' if record['passed'] else 'failed'} {record['created']}",
    }


def _read_model(model: Path | str) -> tuple[bytes, dict[str, Any]]:
    """Bytes and manifest of a model that loads."""
    from .checkpoint import load_model, resolve

    path = resolve(model)
    try:
        size = path.stat().st_size
    except OSError:
        size = 0  # read_bytes says what is wrong
    if size > MAX_MODEL:
        raise RefusedFileError(f"has {size} bytes, a registry takes up to {MAX_MODEL}", where=str(path))
    data = read_bytes(path)
    manifest = load_model(path)[1]
    if sha256(path) != hashlib.sha256(data).hexdigest():
        raise DamagedFileError("changed while it was read", where=str(path), hint="push a file that nothing writes to")
    return data, manifest


def _record_of(path: Path | str, digest: str) -> Record:
    record = read_record(path)
    if record["model"] != digest:
        raise RefusedFileError(
            f"is a record of {record['model']}, not of this model ({digest})", where=str(path), hint="measure this model"
        )
    return record


def _register(where: Server, name: str, digest: str, content: Mapping[str, bytes], records: list[Record]) -> Version:
    run, root = _run(where, name, digest)
    for file, data in content.items():
        where.upload(f"{root}/model/{file}", data)
    sizes = {file: len(data) for file, data in content.items()}
    if where.listing(f"{root}/model") != sizes:
        raise where.fault(f"has other files in {root}/model than were uploaded", "delete that run in MLflow and push again")
    for record in records:
        _upload_record(where, root, record)
    where.send("runs/update", {"run_id": run, "status": "FINISHED", "end_time": round(time.time() * 1000)})
    try:
        where.send("registered-models/create", {"name": name})
    except AnswerError as error:
        if error.answer != "RESOURCE_ALREADY_EXISTS":
            raise
    files = {file: File(hashlib.sha256(data).hexdigest(), len(data)) for file, data in content.items()}
    tags = [
        {"key": "mlipfm.digest", "value": digest},
        {"key": "mlipfm.files", "value": canonical_json({file: asdict(entry) for file, entry in files.items()}).decode()},
        *(_record_tag(record) for record in records),
    ]
    body = {"name": name, "source": f"mlflow-artifacts:/{root}/model", "run_id": run, "tags": tags, "description": f"mlipfm model {digest}"}
    try:
        where.send("model-versions/create", body)
    except AnswerError as error:  # somebody else pushes the same content, and was first
        if error.answer != "RESOURCE_ALREADY_EXISTS":
            raise
    version = first_of_digest(list_versions(where, name), digest)
    if version is None or version.files != files:
        raise where.fault(f"does not show the version of {name!r} that was just registered")
    return version


def _upload_record(where: Server, root: str, record: Record) -> None:
    where.upload(f"{root}/records/{record['sha256']}.json", record_bytes(record))


def _run(where: Server, name: str, digest: str) -> tuple[str, str]:
    """Id and artifact folder of the run that holds the files of this model; an unfinished one of an earlier push is used again."""
    experiment = _experiment(where)
    query = {
        "experiment_ids": [experiment],
        "filter": f"tags.mlipfm_digest = '{digest}'",
        "max_results": 1,
        "order_by": ["attributes.start_time"],
    }
    found = where.send("runs/search", query).get("runs", [])
    if not found:
        tags = [{"key": "mlipfm_digest", "value": digest}]
        body = {"experiment_id": experiment, "run_name": name, "start_time": round(time.time() * 1000), "tags": tags}
        found = [where.send("runs/create", body)["run"]]
    run, folder = str(found[0]["info"]["run_id"]), str(found[0]["info"]["artifact_uri"])
    match = re.fullmatch(r"mlflow-artifacts:/{1,3}(\d{1,20}/[0-9a-f]{32}/artifacts)", folder)
    if match is None:
        raise where.fault(
            f"keeps artifacts at {folder!r}, which is not served by it", "start it with --serve-artifacts, as `mlipfm hub up` does"
        )
    return run, match[1]


def _experiment(where: Server) -> str:
    for create in (False, True, False):  # somebody else may create it in between
        try:
            if create:
                return str(where.send("experiments/create", {"name": EXPERIMENT})["experiment_id"])
            return str(where.get("experiments/get-by-name", experiment_name=EXPERIMENT)["experiment"]["experiment_id"])
        except AnswerError as error:
            if error.answer not in ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"):
                raise
    raise where.fault(f"neither has nor takes the experiment {EXPERIMENT!r}", "it may be deleted but not purged: restore it in MLflow")
