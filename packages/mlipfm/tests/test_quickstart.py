"""The quickstart: a tiny plan end to end, continued after kills, and what it says of what it measured."""

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
from mlipfm.bench_rows import bench_rows
from mlipfm.findings import SETS, Findings, verdict
from mlipfm.kept import kept
from mlipfm.plan import FINETUNED, FULL, HELD_OUT, QUICK, claim
from mlipfm_interfaces.checkpoint import load_checkpoint, tensor_digest
from mlipfm_interfaces.errors import TrainingError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import make_record

TINY = replace(
    QUICK, name="tiny", pretrain=4, finetune=3, valid=2, test=4, known=6, pretrain_steps=12, finetune_steps=8, student_steps=8,
    channels=8, layers=1, student_channels=8, nve_fs=20.0, nvt_fs=20.0, speed_steps=3,
)  # fmt: skip

PROGRAM = """
import sys
from pathlib import Path
from mlipfm.data_stage import make_data
from mlipfm.quickstart import quickstart
from mlipfm.plan import claim
from mlipfm.stages import Stages
from mlipfm.tasks import run_tasks
from mlipfm.training_stage import training_tasks
from mlipfm_data.parallel import worker_pool
from test_quickstart import TINY
from rich.console import Console

def models(out):
    claim(out, TINY)
    with worker_pool(2) as pool:
        stages = Stages(Console())
        stores = make_data(out, TINY, stages, pool)
        run_tasks(training_tasks(out, TINY, stores, out / ".stop"), stages, pool, out / ".stop")

if __name__ == "__main__":
    out = Path(sys.argv[2])
    models(out) if sys.argv[1] == "models" else quickstart(out, TINY, Console(width=200), registry=sys.argv[1] == "registry")
"""


def ratio(low: float, value: float, high: float, n_ok: int = 4) -> Metric:
    return Metric("force MAE ratio", "1", value, (low, high), n_ok, 4)


def test_verdict_says_plainly_when_something_did_not_help():
    assert (
        verdict("Fine-tuning", "it", ratio(0.4, 0.5, 0.7))
        == "Fine-tuning helped: force error on held-out molecules 0.50 [0.40, 0.70] of it."
    )
    assert verdict("Fine-tuning", "it", ratio(0.8, 1.0, 1.3)).startswith("Fine-tuning did not help beyond the noise")
    assert verdict("Distillation", "it", ratio(1.1, 1.2, 1.3)).startswith("Distillation did not help, it hurt")


def test_no_verdict_is_given_where_a_model_failed():
    said = verdict("Fine-tuning", "it", ratio(0.4, 0.5, 0.7, n_ok=3))
    assert said.startswith("No verdict on fine-tuning: a model failed on 1 of 4 structures")


def test_folder_of_another_plan_is_refused(tmp_path):
    claim(tmp_path, QUICK)
    claim(tmp_path, QUICK)
    with pytest.raises(TrainingError, match=r"other settings \(name, pretrain, .*choose another --out"):
        claim(tmp_path, FULL)


def test_full_plan_has_about_three_and_a_half_thousand_structures():
    from mlipfm.geometries import molecules

    train = len(molecules()) - len(HELD_OUT)
    assert 3000 <= train * FULL.per_molecule + len(HELD_OUT) * FULL.test + 2 * len(FINETUNED) * FULL.known <= 4000


def test_kept_result_is_made_again_for_another_identity_or_a_damaged_file(tmp_path):
    path, made = tmp_path / "a" / "kept.json", []

    def compute() -> list[float]:
        made.append(1)
        return [0.1 * len(made)]

    assert kept(path, {"model": "a"}, compute) == kept(path, {"model": "a"}, compute) == [0.1]
    assert kept(path, {"model": "b"}, compute) == [0.2]
    path.write_bytes(path.read_bytes()[:-9])
    assert kept(path, {"model": "b"}, compute) == pytest.approx([0.3])
    assert len(made) == 3


def findings() -> Findings:
    """A run in which the student is faster and worse, its rows hurt, and the direct forces fail."""
    names = ("finetuned", "scratch", "student", "student-without-rows", "student-without-teacher")
    figure = Metric("figure", "meV/Å", 10.0, (9.0, 11.0), 4, 4).as_dict()
    rows = [figure | {"name": k, "set": s, "key": k} for s in SETS for k in ("energy_mae", "force_mae", "force_cosine")]
    evaluations = {name: make_record("evaluation", "0" * 64, passed=True, metrics=rows) for name in names}
    broken = {"pretrained": ["forces-are-gradient"]} | {name: [] for name in names}
    checks = {name: make_record("check", "0" * 64, passed=not b, metrics=[], details={"broken": b}) for name, b in broken.items()}
    sets = {name: ratio(1.1, 1.2, 1.3) for name in SETS}
    drift = {"pretrained": Metric("energy drift", "meV/atom/ps", 900.0, None, 3, 5)}
    drift["finetuned"] = Metric("energy drift", "meV/atom/ps", float("nan"), None, 0, 5)
    speeds = {"finetuned": [100.0, 90.0, 110.0], "student": [200.0, 210.0, 190.0], "gfn2-xtb": [30.0, 31.0, 32.0]}
    comparisons = ("finetuned_over_scratch", "student_over_teacher", "student_over_without_rows", "student_over_without_teacher")
    return Findings(evaluations, checks, dict.fromkeys(comparisons, sets), {k: {"drift": m} for k, m in drift.items()}, speeds, {})


def test_losers_are_named():
    said = findings().verdicts
    assert said[2].startswith("Rows of the Hessian did not help, it hurt")
    assert said[3].startswith("The student makes 2.00 times the steps per second of its teacher; its force error is 1.20 [1.10, 1.30]")
    assert (
        said[4] == "Lowest force MAE in meV/Å: known molecules: fine-tuned, 10; held-out molecules: fine-tuned, 10; hotter: fine-tuned, 10."
    )
    assert "pre-trained fails its check (forces-are-gradient) and is not promoted" in said[5]
    assert "2 of 5 trajectories of pre-trained at constant energy broke off" in said[5]


def test_rows_are_those_of_the_benchmarks_and_leave_out_what_was_not_measured():
    rows = bench_rows(findings(), {"total": 12.0})
    keys = ("bench", "name", "value", "unit", "n", "q1", "q3", "threads", "peer", "peer_value", "ratio", "commit")
    assert all(tuple(row) == keys for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows)
    assert by_name["dynamics, student"] | {"commit": ""} == dict(
        zip(keys, ("quickstart", "dynamics, student", 200.0, "steps/s", 3, 195.0, 205.0, 1, "fine-tuned", 100.0, 2.0, ""), strict=True)
    )
    assert "energy drift, fine-tuned" not in by_name
    assert by_name["energy drift, pre-trained"]["ratio"] is None


def start(program: Path, what: str, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    line = [sys.executable, str(program), what, str(out)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def finish(child: subprocess.Popen[bytes]) -> str:
    output = child.communicate(timeout=550)[0].decode()
    assert child.returncode == 0, output
    return output


def kill_at(program: Path, what: str, out: Path, sign: str) -> None:
    """Start, and kill -9 the whole process group when a file appears."""
    child = start(program, what, out)
    deadline = time.monotonic() + 500
    while not (out / sign).exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    assert (out / sign).exists()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


MODELS = ("pretrained", "finetuned", "scratch", "student", "student-without-rows", "student-without-teacher")


@pytest.mark.ci
def test_killed_quickstart_goes_on_and_gives_the_same_models(program, tmp_path):
    """Killed while it makes geometries and while it trains; the models equal those of an uninterrupted run."""
    finish(start(program, "models", tmp_path / "whole"))
    for sign in ("geometries", "student/events.jsonl"):
        kill_at(program, "models", tmp_path / "parts", sign)
    finish(start(program, "models", tmp_path / "parts"))
    for name in MODELS:
        weights = [tensor_digest(load_checkpoint(tmp_path / run / name / "last.safetensors")[1]) for run in ("whole", "parts")]
        assert weights[0] == weights[1], name


@pytest.mark.full
def test_whole_quickstart_killed_while_it_judges_ends_with_a_promoted_model(program, tmp_path):
    """Everything, a hub included, which the kill leaves running and the second run uses and stops; a third run changes no figure."""
    out = tmp_path / "run"
    kill_at(program, "registry", out, "records/check-student.json")
    output = finish(start(program, "registry", out))
    for said in (
        "Force MAE",
        "Dynamics of the held-out molecules",
        "pre-trained fails its check",
        "which another process pulled",
        "Report: file://",
    ):
        assert said in output
    record = json.loads((out / "quickstart.json").read_bytes())
    assert record["registry"]["pulled"] == record["models"][record["registry"]["best"]]
    assert "its last check failed" in record["registry"]["refused"]["pretrained"]
    assert not (out / "hub" / "hub.json").exists()
    page = (out / "report.html").read_text()
    for said in ("Errors in and out of distribution", "steps per second", "temperature with thermostat", "pulled back by another process"):
        assert said in page
    finish(start(program, "registry", out))
    again = json.loads((out / "quickstart.json").read_bytes())
    for changing in ("seconds", "rows"):
        record.pop(changing), again.pop(changing)
    assert again == record
