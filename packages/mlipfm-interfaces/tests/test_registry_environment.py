"""Where the client of the registry finds address, token and certificates: MLflow's variables are honoured, and no token goes elsewhere."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.registry_http import server

VARIABLES = ("MLIPFM_REGISTRY", "MLIPFM_REGISTRY_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "REQUESTS_CA_BUNDLE",
             "MLFLOW_TRACKING_SERVER_CERT_PATH", "SSL_CERT_FILE")  # fmt: skip


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))


def test_mlflow_s_address_and_token_are_used_where_no_registry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://hub.example.org/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-mlflow")
    assert (server().address, server().token) == ("https://hub.example.org", "of-mlflow")
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", "of-mlipfm")
    assert server().token == "of-mlipfm"
    monkeypatch.delenv("MLIPFM_REGISTRY_TOKEN")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "two words")
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_TOKEN: the token of the registry is no line of plain text"):
        server()


def test_mlflow_s_token_goes_to_no_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://hub.example.org")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-mlflow")
    assert server("https://other.example.org").token is None
    monkeypatch.setenv("MLIPFM_REGISTRY", "https://third.example.org")
    assert (server().address, server().token) == ("https://third.example.org", None)


def test_an_address_that_is_a_database_is_none_of_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert server().address == "http://127.0.0.1:5000"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"token": self.headers.get("Authorization")}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a server whose certificate is signed by itself, and the certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out own.pem"
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listening.server_port}", tmp_path / "own.pem"
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_certificate_of_one_s_own_is_believed_where_it_is_named_and_only_there(name, encrypted, monkeypatch, tmp_path) -> None:
    address, certificate = encrypted
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", "secret")
    with pytest.raises(RegistryError, match="certificate verify failed"):
        server(address).call("GET", "/api/v1/hub")
    monkeypatch.setenv(name, str(certificate))
    assert server(address).call("GET", "/api/v1/hub") == {"token": "Bearer secret"}
    if name != "SSL_CERT_FILE":
        monkeypatch.setenv(name, str(tmp_path / "none.pem"))
        with pytest.raises(RegistryError, match="certificates cannot be read"):
            server(address).call("GET", "/api/v1/hub")
