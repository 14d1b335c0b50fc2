"""Drains the event log of a run into MLflow, from a process of its own: a slow or dead server costs training nothing and loses nothing.

`python -m mlipfm_train.mlflow_listener RUN URI EXPERIMENT [NAME]` follows `RUN/events.jsonl` until its standard input closes and all is
delivered. How far it came is in `RUN/mlflow.json`; whatever is left is delivered by the next start. Delivering twice changes nothing: a metric of
the same name, step and time is the same metric. Parameters, data, artefacts and the model follow the same way (`mlflow_run`). Only these two
modules import mlflow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlipfm_interfaces.errors import MlipfmError, UnreadableFileError
from mlipfm_interfaces.files import atomic_write, canonical_json

from .events import Event, read_events_with_ends
from .mlflow_run import COMMAND, create, describe, finish, log_point, metric_name, more_metrics
from .recipe import Recipe, load_recipe

#: Metrics in one request: MLflow takes at most 1,000.
BATCH = 1000

_log = logging.getLogger("mlipfm.train")


class MlflowDrain:
    """The draining process beside a training run; a context manager. Leaving it waits at most `patience` seconds for what is not delivered yet.

    Args:
        register: name in MLflow's model registry that gets the best model as a new version; None for none.
        say: receives a line when leaving takes more than two seconds.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        experiment: str,
        patience: float = 120.0,
        register: str | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._patience, self._say = patience, say
        self._folder = folder
        command = [sys.executable, "-m", __name__, str(folder), uri, experiment, *([register] if register is not None else [])]
        environment = (
            os.environ
            | {
                "MLFLOW_TRACKING_URI": uri,  # of the monitor as well, which else writes to a database in the current folder
                COMMAND: shlex.join(["mlipfm", *sys.argv[1:]]),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            }
        )
        log = open(folder / "mlflow.log", "ab")  # noqa: SIM115  handed to the child
        with log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)

    def __enter__(self) -> MlflowDrain:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already; its status says so
            self._process.stdin.write(b"F" if kind is None else b"X")
            self._process.stdin.close()
        status = self._status_within(min(2.0, self._patience))
        if status is None:
            self._say(f"waiting for MLflow to take the rest, model and figures: at most {self._patience:.0f} s")
            status = self._status_within(self._patience)
        if status is None:
            self._process.kill()
            status = self._process.wait()
        if status:
            _log.warning("MLflow has not received all events of %s; the same command delivers the rest (see mlflow.log)", self._folder)

    def _status_within(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def delivered(folder: Path) -> bool:
    """Whether MLflow has all of a run that has ended."""
    return bool(_load(folder).get("delivered"))


def drain_once(folder: Path, client: Any, run_id: str, offset: int, recipe: Recipe | None = None) -> tuple[int, int]:
    """Deliver what the log holds after byte `offset`; the new offset and the number of values that are not finite and were left out.

    Args:
        recipe: gives the learning rate of the steps.
    """
    from mlflow.entities import Metric

    metrics: list[Any] = []
    dropped, reached = 0, offset
    for event, end in read_events_with_ends(folder / "events.jsonl", offset):
        reached = end
        for name, value in [*metrics_of(event), *(more_metrics(event, recipe) if recipe is not None else [])]:
            if math.isfinite(value):
                metrics.append(Metric(name, value, round(event["time"] * 1000), event["step"]))
            else:
                dropped += 1
        if len(metrics) >= BATCH:
            break
    for k in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[k : k + BATCH])
    return reached, dropped


def metrics_of(event: Event) -> list[tuple[str, float]]:
    """Name and value of every figure in an event of training, not finite ones included; names that MLflow accepts."""
    values = event["values"]
    if event["kind"] == "preflight":  # those are parameters, see `mlflow_run.describe`
        return []
    if event["kind"] == "validation":
        found = [(f"validation/{m['name']} {m['unit']}", math.nan if m["value"] is None else m["value"]) for m in values["metrics"]]
    else:
        found = [(f"{event['kind']}/{key}", value) for key, value in values.items() if isinstance(value, int | float)]
    return [(metric_name(name), float(value)) for name, value in found]


def follow(folder: Path, uri: str, experiment: str, register: str | None = None, pause: float = 1.0) -> None:
    """Deliver until standard input closes and everything is through. Faults of the server are retried until then; after that they end it."""
    state = _load(folder)
    client: Any = None
    status = "KILLED"  # unless the training process says how it ended
    monitor: Any = None
    while True:
        finishing, said = _input_closed(pause)
        status = {b"F": "FINISHED", b"X": "FAILED"}.get(said, status)
        if not (folder / "recipe.yaml").exists():  # not begun, or refused in preflight
            if finishing:
                return
            continue
        try:
            client = client or _client(uri)
            if "run_id" not in state:
                state |= {"run_id": create(client, folder, uri, experiment), "offset": 0, "not_finite": 0}
                _store(folder, state)
            monitor = monitor or _begin(client, state["run_id"], uri)
            if not state.get("described"):
                _of_run(describe, client, state["run_id"], folder)
                state |= {"described": True}
                _store(folder, state)
            end, dropped = drain_once(folder, client, state["run_id"], state["offset"], load_recipe(folder / "recipe.yaml"))
            if end == state["offset"] and finishing:
                monitor.finish()
                _of_run(finish, client, state["run_id"], folder, register if status == "FINISHED" else None)
                if state["not_finite"]:
                    client.set_tag(state["run_id"], "mlipfm.not_finite", str(state["not_finite"]))
                failed = log_point(client, state["run_id"], folder)
                client.set_terminated(state["run_id"], "FAILED" if failed else status)
                _store(folder, state | {"delivered": True})
                return
        except Exception as error:  # any server, database or network fault: training must not notice
            print(f"{time.strftime('%F %T')} not delivered: {type(error).__name__}: {error}", flush=True)
            if finishing:
                sys.exit(1)
            continue
        if end != state["offset"]:
            state |= {"offset": end, "not_finite": state["not_finite"] + dropped}
            _store(folder, state)


def _of_run(deliver: Callable[..., None], *arguments: Any) -> None:
    """Deliver something else than figures; what the run folder lacks for it is written to the log and stops no figure."""
    try:
        deliver(*arguments)
    except MlipfmError as error:
        print(f"{time.strftime('%F %T')} left out: {deliver.__name__}: {error}", flush=True)


def _client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _begin(client: Any, run_id: str, uri: str) -> Any:
    """The run is running (again); its monitor of processor, memory, disk and network, every ten seconds, under MLflow's own names."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    client.update_run(run_id, "RUNNING")
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    return monitor


def _load(folder: Path) -> dict[str, Any]:
    path = folder / "mlflow.json"
    if not path.exists():
        return {}
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnreadableFileError(f"is damaged: {error}", where=str(path), hint="delete it: the events are delivered again") from None
    return state


def _store(folder: Path, state: dict[str, Any]) -> None:
    atomic_write(folder / "mlflow.json", canonical_json(state))


def _input_closed(pause: float) -> tuple[bool, bytes]:
    """Wait up to `pause` seconds; whether standard input was closed (the training process ended, however it ended), and what it said before."""
    import select

    ready, _, _ = select.select([sys.stdin], [], [], pause)
    if not ready:
        return False, b""
    said = os.read(sys.stdin.fileno(), 1)
    return not said, said


if __name__ == "__main__":
    follow(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else None)
