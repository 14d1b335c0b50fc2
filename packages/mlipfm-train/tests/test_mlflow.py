"""MLflow: a listener that loses nothing and stops nothing."""

from __future__ import annotations

import json
import math

import pytest
from mlipfm_train.events import EventLog
from mlipfm_train.loop import fit
from mlipfm_train.mlflow_listener import MlflowDrain, metrics_of
from mlipfm_train.recipe import make_recipe

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
    folder = tmp_path / "run"
    folder.mkdir()
    with MlflowDrain(folder, uri, "drain", patience=120):
        fit(make_recipe(tiny), folder)
    assert [step for step, _ in history(uri, folder, "step/loss")] == list(range(12))
    assert len(history(uri, folder, "validation/force MAE meV/A")) == 2
    log = EventLog(folder / "events.jsonl")
    log.emit("step", 12, loss=math.nan, gradient_norm=1.0)
    log.close()
    with MlflowDrain(folder, uri, "drain", patience=120):  # goes on where it stopped
        pass
    assert [step for step, _ in history(uri, folder, "step/gradient_norm")] == list(range(13))
    assert len(history(uri, folder, "step/loss")) == 12
    assert json.loads((folder / "mlflow.json").read_text())["not_finite"] == 1


@pytest.mark.ci
def test_a_dead_server_stops_nothing_and_loses_nothing(tiny, tmp_path, caplog, uri):
    folder = tmp_path / "run"
    folder.mkdir()
    with MlflowDrain(folder, "http://127.0.0.1:9", "drain", patience=5):
        result = fit(make_recipe(tiny), folder)
    assert result.last.exists()
    assert "has not received all events" in caplog.text
    with MlflowDrain(folder, uri, "drain", patience=120):
        pass
    assert [step for step, _ in history(uri, folder, "step/loss")] == list(range(12))
