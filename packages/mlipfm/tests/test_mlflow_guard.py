"""What the hub lets through, from the place of an attacker: another user of the machine, a browser, and somebody who has the token."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from mlipfm.mlflow_server.guard import COOKIE, Guard
from mlipfm.mlflow_server.rules import MAX_JSON
from mlipfm_interfaces.hub_folder import viewer_key
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import make_record, write_record

TOKEN = "the-token-of-this-folder"
RUN = "0123456789abcdef" * 2
ROOM = f"1/{RUN}/artifacts"
CREATE = {"name": "water", "source": f"mlflow-artifacts:/{ROOM}/model", "run_id": RUN}
API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


class Inner:
    """Stands for MLflow: answers 200, keeps what reached it, and lists the versions that were created."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.versions: list[dict[str, Any]] = []

    async def __call__(self, scope, receive, send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.seen.append((scope["method"], scope["path"], body))
        answer: dict[str, Any] = {}
        if scope["path"].endswith("model-versions/search"):
            answer = {"model_versions": list(self.versions)}
            await asyncio.sleep(0.01)  # others come in between
        if scope["path"].endswith("model-versions/create"):
            self.versions.append(json.loads(body) | {"version": str(len(self.versions) + 1)})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def guard(inner: Inner, tmp_path: Path) -> Guard:
    (tmp_path / "artifacts" / ROOM / "model").mkdir(parents=True)
    return Guard(inner, tmp_path / "artifacts", TOKEN, "key")


async def asked(guard: Guard, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, Any]:
    """Status and JSON of one request; with the token unless `headers` say otherwise."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    raw, _, query = path.partition("?")
    given = {"authorization": f"Bearer {TOKEN}", "content-length": str(len(data))} | headers
    scope = {
        "type": "http", "method": method, "path": raw, "raw_path": raw.encode("latin-1"), "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in given.items() if value],
    }  # fmt: skip
    parts, status, sent = [], 0, False

    async def receive():
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message):
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await guard(scope, receive, send)
    text = b"".join(parts)
    return status, json.loads(text) if text else {}


def ask(guard: Guard, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, Any]:
    return asyncio.run(asked(guard, method, path, body, **headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "", "cookie": f"{COOKIE}={TOKEN}"},
        {"authorization": "", "cookie": f"{COOKIE}=x; \x00"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", API + "experiments/search"), ("DELETE", API + "runs/delete"),
                                              ("PUT", f"{FILES}/{ROOM}/x"), ("POST", "/mlipfm/sign"), ("POST", "/mlipfm/verify")])  # fmt: skip
def test_without_the_token_nothing_is_answered(guard, inner, method, path, headers):
    status, answer = ask(guard, method, path, {}, **headers)
    assert (status, answer["error_code"]) == (401, "UNAUTHENTICATED")
    assert not inner.seen


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", API + "registered-models/delete"), ("DELETE", API + "model-versions/delete"), ("POST", API + "experiments/delete"),
        ("POST", API + "runs/delete"), ("DELETE", API + "registered-models/alias"), ("DELETE", API + "registered-models/delete-tag"),
        ("POST", API + "runs/delete-tag"), ("POST", API + "registered-models/rename"), ("PATCH", API + "registered-models/update"),
        ("POST", API + "experiments/update"), ("POST", API + "experiments/restore"), ("DELETE", f"{FILES}/{ROOM}/model"),
        ("POST", API + "logged-models"), ("DELETE", API + "traces/x"), ("POST", "/ajax-api/2.0/mlflow/upload-artifact"),
        ("GET", "/ajax-api/2.0/mlflow/gateway-proxy"), ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"), ("GET", "/model-versions/get-artifact"),
        ("POST", "/v1/traces"), ("GET", "/etc/passwd"), ("POST", "/api/2.0/mlflow/users/create"), ("TRACE", "/"), ("OPTIONS", "/"),
    ],
)  # fmt: skip
def test_nothing_is_deleted_renamed_or_fetched_from_elsewhere_even_with_the_token(guard, inner, method, path):
    status, answer = ask(guard, method, path, {})
    assert status in (400, 403)
    assert len(answer["message"].splitlines()) == 1
    assert not inner.seen


@pytest.mark.parametrize("key", ["artifact_location", "artifact_uri", "storage_location"])
@pytest.mark.parametrize("value", ["/home/someone/.ssh", "file:///etc", "mlflow-artifacts:/..", ["/"], {"a": 1}])
def test_no_client_chooses_where_artifacts_are(guard, inner, key, value):
    for body in ({"name": "x", key: value}, {"name": "x", "run": {"info": {key: value}}}):
        assert ask(guard, "POST", API + "experiments/create", body)[0] == 403
    assert not inner.seen


@pytest.mark.parametrize(
    "source",
    ["file:///etc/passwd", "/etc", f"mlflow-artifacts:/{ROOM}/../../x", "http://example.org/a", "", f"s3://b/{ROOM}/model", None, ["x"]],
)
def test_a_version_has_the_files_of_its_run(guard, inner, source):
    assert ask(guard, "POST", API + "model-versions/create", CREATE | {"source": source})[0] == 403
    assert not inner.seen


@pytest.mark.parametrize(
    "place",
    ["../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc", f"{ROOM}/../../../etc", f"{ROOM}/%2e%2e/x", f"{ROOM}//etc/passwd",
     f"{ROOM}/.ssh", "etc/passwd", f"1/{RUN}/other/x", f"{ROOM}/a\\..\\b", f"{ROOM}/a b", f"{ROOM}/\xc0\xae", "", f"{ROOM}/" + "a/" * 20 + "b"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_artifacts_outside_the_folder_of_a_run_are_neither_read_nor_written(guard, inner, place, method):
    assert ask(guard, method, f"{FILES}/{place}", b"x")[0] in (400, 403)
    assert ask(guard, "GET", f"{FILES}?path={place}")[0] in (400, 403)
    assert not inner.seen


def test_links_are_not_followed(guard, inner, tmp_path):
    """A folder, a file, a second name of a file, and a run that is a link; each for reading, writing and listing."""
    secret = tmp_path / "id_ed25519"
    secret.write_text("private")
    room = tmp_path / "artifacts" / ROOM
    (room / "folder").symlink_to(tmp_path)
    (room / "key").symlink_to(secret)
    os.link(secret, room / "twin")
    (tmp_path / "artifacts" / "1" / ("f" * 32)).symlink_to(tmp_path)
    for place in (f"{ROOM}/folder/id_ed25519", f"{ROOM}/key", f"{ROOM}/twin", f"1/{'f' * 32}/artifacts/id_ed25519"):
        for method, path in (("GET", f"{FILES}/{place}"), ("PUT", f"{FILES}/{place}"), ("GET", f"{FILES}?path={place}")):
            status, answer = ask(guard, method, path, b"x")
            assert (status, answer["message"]) == (403, "a link in the artifact folder is not followed")
    for name in ("key", "folder", "twin"):
        assert ask(guard, "GET", f"/get-artifact?path={name}&run_uuid={RUN}")[0] == 403
        assert ask(guard, "GET", f"{API}artifacts/list?path={name}&run_id={RUN}")[0] == 403
    assert not inner.seen
    assert secret.read_text() == "private"


@pytest.mark.parametrize("run", ["", "..", "x", "a" * 32, f"{RUN}/.."])
def test_files_of_runs_that_the_hub_does_not_keep_are_not_served(guard, inner, run):
    assert ask(guard, "GET", f"/get-artifact?path=model&run_uuid={run}")[0] in (400, 404)
    assert not inner.seen


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b'{"name": "a", "name": "b"}', b'{"name": NaN}', b'{"name": Infinity}',
        b"[1]", b'"x"', b"{",
        b"\xff\xfe", b"null", b"\x80\x04pickle", b'{"a": [' + b"[" * 40 + b"]" * 40 + b"]}",
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_hostile_json_is_refused_in_one_line(guard, inner, body):
    for path in (API + "experiments/create", "/mlipfm/sign", "/mlipfm/verify"):
        status, answer = ask(guard, "POST", path, body)
        assert status == 400
        assert len(answer["message"].splitlines()) == 1
        assert len(answer["message"]) <= 300
    assert not inner.seen


def test_huge_bodies_are_refused(guard, inner):
    assert ask(guard, "POST", API + "experiments/create", b" " * (MAX_JSON + 1))[0] == 413
    assert ask(guard, "PUT", f"{FILES}/{ROOM}/model/x", b"x", **{"content-length": str(2**40)})[0] == 413
    assert not inner.seen


def test_who_has_the_token_adds_and_reads(guard, inner):
    (guard.root / ROOM / "model" / "x").write_text("x")
    for method, path, body in [
        ("POST", API + "registered-models/create", {"name": "a"}),
        ("POST", API + "model-versions/create", CREATE),
        ("POST", API + "runs/log-batch", {"run_id": RUN, "metrics": [{"key": "a", "value": 1.0}]}),
        ("PUT", f"{FILES}/{ROOM}/model/model.safetensors", b"\x00\x01"),
        ("GET", f"{FILES}/{ROOM}/model/x", b""),
        ("GET", f"{FILES}?path={ROOM}/model", b""),
        ("GET", f"/get-artifact?path=model/x&run_uuid={RUN}", b""),
        ("GET", "/static-files/static/js/main.js", b""),
    ]:
        assert ask(guard, method, path, body)[0] == 200, path
    assert ("PUT", f"{FILES}/{ROOM}/model/model.safetensors", b"\x00\x01") in inner.seen


def test_a_browser_may_look_and_not_change(guard, inner):
    cookie = {"authorization": "", "cookie": f"other=1; {COOKIE}={viewer_key(TOKEN)}"}
    for method, path in [
        ("GET", "/"),
        ("GET", API + "experiments/search"),
        ("POST", "/ajax-api/2.0/mlflow/runs/search"),
        ("POST", "/graphql"),
    ]:
        assert ask(guard, method, path, {}, **cookie)[0] == 200
    seen = len(inner.seen)
    for method, path in [("POST", API + "registered-models/create"), ("PUT", f"{FILES}/{ROOM}/x"), ("POST", "/mlipfm/sign")]:
        assert ask(guard, method, path, {}, **cookie)[0] == 403
    assert len(inner.seen) == seen
    assert TOKEN not in viewer_key(TOKEN)
    assert ask(guard, "GET", f"/?key={viewer_key(TOKEN)}", authorization="")[0] == 303
    assert ask(guard, "GET", "/?key=wrong", authorization="")[0] == 401


def test_one_content_is_one_version_however_many_register_it_at_once(guard, inner):
    """Three clients at the same moment, each with a run of its own: one succeeds, two are told that it is there."""
    body = CREATE | {"tags": [{"key": "mlipfm.digest", "value": "ab" * 32}]}

    async def three():
        return await asyncio.gather(*(asked(guard, "POST", API + "model-versions/create", body) for _ in range(3)))

    answers = asyncio.run(three())
    assert sorted(status for status, _ in answers) == [200, 409, 409]
    assert {answer.get("error_code") for status, answer in answers if status == 409} == {"RESOURCE_ALREADY_EXISTS"}
    assert len(inner.versions) == 1
    other = CREATE | {"tags": [{"key": "mlipfm.digest", "value": "cd" * 32}]}
    assert ask(guard, "POST", API + "model-versions/create", other)[0] == 200


@pytest.fixture
def promoted(guard, inner):
    """A version in the folder of the hub with an evaluation and a passed check; what is to be signed."""
    room, data = guard.root / ROOM, b"weights"
    digest = "ab" * 32
    figure = Metric("force MAE", "eV/Å", 0.02, (0.01, 0.03), 9, 9)
    (room / "records").mkdir()
    (room / "model" / "model.safetensors").write_bytes(data)
    hashes = {}
    for kind in ("evaluation", "check"):
        record = make_record(kind, digest, passed=True, metrics=[figure], data={"water.xyz": "0" * 64} if kind == "evaluation" else {})
        hashes[kind] = record["sha256"]
        write_record(room / "records" / f"{record['sha256']}.json", record)
    files = {"model.safetensors": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
    tags = [{"key": "mlipfm.digest", "value": digest}, {"key": "mlipfm.files", "value": json.dumps(files)}]

    async def answer(path, query):
        assert (path, query) == ("model-versions/get", {"name": "water", "version": "1"})
        return {"model_version": {"source": CREATE["source"], "tags": tags}}

    guard.signatures.ask = answer
    return {"name": "water", "alias": "production", "promotion": {"version": 1, "replaces": None, "sequence": 1, "rollbacks": [], **hashes}}


def signed(guard, body) -> dict:
    status, answer = ask(guard, "POST", "/mlipfm/sign", body)
    assert status == 200, answer
    return body | {"promotion": body["promotion"] | answer}


def test_a_promotion_is_signed_and_every_change_of_it_is_noticed(guard, promoted):
    good = signed(guard, promoted)
    assert ask(guard, "POST", "/mlipfm/verify", good)[1] == {"valid": True, "reason": ""}
    for change in ({"sequence": 2}, {"rollbacks": [{"sequence": 1}]}, {"signature": "0" * 64}, {"signature": None}, {"replaces": 7}):
        assert ask(guard, "POST", "/mlipfm/verify", good | {"promotion": good["promotion"] | change})[1]["valid"] is False
    assert ask(guard, "POST", "/mlipfm/verify", good | {"alias": "candidate"})[1]["valid"] is False
    other = Guard(guard.inner, guard.root, TOKEN, "another key")
    other.signatures.ask = guard.signatures.ask
    assert ask(other, "POST", "/mlipfm/verify", good)[1]["valid"] is False


@pytest.mark.parametrize("kind", ["evaluation", "check", "model"])
def test_a_changed_model_or_record_breaks_the_signature_and_is_not_signed_again(guard, promoted, kind):
    good = signed(guard, promoted)
    room = guard.root / ROOM
    path = room / "model" / "model.safetensors" if kind == "model" else room / "records" / f"{good['promotion'][kind]}.json"
    path.write_bytes(path.read_bytes().replace(b"e", b"f", 1))
    assert ask(guard, "POST", "/mlipfm/verify", good)[1]["valid"] is False
    assert ask(guard, "POST", "/mlipfm/sign", promoted)[0] == 403


@pytest.mark.parametrize("change", [{"evaluation": "0" * 64}, {"check": "../../x"}, {"check": None}, {"evaluation": ["x"]}])
def test_nothing_is_signed_without_its_result_records(guard, promoted, change):
    assert ask(guard, "POST", "/mlipfm/sign", promoted | {"promotion": promoted["promotion"] | change})[0] == 403


def test_an_evaluation_that_names_no_data_and_a_failed_check_are_not_enough(guard, promoted):
    for kind, passed in (("evaluation", True), ("check", False)):
        record = make_record(kind, "ab" * 32, passed=passed, metrics=[])
        write_record(guard.root / ROOM / "records" / f"{record['sha256']}.json", record)
        status, answer = ask(guard, "POST", "/mlipfm/sign", promoted | {"promotion": promoted["promotion"] | {kind: record["sha256"]}})
        assert status == 403
        assert ("data" if kind == "evaluation" else "failed") in answer["message"]


def test_a_download_is_not_starved_by_who_waits_for_the_client_to_go_away(guard):
    """Streaming answers listen for a disconnect while they send; the guard must let that wait."""

    async def inner(scope, receive, send):
        async def listen():
            while (await receive())["type"] != "http.disconnect":
                pass

        listener = asyncio.create_task(listen())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b'{"all": "bytes"}'})
        listener.cancel()

    async def patient():
        parts, first = [], True

        async def receive():
            nonlocal first
            if not first:
                await asyncio.Event().wait()
            first = False
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            parts.append(message.get("body", b""))

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
        }
        await asyncio.wait_for(guard(scope, receive, send), 5)
        return b"".join(parts), await asyncio.wait_for(guard.ask("x", {}), 5)

    guard.inner = inner
    assert asyncio.run(patient()) == (b'{"all": "bytes"}', {"all": "bytes"})


def test_credentials_do_not_reach_mlflow(guard):
    seen = []

    async def inner(scope, receive, send):
        seen.extend(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard.inner = inner
    assert ask(guard, "GET", "/", cookie="a=b")[0] == 200
    assert b"authorization" not in seen
    assert b"cookie" not in seen
