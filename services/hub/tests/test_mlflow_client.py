"""MLflow's own client reads models from the hub: aliases, versions, searches, files. It writes nothing, and says so in one line."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
from urllib.parse import parse_qs

import pytest
from test_hub_stores import answers, free_port

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]

ASKED = """
import json, logging, sys
from pathlib import Path
import mlflow
from mlflow.exceptions import MlflowException

client = mlflow.MlflowClient()

def refused(call, *given, **named):
    try:
        return {"answered": str(call(*given, **named))}
    except MlflowException as error:
        return {"code": error.error_code, "line": str(error)}

folder = Path(mlflow.artifacts.download_artifacts("models:/argon@production", dst_path=sys.argv[1]))
by_number = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/argon/1/model.safetensors", dst_path=sys.argv[2]))
model = client.get_registered_model("argon")
json.dump({
    "alias": client.get_model_version_by_alias("argon", "production").version,
    "digest": client.get_model_version("argon", "2").tags["mlipfm.digest"],
    "aliases": {key: int(value) for key, value in model.aliases.items()},
    "names": [found.name for found in client.search_registered_models()],
    "like": [found.name for found in client.search_registered_models("name LIKE 'ar%'")],
    "pages": [found.name for found in client.search_registered_models(max_results=1)],
    "next": [found.name for found in client.search_registered_models(max_results=1, page_token=client.search_registered_models(max_results=1).token)],
    "versions": [found.version for found in client.search_model_versions("name = 'argon'")],
    "uri": client.get_model_version_download_uri("argon", "2"),
    "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    "bytes": [(folder / "model.safetensors").read_bytes().hex(), by_number.read_bytes().hex()],
    "absent": refused(client.get_model_version_by_alias, "argon", "staging"),
    "tags": refused(client.search_model_versions, "tags.x = 'y'"),
    "order": refused(client.search_registered_models, order_by=["last_updated_timestamp DESC"]),
    "create": refused(client.create_registered_model, "new"),
    "move": refused(client.set_registered_model_alias, "argon", "production", "1"),
    "delete": refused(client.delete_model_version, "argon", "1"),
}, open(sys.argv[3], "w"))
"""


@pytest.fixture
def told(hub, make_model, tmp_path):
    """What the client prints, and the two models."""
    models = [make_model(number, error) for number, error in ((1, 0.6), (2, 0.5))]
    for number, model in enumerate(models, 1):
        hub.push("argon", model.data, model.records)
        hub.ask("POST", "/api/v1/models/argon/aliases/production", {"version": number})
    hub.push("neon", make_model(3).data)
    here = {"MLFLOW_TRACKING_URI": hub.address, "MLFLOW_TRACKING_TOKEN": hub.tokens["read"], "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    places = [tmp_path / "folder", tmp_path / "file", tmp_path / "told.json"]
    for place in places[:2]:
        place.mkdir()
    line = [sys.executable, "-W", "ignore", "-c", ASKED, *map(str, places)]
    done = subprocess.run(line, env=os.environ | here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(places[2].read_text()), models


def test_mlflow_s_client_reads_what_mlipfm_pushed_and_changes_nothing(told):
    found, models = told
    assert (found["alias"], found["aliases"], found["digest"]) == ("2", {"production": 2}, models[1].digest)
    assert found["bytes"] == [models[1].data.hex(), models[0].data.hex()]
    assert found["files"] == ["README.md", "model.safetensors"]
    assert (found["names"], found["like"], found["pages"], found["next"]) == (["argon", "neon"], ["argon"], ["argon"], ["neon"])
    assert sorted(found["versions"]) == ["1", "2"]
    assert found["uri"].startswith("mlflow-artifacts:/0/")
    # what the hub does not do is refused, and not ignored
    assert found["absent"]["code"] == "RESOURCE_DOES_NOT_EXIST"
    for key, word in (("tags", "name"), ("order", "order")):
        assert found[key]["code"] == "INVALID_PARAMETER_VALUE", found[key]
        assert word in found[key]["line"]
    for key in ("create", "move", "delete"):
        assert "code" in found[key], found[key]


LOGGED = """
import sys, mlflow
client = mlflow.MlflowClient()
experiment = client.create_experiment("oxides")
for digest in sys.argv[1:]:
    run = client.create_run(experiment, run_name=digest[:6])
    model = client.create_logged_model(experiment, digest[:6], run.info.run_id, {"mlipfm.digest": digest})
    client.finalize_logged_model(model.model_id, "READY")
    print(run.info.run_id)
print(experiment)
"""


def test_a_comparison_links_to_the_runs_that_mlflow_has(make_hub, make_model, tmp_path):
    """With a real MLflow server, to which models are logged as `mlipfm train` does."""
    port = free_port()
    words = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path / 'runs.db'}", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        answers(port, server, 300)  # it takes a minute on a busy machine
        hub, models = make_hub(mlflow=f"http://127.0.0.1:{port}/"), [make_model(1), make_model(2, 0.5), make_model(3, 0.4)]
        for model in models:
            hub.push("argon", model.data, model.records)
        here = os.environ | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        line = [sys.executable, "-W", "ignore", "-c", LOGGED, models[0].digest, models[1].digest]
        *runs, experiment = subprocess.run(line, env=here, capture_output=True, text=True, check=True).stdout.split()
        page = html.unescape(hub.ask("GET", "/compare?model=argon/1&model=argon/2&model=argon/3", role="read")[1].decode())
        for run in runs:
            assert f'href="http://127.0.0.1:{port}/#/experiments/{experiment}/runs/{run}"' in page
        assert page.count("/runs/") == 2  # the third was logged nowhere
        (together,) = re.findall(r'href="(http[^"]*compare-runs[^"]*)"', page)
        query = parse_qs(together.partition("?")[2])
        assert (json.loads(query["runs"][0]), json.loads(query["experiments"][0])) == (sorted(runs), [experiment])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
