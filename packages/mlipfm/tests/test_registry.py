"""The registry on a real server: push, promote, pull by plain HTTP in a process without mlflow; attacks; kills."""

import hashlib
import importlib.util
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from kills import kill_at_random_moments
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.checkpoint import load_checkpoint, load_potential, save_potential
from mlipfm_interfaces.errors import DamagedFileError, MlipfmError, RefusedFileError, RegistryError
from mlipfm_interfaces.hub_folder import viewer_key
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.registry import pull
from mlipfm_interfaces.registry_http import Server, server
from mlipfm_interfaces.registry_promote import promote
from mlipfm_interfaces.registry_push import push, records_of
from mlipfm_interfaces.registry_versions import get_version, list_models, list_versions, promotion_of, read_alias
from mlipfm_interfaces.result_records import make_record, write_record
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.closed_forms import LennardJones
from mlipfm_interfaces.testing.structures import ethanol
from mlipfm_train.loop import fit
from mlipfm_train.recipe import make_recipe

pytestmark = pytest.mark.ci

SCRIPT = Path(__file__).with_name("push_and_promote.py")
FIGURE = Metric("force MAE", "eV/Å", 0.02, (0.01, 0.03), 9, 9)

WITHOUT_MLFLOW = """
import sys
sys.modules["mlflow"] = None  # importing it now is an error
try:
    import mlflow
except ImportError:
    pass
else:
    raise SystemExit("mlflow can be imported")
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.testing.structures import ethanol
answer = evaluate(load_potential(sys.argv[1]), [ethanol()], ["energy", "forces"])[0]
print(answer["energy"].tobytes().hex(), answer["forces"].tobytes().hex())
"""


@pytest.fixture
def registry(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The hub, with an empty cache on this side."""
    monkeypatch.setenv("MLIPFM_REGISTRY", hub)
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    return server()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the tensors of a file are parsed."""
    calls: list[int] = []
    load = safetensors.torch.load
    monkeypatch.setattr(safetensors.torch, "load", lambda data: calls.append(len(data)) or load(data))
    return calls


class Bench:
    """Models, records and names of one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def model(self, note: object, licences: object = ("CC0-1.0",)) -> tuple[Path, str]:
        path = self.folder / f"{note}.safetensors"
        return path, save_potential(path, LennardJones(), {"licences": list(licences), "note": f"{self.name} {note}"})

    def record(
        self, kind: str, digest: str, passed: bool = True, later: int = 0, error: float = 20.0, data: str = "ab" * 32, **seen: int
    ) -> Path:
        """A record; that of an evaluation has this force MAE (meV/Å) in each of ten molecules of the test set with digest `data`."""
        path = self.folder / f"{kind}-{digest[:8]}-{later}.json"
        created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=later)
        groups = {f"molecule {k}": [27 * (error + 0.01 * k), 27.0] for k in range(10)}
        found = {"data": {"test": data}, "details": {"seen": {"test": seen} if seen else {}, "errors": {"test": {"forces": groups}}}}
        write_record(
            path, make_record(kind, digest, passed=passed, metrics=[FIGURE], created=created, **(found if kind == "evaluation" else {}))
        )
        return path

    def push(self, note: object, licences: object = ("CC0-1.0",)) -> int:
        """Push a model with evaluation and passed check; its version."""
        path, digest = self.model(note, licences)
        return push(path, self.name, [self.record("evaluation", digest), self.record("check", digest)]).number


@pytest.fixture
def bench(registry, tmp_path, request) -> Bench:
    return Bench(tmp_path, hashlib.sha256(request.node.name.encode()).hexdigest()[:16])


def forget(monkeypatch, tmp_path) -> None:
    """Go on with an empty cache: a client that sees the registry for the first time."""
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / f"cache{time.monotonic_ns()}"))


def test_a_second_process_without_mlflow_pulls_by_http_and_predicts_the_same_bits(bench, registry, command, tmp_path, monkeypatch):
    path, digest = bench.model("first")
    records = [str(bench.record(kind, digest)) for kind in ("evaluation", "check")]
    done = command("push", str(path), "--name", bench.name, "--record", records[0], "--record", records[1])
    assert (done.returncode, done.stdout) == (0, f"{bench.name}/1  {digest}\n"), done.stderr
    done = command("models", "promote", bench.name, "--version", "1", "--alias", "production")
    assert (done.returncode, done.stdout) == (0, f"{bench.name}@production -> 1  {digest}\n"), done.stderr
    forget(monkeypatch, tmp_path)
    line = [sys.executable, "-c", WITHOUT_MLFLOW, f"{bench.name}@production"]
    second = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    here = evaluate(load_potential(path), [ethanol()], ["energy", "forces"])[0]
    assert second.stdout.split() == [here[key].tobytes().hex() for key in ("energy", "forces")], second.stderr
    pulled = command("pull", f"{bench.name}@production", "--out", str(tmp_path / "pulled.safetensors"))
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "pulled.safetensors").read_bytes() == path.read_bytes()
    assert f"{bench.name:<30} 1 version, latest 1; production -> 1" in command("models", "list").stdout
    shown = command("models", "show", bench.name).stdout
    assert digest in shown
    assert "check passed 2026-01-01" in shown
    bench.push("second")
    facts = {words: command("models", "show", f"{bench.name}{words}").stdout.splitlines()[:3] for words in ("", "/2", "/1", "@production")}
    assert facts[""] == facts["/2"] != facts["/1"] == facts["@production"]
    assert f"the registry has no {bench.name}@candidate" in command("models", "show", f"{bench.name}@candidate").stderr


def test_one_content_is_one_version_and_new_records_are_added_to_it(bench, registry):
    path, digest = bench.model("first")
    evaluation, check = bench.record("evaluation", digest), bench.record("check", digest)
    first = push(path, bench.name, [evaluation])
    assert push(path, bench.name, [evaluation, check]).number == first.number == 1
    assert push(path, bench.name, [check]).number == 1
    assert {record["kind"] for record in records_of(registry, get_version(registry, bench.name, 1))} == {"check", "evaluation"}
    assert push(bench.model("second")[0], bench.name).number == 2
    assert len(list_versions(registry, bench.name)) == 2


def test_records_of_another_model_are_refused(bench):
    path, _ = bench.model("first")
    with pytest.raises(RefusedFileError, match="not of this model"):
        push(path, bench.name, [bench.record("check", "ab" * 32)])


def test_promotion_needs_an_evaluation_a_passed_check_and_known_licences(bench, registry):
    path, digest = bench.model("first")

    def refusal(*records: Path, number: int = 1) -> str:
        push(path, bench.name, records) if records else None
        with pytest.raises(RegistryError) as refused:
            promote(bench.name, number)
        return str(refused.value)

    push(path, bench.name)
    assert "has no record of kind evaluation" in refusal()
    assert "has no record of kind check" in refusal(bench.record("evaluation", digest))
    assert "its last check failed" in refusal(bench.record("check", digest, passed=False, later=1))
    assert "its last check failed" in refusal(bench.record("check", digest, passed=True, later=0))
    push(path, bench.name, [bench.record("check", digest, passed=True, later=2)])
    assert promote(bench.name, 1).number == 1
    assert "some data have no licence" in refusal(number=bench.push("unknown", ["MIT", ""]))
    assert "has no licences" in refusal(number=bench.push("none", []))
    assert pull(f"{bench.name}@production").stem == digest


def test_a_model_is_promoted_by_data_it_does_not_know_and_if_it_is_no_worse_than_the_incumbent(bench, registry):
    def pushed(note: str, **record: object) -> int:
        path, digest = bench.model(note)
        return push(path, bench.name, [bench.record("evaluation", digest, **record), bench.record("check", digest)]).number

    def refusal(number: int) -> str:
        with pytest.raises(RegistryError) as refused:
            promote(bench.name, number)
        return str(refused.value)

    assert "on data that it was trained on, chosen by or pre-trained on: test" in refusal(pushed("learned by heart", training=3))
    incumbent = pushed("first")
    promote(bench.name, incumbent)
    assert "is worse than" in refusal(pushed("worse", error=25.0))
    assert "was evaluated on none of its test sets" in refusal(pushed("elsewhere", error=5.0, data="cd" * 32))
    assert promote(bench.name, pushed("better", error=15.0)).number == 5
    assert promote(bench.name, incumbent, rollback="the better one explodes").number == incumbent


def test_a_model_that_starts_from_one_of_unknown_licence_is_not_promoted_and_the_ancestor_is_named(bench, registry, tmp_path):
    def trained(name: str, licence: str | None, start: Path | None = None) -> tuple[Path, str]:
        """Two steps on three molecules of water."""
        with StoreWriter(tmp_path / f"{name}-data", name=name) as writer:
            for k in range(3):
                place = [[0.0, 0.0, 0.0], [0.96 + 0.01 * k, 0.0, 0.0], [-0.24, 0.93, 0.0]]
                labels = {"energy": -10.0 - k, "forces": np.full((3, 3), 0.1 * k)}
                writer.add(Structure([8, 1, 1], place, level="any", labels=labels, provenance=Provenance(licence=licence)))
        model = {"init_from": str(start)} if start else {"potential": {"name": "painn", "backbone": {"channels": 4, "layers": 1}}}
        path = fit(make_recipe({"data": {"train": [str(tmp_path / f"{name}-data")]}, "steps": 2, **model}), tmp_path / name).last
        return path, load_checkpoint(path)[0]["digest"]

    root, digest = trained("root", None)
    tuned, _ = trained("tuned", "MIT", root)
    path, last = trained("last", "CC0-1.0", tuned)
    number = push(path, bench.name, [bench.record("evaluation", last), bench.record("check", last)]).number
    words = f"data of unknown licence: some data have no licence, among them those of the model {digest[:12]} that it starts from"
    with pytest.raises(RegistryError, match=words):
        promote(bench.name, number)
    path, last = trained("sound", "CC0-1.0", trained("known", "MIT")[0])
    number = push(path, bench.name, [bench.record("evaluation", last), bench.record("check", last)]).number
    assert promote(bench.name, number).number == number


def test_going_back_needs_a_reason_which_is_logged_and_told(bench, registry, caplog, monkeypatch, tmp_path):
    assert [bench.push(note) for note in "abc"] == [1, 2, 3]
    promote(bench.name, 1)
    promote(bench.name, 3)
    pull(f"{bench.name}@production")
    with pytest.raises(RegistryError, match="back from version 3 to 1; if that is wanted, say why with --rollback"):
        promote(bench.name, 1)
    with pytest.raises(RegistryError, match="is not at a later version than 3"):
        promote(bench.name, 3, rollback="no reason at all")
    for _ in range(2):  # again is nothing
        assert promote(bench.name, 1, rollback="explodes above 500 K").number == 1
    logged = promotion_of(registry, bench.name, "production").rollbacks
    assert [(entry["sequence"], entry["from"], entry["to"], entry["reason"]) for entry in logged] == [(3, 3, 1, "explodes above 500 K")]
    with caplog.at_level(logging.WARNING, "mlipfm.registry"):
        assert pull(f"{bench.name}@production") == pull(f"mlipfm:{bench.name}/1")
    assert "rolled back from version 3 to 1: explodes above 500 K" in caplog.text
    forget(monkeypatch, tmp_path)
    assert pull(f"{bench.name}@production").stem == get_version(registry, bench.name, 1).digest
    promote(bench.name, 2)
    assert pull(f"{bench.name}@production").stem == get_version(registry, bench.name, 2).digest


def test_the_same_promotion_twice_changes_nothing(bench, registry):
    bench.push("a"), bench.push("b")
    promote(bench.name, 1), promote(bench.name, 2)
    once = promotion_of(registry, bench.name, "production")
    promote(bench.name, 2)
    assert promotion_of(registry, bench.name, "production") == once
    assert (once.version, once.replaces, once.sequence) == (2, 1, 2)


def test_one_content_pushed_three_times_at_once_by_three_users_is_one_version(bench, registry, tmp_path):
    """Three processes with caches of their own, so that no lock on this side orders them."""
    path, _ = bench.model("first")
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "push", str(path), "--name", bench.name]
    pushes = [
        subprocess.Popen(line, env=os.environ | {"MLIPFM_CACHE": str(tmp_path / f"of-{k}")}, stdout=subprocess.PIPE, text=True)
        for k in range(3)
    ]
    answers = [push.communicate(timeout=300)[0] for push in pushes]
    assert [push.returncode for push in pushes] == [0, 0, 0]
    assert len(set(answers)) == 1
    assert [version.number for version in list_versions(registry, bench.name)] == [1]
    assert pull(f"mlipfm:{bench.name}/1").exists()


# Attacks by another user of the machine, who has no token, and by somebody who can write to the server


def test_another_user_of_the_machine_gets_and_changes_nothing(bench, registry, hub):
    bench.push("a")
    stranger = Server(registry.address)
    with pytest.raises(RegistryError, match="this hub requires a token"):
        list_models(stranger)
    for path, method in (("registered-models/delete", "DELETE"), ("registered-models/set-tag", "POST"), ("experiments/create", "POST")):
        with pytest.raises(RegistryError, match="UNAUTHENTICATED"):
            stranger.send(path, {"name": bench.name, "key": "a", "value": "b"}, method)
    with pytest.raises(RegistryError, match="UNAUTHENTICATED"):
        stranger.listing(get_version(registry, bench.name, 1).root)
    for path in (Path(hub), Path(hub) / "token", Path(hub) / "signing.key", Path(hub) / "mlflow.db", Path(hub) / "artifacts"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_nobody_chooses_where_files_are_or_deletes_or_follows_a_link(bench, registry, hub, tmp_path):
    number = bench.push("a")
    version = get_version(registry, bench.name, number)
    with pytest.raises(RegistryError, match="'artifact_location' is not for clients to choose"):
        registry.send("experiments/create", {"name": bench.name, "artifact_location": str(tmp_path)})
    for path, method in (("registered-models/delete", "DELETE"), ("experiments/delete", "POST"), ("model-versions/delete", "DELETE")):
        with pytest.raises(RegistryError, match="deletes and renames nothing"):
            registry.send(path, {"name": bench.name, "version": "1", "experiment_id": "1"}, method)
    secret = tmp_path / "id_ed25519"
    secret.write_text("private")
    (Path(hub) / "artifacts" / version.root / "model" / "key").symlink_to(secret)
    with pytest.raises(RegistryError, match="a link in the artifact folder is not followed"):
        list(registry.download(f"{version.root}/model/key", 7))
    with pytest.raises(RegistryError, match="a link in the artifact folder is not followed"):
        registry.upload(f"{version.root}/model/key", b"mine")
    assert secret.read_text() == "private"


def test_pages_for_browsing_are_served_to_the_browser_of_the_owner(registry, hub):
    request = urllib.request.Request(f"{registry.address}/", headers={"Cookie": f"mlipfm_hub={viewer_key(registry.token)}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        page = answer.read().decode()
    script = re.search(r"static-files/static/js/main[^\"]*", page)
    request = urllib.request.Request(f"{registry.address}/{script[0]}", headers=request.headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert len(answer.read()) > 100_000


def set_alias(registry: Server, name: str, number: int) -> None:
    registry.send("registered-models/alias", {"name": name, "alias": "production", "version": str(number)})


def register_raw(registry: Server, name: str, like: int, **tags: str) -> None:
    """A version with the files and tags of another, registered past `push`."""
    old = get_version(registry, name, like)
    entries = [{"key": key, "value": value} for key, value in (old.tags | tags).items()]
    registry.send(
        "model-versions/create", {"name": name, "source": f"mlflow-artifacts:/{old.root}/model", "run_id": old.run, "tags": entries}
    )


def refused(address: str, error: type[MlipfmError], match: str, parsed: list[int]) -> None:
    parsed.clear()
    with pytest.raises(error, match=match):
        pull(address)
    assert not parsed


def test_a_file_swapped_on_the_server_is_refused_before_it_is_parsed(bench, registry, parsed):
    number = bench.push("a")
    version, data = get_version(registry, bench.name, number), (bench.folder / "a.safetensors").read_bytes()
    registry.upload(f"{version.root}/model/model.safetensors", data[:-1] + bytes([data[-1] ^ 1]))
    refused(f"mlipfm:{bench.name}/1", DamagedFileError, "was swapped or damaged", parsed)
    other = bench.model("other")[0].read_bytes()
    registry.upload(f"{version.root}/model/model.safetensors", other + b"longer")
    refused(f"mlipfm:{bench.name}/1", RegistryError, "were registered", parsed)


def test_an_extra_file_on_the_server_is_refused_before_anything_is_parsed(bench, registry, parsed):
    bench.push("a")
    registry.upload(f"{get_version(registry, bench.name, 1).root}/model/__init__.py", b"print('hello')")
    refused(f"mlipfm:{bench.name}/1", RegistryError, "extra file '__init__.py'", parsed)


def test_a_swapped_result_record_promotes_nothing(bench, registry):
    path, digest = bench.model("a")
    push(path, bench.name, [bench.record("evaluation", digest), bench.record("check", digest, passed=False)])
    version = get_version(registry, bench.name, 1)
    failed = next(record["sha256"] for record in records_of(registry, version) if record["kind"] == "check")
    better = bench.record("check", digest, passed=True, later=5).read_bytes()
    registry.upload(f"{version.root}/records/{failed}.json", better)
    with pytest.raises(DamagedFileError, match="another record than the one that was registered"):
        promote(bench.name, 1)


def test_an_alias_moved_past_promote_has_no_effect_also_on_a_client_that_never_saw_it(bench, registry, parsed, monkeypatch, tmp_path):
    for note in "abcd":
        bench.push(note)
    for number in (1, 2, 3):
        promote(bench.name, number)
    for _ in range(2):
        set_alias(registry, bench.name, 2)  # the version before: what was promoted last still counts
        assert pull(f"{bench.name}@production").stem == get_version(registry, bench.name, 3).digest
        for number in (1, 4):
            set_alias(registry, bench.name, number)
            refused(f"{bench.name}@production", RegistryError, "moved past `promote`", parsed)
        forget(monkeypatch, tmp_path)
    promote(bench.name, 3)
    assert pull(f"{bench.name}@production").stem == get_version(registry, bench.name, 3).digest


def test_an_alias_that_was_never_promoted_is_refused(bench, registry, parsed):
    bench.push("a")
    set_alias(registry, bench.name, 1)
    refused(f"{bench.name}@production", RegistryError, "never promoted", parsed)


def test_an_old_version_is_not_registered_again_and_a_forged_promotion_is_not_the_hubs(bench, registry, parsed, monkeypatch, tmp_path):
    bench.push("a"), bench.push("b")
    promote(bench.name, 1), promote(bench.name, 2)
    with pytest.raises(RegistryError, match="has this content already as version 1"):
        register_raw(registry, bench.name, 1)
    true = promotion_of(registry, bench.name, "production")
    for change in ({"version": 1, "replaces": 2, "sequence": 3}, {"sequence": 7}, {"evaluation": "0" * 64}, {"signature": "0" * 64}):
        forged = asdict(true) | change
        registry.send("registered-models/set-tag", {"name": bench.name, "key": "mlipfm.promotion.production", "value": json.dumps(forged)})
        forget(monkeypatch, tmp_path)
        refused(f"{bench.name}@production", RegistryError, "does not stand by|moved past `promote`", parsed)


@pytest.mark.parametrize("disguise", ["pickle", "zip", "header"])
def test_code_in_disguise_is_refused_although_the_tags_are_right(disguise, bench, registry, parsed, tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return exec, (f"open({str(canary)!r}, 'w')",)

    data = {
        "pickle": pickle.dumps(Bomb()),
        "zip": b"PK\x03\x04" + pickle.dumps(Bomb()),
        "header": (2**62).to_bytes(8, "little") + b"{" * 100,
    }[disguise]
    bench.push("a")
    version = get_version(registry, bench.name, 1)
    registry.upload(f"{version.root}/model/model.safetensors", data)
    files = json.loads(version.tags["mlipfm.files"])
    files["model.safetensors"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    register_raw(registry, bench.name, 1, **{"mlipfm.files": json.dumps(files), "mlipfm.digest": hashlib.sha256(data).hexdigest()})
    refused(f"mlipfm:{bench.name}/2", MlipfmError, "never read|claims a header", parsed)
    assert not canary.exists()


def test_names_that_no_address_can_have_hide_nothing_and_break_nothing(bench, registry, command):
    for name in ("a..b", "a b", "%2e%2e", "wаter", "-x"):
        registry.send("registered-models/create", {"name": f"{name}{bench.name}"})
    bench.push("a")
    assert bench.name in dict(list_models(registry))
    assert all(name.isascii() for name, _ in list_models(registry))
    assert command("models", "list").returncode == 0


def test_models_that_others_registered_are_refused_by_name(bench, registry):
    bench.push("a")
    old = get_version(registry, bench.name, 1)
    registry.send("model-versions/create", {"name": bench.name, "source": f"mlflow-artifacts:/{old.root}/model", "run_id": old.run})
    with pytest.raises(RegistryError, match="not by `mlipfm push`"):
        pull(f"mlipfm:{bench.name}/2")
    assert push(bench.model("a")[0], bench.name).number == 1


# Kills


def _script():
    spec = importlib.util.spec_from_file_location("push_and_promote", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.full  # of MLflow as the server; that of the hub, the default, is killed in services/hub/tests
@pytest.mark.parametrize("moments", [2, 50])
def test_a_push_or_promotion_killed_at_any_moment_leaves_the_registry_consistent(moments, registry, hub, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    folder.mkdir()
    script, tag = _script(), f"n{moments}"
    command = [sys.executable, str(SCRIPT), str(folder), f"{tag}-{{run}}"]
    outcomes = kill_at_random_moments(command, {"MLIPFM_REGISTRY": hub}, moments, seed=moments)
    assert [(outcome.run, outcome.stderr) for outcome in outcomes if outcome.status] == []
    forget(monkeypatch, tmp_path)
    for outcome in outcomes:
        for name in script.names_of(f"{tag}-{outcome.run}"):
            assert script.audit(name) == ([1, 2], 2)
            promotion, pointer = read_alias(registry, name, "production")
            assert (promotion.version, promotion.replaces, promotion.sequence, pointer) == (2, 1, 2, 2)
