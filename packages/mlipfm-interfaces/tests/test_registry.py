"""Names of registered models, and a hostile registry: what it sends is refused before any tensor is parsed.

The server here is real HTTP and speaks MLflow's words, but lies; pushing to and pulling from an honest one is tested in the package `mlipfm`.
"""

import hashlib
import json
import logging
import pickle
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import safetensors.torch
from mlipfm_interfaces.checkpoint import load_potential, resolve, save_potential
from mlipfm_interfaces.errors import DamagedFileError, MlipfmError, RefusedFileError, RegistryError
from mlipfm_interfaces.protocols import Resolver
from mlipfm_interfaces.registry import MlipfmResolver, pull
from mlipfm_interfaces.registry_http import Server, server
from mlipfm_interfaces.registry_promote import licence_faults
from mlipfm_interfaces.registry_push import push
from mlipfm_interfaces.registry_versions import Address, parse_address
from mlipfm_interfaces.testing.closed_forms import LennardJones

RUN = "0123456789abcdef" * 2
ROOT = f"1/{RUN}/artifacts"


class Lie:
    """What the hostile server answers: versions by number, the aliases, and the bytes of files; `pace` seconds lie between two bytes;
    answers to a path with `cut` in it break off half-way."""

    def __init__(self) -> None:
        self.versions: dict[int, dict] = {}
        self.aliases: dict[str, int] = {}
        self.promotions: dict[str, dict] = {}
        self.files: dict[str, bytes] = {}
        self.pace = 0.0
        self.cut = ""
        self.redirect = ""
        self.raw: bytes | None = None
        self.address = ""

    def version(self, number: int, data: bytes, digest: str, sizes: int | None = None, **tags: str) -> None:
        """A version as `push` would register it, of this file."""
        size = len(data) if sizes is None else sizes
        files = {
            "model.safetensors": {"sha256": hashlib.sha256(data).hexdigest(), "size": size},
            "README.md": {"sha256": "0" * 64, "size": 2},
        }
        self.files |= {"model.safetensors": data, "README.md": b"hi"}
        tags = {"mlipfm.digest": digest, "mlipfm.files": json.dumps(files)} | tags
        self.versions[number] = {
            "name": "water", "version": str(number), "run_id": RUN, "source": f"mlflow-artifacts:/{ROOT}/model", "status": "READY",
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }  # fmt: skip

    def promote(self, number: int, replaces: int | None = None, sequence: int = 1, rollbacks: tuple = ()) -> None:
        """What `promote` writes."""
        self.aliases["production"] = number
        self.promotions["production"] = {
            "version": number, "replaces": replaces, "sequence": sequence, "evaluation": "", "check": "", "time": "", "rollbacks": list(rollbacks),
        }  # fmt: skip

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        if self.raw is not None:
            return 200, self.raw
        if path.endswith("registered-models/get"):
            aliases = [{"alias": alias, "version": str(number)} for alias, number in self.aliases.items()]
            tags = [{"key": f"mlipfm.promotion.{alias}", "value": json.dumps(value)} for alias, value in self.promotions.items()]
            return 200, json.dumps({"registered_model": {"name": "water", "aliases": aliases, "tags": tags}}).encode()
        if path.endswith("model-versions/get"):
            return self._version(int(query["version"]))
        if path.endswith("model-versions/search"):
            return 200, json.dumps({"model_versions": list(self.versions.values())}).encode()
        if path.endswith("mlflow-artifacts/artifacts"):
            return 200, json.dumps({"files": [{"path": name, "file_size": len(data)} for name, data in self.files.items()]}).encode()
        return 200, self.files[path.rpartition("/")[2]]

    def _version(self, number: int | None) -> tuple[int, bytes]:
        if number not in self.versions:
            return 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such version"}'
        return 200, json.dumps({"model_version": self.versions[number]}).encode()


@pytest.fixture
def lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = Lie()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            status, body = told.answer(parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()})
            self.send_response(302 if told.redirect else status)
            if told.redirect:
                self.send_header("Location", told.redirect)
            if not told.pace:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body[: len(body) // 2] if told.cut and told.cut in self.path else body
            step = 1 if told.pace else 2**20
            try:
                for place in range(0, len(sent), step):
                    self.wfile.write(sent[place : place + step])
                    time.sleep(told.pace)
            except OSError:
                return  # the client has had enough

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    told.address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setenv("MLIPFM_REGISTRY", told.address)
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    yield told
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the tensors of a file are parsed."""
    calls: list[int] = []
    load = safetensors.torch.load
    monkeypatch.setattr(safetensors.torch, "load", lambda data: calls.append(len(data)) or load(data))
    return calls


@pytest.fixture
def model(tmp_path: Path) -> tuple[bytes, str]:
    """Bytes and digest of a model."""
    digest = save_potential(tmp_path / "honest.safetensors", LennardJones(), {"licences": ["CC0-1.0"]})
    return (tmp_path / "honest.safetensors").read_bytes(), digest


def test_addresses_are_read_by_an_allow_list():
    assert parse_address("mlipfm:water-2.1_b@production") == Address("water-2.1_b", alias="production")
    assert parse_address("water@best") == Address("water", alias="best")
    assert parse_address("mlipfm:water/12") == Address("water", version=12)
    assert str(parse_address("water@best")) == "water@best"


@pytest.mark.parametrize(
    "address",
    [
        "../etc/passwd@production", "..@production", "a..b@production", "/abs@production", "~root@production",
        "C:\\model@production", "a/b@production",
        "a%2e%2e%2fb@production", "a#b@production", "a?b=c@production", "a&b@production", "a b@production", "a\nb@production", "a\0b@production",
        "wаter@production", "ｗater@production", "water\u200b@production", "water\u202e@production", ".hidden@production", "-option@production",
        "a" * 200 + "@production", "@production", "water@", "water@../production", "water@prod/uction", "water@prod%2f", "water@Production",
        "water@prоduction", "water@latest", "water@v3", "water@a@b", "water@production\n", "water@#1", "water/0", "water/-1", "water/1e3",
        "water/٣", "water/",
        "water/../1", "water", "a'b@production", 'a"b@production', "a;b@production", "a:b@production", "file:///etc/passwd@x",
    ],
)  # fmt: skip
def test_tricks_with_paths_encodings_and_look_alikes_are_refused(address, lie, parsed):
    with pytest.raises(RegistryError, match="is no (address|name|alias)"):
        MlipfmResolver().resolve(f"mlipfm:{address}")
    assert not parsed


@pytest.mark.parametrize("name", ["../x", "a/b", "a%2fb", "a#b", "", "..", "a..b", "wаter"])
def test_a_model_is_not_pushed_under_such_a_name(name, tmp_path, model):
    with pytest.raises(RegistryError, match="is no name for a model"):
        push(tmp_path / "honest.safetensors", name)


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://host",
        "http://user:secret@host",
        "http://",
        "http://host/path",
        "http://host?x=1",
        "http://ho st",
        "http://a:port",
        "host:80",
    ],
)
def test_only_plain_http_addresses_are_registries(address):
    with pytest.raises(RegistryError, match="is no address of a registry"):
        server(address)


def test_the_resolver_keeps_its_protocol_and_every_model_argument_takes_the_short_address(lie, model):
    lie.version(1, *model)
    lie.promote(1)
    assert isinstance(MlipfmResolver(), Resolver)
    path = resolve("water@production")
    assert path == resolve("mlipfm:water@production") == resolve("mlipfm:water/1")
    assert path.read_bytes() == model[0]
    assert load_potential("water@production").plugin == "lennard-jones"


def test_a_file_named_like_an_address_is_that_file(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    Path("water@production").write_bytes(model[0])
    assert resolve("water@production") == Path("water@production")


def test_a_damaged_cache_is_downloaded_again(lie, model):
    lie.version(1, *model)
    path = pull("mlipfm:water/1")
    path.write_bytes(b"x" + model[0][1:])
    assert pull("mlipfm:water/1").read_bytes() == model[0]


def test_a_swapped_file_of_the_same_length_is_refused_before_it_is_parsed(lie, model, parsed):
    lie.version(1, *model)
    lie.files["model.safetensors"] = model[0][:-1] + bytes([model[0][-1] ^ 1])
    with pytest.raises(DamagedFileError, match="the file was swapped or damaged"):
        pull("mlipfm:water/1")
    assert not parsed


def test_another_model_under_the_tags_of_this_one_is_refused(lie, model, tmp_path):
    save_potential(tmp_path / "other", LennardJones(), {"licences": ["MIT"]})
    lie.version(1, (tmp_path / "other").read_bytes(), model[1])
    with pytest.raises(DamagedFileError, match="was registered"):
        pull("mlipfm:water/1")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_extra_or_a_missing_file_is_refused_before_anything_is_downloaded(lie, model, parsed):
    lie.version(1, *model)
    lie.files["setup.py"] = b"import os"
    with pytest.raises(RegistryError, match="has the extra file 'setup.py'"):
        pull("mlipfm:water/1")
    del lie.files["setup.py"], lie.files["README.md"]
    with pytest.raises(RegistryError, match="lacks the file 'README.md'"):
        pull("mlipfm:water/1")
    assert not parsed


def test_a_file_that_is_longer_or_cut_is_refused(lie, model, parsed):
    lie.version(1, *model)
    lie.files["model.safetensors"] = model[0] + b"more"
    with pytest.raises(RegistryError, match="were registered"):
        pull("mlipfm:water/1")
    lie.version(1, *model)
    for path in (".safetensors", "model-versions/get"):
        lie.cut = path
        with pytest.raises(RegistryError, match="broke off after"):
            pull("mlipfm:water/1")
    assert not parsed


def test_an_endless_file_is_given_up_after_the_registered_length(lie, model, parsed):
    lie.version(1, *model)
    registry = server()
    lie.files["model.safetensors"] = b"x" * (len(model[0]) + 10**6)
    with pytest.raises(RegistryError, match="were registered"):
        list(registry.download(f"{ROOT}/model/model.safetensors", len(model[0])))


def test_a_trickle_is_given_up_after_its_time(lie, model):
    lie.version(1, *model)
    lie.pace = 0.02
    with pytest.raises(RegistryError, match="is too slow"):
        Server(lie.address, patience=0.3).get("model-versions/get", name="water", version="1")


@pytest.mark.parametrize("disguise", ["pickle", "zip", "header", "text"])
def test_pickles_archives_and_absurd_headers_are_refused_although_their_hash_is_registered(disguise, lie, parsed, tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return exec, (f"open({str(canary)!r}, 'w')",)

    if disguise == "zip":
        with zipfile.ZipFile(tmp_path / "bomb", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
        data = (tmp_path / "bomb").read_bytes()
    else:
        data = {"pickle": pickle.dumps(Bomb()), "header": (2**62).to_bytes(8, "little") + b"{" * 100, "text": b"import os"}[disguise]
    lie.version(1, data, "ab" * 32)
    with pytest.raises((RefusedFileError, DamagedFileError, MlipfmError), match=r"water/1 of http.*(never read|header|truncated)"):
        pull("mlipfm:water/1")
    assert not parsed
    assert not canary.exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_model_that_claims_more_bytes_than_are_ever_read_is_not_downloaded(lie, model):
    lie.version(1, *model, sizes=2**50)
    with pytest.raises(RegistryError, match="more than the 4294967296 that are read"):
        pull("mlipfm:water/1")


@pytest.mark.parametrize(
    "source",
    [
        "/etc",
        "file:///etc",
        f"mlflow-artifacts:/1/{RUN}/artifacts/../../../model",
        f"mlflow-artifacts:/1/{'f' * 32}/artifacts/model",
        "s3://bucket/model",
    ],
)
def test_files_elsewhere_than_in_the_run_of_the_version_are_refused(source, lie, model):
    lie.version(1, *model)
    lie.versions[1]["source"] = source
    with pytest.raises(RegistryError, match="which are not those of its run"):
        pull("mlipfm:water/1")


def test_redirects_are_not_followed(lie, model):
    lie.version(1, *model)
    lie.redirect = "file:///etc/passwd"
    with pytest.raises(RegistryError, match="HTTP 302"):
        pull("mlipfm:water/1")


@pytest.mark.parametrize(
    "raw", [b"[]", b"<html>", b"[" * 10**6, b'{"model_version": []}', b'{"model_version": {"name": "other", "version": "1"}}']
)
def test_nonsense_is_an_error_of_one_line(raw, lie):
    lie.raw = raw
    with pytest.raises(RegistryError, match="answers"):
        pull("mlipfm:water/1")


def test_the_content_of_a_version_never_changes(lie, model, tmp_path):
    lie.version(1, *model)
    pull("mlipfm:water/1")
    digest = save_potential(tmp_path / "other", LennardJones(), {"licences": ["MIT"]})
    lie.version(1, (tmp_path / "other").read_bytes(), digest)
    with pytest.raises(RegistryError, match="has other content under water/1 than before"):
        pull("mlipfm:water/1")


def three_versions(lie: Lie, tmp_path: Path, model: tuple[bytes, str]) -> list[tuple[bytes, str]]:
    """Version 2 is in production, after version 1; the contents of all."""
    contents = [model]
    for note in "bc":
        digest = save_potential(tmp_path / note, LennardJones(), {"note": note})
        contents.append(((tmp_path / note).read_bytes(), digest))
    for number, content in enumerate(contents, 1):
        lie.version(number, *content)
    lie.promote(2, 1, 2)
    lie.version(2, *contents[1])  # the server has the file of one version at a time
    return contents


BACK = {"sequence": 3, "from": 2, "to": 1, "reason": "explodes above 500 K", "time": ""}


def test_an_alias_that_goes_back_silently_is_refused_and_a_logged_rollback_is_told(lie, model, tmp_path, caplog):
    contents = three_versions(lie, tmp_path, model)
    pull("water@production")
    lie.version(1, *contents[0])
    for sequence, reason in (
        (1, "a rollback that was not logged"),
        (2, "a rollback that was not logged"),
        (3, "without a logged rollback"),
    ):
        lie.promote(1, 2, sequence)
        with pytest.raises(RegistryError, match=reason):
            pull("water@production")
    lie.promote(1, 2, 3, (BACK,))
    with caplog.at_level(logging.WARNING):
        assert pull("water@production").read_bytes() == model[0]
    assert "rolled back from version 2 to 1: explodes above 500 K" in caplog.text
    lie.promote(2, 1, 2)
    with pytest.raises(RegistryError, match="a rollback that was not logged"):  # the promotion before the rollback, played back
        pull("water@production")


def test_after_a_rollback_an_alias_goes_on_to_versions_between(lie, model, tmp_path):
    contents = three_versions(lie, tmp_path, model)
    lie.version(3, *contents[2])
    lie.promote(3, 2, 3)
    pull("water@production")
    lie.version(2, *contents[1])
    lie.promote(2, 1, 5, ({"sequence": 4, "from": 3, "to": 1, "reason": "wrong units", "time": ""},))
    assert pull("water@production").read_bytes() == contents[1][0]


def test_an_old_model_registered_again_as_a_new_version_is_refused(lie, model, tmp_path):
    three_versions(lie, tmp_path, model)
    lie.version(4, *model)
    lie.promote(4, 2, 3)
    with pytest.raises(RegistryError, match="has version 1 of water again as version 4"):
        pull("water@production")


def test_an_alias_counts_only_where_promote_put_it(lie, model, tmp_path):
    contents = three_versions(lie, tmp_path, model)
    lie.aliases["other"] = 2
    with pytest.raises(RegistryError, match="never promoted"):
        pull("water@other")
    lie.aliases["production"] = 3
    with pytest.raises(RegistryError, match="moved past `promote`"):
        pull("water@production")
    with pytest.raises(RegistryError, match="has no water@nothing"):
        pull("water@nothing")
    lie.aliases["production"] = 1  # as after a promotion that was killed before its alias: what was promoted is the tag
    assert pull("water@production").read_bytes() == contents[1][0]


@pytest.mark.parametrize(
    "fault", [{"version": 0}, {"version": "2"}, {"sequence": -1}, {"rollbacks": [1]}, {"rollbacks": None}, {"extra": 1}]
)
def test_a_promotion_of_another_shape_is_refused(fault, lie, model, tmp_path):
    three_versions(lie, tmp_path, model)
    lie.promotions["production"] |= fault
    with pytest.raises(RegistryError, match="that `promote` does not write"):
        pull("water@production")


def test_a_registry_that_is_not_there_says_how_to_start_one(lie, monkeypatch):
    monkeypatch.setenv("MLIPFM_REGISTRY", "http://127.0.0.1:1")
    with pytest.raises(RegistryError, match="mlipfm hub up"):
        pull("water@production")


@pytest.mark.parametrize("what", ["pickle", "foreign", "training"])
def test_only_model_checkpoints_are_pushed(what, lie, tmp_path):
    import torch
    from mlipfm_interfaces.checkpoint import save_checkpoint

    path = tmp_path / "model.safetensors"
    if what == "pickle":
        path.write_bytes(pickle.dumps({"weights": [1.0]}))
    elif what == "foreign":
        safetensors.torch.save_file({"weights": torch.ones(2)}, path)
    else:
        save_checkpoint(path, {"weights": torch.ones(2)}, {"kind": "mlipfm-training"})
    with pytest.raises(RefusedFileError, match="pickle|without an mlipfm manifest|of kind 'mlipfm-training'"):
        push(path, "water")
    with pytest.raises(RefusedFileError, match="model of another package"):
        push("tblite:GFN2", "water") if "tblite" in _foreign() else pytest.skip("no foreign model installed")


def _foreign() -> list[str]:
    from mlipfm_interfaces import plugins

    return plugins.names("foreign")


def test_licences_of_data_must_be_known():
    def faults(licences: object) -> str:
        return "; ".join(licence_faults({"extra": {"licences": licences}}))

    assert faults(["CC0-1.0", "MIT OR Apache-2.0", "LicenseRef-our-lab"]) == ""
    assert faults({"spice": "CC-BY-4.0"}) == ""
    assert "has no licences" in faults([])
    assert "has no licences" in faults(None)
    assert "some data have no licence" in faults(["MIT", ""])
    assert "'who knows' is not known" in faults(["who knows"])
    assert "has no licences" in licence_faults({})[0]
