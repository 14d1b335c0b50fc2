"""A hub in this process, on a port of its own, and models with their result records to put into it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mlipfm_hub.application import build
from mlipfm_hub.services import Services, admit_owner, open_services
from mlipfm_hub.settings import Settings
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.foreign_environment import environment
from mlipfm_interfaces.hub_folder import secret
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import Record, make_record
from mlipfm_interfaces.testing.closed_forms import LennardJones

ROOT = Path(__file__).parents[3]
SOURCES = (ROOT / "services/hub/src", ROOT / "packages/mlipfm-interfaces/src")


@pytest.fixture(scope="session")
def python() -> Path:
    """Of an environment with what `services/hub` and `mlipfm-interfaces` depend on, resolved for themselves, and an S3 server."""
    hub, interfaces = (tomllib.loads((folder.parent / "pyproject.toml").read_text())["project"] for folder in SOURCES)
    extras = hub["optional-dependencies"]
    wanted = [*hub["dependencies"], *extras["postgresql"], *extras["s3"], *interfaces["dependencies"], "moto[server]"]
    return environment("hub-stores", [line for line in wanted if not line.startswith("mlipfm-")])


@dataclass
class Running:
    """A hub that answers, with tokens by role."""

    services: Services
    port: int
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, role: str | None = "admin", headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, answer (JSON where it is) and headers of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/octet-stream" if isinstance(body, bytes) else "application/json"} if data is not None else {}
        given |= {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        try:
            with contextlib.suppress(BrokenPipeError):  # a body that is refused by its headers is not read to its end
                connection.request(method, path, data, given | (headers or {}))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        found = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, json.loads(text) if found.get("content-type") == "application/json" else text, found

    def push(self, name: str, data: bytes, records: list[Record] | tuple[Record, ...] = (), role: str = "push") -> tuple[int, Any]:
        """Upload and register."""
        import hashlib

        sha256 = hashlib.sha256(data).hexdigest()
        status, answer, _ = self.ask("PUT", f"/api/v1/uploads/{sha256}?offset=0&size={len(data)}", data, role)
        if status != 200:
            return status, answer
        return self.ask("POST", f"/api/v1/models/{name}/versions", {"file": sha256, "records": list(records)}, role)[:2]


@pytest.fixture
def make_hub(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Function that starts a hub with settings; all end with the test."""
    servers = []

    def start(folder: Path = tmp_path / "hub", **settings: Any) -> Running:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        services = open_services(Settings(folder, port=port, **settings))
        admit_owner(services)
        server = uvicorn.Server(uvicorn.Config(build(services), port=port, log_level="error", server_header=False))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread, services))
        while not server.started:
            time.sleep(0.01)
        running = Running(services, port, {"admin": secret(folder / "token")})
        for role in ("read", "push", "promote"):
            name = f"{role}er"
            if not any(user["name"] == name for user in services.users.list()):
                services.users.add(name, role, "owner")
            running.tokens[role] = services.users.give_token(name, "test", "owner")
        return running

    yield start
    for server, thread, services in servers:
        server.should_exit = True
        thread.join(10)
        services.database.engine.dispose()


@pytest.fixture
def hub(make_hub: Callable[..., Running]) -> Running:
    return make_hub()


@dataclass(frozen=True)
class Model:
    """A small model as bytes, with the records by which it may be promoted."""

    data: bytes
    digest: str
    evaluation: Record
    check: Record

    @property
    def records(self) -> list[Record]:
        return [self.evaluation, self.check]


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Model]:
    """Function that makes a model; `number` makes its content, `error` the error of its evaluation."""

    def make(
        number: int = 1, error: float = 0.6, licences: tuple[str, ...] = ("CC0-1.0",), passed: bool = True, data: bool = True
    ) -> Model:
        path = tmp_path / "made.safetensors"
        digest = save_potential(path, LennardJones(), {"licences": list(licences), "number": number})
        figure = Metric("force MAE", "eV/Å", error / 27, (0.9 * error / 27, 1.1 * error / 27), 9, 9)
        time = datetime(2026, 1, 1, tzinfo=UTC)
        details = {"seen": {}, "errors": {"test": {"forces": {"a": [error, 27.0], "b": [error * 0.9, 27.0]}}}}
        named = {"test": "ab" * 32} if data else {}
        evaluation = make_record("evaluation", digest, passed=True, metrics=[figure], data=named, details=details, created=time)
        check = make_record("check", digest, passed=passed, metrics=[figure], created=time)
        return Model(path.read_bytes(), digest, evaluation, check)

    return make
