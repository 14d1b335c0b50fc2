"""The quickstart: a tiny plan end to end, continued after kills, and what it concludes from what it measured."""

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
import yaml
from mlipfm import jobs
from mlipfm.jobs import Job
from mlipfm.plan import FULL, HELD_OUT, QUICK, claim
from mlipfm.quickstart import MODELS
from mlipfm.registry import missing
from mlipfm.results import Results
from mlipfm_interfaces.checkpoint import load_checkpoint, tensor_digest
from mlipfm_interfaces.errors import MlipfmError, RegistryError, TrainingError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import make_record

SMALL = "potential.backbone.channels=8"
TINY = replace(
    QUICK, name="tiny", unlabelled=4, finetune=3, valid=2, test=4, known=6, finetune_steps=8, student_steps=8,
    backbone="{channels: 8}", student=SMALL, nve_fs=20.0, nvt_fs=20.0, speed_steps=3,
)  # fmt: skip

PROGRAM = """
import sys
from pathlib import Path
from mlipfm.data import make_data
from mlipfm.jobs import run_lanes
from mlipfm.quickstart import distillation, quickstart, training
from mlipfm_data.parallel import worker_pool
from test_quickstart import TINY
from rich.console import Console

def models(out, console, first):
    out.mkdir(exist_ok=True)
    with worker_pool(2) as pool:
        make_data(out, TINY, pool, console)
        run_lanes(out, [lane[:2] for lane in training(TINY)] if first else training(TINY), pool, console)
        if not first:
            run_lanes(out, distillation(TINY), pool, console)

if __name__ == "__main__":
    what, out, console = sys.argv[1], Path(sys.argv[2]).resolve(), Console(width=200)
    quickstart(out, TINY, console) if what == "registry" else models(out, console, what == "first models")
"""


def test_folder_of_another_plan_is_refused(tmp_path):
    claim(tmp_path, QUICK)
    claim(tmp_path, QUICK)
    with pytest.raises(TrainingError, match=r"another quickstart \(finetune: 12 -> 30; .*choose another folder by --out"):
        claim(tmp_path, FULL)


def test_molecules_of_the_test_are_in_no_set_that_a_released_model_was_trained_on():
    from mlipfm_data.conformers import quickstart_molecules
    from mlipfm_data.generation.molecules import connectivity, held_out

    excluded = {connectivity(smiles) for smiles in held_out().values()}
    smiles = quickstart_molecules()
    assert {name for name in smiles if connectivity(smiles[name]) in excluded} >= set(HELD_OUT)


def test_the_backbone_from_scratch_is_that_of_the_released_model():
    from mlipfm_interfaces.checkpoint import load_model
    from mlipfm_interfaces.plugins import DEFAULT_MODEL

    config = load_model(DEFAULT_MODEL)[1]["config"]["backbone"]
    assert yaml.safe_load(FULL.backbone).items() <= config.items()


def write(text: str) -> None:
    with Path("made").open("a") as file:
        file.write(text)


def test_a_job_is_done_once_and_again_if_it_changed_or_its_result_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def done(text: str) -> str:
        job = Job("writing", "made", call=write, arguments=(text,))
        if not jobs._is_done(tmp_path, job):
            jobs._run_lane(tmp_path, [job])
        return Path("made").read_text()

    assert done("a") == done("a") == "a"
    assert done("b") == "ab"
    Path("made").unlink()
    assert done("b") == "b"
    assert jobs.seconds_of(tmp_path).keys() == {"writing"}


def test_a_command_that_fails_is_named_with_its_last_line_and_its_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MlipfmError, match=r"training.log: `mlipfm train no-such` failed: .*cannot read the recipe"):
        jobs._run_lane(tmp_path, [Job("training", "run", ("train", "no-such"))])


def results(
    ratio: tuple[float, float, float], errors: dict[str, float], broken: dict[str, list[str]] | None = None, n_ok: int = 4
) -> Results:
    """Records of models with these force errors on known molecules, the second compared with the first."""
    records = {}
    for name, error in errors.items():
        figures = [Metric("force MAE", "meV/Å", error, None, 3, 3).as_dict() | {"key": "force_mae", "set": "known"}]
        figures.insert(0, figures[0] | {"value": 0.1, "element": "H"})
        rules = (broken or {}).get(name, [])
        records[f"evaluation-{name}"] = make_record("evaluation", "0" * 64, passed=True, metrics=figures)
        records[f"check-{name}"] = make_record("check", "0" * 64, passed=not rules, metrics=[], details={"broken": rules})
    figure = Metric("force MAE ratio", "1", ratio[1], (ratio[0], ratio[2]), n_ok, 4).as_dict() | {"set": "known"}
    details = {"question": "distillation", "title": "student / alone"}
    return Results(records | {"comparison-x": make_record("evaluation", "0" * 64, passed=True, metrics=[figure], details=details)})


def test_the_best_model_has_the_lowest_error_on_known_molecules_of_those_that_passed_their_check():
    errors = {"broken": 1.0, "good": 2.0, "fair": 3.0}
    assert results((1, 1, 1), errors, {"broken": ["nve-drift"]}).best == "good"
    with pytest.raises(RegistryError, match="no model has passed its check"):
        _ = results((1, 1, 1), {"broken": 1.0}, {"broken": ["nve-drift"]}).best


def test_a_conclusion_is_drawn_only_where_the_interval_excludes_one_and_no_model_failed():
    errors = {"student": 1.0}
    assert results((0.4, 0.5, 0.7), errors).conclusions == [
        "Force error with distillation, student / alone: lower on new geometries of known molecules (0.5 [0.4, 0.7])."
    ]
    assert "higher on new geometries of known molecules" in results((1.1, 1.2, 1.3), errors).conclusions[0]
    unclear = ["No difference beyond the noise of so few molecules: distillation."]
    assert results((0.8, 1.0, 1.3), errors).conclusions == results((0.4, 0.5, 0.7), errors, n_ok=3).conclusions == unclear
    assert (
        results((0.8, 1.0, 1.3), errors, {"student": ["nve-drift"]}).conclusions[1] == "student is not for dynamics: it breaks nve-drift."
    )


def test_registry_is_left_out_visibly_without_mlflow(monkeypatch):
    assert missing() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing() == "mlflow is not installed (pip install 'mlipfm-train[mlflow]')"


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


@pytest.mark.parametrize(
    ("what", "signs", "names"),
    [pytest.param("first models", ("from-scratch/events.jsonl",), ("finetuned", "from-scratch"), marks=pytest.mark.full),
     pytest.param("all models", ("geometries", "student/events.jsonl"), MODELS[1:], marks=pytest.mark.full)],
)  # fmt: skip
def test_killed_quickstart_goes_on_and_gives_the_same_models(program, tmp_path, what, signs, names):
    """Killed when these files appear: while it makes geometries (full tier), while it trains; the models equal those of an uninterrupted run."""
    finish(start(program, what, tmp_path / "whole"))
    for sign in signs:
        kill_at(program, what, tmp_path / "parts", sign)
    finish(start(program, what, tmp_path / "parts"))
    for name in names:
        weights = [tensor_digest(load_checkpoint(tmp_path / run / name / "last.safetensors")[1]) for run in ("whole", "parts")]
        assert weights[0] == weights[1], name


@pytest.mark.full
def test_whole_quickstart_killed_while_it_checks_ends_with_a_promoted_model(program, tmp_path):
    """Everything, a hub included, which the kill leaves running and the second run uses and stops; a third run changes nothing."""
    out = tmp_path / "run"
    kill_at(program, "registry", out, "records/check-student.json")
    output = finish(start(program, "registry", out))
    for said in ("$ mlipfm check", "Your model", "Look at it: file://", "How it compares"):
        assert said in output
    document = json.loads((out / "quickstart.json").read_bytes())
    registry = json.loads((out / "records" / "registry.json").read_bytes())
    assert registry["model"] == document["models"][document["best"]]
    assert not (out / "hub" / "hub.json").exists()
    assert "quickstart@production" in (out / "report.html").read_text()
    finish(start(program, "registry", out))
    again = json.loads((out / "quickstart.json").read_bytes())
    assert {**again, "seconds": 0} == {**document, "seconds": 0}
