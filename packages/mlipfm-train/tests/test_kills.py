"""kill -9 at random moments of training, saves included: the resumed result is that of an undisturbed run, to the bit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml
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


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.ci), pytest.param(100, marks=pytest.mark.full)])
def test_training_survives_kill_9_at_random_moments(tiny, tmp_path, kills):
    """Processes that are forked once everything is imported: nearly all moments lie between the first step and the last, saves included."""
    steps = 24
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**tiny, "steps": steps, "checkpoint_every": 2, "evaluate_every": 10}))
    command = [*TRAIN[:2], FORKED, str(path), str(tmp_path), str(kills)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=6 * 3600)
    whole = fingerprint(tmp_path / "whole")
    assert [step for step, *_ in whole["losses"]] == list(range(steps))
    reached = [int((tmp_path / f"{k}.killed-at").read_text()) for k in range(kills)]
    for k in range(kills):
        assert fingerprint(tmp_path / str(k)) == whole, (k, reached[k])
    print(
        f"\n{kills} kills, {sum(0 < n < steps for n in reached)} of them between the first and the last step; all ended with the same bits"
    )
    assert sum(0 < n < steps for n in reached) > kills / 2


#: Trains in a forked child, kills it at a random moment after a random step, notes how many steps it had done, and trains on.
FORKED = """
import os, pathlib, random, signal, sys, time, torch
from mlipfm_train.events import read_events
from mlipfm_train import fit, load_recipe
torch.set_num_threads(1)
recipe, folder, kills = load_recipe(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])

def begin(name):
    child = os.fork()
    if not child:
        status = 1
        try:
            fit(recipe, folder / name)
            status = 0
        finally:
            os._exit(status)
    return child

def end(child):
    assert os.waitpid(child, 0)[1] == 0

def done(name):
    log = folder / name / "events.jsonl"
    return sum(e["kind"] == "step" for e in read_events(log)) if log.exists() else 0

end(begin("whole"))
rng = random.Random(10)
for k in range(kills):
    child, step, deadline = begin(str(k)), rng.randrange(recipe.steps), time.monotonic() + 120
    while done(str(k)) < step and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.1 * rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (folder / f"{k}.killed-at").write_text(str(done(str(k))))
    end(begin(str(k)))
"""
