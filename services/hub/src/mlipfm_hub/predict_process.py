"""A worker process that may die and is started again: what it was doing is asked once more, and given up only for the task that kills it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

from .predict_worker import as_message

_START = 120.0  # seconds to load a model
#: The worker finds this package where this process found it, installed or not.
_PATH = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": _PATH}


class WorkerProcess:
    """One process for one model; `ask` is called by one task at a time.

    Args:
        seconds: that a message may take; a worker that takes longer is ended.
    """

    def __init__(self, path: str, seconds: float = 60.0, log: Any = None) -> None:
        self.path, self.seconds, self.log = path, seconds, log
        self.process: asyncio.subprocess.Process | None = None
        self.about: dict[str, Any] = {}
        self.starts = 0

    async def start(self) -> None:
        """Start it and wait until the model is loaded. RuntimeError if it does not load."""
        await self.end()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mlipfm_hub.predict_worker", self.path,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self.log, env=os.environ | _ENVIRONMENT, limit=2**24,
        )  # fmt: skip
        self.starts += 1
        try:
            found = await asyncio.wait_for(self._read(), _START)
        except (asyncio.IncompleteReadError, TimeoutError):
            await self.end()
            raise RuntimeError("the model could not be loaded") from None
        self.about = json.loads(found[0][3:])

    async def end(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        self.process = None

    async def ask(self, parts: list[bytes]) -> list[bytes]:
        """Answers, whatever happens to the process: it is started anew and asked again, one task at a time after the second death."""
        for _ in range(2):
            found = await self._try(parts)
            if found is not None:
                return found
        if len(parts) == 1:
            return [
                b"500" + json.dumps({"error_code": "worker-died", "message": "this task ended the process that computes, twice"}).encode()
            ]
        return [answer for part in parts for answer in await self.ask([part])]

    async def _try(self, parts: list[bytes]) -> list[bytes] | None:
        try:
            if self.process is None or self.process.returncode is not None:
                await self.start()
            assert self.process is not None
            assert self.process.stdin is not None
            self.process.stdin.write(as_message(parts))
            await self.process.stdin.drain()
            found = await asyncio.wait_for(self._read(), self.seconds)
            return found if len(found) == len(parts) else None
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            await self.end()
            return None

    async def _read(self) -> list[bytes]:
        assert self.process is not None
        assert self.process.stdout is not None
        stream = self.process.stdout
        (count,) = struct.unpack("<q", await stream.readexactly(8))
        return [await stream.readexactly(struct.unpack("<q", await stream.readexactly(8))[0]) for _ in range(count)]
