"""The prediction service: what it answers is what the model predicts, many at once, and a worker that dies takes no request with it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from mlipfm_hub.prediction import Prediction
from mlipfm_hub.prediction_openapi import description
from mlipfm_interfaces.checkpoint import build, save_potential
from mlipfm_interfaces.errors import ForeignModelError
from mlipfm_interfaces.foreign import open_foreign
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import LennardJones

pytestmark = pytest.mark.ci
TOKEN = "token-of-the-test"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """(service, port) of a model."""
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    save_potential(path, LennardJones())
    with serving(path) as found:
        yield found


@contextmanager
def serving(path):
    """(service, port) of a checkpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = Prediction(str(path), TOKEN, frozenset({f"127.0.0.1:{port}"}))
    server = uvicorn.Server(uvicorn.Config(service, port=port, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
        assert thread.is_alive()
    yield service, port
    server.should_exit = True
    thread.join(20)


def ask(port, body, method="POST", path="/v1/predict", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, data, {"Authorization": f"Bearer {TOKEN}"} | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def drops(count):
    rng = np.random.default_rng(1)
    return [Structure([18] * n, 3.8 * np.arange(3 * n).reshape(n, 3) / 3 + rng.normal(0, 0.1, (n, 3))) for n in rng.integers(2, 12, count)]


def as_task(structure):
    return {"numbers": structure.atomic_numbers.tolist(), "positions": structure.positions.tolist()}


def test_requests_at_once_get_each_its_own_answer_in_few_batches(service):
    structures = drops(40)
    before = service[0].batches
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda s: ask(service[1], as_task(s)), structures))
    expected = evaluate(LennardJones().eval(), [Structure.trusted(**{**vars(s), "level": "closed-form"}) for s in structures])
    for (status, answer), row in zip(answers, expected, strict=True):
        assert status == 200
        assert answer["energy"] == pytest.approx(float(row["energy"]), abs=1e-8)
        np.testing.assert_allclose(answer["forces"], row["forces"], atol=1e-8)
    assert service[0].batches - before < 40


def test_no_accepted_request_is_lost_when_the_worker_is_killed(service):
    structures, starts = drops(60), service[0].worker.starts

    def one(k):
        if k == 20:
            os.kill(service[0].worker.process.pid, signal.SIGKILL)
        return ask(service[1], as_task(structures[k]))[0]

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(one, range(60))) == {200}
    assert service[0].worker.starts > starts


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"numbers": [18, 18], "positions": [[0, 0, 0], [0, 0, 0.01]]}, 422, "closer than"),
        ({"numbers": [92], "positions": [[0, 0, 0]]}, 422, ""),
        ({"numbers": [18] * 2000, "positions": [[0, 0, 0]] * 2000}, 422, "1 to 1000 atoms"),
        ({"numbers": [18], "positions": [[0, 0, float("nan")]]}, 422, ""),
        ({"numbers": [18], "positions": [[0, 0, 0]], "outputs": ["dipole"]}, 422, ""),
        ({"numbers": [18], "positions": [[0, 0, 0]], "model": "/etc/passwd"}, 422, "numbers and positions"),
        ({"numbers": [18], "positions": [[0, 0, False]]}, 422, "three numbers"),
        ({"numbers": [18], "positions": [[0, 0, 10**400]]}, 422, ""),
        ({"numbers": [True], "positions": [[0, 0, 0]]}, 422, "atomic numbers"),
        ({"numbers": [18], "positions": [[0, 0, 0]], "charge": 10**30}, 422, "whole number from -100 to 100"),
        ({"numbers": [18], "positions": [[0, 0, 0]], "pbc": [1, 1, 1]}, 422, "true or false"),
        (b"!{}", 400, "no JSON"),
        (b"\x80\x04", 400, "no JSON"),
        (b"[" * 10_000, 400, "no JSON"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_reason(body, status, told, service):
    found, answer = ask(service[1], body)
    assert (found, set(answer)) == (status, {"error_code", "message"})
    assert told in answer["message"]


def test_without_its_token_or_by_another_name_it_answers_nobody(service):
    port = service[1]
    assert ask(port, {}, Authorization="Bearer x")[0] == 401
    assert ask(port, {}, Host="evil.example.org")[0] == 421
    assert ask(port, b"x", Content_Encoding="gzip")[0] == 415
    assert ask(port, b"", "GET", "/v1/predict")[0] == 405
    assert ask(port, b"", "GET", "/v1/nothing")[0] == 404
    assert ask(port, b"", "GET", "/v1/openapi.json")[1] == json.loads(json.dumps(description(service[0].worker.about)))


def test_its_address_is_a_model_for_every_command(service, monkeypatch):
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", TOKEN)
    structure = drops(1)[0]
    with open_foreign(f"http://127.0.0.1:{service[1]}") as model:
        row = model.evaluate([structure])[0]
    expected = evaluate(LennardJones().eval(), [Structure.trusted(**{**vars(structure), "level": "closed-form"})])[0]
    np.testing.assert_allclose(row["forces"], expected["forces"], atol=1e-8)


def test_a_model_of_several_levels_is_asked_at_the_one_of_its_address_and_says_what_changes_nothing(tmp_path, monkeypatch):
    options = {"elements": ["H", "O"], "levels": ["pbe", "ccsd(t)"], "backbone": {"channels": 8, "layers": 1}, "seed": 3}
    model = build("painn", options)
    save_potential(tmp_path / "model.safetensors", model)
    monkeypatch.setenv("MLIPFM_REGISTRY_TOKEN", TOKEN)
    water = Structure([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    with serving(tmp_path / "model.safetensors") as (_, port):
        address = f"http://127.0.0.1:{port}"
        with pytest.raises(ForeignModelError, match=rf"predicts several levels.*{address}\?level=pbe; there are pbe, ccsd\(t\)"):
            open_foreign(address)
        with pytest.raises(ForeignModelError, match="does not know the level 'r2scan'"):
            open_foreign(f"{address}?level=r2scan")
        for level in options["levels"]:
            (found,) = open_foreign(f"{address}?level={level}").evaluate([water])
            (wanted,) = evaluate(model.eval(), [water.replace(level=level)])
            assert float(found["energy"]) == pytest.approx(float(wanted["energy"]), abs=1e-5)
        status, answer = ask(port, as_task(water) | {"level": "pbe", "charge": 1, "multiplicity": 2})
        assert status == 200
        assert "the model does not support total_charge: 1 changes nothing in its prediction" in answer["warnings"]
