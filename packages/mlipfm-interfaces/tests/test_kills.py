"""The killer itself: a job that resumes correctly passes, one that cannot is caught."""

import sys

import kills
import pytest
from kills import kill_at_random_moments, same_bytes

#: Appends 10 lines, one every 20 ms. With "resume" it goes on behind the last whole line, else it starts behind whatever is there.
JOB = """
import os, sys, time
os.makedirs(sys.argv[1], exist_ok=True)
path = sys.argv[1] + "/lines"
done = open(path).read().count("\\n") if os.path.exists(path) and sys.argv[2] == "resume" else 0
with open(path, "a") as file:
    for k in range(done, 10):
        file.write(f"{k}\\n")
        file.flush()
        time.sleep(0.02)
"""


@pytest.mark.parametrize(("mode", "sound"), [("resume", True), ("restart", False)])
def test_a_job_that_repeats_what_it_had_done_is_caught(tmp_path, mode, sound):
    line = [sys.executable, "-c", JOB, str(tmp_path / "{run}"), mode]
    outcomes = kill_at_random_moments(line, {}, 2, seed=1)
    assert [outcome.status for outcome in outcomes] == [0, 0]
    differing = [outcome.run for outcome in outcomes if same_bytes(tmp_path / "whole", tmp_path / outcome.run)]
    assert (differing == []) == sound


@pytest.mark.ci
def test_processes_left_behind_by_a_kill_of_the_first_alone_are_named_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "PATIENCE", 0.3)
    child = "import time; time.sleep(1)"
    code = f"import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(0.6); c.kill(); c.wait()"
    first, second = kill_at_random_moments([sys.executable, "-c", code], {}, 2, seed=4)
    assert (first.whole_group, first.orphans) == (True, ())
    assert not second.whole_group
    assert len(second.orphans) == 1


def test_a_job_that_fails_undisturbed_is_reported_with_its_words():
    with pytest.raises(RuntimeError, match=r"the undisturbed run failed with status 1: .*\n.*\nZeroDivisionError"):
        kill_at_random_moments([sys.executable, "-c", "1/0"], {}, 1, seed=0)


def test_folders_with_another_file_or_other_bytes_differ(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").write_bytes(b"1")
    assert same_bytes(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "a" / "y").write_bytes(b"")
    (tmp_path / "b" / "deep" / "x").write_bytes(b"2")
    assert same_bytes(tmp_path / "a", tmp_path / "b") == ["deep/x", "y"]
