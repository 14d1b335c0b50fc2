"""`mlipfm train`: one line for every mistake, and nothing heavy until it is needed."""

from __future__ import annotations

import signal
import subprocess
import sys
from io import StringIO

import pytest
import yaml
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.cli import main
from mlipfm_train.progress import ProgressBar
from mlipfm_train.train_command import EXAMPLE
from rich.console import Console

#: Labels of Morse atoms are those of no chemistry: as energies in eV they look wrong by a unit.
ACCEPTED = "--accept-label-errors"


def run(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["train", *words])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_importing_the_package_and_its_command_imports_nothing_heavy():
    code = "import sys, mlipfm_train, mlipfm_train.commands; print(sorted({'torch', 'ase', 'mlflow', 'rdkit', 'tblite', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_run_from_the_command_line_and_its_continuation(tiny, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny))
    status, out, _ = run(capsys, str(path), ACCEPTED, "steps=3", "--out", str(tmp_path / "run"))
    assert (status, "force MAE" in out, "best.safetensors" in out) == (0, True, True)
    status, again, _ = run(capsys, str(path), ACCEPTED, "steps=3", "--out", str(tmp_path / "run"))
    assert (status, again.splitlines()) == (0, ["all 3 steps are done: nothing to train", *out.splitlines()[-3:]])
    status, out, _ = run(capsys, str(path), ACCEPTED, "steps=4", "--out", str(tmp_path / "run"))
    assert (status, "extended from 3 to 4 steps" in out, "goes on with step 4 of 4" in out) == (0, True, True)
    status, _, err = run(capsys, str(path), ACCEPTED, "steps=3", "--out", str(tmp_path / "run"))
    assert (status, "cannot be shortened: steps: 4 -> 3" in err) == (2, True)


def test_a_time_limit_ends_the_command_with_success_and_the_same_command_goes_on(tiny, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny))
    status, out, _ = run(capsys, str(path), ACCEPTED, "--time-limit", "0.001s", "--out", str(tmp_path / "run"))
    assert (status, "the same command goes on with step 2" in out) == (0, True)
    status, out, _ = run(capsys, str(path), ACCEPTED, "--out", str(tmp_path / "run"))
    assert (status, "goes on with step 2 of 12" in out) == (0, True)


@pytest.mark.ci
def test_ctrl_c_ends_after_the_step_with_its_state_saved_and_the_same_command_ends_with_the_same_bits(tiny, tmp_path, capsys, monkeypatch):
    class Pressed(ProgressBar):
        def __call__(self, event):
            super().__call__(event)
            if (event["kind"], event["step"]) == ("step", 4):
                signal.raise_signal(signal.SIGINT)

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny))
    assert run(capsys, str(path), ACCEPTED, "--out", str(tmp_path / "whole"))[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("mlipfm_train.train_command.ProgressBar", Pressed)
        status, _, err = run(capsys, str(path), ACCEPTED, "--out", str(tmp_path / "run"))
    assert (status, "stopping after this step" in err, "Traceback" in err) == (130, True, False)
    status, out, _ = run(capsys, str(path), ACCEPTED, "--out", str(tmp_path / "run"))
    assert (status, "goes on with step 6 of 12" in out) == (0, True)
    digests = [load_checkpoint(tmp_path / name / "last.safetensors")[0]["digest"] for name in ("whole", "run")]
    assert digests[0] == digests[1]


def test_a_report_stops_before_step_0(tiny, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny))
    status, out, _ = run(capsys, str(path), ACCEPTED, "--report", "--out", str(tmp_path / "run"))
    assert status == 0
    assert "12 steps of about" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [(), ("--report",)])
def test_gradients_in_place_of_forces_stop_a_recipe_unless_they_are_accepted(tiny, tmp_path, capsys, morse_structures, write_store, words):
    turned = [s.replace(labels={**s.labels, "forces": -s.labels["forces"]}) for s in morse_structures(24, 0)]
    store, path = write_store(tmp_path / "gradients", turned), tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**tiny, "steps": 1, "data": {"train": [str(store)], "budget": 40}}))
    status, _, err = run(capsys, str(path), *words, "--out", str(tmp_path / "run"))
    assert (status, f"{store}: forces-sign: " in err, f"`mlipfm data check-labels {store}` shows them" in err) == (2, True, True)
    assert not (tmp_path / "run").exists()
    status, out, _ = run(capsys, str(path), ACCEPTED, *words, "--out", str(tmp_path / "run"))
    assert (status, f"warning: labels of {store}: fault forces-sign" in out) == (0, True)


def test_the_example_is_a_recipe(tmp_path, capsys):
    status, out, _ = run(capsys, "--example")
    assert (status, out) == (0, EXAMPLE)
    path = tmp_path / "recipe.yaml"
    path.write_text(out)
    status, _, err = run(capsys, str(path))
    assert status == 2
    assert "train-store" in err  # everything is right but the store that is not there


def test_shipped_recipes_are_listed_printed_and_run_by_name(capsys):
    status, out, _ = run(capsys, "--list")
    assert status == 0
    assert all(name in out for name in ("mace", "finetune", "min of one core on 3BPA"))
    status, out, _ = run(capsys, "mace", "--example")
    assert (status, "name: mace" in out) == (0, True)


def test_a_store_that_is_not_there_leaves_no_folder_and_a_folder_of_the_user_as_it_was(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for name in ("new", "mine"):
        status, _, err = run(capsys, "mace", "--data", str(tmp_path / "no-store"), "--out", str(tmp_path / name))
        assert (status, "no-store" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--list", "mace"], "take no changes"),
        (["--example", "--out", "x"], "leave out --out"),
        (["--ui", "runs.db", "--out", "x"], "leave out --out"),
        (["recipe.yaml", "stepz=3"], "did you mean 'steps'"),
        (["missing.yaml"], "or the name of a recipe that `mlipfm train --list` shows"),
        ([], "give a recipe"),
        (["recipe.yaml", "strategy.name=ddp"], "needs several processes"),
        (["recipe.yaml", "data.train=w/x"], "data.train: a list is wanted, got the text 'w/x'; write [w/x]"),
        (["recipe.yaml", "weight_rule.name=emo"], "did you mean 'ema'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tiny, tmp_path, capsys, monkeypatch, words, message):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny))
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *words)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_progress_bar_tells_loss_error_and_time_per_step():
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    figure = {"name": "force MAE", "unit": "meV/A", "value": 12.345}
    with ProgressBar(10, console) as bar:
        bar({"kind": "validation", "step": 4, "values": {"metrics": [figure]}})
        bar({"kind": "step", "step": 5, "values": {"loss": 0.25, "seconds": 0.031}})
    text = screen.getvalue()
    assert "step 5: force MAE 12.35 meV/A" in text or "step 5: force MAE 12.34 meV/A" in text
    assert "loss 0.25" in text
    assert "31 ms/step" in text
    assert "6/10" in text
