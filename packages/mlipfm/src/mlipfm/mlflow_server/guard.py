"""The guard in front of MLflow: an ASGI application that asks who is there and lets through what `rules` lists.

Programs show the token of the hub's folder (`Authorization: Bearer`). A browser opens the address that `mlipfm hub up` prints once and keeps a cookie
that may look and not change: cookies go to every port of a machine, so they are never the token.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from mlipfm_interfaces.asgi import App, Message, Receive, Refused, Scope, Send, check_length, forbidden, read_body, replay_body
from mlipfm_interfaces.hub_folder import viewer_key

from .rules import MAX_ARTIFACT, MAX_JSON, check_body, check_route, request_json
from .signatures import Signatures

COOKIE = "mlipfm_hub"


class Guard:
    """`inner` behind a token.

    Args:
        root: folder of the artifacts. token: of this start of the hub. key: of signatures, kept for as long as the folder.
    """

    def __init__(self, inner: App, root: Path, token: str, key: str) -> None:
        self.inner, self.root, self.token = inner, root, token
        self.signatures = Signatures(root, key, self.ask)
        self._registering = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            await self._serve(scope, receive, send)
        except Refused as refusal:
            await _answer(send, refusal.status, {"error_code": refusal.code, "message": refusal.message})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, raw, query = scope["method"], scope.get("raw_path") or scope["path"].encode(), scope.get("query_string", b"")
        path = raw.decode("latin-1")
        if path == "/" and b"key=" in query:
            await self._welcome(query, send)
            return
        if path == "/health" and method == "GET":
            await self.inner(scope, receive, send)
            return
        may_add = self._may_add(scope)
        if path in ("/mlipfm/sign", "/mlipfm/verify") and method == "POST":
            if path.endswith("sign") and not may_add:
                raise forbidden("a browser may look and not change")
            body = request_json(await read_body(receive, MAX_JSON))
            await _answer(send, 200, await (self.signatures.sign(body) if path.endswith("sign") else self.signatures.verify(body)))
            return
        kind = check_route(method, raw, query, self.root)
        if kind != "read" and not may_add:
            raise forbidden("a browser may look and not change; programs use the token of the hub's folder")
        await self._forward(kind, path, scope, receive, send)

    def _may_add(self, scope: Scope) -> bool:
        """True with the token, False with the key of a browser; Refused with neither."""
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        for name, value in headers:
            if name == b"authorization" and hmac.compare_digest(value, f"Bearer {self.token}".encode()):
                return True
        try:
            cookies = SimpleCookie("; ".join(value.decode("latin-1") for name, value in headers if name == b"cookie"))
        except CookieError:
            cookies = SimpleCookie()
        found = cookies.get(COOKIE)
        if found is not None and hmac.compare_digest(found.value.encode(), viewer_key(self.token).encode()):
            return False
        hint = "programs need the token of its folder (MLIPFM_REGISTRY set to the folder, or MLIPFM_REGISTRY_TOKEN), a browser the address of hub up"
        raise Refused(401, "UNAUTHENTICATED", f"this hub requires a token: {hint}")

    async def _welcome(self, query: bytes, send: Send) -> None:
        given = dict(parse_qsl(query.decode("ascii", "replace"))).get("key", "")
        if not hmac.compare_digest(given.encode(), viewer_key(self.token).encode()):
            raise Refused(401, "UNAUTHENTICATED", "this is not the address that `mlipfm hub up` printed; it changes with every start")
        cookie = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/".encode()
        await send({"type": "http.response.start", "status": 303, "headers": [(b"location", b"/"), (b"set-cookie", cookie)]})
        await send({"type": "http.response.body", "body": b""})

    async def _forward(self, kind: str, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in (b"authorization", b"cookie")]
        scope = dict(scope) | {"headers": headers}
        if scope["method"] in ("GET", "HEAD"):
            await self.inner(scope, _at_most(receive, scope, MAX_JSON), send)
        elif kind == "store":
            await self.inner(scope, _at_most(receive, scope, MAX_ARTIFACT), send)
        else:
            data = await read_body(receive, MAX_JSON)
            body = check_body(path, data)
            if path.endswith("model-versions/create"):
                async with self._registering:
                    await self._check_new(body)
                    await self.inner(scope, replay_body(data, receive), send)
            else:
                await self.inner(scope, replay_body(data, receive), send)

    async def _check_new(self, body: dict[str, Any]) -> None:
        """One content is one version, whoever registers it and however many at once."""
        digest = _tag(body, "mlipfm.digest")
        name = str(body.get("name", ""))
        if digest is None or "'" in name:
            return
        token = ""
        while True:
            query = {"filter": f"name='{name}'", "max_results": "1000"} | ({"page_token": token} if token else {})
            found = await self.ask("model-versions/search", query)
            for row in found.get("model_versions", []):
                if _tag(row, "mlipfm.digest") == digest:
                    raise Refused(409, "RESOURCE_ALREADY_EXISTS", f"{name} has this content already as version {row.get('version')}")
            token = str(found.get("next_page_token") or "")
            if not token:
                return

    async def ask(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """JSON of a GET of MLflow itself; Refused with its status if it is no success."""
        at = f"/api/2.0/mlflow/{path}"
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": at,
                 "raw_path": at.encode(), "root_path": "", "query_string": urlencode(query).encode(), "headers": [(b"host", b"localhost")],
                 "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80)}  # fmt: skip
        status, parts = 0, []

        async def keep(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        await self.inner(scope, replay_body(b"", _never), keep)
        if status != 200:
            raise Refused(status or 500, "RESOURCE_DOES_NOT_EXIST" if status == 404 else "INTERNAL_ERROR", f"{path} answered {status}")
        return request_json(b"".join(parts))


def _tag(row: Any, key: str) -> str | None:
    tags = row.get("tags") if isinstance(row, dict) else None
    pairs = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return next((str(tag.get("value")) for tag in pairs if tag.get("key") == key), None)


async def _never() -> Message:
    """For requests of our own, whose client does not go away."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


def _at_most(receive: Receive, scope: Scope, limit: int) -> Receive:
    check_length(next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0"), limit)
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            return {"type": "http.disconnect"}
        return message

    return counted


async def _answer(send: Send, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
