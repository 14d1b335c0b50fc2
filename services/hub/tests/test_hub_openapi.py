"""The descriptions that the hub and the prediction service give of themselves are true: schemathesis sends what they allow and what they forbid."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from mlipfm_interfaces.foreign_environment import environment
from test_prediction_service import (
    TOKEN,
    service as service,  # a fixture
)

pytestmark = pytest.mark.full
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def schemathesis() -> Path:
    return environment("schemathesis", ["schemathesis>=4.30,<5"]).with_name("schemathesis")


def findings(program: Path, address: str, token: str, folder: Path, examples: int) -> str:
    """What schemathesis prints; it exits with 0 if it finds nothing."""
    words = ["--config-file", CONFIG, "run", address, "-H", f"Authorization: Bearer {token}", "--seed", "1", "-n", examples, "--no-color",
             "--continue-on-failure"]  # fmt: skip
    line = [str(word) for word in (program, *words)]
    done = subprocess.run(line, cwd=folder, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def generated(said: str) -> int:
    found = re.search(r"(\d+) generated", said)
    assert found is not None, said[-2000:]
    return int(found[1])


def test_the_prediction_service_is_what_it_says(schemathesis, service, tmp_path):
    address = f"http://127.0.0.1:{service[1]}/v1/openapi.json"
    assert generated(findings(schemathesis, address, TOKEN, tmp_path, 60)) > 150


def test_the_api_of_the_hub_is_what_it_says(schemathesis, make_hub, make_model, tmp_path):
    hub, model = make_hub(rate=10**6), make_model()
    hub.push("argon", model.data, model.records)
    said = findings(schemathesis, f"{hub.address}/api/v1/openapi.json", hub.tokens["admin"], tmp_path, 20)
    assert generated(said) > 500
    assert hub.ask("GET", "/api/v1/audit")[1]["broken_at"] is None
    assert hub.ask("GET", "/api/v1/models/argon/versions/1")[0] == 200
