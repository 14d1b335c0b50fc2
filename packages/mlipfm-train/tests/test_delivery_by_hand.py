"""What the listener of MLflow delivers, by a client that only notes it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlipfm_train import mlflow_listener
from mlipfm_train.events import EventLog, read_events

pytest.importorskip("mlflow", reason="mlflow is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # mlflow's own warnings are not ours


class Notes:
    """A client that keeps what it gets."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.tags: dict[str, str] = {}
        self.ended: list[str] = []

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.batches.append(metrics)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.tags[key] = value

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ended.append(status)


def test_requests_hold_a_thousand_metrics_with_times_in_milliseconds_and_none_twice(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("step", 3, **{f"m{k}": float(k) for k in range(2500)}, low=-math.inf, high=math.inf, none=math.nan)
    log.close()
    client = Notes()
    end, dropped = mlflow_listener.drain_once(tmp_path, client, "r", 0)
    assert (end, dropped) == ((tmp_path / "events.jsonl").stat().st_size, 3)
    assert [len(batch) for batch in client.batches] == [1000, 1000, 500]
    sent = [metric for batch in client.batches for metric in batch]
    assert sorted(metric.value for metric in sent) == [float(k) for k in range(2500)]
    (event,) = read_events(tmp_path / "events.jsonl")
    assert {metric.timestamp for metric in sent} == {round(event["time"] * 1000)}


def test_each_event_is_delivered_once_and_what_was_left_out_is_counted_over_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, client = EventLog(tmp_path / "events.jsonl"), Notes()
    steps = iter(range(3))

    def closed(pause: float) -> tuple[bool, bytes]:
        """Three events arrive, the process says that it has finished, and the input closes."""
        step = next(steps, None)
        if step is not None:
            log.emit("step", step, loss=math.nan, norm=float(step))
        return step is None, b"F" if step == 2 else b""

    monkeypatch.setattr(mlflow_listener, "_input_closed", closed)
    monkeypatch.setattr(mlflow_listener, "_client", lambda uri: client)
    monkeypatch.setattr(mlflow_listener, "create", lambda *arguments: "r")
    monkeypatch.setattr(mlflow_listener, "load_recipe", lambda path: None)
    monkeypatch.setattr(mlflow_listener, "_begin", lambda *arguments: SimpleNamespace(finish=lambda: None))
    for name in ("describe", "finish"):
        monkeypatch.setattr(mlflow_listener, name, lambda *arguments: None)
    (tmp_path / "recipe.yaml").touch()
    mlflow_listener.follow(tmp_path, "any", "experiment")
    log.close()
    assert [(m.key, m.step, m.value) for batch in client.batches for m in batch] == [("step/norm", k, float(k)) for k in range(3)]
    assert (client.tags, client.ended) == ({"mlipfm.not_finite": "3"}, ["FINISHED"])
    state = json.loads((tmp_path / "mlflow.json").read_text())
    assert (state["not_finite"], state["offset"]) == (3, (tmp_path / "events.jsonl").stat().st_size)
