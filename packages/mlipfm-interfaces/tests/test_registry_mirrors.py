"""Mirrors of model files: a download that breaks off goes on from one, none of them is trusted, and a cached model needs no registry."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlipfm_interfaces.checkpoint import save_potential
from mlipfm_interfaces.errors import DamagedFileError, RegistryError
from mlipfm_interfaces.registry import pull
from mlipfm_interfaces.registry_mirrors import mirrors
from mlipfm_interfaces.testing.closed_forms import LennardJones

RUN = "0123456789abcdef" * 2
ROOT = f"1/{RUN}/artifacts"


@dataclass
class Site:
    """A web server with answers by path; a path in `cut` breaks off half-way. `ranges`: it knows them."""

    answers: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    ranges: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    address: str = ""


@pytest.fixture
def make_site() -> Iterator[type[Site]]:
    servers = []

    def make(**given: object) -> Site:
        site = Site(**given)  # type: ignore[arg-type]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, span = self.path.partition("?")[0], self.headers.get("Range", "")
                site.asked.append((path, span))
                site.tokens.add(self.headers.get("Authorization"))
                data = site.answers.get(path)
                first = int(span[6:-1]) if span and site.ranges else 0
                self.send_response(404 if data is None else 206 if first else 200)
                body = (data or b"")[first:]
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if path in site.cut else body)

            def log_message(self, *args: object) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(http)
        site.address = f"http://127.0.0.1:{http.server_port}"
        return site

    yield make  # type: ignore[misc]
    for http in servers:
        http.shutdown()
        http.server_close()


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    save_potential(tmp_path / "made.safetensors", LennardJones())
    return (tmp_path / "made.safetensors").read_bytes()


@pytest.fixture
def registry(make_site, data, tmp_path, monkeypatch) -> Site:
    """Has water/1 and breaks off in the middle of its file."""
    manifest_digest = save_potential(tmp_path / "again.safetensors", LennardJones())
    files = {"model.safetensors": data, "README.md": b"hi"}
    tags = {
        "mlipfm.digest": manifest_digest,
        "mlipfm.files": json.dumps({n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in files.items()}),
    }
    version = {"name": "water", "version": "1", "run_id": RUN, "source": f"mlflow-artifacts:/{ROOT}/model", "status": "READY",
               "tags": [{"key": key, "value": value} for key, value in tags.items()]}  # fmt: skip
    model = f"/api/2.0/mlflow-artifacts/artifacts/{ROOT}/model/model.safetensors"
    listing = {"files": [{"path": name, "file_size": len(content)} for name, content in files.items()]}
    answers = {
        "/api/2.0/mlflow/model-versions/get": json.dumps({"model_version": version}).encode(),
        "/api/2.0/mlflow-artifacts/artifacts": json.dumps(listing).encode(),
        model: data,
    }
    site = make_site(answers=answers, cut={model})
    monkeypatch.setenv("MLIPFM_REGISTRY", site.address)
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", "of-the-registry")
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    return site


def altered(data: bytes) -> bytes:
    """Of the same length, with one bit changed."""
    return data[:-1] + bytes([data[-1] ^ 1])


def named(data: bytes) -> str:
    return f"/models/{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on_from_a_mirror(ranges, registry, make_site, data, monkeypatch, caplog):
    mirror = make_site(answers={named(data): data}, ranges=ranges)
    monkeypatch.setenv("MLIPFM_REGISTRY_MIRRORS", f"http://127.0.0.1:1/models, {mirror.address}/models/")  # the first does not answer
    assert pull("mlipfm:water/1").read_bytes() == data
    assert mirror.asked == [(named(data), f"bytes={len(data) // 2}-")]
    assert mirror.tokens == {None}  # that of the registry is for the registry
    assert f"going on at byte {len(data) // 2} from {mirror.address}/models" in caplog.text


def test_other_bytes_of_a_mirror_are_refused_and_the_next_one_is_asked(registry, make_site, data, monkeypatch):
    bad = make_site(answers={named(data): altered(data)})
    good = make_site(answers={named(data): data})
    monkeypatch.setenv("MLIPFM_REGISTRY_MIRRORS", f"{bad.address}/models,{good.address}/models")
    assert pull("mlipfm:water/1").read_bytes() == data
    assert good.asked == [(named(data), "")]  # from its first byte: nobody knows which ones were wrong


def test_other_bytes_everywhere_leave_nothing_in_the_cache(registry, make_site, data, monkeypatch, tmp_path):
    bad = make_site(answers={named(data): altered(data)})
    monkeypatch.setenv("MLIPFM_REGISTRY_MIRRORS", f"{bad.address}/models")
    with pytest.raises(DamagedFileError, match="was swapped or damaged"):
        pull("mlipfm:water/1")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    monkeypatch.setenv("MLIPFM_REGISTRY_MIRRORS", f"{bad.address}/elsewhere")
    with pytest.raises(RegistryError, match="404"):
        pull("mlipfm:water/1")


def test_wrong_bytes_of_the_registry_itself_are_an_alarm_that_no_mirror_hides(registry, make_site, data, monkeypatch):
    mirror = make_site(answers={named(data): data})
    monkeypatch.setenv("MLIPFM_REGISTRY_MIRRORS", f"{mirror.address}/models")
    registry.cut.clear()
    model = next(path for path in registry.answers if path.endswith("model.safetensors"))
    registry.answers[model] = altered(data)
    with pytest.raises(DamagedFileError, match="was swapped or damaged"):
        pull("mlipfm:water/1")
    assert mirror.asked == []


def test_a_cached_model_is_used_when_the_registry_does_not_answer(registry, data, monkeypatch, caplog):
    registry.cut.clear()
    path = pull("mlipfm:water/1")
    registry.cut |= set(registry.answers)
    assert pull("mlipfm:water/1") == path
    assert "which it was when the registry was asked last" in caplog.text
    path.write_bytes(altered(data))
    with pytest.raises(DamagedFileError):
        pull("mlipfm:water/1")
    path.unlink()
    with pytest.raises(RegistryError, match="broke off"):
        pull("mlipfm:water/1")


@pytest.mark.parametrize("text", ["ftp://x/y", "/srv/models", "https://u:p@x", "https://x/a?b", "https://x/../y", "https://x/a b"])
def test_only_plain_web_addresses_are_mirrors(text, monkeypatch):
    monkeypatch.setenv("MLIPFM_REGISTRY_MIRRORS", text)
    with pytest.raises(RegistryError, match="no address of a"):
        mirrors()


def test_a_token_for_mirrors_is_not_sent_unencrypted(monkeypatch):
    monkeypatch.setenv("MLIPFM_REGISTRY_MIRRORS", "http://mirror.example.org/models")
    monkeypatch.setenv("MLIPFM_MIRROR_TOKEN", "secret")
    with pytest.raises(RegistryError, match="not sent unencrypted"):
        mirrors()
