"""Signatures: a hub keeps those of its files, and a client refuses a model that the key of its maker did not sign."""

from __future__ import annotations

import base64
import json

import pytest
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import MlipfmError, RegistryError
from mlipfm_interfaces.model_signatures import SignatureError, signed_hash
from mlipfm_interfaces.registry import pull


def signature_of(sha256: str) -> dict[str, object]:
    """What the tool writes of a file, without a signature."""
    statement = {"predicate": {"resources": [{"name": ".", "algorithm": "sha256", "digest": sha256}]}}
    return {"dsseEnvelope": {"payload": base64.b64encode(json.dumps(statement).encode()).decode(), "signatures": []}}


@pytest.mark.ci
def test_a_hub_keeps_signatures_of_its_own_files_only(hub, make_model):
    model, at = make_model(), "/api/v1/models/argon/versions/1/signatures"
    file = hub.push("argon", model.data)[1]["file"]
    assert signed_hash(signature_of(file)) == file
    assert hub.ask("POST", at, {"signature": signature_of(file)}, "read")[0] == 403
    for wrong in ({}, signature_of("0" * 64), {"dsseEnvelope": {"payload": "?"}}, {"dsseEnvelope": []}):
        assert hub.ask("POST", at, {"signature": wrong}, "push")[0] == 422, wrong
    assert hub.ask("POST", at, {"signature": signature_of(file) | {"more": "x" * 70_000}}, "push")[0] == 413
    for _ in range(2):
        assert hub.ask("POST", at, {"signature": signature_of(file)}, "push")[0] == 200
    assert hub.ask("GET", at, role="read")[1] == {"signatures": [signature_of(file)]}
    assert hub.ask("GET", at.replace("/1/", "/2/"), role="read")[0] == 404


@pytest.fixture
def keys(tmp_path):
    """Two key pairs: (private, public) paths."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    made = []
    for name in ("maker", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
        made.append((private, public))
    return made


def command(*words: object) -> int:
    """Exit status of `mlipfm`, as it is typed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["mlipfm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.mark.full
def test_what_the_key_of_its_maker_did_not_sign_is_refused(hub, make_model, keys, tmp_path, monkeypatch, capsys):
    """With the tool itself, model-signing of PyPI."""
    (private, public), (_, other) = keys
    for number in (1, 2):
        (tmp_path / f"{number}.safetensors").write_bytes(make_model(number).data)
    # the tool is found in the usual cache; what a client knows of hubs is in this one
    from mlipfm_interfaces import model_signatures
    from mlipfm_interfaces.foreign_environment import environment

    python = environment("model-signing", model_signatures.REQUIREMENTS)
    monkeypatch.setattr("mlipfm_interfaces.foreign_environment.environment", lambda *_: python)
    monkeypatch.setenv("MLIPFM_REGISTRY", hub.address)
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", hub.tokens["push"])
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    assert command("push", tmp_path / "1.safetensors", "--name", "argon", "--sign-key", private) == 0
    assert command("push", tmp_path / "2.safetensors", "--name", "argon") == 0
    assert command("models", "verify", "argon/1", "--public-key", public) == 0
    assert "signed by" in capsys.readouterr().out
    assert command("models", "verify", "argon/1", "--public-key", other) == 2
    assert "not signed by this key" in capsys.readouterr().err
    assert command("pull", "argon/2", "--public-key", public) == 2  # nobody signed it
    assert "it has no signature" in capsys.readouterr().err
    monkeypatch.setenv("MLIPFM_PUBLIC_KEY", str(public))
    assert pull("argon/1").read_bytes() == make_model(1).data
    with pytest.raises(SignatureError, match="no signature"):
        pull("argon/2")
    # counterexample: the signature of the first model under the second, with the hash of the second written into it
    at = "/api/v1/models/argon/versions/{}/signatures"
    (good,) = hub.ask("GET", at.format(1))[1]["signatures"]
    statement = json.loads(base64.b64decode(good["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"][0]["digest"] = hub.ask("GET", "/api/v1/models/argon/versions/2")[1]["file"]
    forged = {**good, "dsseEnvelope": {**good["dsseEnvelope"], "payload": base64.b64encode(json.dumps(statement).encode()).decode()}}
    assert hub.ask("POST", at.format(2), {"signature": forged}, "push")[0] == 200  # a hub verifies no signatures
    with pytest.raises(SignatureError, match="not signed by this key"):
        pull("argon/2")
    monkeypatch.setenv("MLIPFM_REGISTRY", "http://127.0.0.1:1")
    with pytest.raises(RegistryError, match="cannot be reached"):
        pull("argon/1")  # cached, but its signature is not


@pytest.mark.ci
def test_a_key_that_is_none_is_an_error_of_one_line(hub, make_model, tmp_path, monkeypatch):
    (tmp_path / "1.safetensors").write_bytes(make_model().data)
    hub.push("argon", make_model().data)
    monkeypatch.setenv("MLIPFM_REGISTRY", hub.address)
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", hub.tokens["push"])
    monkeypatch.setenv("MLIPFM_CACHE", str(tmp_path / "cache"))
    for key, said in ((tmp_path / "nothing", "cannot be read"), (tmp_path / "1.safetensors", "no key in PEM format")):
        with pytest.raises(MlipfmError, match=said):
            pull("argon/1", public_key=key)
        assert command("push", tmp_path / "1.safetensors", "--name", "argon", "--sign-key", key) == 2
