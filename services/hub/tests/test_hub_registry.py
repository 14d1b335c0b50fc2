"""What the hub keeps: one content is one version, aliases move by result records alone, nothing is deleted, and clients pull what was pushed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlipfm_hub import audit, backup
from mlipfm_hub.__main__ import main as hub_main
from mlipfm_hub.database import VERSION, Database, meta
from mlipfm_hub.settings import Settings
from mlipfm_hub.summaries import leaderboard
from mlipfm_interfaces.errors import FormatVersionError, RegistryError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.registry import pull
from mlipfm_interfaces.registry_promote import promote
from mlipfm_interfaces.registry_push import push
from mlipfm_interfaces.result_records import make_record, write_record

pytestmark = pytest.mark.ci


@pytest.fixture
def client(hub, tmp_path, monkeypatch):
    """The hub as the registry of this process, with an empty cache."""
    monkeypatch.setenv("MLIPFM_REGISTRY", hub.address)
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", hub.tokens["promote"])
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    return hub


def test_what_was_pushed_and_promoted_is_pulled_by_its_alias(client, make_model, tmp_path):
    model = make_model()
    (tmp_path / "model.safetensors").write_bytes(model.data)
    for record in model.records:
        write_record(tmp_path / f"{record['kind']}.json", record)
    version = push(tmp_path / "model.safetensors", "argon", [tmp_path / "evaluation.json", tmp_path / "check.json"])
    assert (version.number, version.digest) == (1, model.digest)
    promote("argon", 1)
    assert pull("argon@production").read_bytes() == model.data


class Elsewhere:
    """Files of a store that are no files of this machine, as those of S3, and come slowly."""

    def __init__(self, blobs):
        self.size, self.add, self._read = blobs.size, blobs.add, blobs.read

    def read(self, sha256, first=0):
        for chunk in self._read(sha256, first):
            for start in range(0, len(chunk), 512):
                time.sleep(0.001)
                yield chunk[start : start + 512]


@pytest.mark.parametrize("here", [True, False], ids=["files here", "files elsewhere"])
def test_pushes_of_one_content_at_once_are_one_version(here, hub, make_model):
    model = make_model()
    if not here:
        hub.services.registry.blobs = Elsewhere(hub.services.blobs)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: hub.push("argon", model.data, model.records), range(24)))
    assert {status for status, _ in answers} <= {200, 409}  # 409: another request was first with the same chunk
    assert {answer["number"] for status, answer in answers if status == 200} == {1}
    assert sum(answer["new"] for status, answer in answers if status == 200) == 1
    assert len(hub.services.registry.versions("argon")) == 1


def test_two_promotions_at_once_are_one_after_the_other(hub, make_model):
    for number, error in ((1, 0.6), (2, 0.5)):
        model = make_model(number, error)
        hub.push("argon", model.data, model.records)
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda k: hub.ask("POST", "/api/v1/models/argon/aliases/production", {"version": 1 + k % 2})[0], range(16)))
    history = hub.services.registry.history("argon")
    assert [row["sequence"] for row in history] == list(range(len(history), 0, -1))
    assert set(moved) <= {200, 409}
    assert hub.services.registry.aliases("argon")["production"]["version"] == history[0]["version"] == 2


def test_an_upload_goes_on_where_it_broke_off(hub, make_model):
    data = make_model().data
    sha256, half = hashlib.sha256(data).hexdigest(), len(data) // 2
    assert hub.ask("POST", "/api/v1/uploads", {"sha256": sha256, "size": len(data)})[1] == {"offset": 0, "complete": False}
    hub.ask("PUT", f"/api/v1/uploads/{sha256}?offset=0&size={len(data)}", data[:half])
    assert hub.ask("POST", "/api/v1/uploads", {"sha256": sha256, "size": len(data)})[1] == {"offset": half, "complete": False}
    wrong = hub.ask("PUT", f"/api/v1/uploads/{sha256}?offset=0&size={len(data)}", data[:half])
    assert (wrong[0], wrong[1]["error_code"]) == (409, "WRONG_OFFSET")
    assert hub.ask("PUT", f"/api/v1/uploads/{sha256}?offset={half}&size={len(data)}", data[half:])[1]["complete"]


def test_an_upload_that_was_whole_but_not_verified_when_the_hub_ended_is_verified_later(hub, make_model):
    data = make_model().data
    sha256 = hashlib.sha256(data).hexdigest()
    (hub.services.uploads.folder / f"pusher~{sha256}.part").write_bytes(data)
    assert hub.ask("POST", "/api/v1/uploads", {"sha256": sha256, "size": len(data)}, "push")[1] == {"offset": len(data), "complete": True}
    assert hub.services.blobs.size(sha256) == len(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x80\x04\x95" + b"x" * 40, "NOT_A_CHECKPOINT"),
        (b"PK\x03\x04" + b"x" * 40, "NOT_A_CHECKPOINT"),
        (b"\x10\0\0\0\0\0\0\0{" + b" " * 40, "NOT_A_CHECKPOINT"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{" + b" " * 40, "NOT_A_CHECKPOINT"),
        (b"\x1f\x8b\x08" + b"\0" * 40, "NOT_A_CHECKPOINT"),
    ],
    ids=["pickle", "zip of torch", "no manifest", "endless header", "gzip"],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_not_kept(data, code, hub):
    status, answer = hub.push("argon", data)
    assert (status, answer["error_code"]) == (415, code)
    assert hub.services.blobs.size(hashlib.sha256(data).hexdigest()) is None


@pytest.mark.parametrize("place", ["tensor", "manifest"])
def test_a_checkpoint_with_one_bit_changed_is_refused(place, hub, make_model):
    data = bytearray(make_model().data)
    data[-3 if place == "tensor" else data.index(b"CC0-1.0")] ^= 1
    status, answer = hub.push("argon", bytes(data))
    assert (status, answer["error_code"]) == (415, "NOT_A_CHECKPOINT")


def test_bytes_of_another_hash_than_announced_are_refused(hub, make_model):
    data = make_model().data
    status, answer, _ = hub.ask("PUT", f"/api/v1/uploads/{'0' * 64}?offset=0&size={len(data)}", data)
    assert (status, answer["error_code"]) == (422, "WRONG_HASH")


@pytest.mark.parametrize(
    ("options", "kinds", "told"),
    [
        ({}, ["evaluation"], "has no record of kind check"),
        ({}, ["check"], "has no record of kind evaluation"),
        ({"passed": False}, ["evaluation", "check"], "the last check of argon/1 failed"),
        ({"licences": ("",)}, ["evaluation", "check"], "unknown licence"),
        ({"licences": ()}, ["evaluation", "check"], "has no licences"),
        ({"data": False}, ["evaluation", "check"], "does not name its data by their hashes"),
    ],
)
def test_without_result_records_nothing_is_promoted(options, kinds, told, hub, make_model):
    model = make_model(**options)
    hub.push("argon", model.data, [record for record in model.records if record["kind"] in kinds])
    status, answer, _ = hub.ask("POST", "/api/v1/models/argon/aliases/production", {"version": 1})
    assert status == 422
    assert told in answer["message"]
    assert hub.services.registry.aliases("argon") == {}


def test_records_that_decide_a_promotion_come_from_who_pushed_the_model_or_may_promote_and_from_no_future(hub, make_model):
    model = make_model()
    hub.push("argon", model.data, role="admin")
    forged = make_record("check", model.digest, passed=False, metrics=[], created=datetime(2026, 2, 1, tzinfo=UTC))
    late = make_record("check", model.digest, passed=True, metrics=[], created=datetime(9999, 1, 1, tzinfo=UTC))
    for path, body in (("versions", {"file": hashlib.sha256(model.data).hexdigest()}), ("versions/1/records", {})):
        status, answer, _ = hub.ask("POST", f"/api/v1/models/argon/{path}", body | {"records": [forged]}, "push")
        assert (status, answer["error_code"]) == (403, "PERMISSION_DENIED")
    status, answer, _ = hub.ask("POST", "/api/v1/models/argon/versions/1/records", {"records": [late]})
    assert (status, answer["error_code"]) == (422, "NOT_A_RECORD")
    assert "which is in the future" in answer["message"]
    for role in ("promote", "admin"):  # who may promote may judge
        assert hub.ask("POST", "/api/v1/models/argon/versions/1/records", {"records": model.records}, role)[0] == 200
    assert hub.ask("POST", "/api/v1/models/argon/aliases/production", {"version": 1})[0] == 200


def test_a_token_does_not_outlive_the_one_that_asked_for_it(hub):
    hub.tokens["short"] = hub.ask("POST", "/api/v1/users/pusher/tokens", {"label": "day", "days": 1})[1]["token"]
    for body in ({"label": "forever"}, {"label": "year", "days": 365}):
        assert hub.ask("POST", "/api/v1/users/pusher/tokens", body, "short")[0] == 200
    ends = {token["label"]: token["expires"] for user in hub.services.users.list() for token in user["tokens"]}
    assert ends["forever"] == ends["year"] == ends["day"]
    hub.ask("POST", "/api/v1/users/pusher/tokens", {"label": "week", "days": 7})  # an admin's own token does not end
    ends = {token["label"]: token["expires"] for user in hub.services.users.list() for token in user["tokens"]}
    assert ends["week"] > ends["day"]


def test_of_cosines_the_largest_is_the_best_on_the_leaderboard(hub, make_model):
    for number, value in ((1, 0.77), (2, 0.87)):
        model = make_model(number)
        cosine = Metric("force cosine", "", value, None, 9, 9)
        made = {"data": {"test": "ab" * 32}, "details": {"seen": {}}, "created": datetime(2026, 1, 1, tzinfo=UTC)}
        hub.push("argon", model.data, [make_record("evaluation", model.digest, passed=True, metrics=[cosine], **made)])
    shown = leaderboard(hub.services.registry, "force cosine", "", True)["rows"]
    assert [row["value"] for row in shown] == [0.87, 0.77]


def test_a_worse_model_replaces_none_and_the_way_back_needs_a_reason(hub, make_model):
    for number, error in ((1, 0.6), (2, 0.5), (3, 0.9)):
        model = make_model(number, error)
        hub.push("argon", model.data, model.records)

    def move(**wanted):
        return hub.ask("POST", "/api/v1/models/argon/aliases/production", wanted)

    assert move(version=2)[0] == 200
    assert "is worse than argon/2" in move(version=3)[1]["message"]
    assert "moves 'production' back" in move(version=1)[1]["message"]
    assert move(version=1, reason="wrong cutoff")[1]["rollbacks"][0]["reason"] == "wrong cutoff"


def test_a_revoked_alias_is_gone_for_who_pulls_and_stays_in_the_log(client, make_model):
    model = make_model()
    client.push("argon", model.data, model.records)
    promote("argon", 1)
    assert client.ask("POST", "/api/v1/models/argon/aliases/production/revoke", {"reason": "retracted data"})[0] == 200
    with pytest.raises(RegistryError, match="has no argon@production"):
        pull("argon@production")
    assert [row["reason"] for row in client.services.registry.history("argon")] == ["retracted data", ""]
    promote("argon", 1)
    assert client.services.registry.aliases("argon")["production"]["sequence"] == 3


def test_a_promotion_that_another_wrote_is_not_the_hubs(hub, make_model):
    model = make_model()
    hub.push("argon", model.data, model.records)
    promotion = hub.ask("POST", "/api/v1/models/argon/aliases/production", {"version": 1})[1]
    registry = hub.services.registry
    assert registry.stands_by("argon", "production", promotion) == (True, "")
    for forged in (promotion | {"evaluation": "0" * 64}, promotion | {"signature": "0" * 64}, promotion | {"version": 7}, {}):
        assert not registry.stands_by("argon", "production", forged)[0]
    assert not registry.stands_by("argon", "candidate", promotion)[0]


def test_an_entry_taken_out_of_the_log_is_noticed(hub):
    with hub.services.database.writing() as connection:
        assert audit.verify(connection) is None
        connection.exec_driver_sql("UPDATE audit SET target = 'somebody else' WHERE number = 2")
        assert audit.verify(connection) == 2


@pytest.mark.parametrize(
    ("role", "method", "path", "body"),
    [
        ("read", "POST", "/api/v1/uploads", {"sha256": "0" * 64, "size": 10}),
        ("read", "POST", "/api/v1/models/argon/versions", {"file": "0" * 64}),
        ("push", "POST", "/api/v1/models/argon/aliases/production", {"version": 1}),
        ("push", "POST", "/api/v1/models/argon/aliases/production/revoke", {"reason": "x"}),
        ("promote", "GET", "/api/v1/users", None),
        ("promote", "POST", "/api/v1/users", {"name": "eve", "role": "admin"}),
        ("promote", "POST", "/api/v1/users/owner/tokens", {}),
        ("promote", "GET", "/api/v1/audit", None),
    ],
)
def test_a_role_may_do_no_more_than_it_says(role, method, path, body, hub):
    status, answer, _ = hub.ask(method, path, body, role)
    assert (status, answer["error_code"]) == (403, "PERMISSION_DENIED")


def test_a_revoked_token_and_a_locked_user_are_nobody(hub):
    token = hub.ask("POST", "/api/v1/users/pusher/tokens", {"label": "laptop"})[1]["token"]
    hub.tokens["new"] = token
    assert hub.ask("GET", "/api/v1/hub", role="new")[0] == 200
    assert token not in json.dumps(hub.services.users.list())
    hub.ask("POST", f"/api/v1/tokens/{hashlib.sha256(token.encode()).hexdigest()[:12]}/revoke")
    assert hub.ask("GET", "/api/v1/hub", role="new")[0] == 401
    assert hub.ask("POST", "/api/v1/users/pusher", {})[0] == 200  # no change is none, and no failure of the hub
    assert hub.ask("GET", "/api/v1/hub", role="push")[1]["role"] == "push"
    hub.ask("POST", "/api/v1/users/pusher", {"disabled": True})
    assert hub.ask("GET", "/api/v1/hub", role="push")[0] == 401
    assert hub.ask("POST", "/api/v1/users/owner", {"disabled": True})[0] == 409


def test_a_destroyed_hub_comes_back_from_its_backup(make_hub, make_model, tmp_path, monkeypatch):
    hub, model = make_hub(), make_model()
    hub.push("argon", model.data, model.records)
    promotion = hub.ask("POST", "/api/v1/models/argon/aliases/production", {"version": 1})[1]
    run = {"run": "w8", "group": "painn", "parameters": 8, "atoms": 9, "losses": {"force MAE (meV/A)": 2.0}}
    sweep = {"points": [run], "fit": {"format": 1, "groups": {}}}
    assert hub.ask("POST", "/api/v1/sweeps/oxides", sweep, "push")[0] == 200
    backup.backup(hub.services.settings, tmp_path / "hub.tar")
    hub.services.database.engine.dispose()
    shutil.rmtree(hub.services.settings.folder)
    backup.restore(tmp_path / "again", tmp_path / "hub.tar")
    again = make_hub(tmp_path / "again")
    assert again.services.registry.stands_by("argon", "production", promotion) == (True, "")
    assert again.ask("GET", "/api/v1/audit")[1]["broken_at"] is None
    assert again.ask("GET", "/api/v1/sweeps/oxides", role="admin")[1] == sweep
    again.tokens["old"] = hub.tokens["push"]  # people keep their tokens
    assert again.ask("GET", "/api/v1/hub", role="old")[1]["user"] == "pusher"
    with pytest.raises(RegistryError, match="not empty"):
        backup.restore(tmp_path / "again", tmp_path / "hub.tar")


def test_tables_of_the_version_before_are_upgraded_and_of_a_later_one_refused(tmp_path):
    settings = Settings(tmp_path)
    database = Database(settings)
    with database.engine.begin() as connection:
        meta.create_all(connection)
        connection.exec_driver_sql("ALTER TABLE promotions DROP COLUMN reason")
        connection.exec_driver_sql("DROP TABLE sweeps")
        connection.exec_driver_sql("DROP TABLE signatures")
        connection.exec_driver_sql("INSERT INTO facts VALUES ('version', 1), ('writes', 0)")
    assert database.migrate() == (1, VERSION)
    assert database.migrate() == (VERSION, VERSION)
    with database.writing() as connection:
        assert connection.exec_driver_sql("SELECT reason FROM promotions").all() == []
        assert connection.exec_driver_sql("SELECT * FROM sweeps").all() == []
        connection.exec_driver_sql("UPDATE facts SET value = 99 WHERE key = 'version'")
    with pytest.raises(FormatVersionError, match="upgrade mlipfm-hub"):
        database.migrate()
    database.engine.dispose()


def test_files_of_the_hub_are_its_owners_alone(hub):
    folder: Path = hub.services.settings.folder
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "token").stat().st_mode & 0o077 == 0
    assert (folder / "signing.key").stat().st_mode & 0o077 == 0


def test_a_folder_without_a_hub_has_no_backup_and_a_missing_backup_leaves_no_folder(tmp_path, capsys):
    for words in (["backup", "hub.tar"], ["restore", str(tmp_path / "absent.tar")]):
        with pytest.raises(SystemExit) as ended:
            hub_main([*words, "--dir", str(tmp_path / "none")])
        assert ended.value.code == 2
        assert "; give" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
