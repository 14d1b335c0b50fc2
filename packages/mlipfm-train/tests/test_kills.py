"""kill -9 at random moments of training, saves included: the resumed result is that of an undisturbed run, to the bit."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import yaml
from kills import RUN, kill_at_random_moments
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_train.events import read_events
from mlipfm_train.training_state import KIND, states

TRAIN = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "train"]


def fingerprint(folder):
    (newest, *_) = states(folder / "state")
    events = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    return {
        "models": [load_checkpoint(folder / name)[0]["digest"] for name in ("last.safetensors", "best.safetensors")],
        "state": load_checkpoint(newest, KIND)[0]["digest"],
        "losses": [(e["step"], e["values"]["loss"], e["values"]["gradient_norm"]) for e in events],
    }


def was_interrupted(folder) -> bool:
    """Whether a start of Python with torch (more than half a second) lies between two steps of the log, which are milliseconds apart."""
    times = [e["time"] for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    return max(b - a for a, b in pairwise(times)) > 0.5


@pytest.mark.parametrize("moments", [pytest.param(2, marks=pytest.mark.ci), pytest.param(20, marks=pytest.mark.full)])
def test_training_survives_kill_9_at_random_moments(tiny, tmp_path, moments):
    steps = 250  # so many that about half of all moments lie between the first and the last
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**tiny, "steps": steps, "checkpoint_every": 2, "evaluate_every": 10}))
    command = [*TRAIN, str(path), "--out", str(tmp_path / RUN)]
    outcomes = kill_at_random_moments(command, {"OMP_NUM_THREADS": "1"}, moments, seed=10)
    whole = fingerprint(tmp_path / "whole")
    assert [step for step, *_ in whole["losses"]] == list(range(steps))
    for outcome in outcomes:
        assert outcome.status == 0, outcome.stderr
        assert outcome.orphans == ()
        assert fingerprint(tmp_path / outcome.run) == whole, outcome
    inside = [outcome for outcome in outcomes if was_interrupted(tmp_path / outcome.run)]
    assert inside
    print(f"\n{len(outcomes)} kills, {len(inside)} of them between the first and the last step; all runs ended with the same bits")
