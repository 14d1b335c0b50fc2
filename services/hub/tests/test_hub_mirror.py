"""A hub is killed in the middle of a download, and the download goes on from another hub: both are processes, and so is the client."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlipfm_interfaces.hub_folder import secret
from test_hub_stores import answers, free_port

from conftest import SOURCES, Running

pytestmark = pytest.mark.full
PADDING = 400_000  # characters, so that the file does not fit into one packet


def start(folder: Path, **given: str) -> tuple[Running, subprocess.Popen[bytes]]:
    """A hub on `folder` in a process of its own."""
    port, path = free_port(), os.pathsep.join(map(str, SOURCES))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlipfm_hub", "serve", "--dir", folder, "--port", str(port)], env=os.environ | {"PYTHONPATH": path} | given
    )
    answers(port, process)
    return Running(None, port, {"admin": secret(folder / "token")}), process  # type: ignore[arg-type]


class Wire:
    """Passes every connection on to a hub, and kills the hub when the client has got `limit` bytes of one answer."""

    def __init__(self, limit: int) -> None:
        self.limit, self.listener = limit, socket.create_server(("127.0.0.1", 0))
        self.port, self.passed = self.listener.getsockname()[1], 0
        self.target, self.process = 0, None

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.connection, args=(client,), daemon=True).start()

    def connection(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as hub:
            threading.Thread(target=self.requests, args=(client, hub), daemon=True).start()
            sent = 0
            while data := hub.recv(2**12):
                client.sendall(data)
                sent += len(data)
                if sent >= self.limit:
                    self.passed = sent
                    self.process.send_signal(signal.SIGKILL)
                    break
            client.shutdown(socket.SHUT_RDWR)

    def requests(self, client: socket.socket, hub: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(2**16):
                hub.sendall(data)


def test_a_download_survives_the_death_of_the_hub_it_comes_from(make_model, tmp_path):
    from mlipfm_interfaces.checkpoint import save_potential
    from mlipfm_interfaces.testing.closed_forms import LennardJones

    path = tmp_path / "large.safetensors"
    digest = save_potential(path, LennardJones(), {"licences": ["MIT"], "note": "x" * PADDING})
    wire = Wire(PADDING // 2)
    threading.Thread(target=wire.serve, daemon=True).start()
    first, process = start(tmp_path / "first", MLIPFM_HUB_HOSTS=f"127.0.0.1:{wire.port}")
    second, other = start(tmp_path / "second")
    wire.target, wire.process = first.port, process
    try:
        for hub in (first, second):
            assert hub.push("argon", path.read_bytes(), role="admin")[0] == 200
        here = {
            "MLIPFM_REGISTRY": f"http://127.0.0.1:{wire.port}",
            "MLIPFM_REGISTRY_TOKEN": first.tokens["admin"],
            "MLIPFM_REGISTRY_MIRRORS": f"{second.address}/api/v1/files",
            "MLIPFM_MIRROR_TOKEN": second.tokens["admin"],
            "MLIPFM_CACHE": str(tmp_path / "cache"),
        }
        line = [
            sys.executable,
            "-c",
            "from mlipfm_interfaces.cli import main; main()",
            "pull",
            "mlipfm:argon/1",
            "--out",
            "got.safetensors",
        ]
        (tmp_path / "cache").mkdir()
        done = subprocess.run(line, cwd=tmp_path, env=os.environ | here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert process.wait(10) == -signal.SIGKILL
        assert PADDING // 2 <= wire.passed < path.stat().st_size
        assert hashlib.sha256((tmp_path / "got.safetensors").read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()
        assert "going on at byte" in done.stderr
        again = subprocess.run(line, cwd=tmp_path, env=os.environ | here, capture_output=True, text=True, check=False)
        assert (again.returncode, digest in again.stderr) == (0, True), again.stderr  # from the cache, and it says so
    finally:
        wire.listener.close()
        for one in (process, other):
            one.kill()
            one.wait()
