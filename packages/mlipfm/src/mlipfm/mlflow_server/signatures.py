"""Signatures of promotions: the hub signs what an alias means only if the result records lie in its own folder and fit the model.

What is signed: name, alias, the promotion with its sequence and rollbacks, the digest of the model and the SHA-256 of its file, the hashes of the
evaluation and of the check, and from these the hashes of the data and the versions of the code. The key is in the hub's folder and never leaves it
(HMAC-SHA256, RFC 2104); who wants to know whether a promotion is the hub's asks the hub.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mlipfm_interfaces.asgi import Refused, bad, forbidden
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import canonical_json
from mlipfm_interfaces.result_records import Record, read_record

from .rules import check_place

_SOURCE = re.compile(r"mlflow-artifacts:/{1,3}(\d{1,20}/[0-9a-f]{32}/artifacts)/model")
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class Signatures:
    """Sign and verify with `key`; `ask` gets JSON from MLflow, `root` is the folder of the artifacts."""

    def __init__(self, root: Path, key: str, ask: Callable[[str, dict[str, str]], Awaitable[dict[str, Any]]]) -> None:
        self.root, self.key, self.ask = root, key.encode(), ask

    async def sign(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return `{"signature": ...}` of a promotion whose result records pass the rules; raise Refused otherwise."""
        return {"signature": self._signature(await self._statement(body))}

    async def verify(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return `{"valid": ...}`: whether the signature of a promotion is this hub's, and everything it speaks of is still what it was."""
        given = body.get("promotion", {}).get("signature") if isinstance(body.get("promotion"), dict) else None
        try:
            statement = await self._statement(body)
        except Refused as refusal:
            return {"valid": False, "reason": refusal.message}
        good = isinstance(given, str) and hmac.compare_digest(given.encode(), self._signature(statement).encode())
        return {"valid": good, "reason": "" if good else "the signature is not this hub's"}

    def _signature(self, statement: dict[str, Any]) -> str:
        return hmac.new(self.key, canonical_json(statement), hashlib.sha256).hexdigest()

    async def _statement(self, body: dict[str, Any]) -> dict[str, Any]:
        name, alias, promotion = body.get("name"), body.get("alias"), body.get("promotion")
        if not (isinstance(name, str) and _NAME.fullmatch(name) and isinstance(alias, str) and isinstance(promotion, dict)):
            raise bad("wanted: name, alias and promotion")
        row = (await self.ask("model-versions/get", {"name": name, "version": str(promotion.get("version"))})).get("model_version", {})
        tags = {str(tag.get("key")): str(tag.get("value")) for tag in row.get("tags", []) if isinstance(tag, dict)}
        source, digest = _SOURCE.fullmatch(str(row.get("source"))), tags.get("mlipfm.digest", "")
        if source is None or not _HASH.fullmatch(digest):
            raise forbidden("this version was not registered by `mlipfm push`")
        records = {kind: self._record(source[1], promotion.get(kind), kind, digest) for kind in ("evaluation", "check")}
        if not records["check"]["passed"]:
            raise forbidden("the check of this version failed")
        if not records["evaluation"]["data"]:
            raise forbidden("the evaluation does not name its data by their hashes")
        return {
            "name": name,
            "alias": alias,
            "promotion": {key: value for key, value in promotion.items() if key != "signature"},
            "model": digest,
            "file": self._file(source[1], tags),
            "records": {kind: record["sha256"] for kind, record in records.items()},
            "data": {kind: record["data"] for kind, record in records.items()},
            "code": {kind: record["versions"] for kind, record in records.items()},
        }

    def _file(self, source: str, tags: dict[str, str]) -> str:
        """SHA-256 of the model's file, which must be the registered one."""
        place = f"{source}/model/model.safetensors"
        check_place(place, self.root)
        try:
            registered = json.loads(tags["mlipfm.files"])["model.safetensors"]["sha256"]
            with open(self.root / place, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError, KeyError, TypeError):
            raise forbidden("the file of the model is missing") from None
        if found != registered:
            raise forbidden("the file of the model is not the one that was registered")
        return found

    def _record(self, source: str, sha256: Any, kind: str, digest: str) -> Record:
        if not (isinstance(sha256, str) and _HASH.fullmatch(sha256)):
            raise forbidden(f"there is no {kind} by that hash")
        place = f"{source}/records/{sha256}.json"
        check_place(place, self.root)
        try:
            record = read_record(self.root / place)
        except MlipfmError as error:
            raise forbidden(f"the {kind} cannot be read: {error.what}") from None
        if (record["kind"], record["sha256"], record["model"]) != (kind, sha256, digest):
            raise forbidden(f"the {kind} is not of this model")
        return record
