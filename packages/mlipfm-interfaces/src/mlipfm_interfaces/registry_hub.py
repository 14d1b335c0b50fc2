"""Writing to a hub (`services/hub`): uploads in chunks that go on where they broke off, versions, promotions. Reading is as from any registry.

Here the hub decides: it hashes what it gets, makes the card, applies the gate of promotion and signs. On an MLflow server the client does all that.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Sequence
from typing import Any

from .console import counter
from .errors import RegistryError
from .registry_http import AnswerError, Json, Server
from .result_records import Record

CHUNK = 8 * 2**20  # bytes of one request
_RETRIES = 4


@functools.lru_cache(maxsize=32)
def is_hub(where: Server) -> bool:
    """Return whether this registry is a hub; asked once per process. Anything else that answers is taken for an MLflow server.

    Raises:
        RegistryError: it does not answer, or it is a hub that does not know us.
    """
    if where.token is None:
        return False  # a hub answers nobody without one, and says so to the next request
    try:
        return where.call("GET", "/api/v1/hub").get("service") == "mlipfm-hub"
    except AnswerError as error:
        if error.answer == "UNAUTHENTICATED":
            raise
        return False


def push_version(where: Server, name: str, data: bytes, records: Sequence[Record]) -> int:
    """Upload a checkpoint if the hub lacks it and register it; number of the version that holds it."""
    sha256 = hashlib.sha256(data).hexdigest()
    upload(where, sha256, data, name)
    answer = where.call("POST", f"/api/v1/models/{name}/versions", {"file": sha256, "records": list(records)})
    return _number(where, answer.get("number"))


def attach(where: Server, name: str, number: int, records: Sequence[Record]) -> None:
    """Add records to a version."""
    if records:
        where.call("POST", f"/api/v1/models/{name}/versions/{number}/records", {"records": list(records)})


def promote(where: Server, name: str, number: int, alias: str, reason: str) -> None:
    """Point an alias to a version; the hub refuses what has no result record."""
    where.call("POST", f"/api/v1/models/{name}/aliases/{alias}", {"version": number, "reason": reason})


def add_signature(where: Server, name: str, number: int, signature: Json) -> None:
    """Attach the signature of its file to a version."""
    where.call("POST", f"/api/v1/models/{name}/versions/{number}/signatures", {"signature": signature})


def signatures_of(where: Server, name: str, number: int) -> list[Any]:
    """Signatures of a version, oldest first; none on servers that are no hub."""
    if not is_hub(where):
        return []
    found = where.call("GET", f"/api/v1/models/{name}/versions/{number}/signatures").get("signatures")
    if not isinstance(found, list):
        raise where.fault("answers signatures that are no list")
    return found


def push_sweep(where: Server, name: str, points: Sequence[Json], fit: Json) -> tuple[int, bool]:
    """Send points and laws of a sweep; its number under this name, and whether it is new."""
    answer = where.call("POST", f"/api/v1/sweeps/{name}", {"points": list(points), "fit": fit})
    return _number(where, answer.get("number")), answer.get("new") is True


def revoke(where: Server, name: str, alias: str, reason: str) -> None:
    """Take an alias away, with a reason that is logged."""
    where.call("POST", f"/api/v1/models/{name}/aliases/{alias}/revoke", {"reason": reason})


def upload(where: Server, sha256: str, data: bytes, what: str) -> None:
    """Send what the hub lacks; after a broken connection it goes on where the hub is."""
    offset, failures = _state(where, where.call("POST", "/api/v1/uploads", {"sha256": sha256, "size": len(data)}))
    with counter(what, len(data), in_bytes=True, show=len(data) >= 2**23) as advance:
        advance(offset)
        while offset < len(data):
            chunk = data[offset : offset + CHUNK]
            try:
                answer = where.call("PUT", f"/api/v1/uploads/{sha256}?offset={offset}&size={len(data)}", chunk)
                after, _ = _state(where, answer)
            except RegistryError as error:
                failures += 1
                known = isinstance(error, AnswerError)
                if failures > _RETRIES or (known and getattr(error, "answer", "") != "WRONG_OFFSET"):
                    raise
                time.sleep(0.0 if known else failures)
                after, _ = _state(where, where.call("POST", "/api/v1/uploads", {"sha256": sha256, "size": len(data)}))
            advance(after - offset)
            offset = after


def _state(where: Server, answer: Json) -> tuple[int, int]:
    offset = answer.get("offset")
    if type(offset) is not int or offset < 0:
        raise where.fault("answers no state of the upload")
    return offset, 0


def _number(where: Server, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise where.fault("answers no number of a version")
    return value
