"""Users and their tokens: what locks out locks out at once, what was revoked stays revoked, and nobody is signed in from another page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlipfm_hub.services import admit_owner
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.hub_folder import TOKEN, secret


def call(*words: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["hub", "user", *words])


def test_a_new_user_who_is_locked_out_is_locked_out(hub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLIPFM_REGISTRY", f"http://127.0.0.1:{hub.port}")
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", hub.tokens["admin"])
    call("newbie", "--role", "push", "--token", "t", "--lock")
    told, token = capsys.readouterr().out.splitlines()
    assert told.startswith("newbie: push, locked out")
    hub.tokens["newbie"] = token
    assert hub.ask("GET", "/api/v1/hub", None, "newbie")[0] == 401
    call("newbie", "--unlock")
    assert hub.ask("GET", "/api/v1/hub", None, "newbie")[0] == 200
    call("newbie", "--role", "read", "--lock")
    assert hub.ask("GET", "/api/v1/hub", None, "newbie")[0] == 401


def test_a_token_of_the_owner_that_was_revoked_is_not_admitted_again_at_a_start(
    hub: Any, make_hub: Callable[..., Any], tmp_path: Path
) -> None:
    old = hub.tokens["admin"]
    hub.services.users.add("second", "admin", "owner")
    hub.tokens["second"] = hub.services.users.give_token("second", "test", "owner")
    revoke = f"/api/v1/tokens/{hashlib.sha256(old.encode()).hexdigest()[:12]}/revoke"
    assert hub.ask("POST", revoke, {}, "second")[0] == 200
    assert hub.ask("GET", "/api/v1/hub", None, "admin")[0] == 401
    admit_owner(hub.services)  # as at the next start
    assert hub.ask("GET", "/api/v1/hub", None, "admin")[0] == 401
    new = secret(hub.services.settings.folder / TOKEN)
    assert new != old
    hub.tokens["admin"] = new
    assert hub.ask("GET", "/api/v1/hub", None, "admin")[0] == 200
    admit_owner(hub.services)
    assert hub.ask("GET", "/api/v1/hub", None, "admin")[0] == 200


def test_a_token_of_a_user_whose_label_is_folder_outlives_a_start(hub: Any) -> None:
    hub.tokens["mine"] = hub.services.users.give_token("pusher", "folder", "owner")
    admit_owner(hub.services)
    assert hub.ask("GET", "/api/v1/hub", None, "mine")[0] == 200


@pytest.mark.parametrize("content", ["text/plain", "multipart/form-data; boundary=b", "application/json"])
def test_no_page_of_another_origin_signs_anybody_in(hub: Any, content: str) -> None:
    body = f"token={hub.tokens['read']}&x=\r\n".encode()
    status, _, headers = hub.ask(
        "POST", "/login", body, None, {"Content-Type": content, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    )
    assert status in (400, 403, 422)
    assert "set-cookie" not in headers


def test_the_page_of_people_names_commands_that_are_there(hub: Any) -> None:
    page = hub.ask("GET", "/people", None, "admin")[1]
    assert b"mlipfm hub user NAME --token LABEL" in page
