"""Models that pages try: at most a few processes, each ended when it is idle, and every trial bounded in size and time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from mlipfm_interfaces.asgi import Refused, absent, bad

from .blobs import LocalBlobs
from .predict_process import WorkerProcess
from .predict_worker import OWN
from .registry import Registry

SECONDS = 30.0
WORKERS = 2
_ADDRESS = re.compile(r"([A-Za-z0-9._-]{1,100})(?:@([a-z][a-z0-9_-]{0,62})|/([1-9][0-9]{0,8}))")


class Trials:
    """Worker processes by digest; `spool` keeps models that are not files of this machine."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.workers: dict[str, WorkerProcess] = {}
        self.turn = asyncio.Lock()

    async def run(self, registry: Registry, address: str, task: dict[str, Any]) -> dict[str, Any]:
        """What the worker answers, with the model's digest.

        Raises:
            Refused: no such model, a structure that it does not compute, or more time than there is.
        """
        version = _version(registry, address)
        if self.turn.locked() and len(getattr(self.turn, "_waiters", None) or ()) >= 5:
            raise Refused(503, "BUSY", "several trials wait already: come back in a minute")
        async with self.turn:
            worker = await self._worker(registry, version)
            try:
                answer = (await worker.ask([OWN + json.dumps(task).encode()]))[0]
            except RuntimeError:
                raise Refused(
                    503, "NO_WORKER", "this model cannot be loaded where the hub evaluates models: its package may be missing there"
                ) from None
        status, body = int(answer[:3]), json.loads(answer[3:])
        if status == 500:
            raise Refused(503, "TOO_LONG", f"this took more than {SECONDS:.0f} s: try fewer atoms or steps")
        if status != 200:
            raise Refused(status, str(body.get("error_code", "REFUSED")), str(body.get("message", "")))
        return {**body, "model": f"{version['name']}/{version['number']}", "digest": version["digest"]}

    async def _worker(self, registry: Registry, version: dict[str, Any]) -> WorkerProcess:
        digest = version["digest"]
        if digest not in self.workers:
            while len(self.workers) >= WORKERS:
                await self.workers.pop(next(iter(self.workers))).end()
            path = await asyncio.to_thread(self._path, registry, version["file"])  # from another store it may take long
            self.workers[digest] = WorkerProcess(str(path), SECONDS)
        return self.workers[digest]

    def _path(self, registry: Registry, file: str) -> Path:
        if isinstance(registry.blobs, LocalBlobs):
            return registry.blobs.root / file[:2] / file
        path = self.spool / f"{file}.safetensors"
        if not path.exists():
            part = path.with_suffix(".part")
            found = hashlib.sha256()
            with open(part, "wb") as target:
                for chunk in registry.blobs.read(file):
                    target.write(chunk)
                    found.update(chunk)
            if found.hexdigest() != file:
                part.unlink()
                raise Refused(503, "DAMAGED", "the store of files has other bytes under this model: restore it from a backup")
            part.replace(path)
        return path


def _version(registry: Registry, address: str) -> dict[str, Any]:
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise bad("a model is NAME@ALIAS or NAME/VERSION")
    name, alias, number = found.groups()
    if alias is None:
        return registry.version(name, int(number))
    promotion = registry.aliases(name).get(alias)
    if promotion is None:
        raise absent(f"there is no {name}@{alias}")
    return registry.version(name, promotion["version"])
