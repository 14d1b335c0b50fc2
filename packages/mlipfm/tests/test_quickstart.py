"""The quickstart: a tiny plan end to end, continued after a kill, and what its verdict says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlipfm.measure_stage import Findings
from mlipfm.plan import FULL, HELD_OUT, QUICK, claim
from mlipfm_interfaces.checkpoint import load_checkpoint, tensor_digest
from mlipfm_interfaces.errors import TrainingError
from mlipfm_interfaces.metrics import Metric

TINY = replace(
    QUICK, name="tiny", pretrain=4, finetune=3, valid=2, test=4, pretrain_steps=12, finetune_steps=8, channels=8, layers=1, nve_fs=20.0
)

PROGRAM = """
import sys
from pathlib import Path
from mlipfm.quickstart import quickstart
from test_quickstart import TINY
from rich.console import Console
if __name__ == "__main__":
    quickstart(Path(sys.argv[1]), TINY, Console())
"""


def findings(low: float, value: float, high: float, n_ok: int = 4) -> Findings:
    return Findings({}, Metric("force MAE ratio", "1", value, (low, high), n_ok, 4), {}, {}, {})


def test_verdict_says_plainly_when_fine_tuning_did_not_help():
    assert findings(0.4, 0.5, 0.7).verdict.startswith("Fine-tuning helped: force error 0.50 [0.40, 0.70]")
    assert findings(0.8, 1.0, 1.3).verdict.startswith("Fine-tuning did not help beyond the noise")
    assert findings(1.1, 1.2, 1.3).verdict.startswith("Fine-tuning did not help, it hurt")


def test_no_verdict_is_given_where_a_model_failed():
    assert findings(0.4, 0.5, 0.7, n_ok=3).verdict.startswith("No verdict on fine-tuning: a model failed on 1 of 4 structures")


def test_folder_of_another_plan_is_refused(tmp_path):
    claim(tmp_path, QUICK)
    claim(tmp_path, QUICK)
    with pytest.raises(TrainingError, match=r"other settings \(name, pretrain, .*choose another --out"):
        claim(tmp_path, FULL)


def test_full_plan_has_about_three_thousand_structures():
    from mlipfm.geometries import molecules

    train = len(molecules()) - len(HELD_OUT)
    assert 2500 <= train * FULL.per_molecule + len(HELD_OUT) * FULL.test <= 3500


def start(program: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, str(program), str(out)], stdout=subprocess.PIPE, env=environment, start_new_session=True)


@pytest.mark.ci
def test_killed_quickstart_goes_on_and_gives_the_same_models(tmp_path):
    """kill -9 of the whole process group in two stages; models and figures equal those of an uninterrupted run."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    whole = start(program, tmp_path / "whole")
    output = whole.communicate(timeout=300)[0].decode()
    assert whole.returncode == 0, output
    assert "Energy drift" in output
    for sign in ("geometries", "scratch/events.jsonl"):
        child = start(program, tmp_path / "parts")
        deadline = time.monotonic() + 200
        while not (tmp_path / "parts" / sign).exists() and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    again = start(program, tmp_path / "parts")
    assert again.communicate(timeout=300)[0]
    assert again.returncode == 0
    first, second = (json.loads((tmp_path / name / "quickstart.json").read_bytes()) for name in ("whole", "parts"))
    for record in (first, second):
        record.pop("seconds")
        record.pop("models")  # their manifests name the folders of the data
    assert first == second
    for name in ("pretrained", "finetuned", "scratch"):
        weights = [tensor_digest(load_checkpoint(tmp_path / run / name / "last.safetensors")[1]) for run in ("whole", "parts")]
        assert weights[0] == weights[1]
