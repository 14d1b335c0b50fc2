"""A registry on this machine, for the owner of its folder: the hub (`services/hub`), or an MLflow server on sqlite behind a guard (`mlflow_server`).

It listens on this machine only, which other users may share: both ask for a token that is in the folder, readable by its owner. The key of signatures
is kept; the token is new at every start.

The server is a process of its own, in a process group of its own; its id is in `hub.json` with the time it started, so that `down` never ends a
process that got the number later.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mlipfm_interfaces.errors import LockedError, RegistryError
from mlipfm_interfaces.files import atomic_write, canonical_json, lock, unwritable
from mlipfm_interfaces.hub_folder import STATE, TOKEN, HubState, read_state, started_at, write_secret
from mlipfm_interfaces.registry import remember_hub

from .mlflow_server.application import FOLDER, KEY

PATIENCE = 180.0  # seconds to start; 22 s on a quiet machine

#: No reports to anybody, and no workers for jobs that are never given.
_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


#: The hub in a checkout of the repository, where it is no package of the environment.
_CHECKOUT = Path(__file__).resolve().parents[4] / "services" / "hub" / "src" / "mlipfm_hub"

Hub = HubState


def start(folder: Path, port: int = 5000, host: str = "127.0.0.1", waiting: Callable[[float], None] | None = None, server: str = "") -> Hub:
    """Start a server and return when it answers.

    Args:
        server: `hub`, the service of its own (`mlipfm-hub`), or `mlflow`, an MLflow server that also keeps runs; empty: the one that the folder had
            before, else the hub if it is installed.
        waiting: called with the seconds that have passed while it starts.

    Raises:
        RegistryError: `host` is not this machine alone, the port is taken, or the server does not start (with the end of its log).
        LockedError: one is running on this folder.
    """
    address = loopback(host, port)
    server = chosen_server(folder, server)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        folder.chmod(0o700)
    except OSError as error:
        raise unwritable(folder, error) from error
    with lock(folder / "hub.lock"):
        running = find(folder)
        if running is not None:
            raise LockedError(
                f"a hub is running at {running.address}", where=str(folder), hint=f"stop it with `mlipfm hub down --dir {folder}`"
            )
        check_port(host, port)
        write_secret(folder / TOKEN, secrets.token_urlsafe(32))
        if not (folder / KEY).exists():
            write_secret(folder / KEY, secrets.token_urlsafe(32))
        log = folder / "server.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                _command(server, folder, host, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | _ENVIRONMENT | {FOLDER: str(folder)} | path_of_the_hub(),
                start_new_session=True,
            )
        try:
            hub = Hub(folder, address, process.pid, started_at(process.pid) or 0)
            atomic_write(folder / STATE, canonical_json({"pid": hub.pid, "started": hub.started, "address": hub.address}))
            _wait(process, address, log, waiting)
        except BaseException:
            _end_group(process.pid)
            process.wait()
            (folder / STATE).unlink(missing_ok=True)
            raise
    remember_hub(address, folder)
    process.returncode = 0  # from here on the server is known by its id; Popen would warn that it leaves a running process
    return hub


def find(folder: Path) -> Hub | None:
    """Return the server that runs on this folder, or None."""
    hub = read_state(folder)
    return hub if hub is not None and hub.is_alive() else None


def stop(hub: Hub, patience: float = 20.0) -> None:
    """End the server and everything it started; returns when it is gone."""
    _signal_group(hub.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while _is_alive(hub) and time.monotonic() < deadline:
        time.sleep(0.05)
    _end_group(hub.pid)
    (hub.folder / STATE).unlink(missing_ok=True)


def wait(hub: Hub) -> None:
    """Return when the server has ended."""
    while _is_alive(hub):
        time.sleep(0.5)


def _is_alive(hub: Hub) -> bool:
    with contextlib.suppress(ChildProcessError):  # started by another process: its parent reaps it
        os.waitpid(hub.pid, os.WNOHANG)
    return hub.is_alive()


def chosen_server(folder: Path, wanted: str = "") -> str:
    """`hub` or `mlflow`: what is wanted, else what the folder was made by, else the hub if it is installed.

    Raises:
        RegistryError: another word, a folder of the other kind, or the hub is wanted and not installed.
    """
    made = "mlflow" if (folder / "mlflow.db").exists() else "hub" if (folder / "hub.sqlite").exists() else ""
    if wanted not in ("", "hub", "mlflow"):
        raise RegistryError(f"there is no server {wanted!r}", hint="give hub or mlflow")
    if wanted and made and wanted != made:
        raise RegistryError(
            f"the folder was made by the server {made!r}", where=str(folder), hint=f"leave --server out, or give another folder to {wanted}"
        )
    chosen = wanted or made or ("hub" if has_hub() else "mlflow")
    if chosen == "hub" and not has_hub():
        raise RegistryError(
            "the hub is not installed", hint="pip install mlipfm-hub; or --server mlflow, which has neither users nor cards"
        )
    return chosen


def has_hub() -> bool:
    """Return whether the hub is installed, or beside this package in a checkout."""
    return importlib.util.find_spec("mlipfm_hub") is not None or _CHECKOUT.is_dir()


def path_of_the_hub() -> dict[str, str]:
    """Where the hub is, if it is not installed: beside this package in a checkout."""
    if importlib.util.find_spec("mlipfm_hub") is not None or not _CHECKOUT.is_dir():
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(_CHECKOUT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}


def _command(server: str, folder: Path, host: str, port: int) -> list[str]:
    if server == "hub":
        return [sys.executable, "-m", "mlipfm_hub", "serve", "--dir", str(folder), "--host", host, "--port", str(port)]
    serve = ["uvicorn", "--factory", "mlipfm.mlflow_server.application:application", "--no-server-header", "--no-access-log"]
    return [sys.executable, "-m", *serve, "--host", host, "--port", str(port)]


def loopback(host: str, port: int) -> str:
    """Return the address of a server on this machine; RegistryError for one that others can reach."""
    try:
        address = ipaddress.ip_address(host)
        local = address.is_loopback
    except ValueError:
        local = False
    if not local:
        hint = "give 127.0.0.1; from elsewhere, forward the port by ssh -L, which also asks who you are"
        raise RegistryError(f"the hub listens on this machine only, not on {host!r}", hint=hint)
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def check_port(host: str, port: int) -> None:
    """RegistryError if another program has the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RegistryError(f"port {port} cannot be used: {error.strerror}", where=host, hint="choose another with --port") from error


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


def _end_group(group: int) -> None:
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
