"""Parts of a user's file for training, validation and test: given as files, or divided as asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write
from mlipfm.own_file.parts import divide
from mlipfm.own_file.recipe import with_steps
from mlipfm.own_file.request import Request
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_train import make_recipe
from users_files import TINY, labelled, run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """`train.xyz`, `valid.xyz` and `test.xyz`; one test frame is also trained on."""
    train = labelled(24)
    write(tmp_path / "train.xyz", train)
    write(tmp_path / "valid.xyz", labelled(5, seed=1))
    write(tmp_path / "test.xyz", [*labelled(6, seed=2), train[3]])
    return tmp_path


@pytest.mark.ci
def test_errors_are_those_of_the_test_file_that_is_given(files, capsys):
    """All of FILE is trained on, what it shares with the test file is said, and another test file is another request."""
    out = files / "out"
    words = ("train", files / "train.xyz", *TINY, "--level", "emt", "--steps", 5, "--out", out)
    status, text, err = run(capsys, *words, "--valid", files / "valid.xyz", "--test", files / "test.xyz")
    assert status == 0, err
    assert "split: as given: train 24, valid 5, test 7" in text
    assert f"1 of 7 structures of {files / 'test.xyz'} are trained on too" in text
    assert len(read(out / "predictions.xyz", ":")) == 7
    assert "trained on too" in (out / "report.html").read_text()
    write(files / "test.xyz", labelled(6, seed=3))
    status, _, err = run(capsys, *words, "--valid", files / "valid.xyz", "--test", files / "test.xyz")
    assert (status, "test_fingerprint" in err) == (2, True), err


def test_a_test_part_of_another_level_is_refused(files, capsys):
    """A store says its level itself, and no name that is given for the training file is put over it."""
    assert run(capsys, "data", "import", files / "test.xyz", "--level", "pbe", "--out", files / "store")[0] == 0
    status, _, err = run(capsys, "train", files / "train.xyz", *TINY, "--level", "emt", "--test", files / "store", "--out", files / "out")
    assert status == 2
    assert "has labels of pbe, the structures to train on have those of emt" in err
    assert not (files / "out").exists()


def test_one_given_part_leaves_the_other_to_be_held_out(files, capsys):
    out = files / "out"
    status, _, err = run(
        capsys, "train", files / "train.xyz", *TINY, "--level", "emt", "--steps", 2, "--test", files / "test.xyz", "--out", out
    )
    assert status == 0, err
    sizes = json.loads((out / "result.json").read_text())["sizes"]
    assert sizes["test"] == 7
    assert sizes["train"] + sizes["valid"] == 24
    assert 1 <= sizes["valid"] <= 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--valid", "valid.xyz", "--test", "test.xyz", "--split", "random"), "--split has no effect with --valid and --test"),
        (("--test", "none.xyz"), "there is no such file"),
        (("--valid", "valid.xyz", "--valid", "test.xyz"), "is one file or store"),
        (("--split", "group"), "24 of 24 structures give no group; --read group_key=KEY names what tells the groups, or --split random"),
    ],
)
def test_parts_that_cannot_be_are_refused_by_name(words, message, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    status, _, err = run(capsys, "train", "train.xyz", *TINY, "--level", "emt", "--steps", 2, *words, "--out", files / "out")
    assert (status, message in " ".join(err.split())) == (2, True), err


def test_the_schedule_that_the_user_changes_is_kept():
    """The time decides the steps, not how long a warm-up the user asked for lasts."""
    document = {"potential": {"name": "painn"}, "schedule": {"name": "cosine", "warmup": 500}}
    changed, plain = (
        with_steps(make_recipe(document), Request(Path("f"), Path("o"), steps=2000, changes=changes), 0.01, 1.0)
        for changes in (("schedule.warmup=500",), ())
    )
    assert (changed.schedule.warmup, plain.schedule.warmup) == (500, 100)
    assert changed.steps == plain.steps == 2000


def _of_group(name: str, n: int, rng: np.random.Generator) -> list[Structure]:
    provenance = Provenance(source="set", group=name)
    corners = 3.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    return [Structure(np.full(5, 29), corners + rng.normal(scale=0.3, size=(5, 3)), provenance=provenance) for _ in range(n)]


def test_few_groups_that_are_held_out_are_told_by_their_names():
    """As in the sets of one element by Zuo et al. (2020): one group of dynamics is a fifth of the file and is not what is held out alone."""
    rng = np.random.default_rng(0)
    structures = [s for k in range(20) for s in _of_group(f"strained {k}", 4, rng)] + _of_group("3000 K", 20, rng)
    made, how = divide(structures, 0)
    assert "Errors are those of a few new kinds; --split random tests on more of the same kinds" in how
    for part in ("valid", "test"):
        names = {structures[k].provenance.group for k in made.parts[part]}
        assert names.isdisjoint(structures[k].provenance.group for k in made.parts["train"])
        assert 6 <= len(made.parts[part]) <= 12
        assert all(str(name) in how for name in names)
    for seed in range(1, 12):  # whatever comes first by chance
        assert all(6 <= len(divide(structures, seed)[0].parts[part]) <= 12 for part in ("valid", "test"))
    shuffled, how = divide(structures, 0, by="random")
    assert "--split random asks for it" in how
    assert len({structures[k].provenance.group for k in shuffled.parts["test"]}) > 5


def test_blocks_of_time_of_a_trajectory_that_comes_back_say_how_many_held_out_frames_are_trained_on():
    """There and back: the second half, whose end is held out, repeats the first. A trajectory that goes on has no such frames."""
    steps = np.linspace(0.0, 3.0, 30)
    for path, alike in ((np.concatenate([steps, steps[::-1] + 1e-4]), True), (np.linspace(0.0, 6.0, 60), False)):
        frames = [
            Structure(
                np.array([8, 1, 1]), np.array([[0, 0, 0], [0.96 + x, 0, 0], [-0.24, 0.93, 0]]), provenance=Provenance(group="w", index=k)
            )
            for k, x in enumerate(path)
        ]
        made, why = divide(frames, 0, by="time")
        held_out = len(made.parts["valid"]) + len(made.parts["test"])
        expected = (
            f"; {held_out} held-out frames are near-duplicates of training frames, or linked to them by others: errors are too small"
            if alike
            else ""
        )
        assert why == f"blocks of time, since --split time asks for it{expected}"
