"""Tasks start when what they need is there, urgent ones first; one that fails ends all."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlipfm.stages import Stages
from mlipfm.tasks import Task, run_tasks
from rich.console import Console


def test_a_task_gets_the_results_of_what_it_needs_and_urgent_ones_start_first(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    order: list[str] = []

    def work(name: str, seconds: float, *inputs: int) -> int:
        order.append(name)
        time.sleep(seconds)
        return 1 + sum(inputs)

    tasks = {
        "long": Task("trainings", work, lambda done: ("long", 0.2)),
        "after": Task("trainings", work, lambda done: ("after", 0.0, done["long"]), ("long",)),
        "minor": Task("minor", work, lambda done: ("minor", 0.3)),
        "later": Task("later", work, lambda done: ("later", 0.0)),
    }
    stages = Stages(Console(quiet=True))
    with ThreadPoolExecutor(2) as pool:
        results = run_tasks(tasks, stages, pool, tmp_path / "stop")
    assert results == {"long": 1, "after": 2, "minor": 1, "later": 1}
    assert order == ["long", "minor", "after", "later"]
    assert stages.seconds["trainings"] >= 0.19
    assert set(stages.seconds) == {"trainings", "minor", "later"}


def test_a_failure_tells_running_tasks_to_stop_and_starts_no_more(tmp_path):
    stop, started = tmp_path / "stop", []

    def fail() -> None:
        raise ValueError("no")

    def watch() -> None:
        while not stop.exists():
            time.sleep(0.01)

    tasks = {
        "bad": Task("bad", fail, lambda done: ()),
        "watch": Task("watch", watch, lambda done: ()),
        "never": Task("never", started.append, lambda done: (1,), ("bad",)),
    }
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="no"):
        run_tasks(tasks, Stages(Console(quiet=True)), pool, stop)
    assert started == []
