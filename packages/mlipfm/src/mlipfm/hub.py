"""A registry on this machine: an MLflow server on sqlite with its artifacts in a folder beside, reachable from this machine only.

The server is a process of its own, in a process group of its own; its id is in `hub.json` with the time it started, so that `down` never ends a
process that got the number later.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlipfm_interfaces.errors import LockedError, RegistryError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write, canonical_json, lock, unwritable

PATIENCE = 180.0  # seconds to start; 22 s on a quiet machine

#: No reports to anybody, and no workers for jobs that are never given.
_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass(frozen=True)
class Hub:
    """A running server: the folder of its data, its address, and its process (id, and start in clock ticks since boot)."""

    folder: Path
    address: str
    pid: int
    started: int


def start(folder: Path, port: int = 5000, host: str = "127.0.0.1", waiting: Callable[[float], None] | None = None) -> Hub:
    """Start a server and return when it answers.

    Args:
        waiting: called with the seconds that have passed while it starts.

    Raises:
        RegistryError: `host` is not this machine alone, the port is taken, or the server does not start (with the end of its log).
        LockedError: one is running on this folder.
    """
    address = _loopback(host, port)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    folder = folder.resolve()
    with lock(folder / "hub.lock"):
        running = find(folder)
        if running is not None:
            raise LockedError(
                f"a hub is running at {running.address}", where=str(folder), mend=f"stop it with `mlipfm hub down --dir {folder}`"
            )
        _check_port(host, port)
        log = folder / "server.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                _command(folder, host, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,
            )
        try:
            hub = Hub(folder, address, process.pid, _started(process.pid) or 0)
            atomic_write(folder / "hub.json", canonical_json({"pid": hub.pid, "started": hub.started, "address": hub.address}))
            _wait(process, address, log, waiting)
        except BaseException:
            _end_group(process.pid)
            process.wait()
            (folder / "hub.json").unlink(missing_ok=True)
            raise
    process.returncode = 0  # from here on the server is known by its id; Popen would warn that it leaves a running process
    return hub


def find(folder: Path) -> Hub | None:
    """The server that runs on this folder, or None."""
    path = folder / "hub.json"
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
        hub = Hub(folder, str(state["address"]), int(state["pid"]), int(state["started"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = "stop it by hand and delete the file"
        raise UnreadableFileError(f"does not say which process the hub is: {error}", where=str(path), mend=mend) from None
    return hub if hub.pid > 1 and _started(hub.pid) == hub.started else None


def stop(hub: Hub, patience: float = 20.0) -> None:
    """End the server and everything it started; returns when it is gone."""
    _signal_group(hub.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while _is_alive(hub) and time.monotonic() < deadline:
        time.sleep(0.05)
    _end_group(hub.pid)
    (hub.folder / "hub.json").unlink(missing_ok=True)


def wait(hub: Hub) -> None:
    """Return when the server has ended."""
    while _is_alive(hub):
        time.sleep(0.5)


def _is_alive(hub: Hub) -> bool:
    with contextlib.suppress(ChildProcessError):  # started by another process: its parent reaps it
        os.waitpid(hub.pid, os.WNOHANG)
    return _started(hub.pid) == hub.started


def _command(folder: Path, host: str, port: int) -> list[str]:
    storage = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "artifacts"),
        "--serve-artifacts",
    ]
    return [sys.executable, "-m", "mlflow", "server", *storage, "--host", host, "--port", str(port), "--workers", "1"]


def _launch(command: list[str], output: BinaryIO) -> subprocess.Popen[bytes]:
    environment = os.environ | _ENVIRONMENT
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True)


def _loopback(host: str, port: int) -> str:
    try:
        address = ipaddress.ip_address(host)
        local = address.is_loopback
    except ValueError:
        local = False
    if not local:
        mend = "give 127.0.0.1; from elsewhere, forward the port by ssh -L, which also asks who you are"
        raise RegistryError(f"the hub has no passwords and listens on this machine only, not on {host!r}", mend=mend)
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RegistryError(f"port {port} cannot be used: {error.strerror}", where=host, mend="choose another with --port") from error


def _wait(process: subprocess.Popen[bytes], address: str, log: Path, waiting: Callable[[float], None] | None) -> None:
    start = time.monotonic()
    while (passed := time.monotonic() - start) < PATIENCE:
        if process.poll() is not None:
            break
        if _answers(address):
            return
        if waiting is not None:
            waiting(passed)
        time.sleep(0.2)
    last = " | ".join(log.read_text(errors="replace").split("\n")[-4:-1])
    what = f"ended with status {process.returncode}" if process.returncode is not None else f"did not answer within {PATIENCE:.0f} s"
    raise RegistryError(f"the server {what}: {last}", where=str(log))


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health", timeout=5) as answer:
            return bool(answer.read(16).strip() == b"OK")
    except (OSError, urllib.error.URLError):
        return False


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the start of a living process; None if there is none."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(rest[18])


def _end_group(group: int) -> None:
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
