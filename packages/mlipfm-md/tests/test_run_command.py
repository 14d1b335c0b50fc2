"""`mlipfm md run` on bad input: one line on stderr, exit status 2, no traceback, nothing left behind that hinders the next try."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlipfm_interfaces.checkpoint import build, save_potential
from mlipfm_interfaces.cli import main

WATER = "3\nProperties=species:S:1:pos:R:3\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("md")
    model = build("painn", {"elements": ["H", "O"], "levels": ["x"], "backbone": {"channels": 8, "layers": 1}, "scale": 0.05})
    save_potential(path / "model.safetensors", model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    save_potential(path / "poisoned.safetensors", model)
    whole = (path / "model.safetensors").read_bytes()
    (path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (path / "pickle.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    (path / "water.xyz").write_text(WATER)
    (path / "polonium.xyz").write_text("1\nProperties=species:S:1:pos:R:3\nPo 0 0 0\n")
    (path / "nan.xyz").write_text(WATER.replace("0.119", "nan"))
    (path / "overlap.xyz").write_text(WATER.replace("-0.763", "0.764"))
    return path


def md(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "md", "run", *words]
    return subprocess.run(
        line, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False
    )


BAD = {
    ("cut.safetensors", "water.xyz"): r"damaged-file.*truncated or damaged",
    ("pickle.safetensors", "water.xyz"): r"refused-file.*is a pickle",
    ("poisoned.safetensors", "water.xyz"): r"simulation.*\d+ of its [\d,]+ weights are not finite; its training has diverged",
    ("model.safetensors", "polonium.xyz"): r"unknown-element.*not trained on Po; it supports H O",
    ("model.safetensors", "nan.xyz"): r"invalid-structure.*frame 0, atom 0.*not finite",
    ("model.safetensors", "overlap.xyz"): r"overlapping-atoms.*closer than 0.1",
    ("model.safetensors", "water.xyz", "--dt", "50"): r"simulation.*at most 10 fs",
    ("model.safetensors", "nowhere.xyz"): r"unreadable-file.*nowhere.xyz",
    ("model.safetensors", "water.xyz", "--temperature", "300,400"): r"simulation.*2 temperatures were given for 1 systems",
    ("model.safetensors", "water.xyz", "--temperature", ""): r"simulation.*'' is no list of temperatures",
    (
        "model.safetensors",
        "water.xyz",
        "--threads",
        "2",
    ): r"simulation.*threads are those of compiled kernels, and this model runs without one",
    ("http://127.0.0.1:9", "water.xyz", "--level", "pbe"): r"simulation.*--model http://127.0.0.1:9\?level=pbe",
    ("emt:", "water.xyz", "--level", "pbe"): r"simulation.*--level: a model of another package has one level of theory",
}


@pytest.mark.parametrize(("words", "said"), BAD.items())
def test_bad_input_is_one_line_and_exit_2(folder, words, said, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        main(["md", "run", *words])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert re.search(said, err)
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.ci
def test_bad_input_of_a_process_of_its_own_is_one_line_and_exit_2(folder):
    done = md(folder, "poisoned.safetensors", "water.xyz")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.ci
def test_good_input_runs_and_exports(folder):
    done = md(folder, "model.safetensors", "water.xyz", "--steps", "100", "--every", "5", "--out", "run", "--export", "run.xyz")
    assert done.returncode == 0, done.stderr
    assert "21 frames written to run.xyz" in done.stdout
    assert (folder / "run" / "run.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.full
def test_sigterm_saves_the_state_at_once_and_the_same_command_goes_on_with_the_same_bits(folder):
    tail = ["--steps", "400", "--temperature", "300"]
    words = ["md", "run", "model.safetensors", "water.xyz", *tail, "--out", "stopped"]
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", *words]
    running = subprocess.Popen(
        line, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    table = folder / "stopped" / "energies.csv"
    while not (table.exists() and table.read_bytes().count(b"\n") > 3) and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert re.search(r"stopped at step \d+, and the state is saved in stopped\n.*run the same command again", err)
    assert (folder / "stopped" / "restart.safetensors").is_file()
    assert table.read_bytes().count(b"\n") < 42
    assert md(folder, *words[2:]).returncode == md(folder, *words[2:-1], "unstopped").returncode == 0
    assert table.read_bytes() == (folder / "unstopped" / "energies.csv").read_bytes()
    assert (folder / "run.xyz").exists()
