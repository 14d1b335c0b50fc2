"""One hub for all tests of this package: a real MLflow server, started and stopped by the command."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def mlipfm(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", *words]
    return subprocess.run(line, env=os.environ | env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="session")
def command():
    """Function that runs `mlipfm WORDS` with more environment variables."""
    return mlipfm


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """Folder of a running hub, which stands for its address and token."""
    folder: Path = tmp_path_factory.mktemp("hub")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up = mlipfm("hub", "up", "--dir", str(folder), "--port", str(port), "--server", "mlflow", "--background")
    assert up.returncode == 0, up.stderr
    assert f"hub at http://127.0.0.1:{port}" in up.stdout
    second = mlipfm("hub", "up", "--dir", str(folder), "--port", str(port + 1), "--background")
    assert "a hub is running at" in second.stderr
    yield str(folder)
    down = mlipfm("hub", "down", "--dir", str(folder))
    assert down.returncode == 0, down.stderr
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "no hub is running" in mlipfm("hub", "down", "--dir", str(folder)).stderr
