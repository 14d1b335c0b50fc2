"""The token of a hub goes to the process of its folder alone, and comes from files that nobody else can read."""

from __future__ import annotations

import json
import os

import pytest
from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.hub_folder import access, secret, started_at, write_secret
from mlipfm_interfaces.registry_http import remember_hub, server

ADDRESS = "http://127.0.0.1:5999"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose hub is this process."""
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLIPFM_REGISTRY", raising=False)
    monkeypatch.delenv("MLIPFM_REGISTRY_TOKEN", raising=False)
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "hub.json").write_text(json.dumps({"pid": os.getpid(), "started": started_at(os.getpid()), "address": ADDRESS}))
    write_secret(hub / "token", "abc")
    return hub


def test_the_folder_stands_for_address_and_token(folder, monkeypatch):
    assert access(folder) == (ADDRESS, "abc")
    assert (server(str(folder)).address, server(str(folder)).token) == (ADDRESS, "abc")
    monkeypatch.setenv("MLIPFM_REGISTRY", str(folder))
    assert server().token == "abc"
    assert "abc" not in repr(server())


def test_a_hub_that_was_started_here_is_known_by_its_address(folder):
    assert server(ADDRESS).token is None
    remember_hub(ADDRESS, folder)
    assert server(ADDRESS).token == "abc"
    assert server("http://127.0.0.1:5998").token is None


def test_a_token_is_not_given_to_another_process_that_took_the_port(folder):
    remember_hub(ADDRESS, folder)
    (folder / "hub.json").write_text(json.dumps({"pid": os.getpid(), "started": 1, "address": ADDRESS}))
    assert server(ADDRESS).token is None
    with pytest.raises(RegistryError, match="no hub is running on this folder"):
        server(str(folder))


def test_secrets_are_files_of_their_owner_alone(folder, tmp_path):
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    (folder / "token").chmod(0o644)
    with pytest.raises(RegistryError, match="open to others"):
        secret(folder / "token")
    (tmp_path / "elsewhere").write_text("abc")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match="cannot be read"):
        secret(folder / "link")


def test_a_token_is_not_sent_unencrypted_to_other_machines(folder, monkeypatch):
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", "abc")
    with pytest.raises(RegistryError, match="not sent unencrypted"):
        server("http://example.org")
    assert server("https://example.org").token == "abc"
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", "abc\r\nX: y")
    with pytest.raises(RegistryError, match="no line of plain text"):
        server(ADDRESS)
