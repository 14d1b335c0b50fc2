"""MLflow: a listener that loses nothing and stops nothing."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import sqlite3
from pathlib import Path

import pytest
import yaml
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.errors import RecipeError
from mlipfm_train import train_command
from mlipfm_train.events import EventLog
from mlipfm_train.loop import fit
from mlipfm_train.mlflow_listener import MlflowDrain, metrics_of
from mlipfm_train.recipe import make_recipe
from mlipfm_train.schedules import learning_rate

# mlflow's own warnings are not ours
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """An empty tracking store, whose tables take seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"


def history(uri: str, folder, key: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
    return sorted((m.step, m.value) for m in MlflowClient(tracking_uri=uri).get_metric_history(run_id, key))


def check_run(uri: str, folder) -> None:
    """What people look for in MLflow: parameters, data, source, curves, artefacts, the model as safetensors, and a parent of all seeds."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])
    assert (run.info.run_name, run.info.status) == ("seed-0", "FINISHED")
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).info.run_name == "small"
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert run.data.tags["mlflow.source.name"] == "mlipfm train"
    assert run.data.tags["mlipfm.command"].split()[0] == "mlipfm"  # its words are those of the last command of this process
    assert client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    assert run.data.params["preflight.structures"] == "24"
    assert {name.split("/")[0] for name in run.data.metrics} - {"system"} == {"step", "validation"}
    assert run.data.params.items() >= {"optimizer.lr": "0.005", "potential.name": "painn", "n_train": "24", "n_valid": "6"}.items()
    inputs = [(i.dataset.name, i.tags[0].value, json.loads(i.dataset.profile)["structures"]) for i in run.inputs.dataset_inputs]
    assert sorted(inputs) == [("train", "training", 24), ("valid", "validation", 6)]
    rates = dict(history(uri, folder, "step/learning_rate"))
    recipe = make_recipe(yaml.safe_load((folder / "recipe.yaml").read_text()))
    assert rates == {step: pytest.approx(learning_rate(recipe, step)) for step in range(12)}
    assert len(history(uri, folder, "step/structures_per_s")) == 12
    assert {f.path for f in client.list_artifacts(run.info.run_id)} == {"recipe.yaml", "preflight.txt", "parity.png", "model"}
    digest = load_checkpoint(folder / "best.safetensors")[0]["digest"]
    (version,) = client.search_model_versions("name = 'morse'")
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert version.tags["mlipfm.digest"] == model.tags["mlipfm.digest"] == digest
    assert version.description.startswith("# Model card")
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    files = sorted(path.name for path in Path(model.artifact_location.removeprefix("file://")).iterdir())
    assert files == ["model.safetensors", "model_card.md"]


@pytest.mark.parametrize("name", ["foo/bar", "a:b", " "])
def test_a_name_that_mlflow_would_refuse_is_refused_before_training(name, tiny, tmp_path):
    recipe = make_recipe(tiny | {"tracking": {"mlflow": f"sqlite:///{tmp_path / 'm.db'}"}})
    with pytest.raises(RecipeError, match="cannot be the name of a model in MLflow"):
        train_command.run(recipe, tmp_path / "run", False, register=name)
    assert not (tmp_path / "run").exists()


def test_names_and_values_of_figures():
    metric = {"name": "force MAE", "unit": "meV/A", "value": None}
    assert metrics_of({"kind": "step", "step": 1, "values": {"energy-force/forces": 2, "keys": ["a"], "loss": 0.5}}) == [
        ("step/energy-force/forces", 2.0),
        ("step/loss", 0.5),
    ]
    ((name, value),) = metrics_of({"kind": "validation", "step": 1, "values": {"metrics": [metric]}})
    assert name == "validation/force MAE meV/A"
    assert math.isnan(value)


@pytest.mark.ci
def test_every_event_arrives_and_values_that_are_not_finite_are_counted(tiny, tmp_path, uri):
    folder = tmp_path / "small" / "seed-0"
    folder.mkdir(parents=True)
    with MlflowDrain(folder, uri, "drain", patience=600, register="morse"):
        fit(make_recipe(tiny), folder)
    check_run(uri, folder)
    assert [step for step, _ in history(uri, folder, "step/loss")] == list(range(12))
    assert len(history(uri, folder, "validation/force MAE meV/A")) == 2
    log = EventLog(folder / "events.jsonl")
    log.emit("step", 12, loss=math.nan, gradient_norm=1.0)
    log.close()
    with MlflowDrain(folder, uri, "drain", patience=600):  # goes on where it stopped
        pass
    assert [step for step, _ in history(uri, folder, "step/gradient_norm")] == list(range(13))
    assert len(history(uri, folder, "step/loss")) == 12
    assert json.loads((folder / "mlflow.json").read_text())["not_finite"] == 1


@contextlib.contextmanager
def unusable(kind: str, uri: str):
    """The address of a tracking server that is down, accepts connections and never answers, or of a database that another process has locked."""
    if kind == "down":
        yield "http://127.0.0.1:9"
    elif kind == "slow":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
    else:
        with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield uri
            other.execute("ROLLBACK")


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["down", pytest.param("slow", marks=pytest.mark.full), pytest.param("locked", marks=pytest.mark.full)])
def test_a_server_that_cannot_be_used_stops_nothing_and_loses_nothing(tiny, tmp_path, caplog, uri, kind):
    folder = tmp_path / kind
    folder.mkdir()
    said: list[str] = []
    with unusable(kind, uri) as address, MlflowDrain(folder, address, "drain", patience=5, say=said.append):
        result = fit(make_recipe(tiny), folder)
    assert kind != "slow" or said == ["waiting for MLflow to take the rest, model and figures: at most 5 s"]
    assert result.last.exists()
    assert "has not received all events" in caplog.text
    with MlflowDrain(folder, uri, "drain", patience=600):
        pass
    assert [step for step, _ in history(uri, folder, "step/loss")] == list(range(12))
