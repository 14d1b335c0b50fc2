"""The prediction service: structures as JSON in, energies and forces out, requests that wait together computed as one batch.

`mlipfm-hub predict MODEL` serves it; `--model http://HOST:PORT` of mlipfm's commands asks it. POST /v1/predict takes
`{"numbers": [...], "positions": [[x, y, z], ...], "cell", "pbc", "charge", "multiplicity", "level", "outputs"}` in Å and answers in eV and eV/Å.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Any

from mlipfm_interfaces.asgi import Receive, Refused, Scope, Send, read_body

from .predict_process import WorkerProcess
from .predict_worker import OWN
from .prediction_openapi import description

BATCH = 128  # requests computed together, at most
WAITING = 2000  # requests that wait, at most; more are told to come back
BODY = 4 * 2**20
SECONDS = 60.0


class Prediction:
    """An ASGI application for one model.

    Args:
        token: that every request shows, but those of /health. hosts: values of the Host header that are answered.
    """

    def __init__(self, path: str, token: str, hosts: frozenset[str], log: Any = None) -> None:
        self.worker = WorkerProcess(path, SECONDS, log)
        self.bearer, self.hosts = f"Bearer {token}".encode(), frozenset(host.encode() for host in hosts)
        self.waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self.come = asyncio.Event()
        self.batches = self.served = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, body = await self._answer(scope, receive)
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
            if status == 503:
                headers.append((b"retry-after", b"1"))
            if status == 405:
                headers.append((b"allow", b"POST" if scope["path"] == "/v1/predict" else b"GET"))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        headers = dict(scope["headers"])
        at = (scope["method"], scope["path"])
        if headers.get(b"host", b"").lower() not in self.hosts:
            return 421, _error("wrong-host", "this service is not called by this name")
        if at == ("GET", "/health"):
            return 200, b'"OK"'
        if not hmac.compare_digest(headers.get(b"authorization", b""), self.bearer):
            return 401, _error("unauthenticated", "this service wants its token (MLIPFM_REGISTRY_TOKEN)")
        if at == ("GET", "/v1/openapi.json"):
            return 200, json.dumps(description(self.worker.about)).encode()
        if at == ("GET", "/v1/model"):
            told = self.worker.about | {"served": self.served, "batches": self.batches, "starts_of_the_worker": self.worker.starts}
            return 200, json.dumps(told).encode()
        if scope["path"] in ("/v1/predict", "/v1/model", "/v1/openapi.json", "/health") and at != ("POST", "/v1/predict"):
            return 405, _error("method-not-allowed", "POST /v1/predict, GET /v1/model")
        if at != ("POST", "/v1/predict"):
            return 404, _error("not-found", "POST /v1/predict, GET /v1/model")
        return await self._predict(headers, receive)

    async def _predict(self, headers: dict[bytes, bytes], receive: Receive) -> tuple[int, bytes]:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return 415, _error("compressed", "a body is sent as it is, not compressed")
        try:
            body = await read_body(receive, BODY, headers.get(b"content-length", b"0"))
        except Refused as refusal:
            return refusal.status, _error(refusal.code.lower().replace("_", "-"), refusal.message)
        if len(self.waiting) >= WAITING:
            return 503, _error("busy", "too many requests wait: come back after a second")
        if body.startswith(OWN):
            return 400, _error("not-json", "the body is no JSON")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting.append((body, future))
        self.come.set()
        answer = await future
        return int(answer[:3]), answer[3:]

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.worker.start()
        except RuntimeError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        loop = asyncio.create_task(self._batches())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        loop.cancel()
        await self.worker.end()
        await send({"type": "lifespan.shutdown.complete"})

    async def _batches(self) -> None:
        """Compute what waits, as long as there is something; while a batch is computed, the next one gathers."""
        while True:
            await self.come.wait()
            await asyncio.sleep(0)  # those that have arrived by now come along
            chosen, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            if not self.waiting:
                self.come.clear()
            try:
                answers = await self.worker.ask([body for body, _ in chosen])
            except Exception:
                answers = [b"503" + _error("no-worker", "the model cannot be loaded at the moment")] * len(chosen)
            self.batches, self.served = self.batches + 1, self.served + len(chosen)
            for (_, future), answer in zip(chosen, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def _error(code: str, message: str) -> bytes:
    return json.dumps({"error_code": code, "message": message}).encode()


def serve(path: str, folder: Any, host: str, port: int) -> None:
    """Serve one model in this process until it is ended; the token is in `folder` and is made if there is none."""
    import secrets

    import uvicorn
    from mlipfm_interfaces.hub_folder import TOKEN, secret, write_secret

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / TOKEN).exists():
        write_secret(folder / TOKEN, secrets.token_urlsafe(32))
    named = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", host)}
    with open(folder / "worker.log", "ab") as log:
        service = Prediction(path, secret(folder / TOKEN), frozenset(named), log)
        uvicorn.run(service, host=host, port=port, server_header=False, access_log=False, log_level="warning", timeout_keep_alive=75,
                    proxy_headers=False, lifespan="on")  # fmt: skip
