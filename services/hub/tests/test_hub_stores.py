"""A hub as a group runs it: tables in a real PostgreSQL, files in an S3 server (that of `moto`), in an environment with what it asks for alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlipfm_interfaces.hub_folder import secret

from conftest import SOURCES, Running

pytestmark = pytest.mark.full


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, process: subprocess.Popen[bytes], seconds: int = 60) -> None:
    """Wait until something listens."""
    for _ in range(10 * seconds):
        assert process.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing answers after {seconds} s")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """Address of a new server, without a database: PostgreSQL does not run as root, so that its folder belongs to somebody else then."""
    found = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    if not found[-1]:
        pytest.skip("PostgreSQL is not installed")
    programs = Path(found[-1]).resolve().parent
    user = "nobody" if os.getuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="hub-postgresql-")), free_port()
    if user:
        shutil.chown(folder, user)
    as_user = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([programs / "initdb", "-D", folder / "data", "-U", "hub", "-A", "trust"], check=True, **as_user)  # type: ignore[call-overload]
    words = [programs / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen(words, **as_user)  # type: ignore[call-overload]
    answers(port, server)
    yield f"postgresql+psycopg://hub@127.0.0.1:{port}"
    server.send_signal(signal.SIGINT)
    server.wait(30)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def s3(python: Path) -> Iterator[str]:
    port = free_port()
    server = subprocess.Popen([python, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    answers(port, server)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(30)


@dataclass
class Group:
    """Settings of a hub of a group, and what is done with it."""

    python: Path
    environment: dict[str, str]

    def run(self, *words: object) -> str:
        done = subprocess.run([self.python, *map(str, words)], env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self, folder: Path) -> tuple[Running, subprocess.Popen[bytes]]:
        port = free_port()
        process = subprocess.Popen([self.python, "-m", "mlipfm_hub", "serve", "--dir", folder, "--port", str(port)], env=self.environment)
        answers(port, process)
        return Running(None, port, {"admin": secret(folder / "token")}), process  # type: ignore[arg-type]


@pytest.fixture
def make_group(python: Path, postgresql: str, s3: str) -> Callable[[str], Group]:
    """Function that makes an empty database and an empty bucket of a name."""

    def make(name: str) -> Group:
        keys = {"AWS_ACCESS_KEY_ID": "hub", "AWS_SECRET_ACCESS_KEY": "hub", "AWS_DEFAULT_REGION": "us-east-1"}
        named = {"DATABASE": f"{postgresql}/{name}", "STORE": f"s3://{name}/files", "S3_ENDPOINT": s3}
        path = os.pathsep.join(map(str, SOURCES))
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLIPFM_"))}
        group = Group(python, plain | keys | {"PYTHONPATH": path} | {f"MLIPFM_HUB_{key}": value for key, value in named.items()})
        server = f"{postgresql}/postgres".replace("+psycopg", "")
        group.run("-c", f"import psycopg; psycopg.connect('{server}', autocommit=True).execute('CREATE DATABASE {name}')")
        group.run("-c", f"import boto3; boto3.client('s3', endpoint_url='{s3}').create_bucket(Bucket='{name}')")
        return group

    return make


def whole(hub: Running, model, folder: Path) -> None:
    """The hub has the model once, promoted, with its bytes, and an unbroken log."""
    folder.mkdir()
    (listed,) = hub.ask("GET", "/api/v1/models")[1]["models"]
    assert [version["digest"] for version in listed["versions"]] == [model.digest]
    assert hub.ask("GET", "/api/v1/audit")[1]["broken_at"] is None
    here = {"MLIPFM_REGISTRY": hub.address, "MLIPFM_REGISTRY_TOKEN": hub.tokens["admin"], "MLIPFM_CACHE": str(folder / "cache")}
    command = [
        sys.executable,
        "-c",
        "from mlipfm_interfaces.cli import main; main()",
        "pull",
        "argon@production",
        "--out",
        folder / "model.safetensors",
    ]
    done = subprocess.run(command, env=os.environ | here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.safetensors").read_bytes() == model.data


def test_kills_races_and_a_lost_server_leave_the_registry_whole(make_group, make_model, tmp_path):
    group, model = make_group("first"), make_model()
    hub, process = group.serve(tmp_path / "hub")
    with ThreadPoolExecutor(8) as pool:  # eight pushes of one content and eight promotions at once: one version, one promotion
        pushed = [one.result() for one in [pool.submit(hub.push, "argon", model.data, model.records, "admin") for _ in range(8)]]
        assert {answer.get("number") for _, answer in pushed} == {1}, [answer for answer in pushed if answer[0] != 200]
        moved = [pool.submit(hub.ask, "POST", "/api/v1/models/argon/aliases/production", {"version": 1}) for _ in range(8)]
        assert {one.result()[0] for one in moved} <= {200, 201, 409}
    process.kill()
    process.wait()
    hub, process = group.serve(tmp_path / "hub")
    whole(hub, model, tmp_path / "one")
    group.run("-m", "mlipfm_hub", "backup", "--dir", tmp_path / "hub", tmp_path / "hub.tar")
    process.kill()
    process.wait()
    shutil.rmtree(tmp_path / "hub")

    other = make_group("second")
    other.run("-m", "mlipfm_hub", "restore", "--dir", tmp_path / "again", tmp_path / "hub.tar")
    again, process = other.serve(tmp_path / "again")
    whole(again, model, tmp_path / "two")
    with urllib.request.urlopen(f"{again.address}/health", timeout=30) as answer:
        assert answer.status == 200
    process.terminate()
    assert process.wait(30) in (0, -signal.SIGTERM)


OLD_TABLES = """
import sys
from pathlib import Path
from mlipfm_hub.database import Database, meta
from mlipfm_hub.settings import from_environment
database = Database(from_environment(Path(sys.argv[1])))
with database.engine.begin() as connection:
    meta.create_all(connection)
    connection.exec_driver_sql("ALTER TABLE promotions DROP COLUMN reason")
    connection.exec_driver_sql("DROP TABLE sweeps")
    connection.exec_driver_sql("DROP TABLE signatures")
    connection.exec_driver_sql("INSERT INTO facts VALUES ('version', 1), ('writes', 0)")
"""


def test_tables_of_the_version_before_are_upgraded_in_postgresql(make_group, tmp_path):
    group = make_group("old")
    group.run("-c", OLD_TABLES, tmp_path / "hub")
    assert group.run("-m", "mlipfm_hub", "upgrade", "--dir", tmp_path / "hub") == "tables of version 1 are of version 3\n"
    assert group.run("-m", "mlipfm_hub", "upgrade", "--dir", tmp_path / "hub") == "tables of version 3 are of version 3\n"
