"""Attacks on a hub, each with what must come of it: the table is printed by `pytest -s -k table`."""

from __future__ import annotations

import gzip
import json
import re
import socket
from typing import Any

import pytest
from mlipfm_hub.border import PUBLIC, STATIC
from mlipfm_hub.settings import Settings, check
from mlipfm_interfaces.errors import RegistryError

pytestmark = pytest.mark.ci

ZEROS = "0" * 64
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_JSON = {"Content-Type": "application/json"}


def attacks(hub: Any) -> list[tuple[str, int, tuple[int, ...]]]:
    """(what was tried, status, statuses that are right)."""
    token = f"Bearer {hub.tokens['admin']}"
    done: list[tuple[str, int, tuple[int, ...]]] = []

    def tried(
        what: str, right: int | tuple[int, ...], method: str, path: str, body: Any = None, role: str | None = "admin", **headers: str
    ) -> None:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        status, answer, _ = hub.ask(method, path, body, role, named)
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        for secret in (b"Traceback", b"/site-packages", str(hub.services.settings.folder).encode()):
            assert secret not in text, what
        done.append((what, status, right if isinstance(right, tuple) else (right,)))

    tried("no token", 401, "GET", "/api/v1/models", role=None)
    tried("another token", 401, "GET", "/api/v1/models", role=None, Authorization="Bearer mlh_guess")
    tried("an empty token", 401, "GET", "/api/v1/models", role=None, Authorization="Bearer ")
    tried("Basic instead of Bearer", 401, "GET", "/api/v1/models", role=None, Authorization="Basic b3duZXI6b3duZXI=")
    tried("SQL in a token", 401, "GET", "/api/v1/models", role=None, Authorization="Bearer '/**/OR/**/1=1--")
    tried("a made-up cookie", 401, "GET", "/api/v1/models", role=None, Cookie="mlipfm_hub=guess")
    tried("the admin's token as a cookie", 401, "GET", "/api/v1/models", role=None, Cookie=f"mlipfm_hub={hub.tokens['admin']}")
    tried("rebinding: another Host", 421, "GET", "/api/v1/models", Host="evil.example.org")
    tried("rebinding: another port", 421, "GET", "/api/v1/models", Host="127.0.0.1:1")
    tried("an empty Host", (400, 421), "GET", "/api/v1/models", Host="")
    for method in ("DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        tried(f"{method} a model", 405, method, "/api/v1/models/argon")
    tried("delete by MLflow's route", (404, 405), "POST", "/api/2.0/mlflow/registered-models/delete", {"name": "argon"})
    tried("rename by MLflow's route", (404, 405), "POST", "/api/2.0/mlflow/registered-models/rename", {"name": "argon", "new_name": "x"})
    tried(
        "set an alias by MLflow's route",
        405,
        "POST",
        "/api/2.0/mlflow/registered-models/alias",
        {"name": "argon", "alias": "production", "version": "1"},
    )
    tried(
        "a version with a source of the client's choice",
        (404, 405),
        "POST",
        "/api/2.0/mlflow/model-versions/create",
        {"name": "a", "source": "file:///etc"},
    )
    tried(
        "an experiment with an artifact location", (404, 405), "POST", "/api/2.0/mlflow/experiments/create", {"artifact_location": "/tmp"}
    )
    tried("store an artifact by MLflow's route", 405, "PUT", "/api/2.0/mlflow-artifacts/artifacts/0/a/model", b"x" * 20)
    for path in (
        "/static/../settings.py",
        "/static/%2e%2e/settings.py",
        "/static/..%2fsettings.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/settings.py",
    ):
        tried(f"path {path}", (400, 404), "GET", path)
    files = "/api/2.0/mlflow-artifacts/artifacts"
    tried("artifacts outside by a path", 400, "GET", f"{files}/0/../../etc/passwd")
    tried("artifacts outside by an encoded path", 400, "GET", f"{files}/0/%2e%2e/%2e%2e/etc/passwd")
    tried("artifacts outside by a query", 400, "GET", f"{files}?path=../../etc")
    tried("artifacts by an absolute path", 400, "GET", f"{files}?path=/etc/passwd")
    tried("SQL in MLflow's filter", 400, "GET", "/api/2.0/mlflow/model-versions/search?filter=name%3D%27a%27%20OR%201%3D1")
    tried("a model named by a path", (400, 404), "POST", "/api/v1/models/..%2f..%2fetc/versions", {"file": ZEROS})
    tried("a model named '..x'", (400, 404), "POST", "/api/v1/models/..x/versions", {"file": ZEROS})
    tried("a version of a file that is not there", 404, "POST", "/api/v1/models/argon/versions", {"file": ZEROS})
    tried("a version of a path", 400, "POST", "/api/v1/models/argon/versions", {"file": "../../etc/passwd"})
    tried("an unknown field", 400, "POST", "/api/v1/models/argon/versions", {"file": ZEROS, "source": "http://169.254.169.254/"})
    tried(
        "a redirect to a private address as an upload",
        400,
        "POST",
        "/api/v1/uploads",
        {"sha256": ZEROS, "size": 20, "url": "http://10.0.0.1/"},
    )
    tried("an endless upload", 413, "POST", "/api/v1/uploads", {"sha256": ZEROS, "size": 2**39})
    tried("an upload of negative size", 400, "POST", "/api/v1/uploads", {"sha256": ZEROS, "size": -5})
    tried("a size that is true", 400, "POST", "/api/v1/uploads", {"sha256": ZEROS, "size": True})
    tried("a chunk beyond its size", 413, "PUT", f"/api/v1/uploads/{ZEROS}?offset=0&size=10", b"\x10\0\0\0\0\0\0\0{" + b"x" * 50)
    tried("a chunk at an offset far out", 409, "PUT", f"/api/v1/uploads/{ZEROS}?offset=999999&size=1000020", b"x" * 20)
    tried("a pickle", 415, "PUT", f"/api/v1/uploads/{ZEROS}?offset=0&size=20", b"\x80\x04\x95" + b"x" * 17)
    tried("a zip of torch.save", 415, "PUT", f"/api/v1/uploads/{ZEROS}?offset=0&size=20", b"PK\x03\x04" + b"x" * 16)
    bomb = gzip.compress(b"0" * 10**6)
    tried("a decompression bomb", 415, "POST", "/api/v1/uploads", bomb, Content_Encoding="gzip", Content_Type="application/json")
    tried("JSON with a key twice", 400, "POST", "/api/v1/uploads", b'{"size": 20, "size": 21}', Content_Type="application/json")
    tried("JSON with NaN", 400, "POST", "/api/v1/uploads", b'{"size": NaN}', Content_Type="application/json")
    tried("JSON a hundred thousand deep", 400, "POST", "/api/v1/uploads", b"[" * 100_000, Content_Type="application/json")
    tried("JSON that is a list", 400, "POST", "/api/v1/uploads", [1, 2])
    tried("no JSON", 400, "POST", "/api/v1/uploads", b"\xff\xfe{", Content_Type="application/json")
    tried("17 MiB of JSON to a small route", 413, "POST", "/try", b"x" * (2**21 + 1))
    tried(
        "a forged record",
        422,
        "POST",
        "/api/v1/models/argon/versions/1/records",
        {"records": [{"kind": "check", "format": 1, "sha256": ZEROS}]},
    )
    tried("a promotion to a version that is not there", 404, "POST", "/api/v1/models/argon/aliases/production", {"version": 99})
    tried("a version number beyond all", 400, "POST", "/api/v1/models/argon/aliases/production", {"version": 10**12})
    tried("the alias 'latest'", 400, "POST", "/api/v1/models/argon/aliases/latest", {"version": 1})
    tried(
        "a reason with a line break", (400, 409), "POST", "/api/v1/models/argon/aliases/production/revoke", {"reason": "a\nowner promote"}
    )
    tried("a user named by a script", 400, "POST", "/api/v1/users", {"name": "<script>", "role": "read"})
    tried("a user of a role that is none", 400, "POST", "/api/v1/users", {"name": "eve", "role": "root"})
    tried("more rights for oneself", 403, "POST", "/api/v1/users/pusher", {"role": "admin"}, role="push")
    tried("a token of somebody else", 403, "POST", "/api/v1/users/owner/tokens", {}, role="promote")
    tried(
        "CSRF: a form from another page", 403, "POST", "/login", b"token=x", role=None, Origin="http://evil.example.org", **_dashed(_FORM)
    )
    tried("CSRF: a form without an Origin", 403, "POST", "/login", b"token=x", role=None, **_dashed(_FORM))
    tried("CSRF: a null Origin", 403, "POST", "/login", b"token=x", role=None, Origin="null", **_dashed(_FORM))
    tried("sixty-five headers", 431, "GET", "/api/v1/models", **{f"X_{k}": "1" for k in range(65)})
    tried("a header of 20 kB", 431, "GET", "/api/v1/models", X_Long="1" * 20_000)
    tried("a query of 10 kB", 414, "GET", "/api/v1/models?" + "a" * 10_000)
    done.append(
        (
            "two Hosts",
            _raw(hub, f"GET /api/v1/models HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\nHost: evil\r\nAuthorization: {token}\r\n\r\n"),
            (400,),
        )
    )
    post = f"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\nAuthorization: {token}\r\n"
    smuggled = f"{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde"
    done.append(("two lengths", _raw(hub, smuggled), (400,)))
    both = f"{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    done.append(("a length and chunks", _raw(hub, both), (400,)))
    done.append(("a header bomb of 200 kB", _raw(hub, "GET / HTTP/1.1\r\nX: " + "a" * 200_000), (400, 0)))
    done.append(("no HTTP at all", _raw(hub, "\x16\x03\x01\r\n\r\n"), (400,)))
    return done


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {key.replace("-", "_"): value for key, value in headers.items()}


def _raw(hub: Any, text: str) -> int:
    """Status of bytes as they are; 0 if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as connection:
        try:
            connection.sendall(text.encode("latin-1"))
            found = re.match(rb"HTTP/1.1 (\d{3})", connection.recv(4096))
        except OSError:
            return 0
    return int(found[1]) if found else 0


def test_every_attack_of_the_table_is_refused(hub, make_model):
    model = make_model()
    hub.push("argon", model.data, model.records)
    table = attacks(hub)
    print("\n".join(f"{status}  {what}" for what, status, _ in table), f"\n{len(table)} attacks")
    assert [(what, status) for what, status, right in table if status not in right] == []
    assert len(table) >= 40
    assert hub.services.registry.names() == ["argon"]
    assert hub.services.registry.aliases("argon") == {}
    assert len(hub.services.registry.versions("argon")) == 1


def test_every_route_but_those_named_asks_who_is_there(hub):
    routes = [(method, route.path) for route in _routes(hub.services) for method in route.methods]
    assert len(routes) > 35
    for method, path in routes:
        filled = re.sub(r"\{sha256[^}]*\}|\{start[^}]*\}", ZEROS, re.sub(r"\{number[^}]*\}", "1", path))
        filled = re.sub(r"\{[^}]*\}", "a", filled)
        status = hub.ask(method, filled, {} if method in ("POST", "PUT") else None, role=None)[0]
        public = (method, path) in PUBLIC or path.startswith(STATIC)
        assert (status not in (401, 303)) == public or path == "/login", (method, path, status)


def _routes(services: Any) -> list[Any]:
    from fastapi.routing import APIRoute
    from mlipfm_hub import api, mlflow_reads, pages

    return [route for router in (api.router, mlflow_reads.router, pages.router) for route in router.routes if isinstance(route, APIRoute)]


def test_a_browser_changes_nothing_without_the_key_of_its_session(hub):
    origin = {"Origin": hub.address, "Content-Type": "application/x-www-form-urlencoded"}
    status, _, headers = hub.ask("POST", "/login", f"token={hub.tokens['admin']}".encode(), None, origin)
    assert status == 303
    cookie = {"Cookie": headers["set-cookie"].split(";")[0]}
    assert "HttpOnly" in headers["set-cookie"]
    assert "samesite=strict" in headers["set-cookie"].lower()
    assert hub.ask("GET", "/", None, None, cookie)[0] == 200
    user = {"name": "eve", "role": "admin"}
    assert hub.ask("POST", "/api/v1/users", user, None, cookie)[0] == 403
    assert hub.ask("POST", "/api/v1/users", user, None, cookie | {"Origin": hub.address})[0] == 403
    assert hub.ask("POST", "/api/v1/users", user, None, cookie | {"Origin": hub.address, "X-CSRF": "guess"})[0] == 403
    assert hub.ask("POST", "/logout", b"csrf=guess", None, cookie | origin)[0] == 403
    assert "eve" not in {row["name"] for row in hub.services.users.list()}


def test_an_address_that_only_looks_signs_in_nobody_else(hub):
    assert hub.ask("GET", f"/login?key={hub.tokens['admin']}", None, None)[0] == 401


def test_guessing_tokens_is_slow(hub):
    origin = {"Origin": hub.address, "Content-Type": "application/x-www-form-urlencoded"}
    assert [hub.ask("POST", "/login", b"token=x", None, origin)[0] for _ in range(12)].count(429) >= 2


def test_who_opens_the_page_to_sign_in_may_go_on_at_the_usual_rate(make_hub):
    hub = make_hub(rate=120)
    assert hub.ask("GET", "/login", None, None)[0] == 200
    assert {hub.ask("GET", "/health", None, None)[0] for _ in range(60)} == {200}


def test_others_can_reach_it_only_by_a_stated_address(tmp_path):
    for settings in ({"host": "0.0.0.0"}, {"host": "10.0.0.1"}, {"host": "0.0.0.0", "public": "http://hub.example.org"}):
        with pytest.raises(RegistryError):
            check(Settings(tmp_path, **settings))
    check(Settings(tmp_path, host="0.0.0.0", public="https://hub.example.org"))
