"""A headless Chromium by its debugging pipe, with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page; use it as a context manager.

    Args:
        width, height: of the window in pixels.
    """

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        assert CHROMIUM is not None
        self.folder = tempfile.mkdtemp()
        (to_read, self.to), (self.back, to_write) = os.pipe(), os.pipe()
        spare = [os.dup(to_read), os.dup(to_write)]

        def place() -> None:
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        line = [CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", "--use-gl=angle", "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader", "--remote-debugging-pipe", f"--user-data-dir={self.folder}", "about:blank"]  # fmt: skip
        self.process = subprocess.Popen(line, preexec_fn=place, pass_fds=(3, 4, *spare), stderr=subprocess.DEVNULL, start_new_session=True)
        for descriptor in (to_read, to_write, *spare):
            os.close(descriptor)
        self.number, self.left, self.said, self.session = 0, b"", [], ""
        page = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # a turning picture leaves a slow machine no time for anything else
        self.ask("Emulation.setEmulatedMedia", features=[still])
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a command; what is logged meanwhile goes into `said`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.left:
                chunk = os.read(self.back, 2**16)
                assert chunk, "Chromium has ended"
                self.left += chunk
            text, _, self.left = self.left.partition(b"\0")
            told = json.loads(text)
            if told.get("id") == self.number:
                assert "error" not in told, told
                return told["result"]
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(told["params"])[:400])

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def go(self, address: str) -> None:
        """Open an address and wait until it has loaded."""
        self.ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(f"!!({condition})"):
            assert time.monotonic() < deadline, f"not true: {condition}; {self.said}"
            time.sleep(0.1)

    def picture(self, path: Path) -> None:
        """A screenshot of the window."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.to)
        os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)
