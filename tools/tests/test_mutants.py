"""The planted mistakes: every one fits the source, and the tests beside it notice at least 95 % of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from mutants import running
from mutants.planting import ROOT, Mutant, MutantError, plant, read_mutants
from mutants.running import CURRENT, Result, run, run_all, table

PROGRAM = ROOT / "tools" / "mutants"


@cache
def every_mutant() -> list[Mutant]:
    """Read once: each of the list is applied to its file."""
    return read_mutants()


def test_every_mutant_changes_one_place_of_the_source_and_has_tests_beside_it() -> None:
    mutants = every_mutant()
    assert len(mutants) >= 60
    assert all(mutant.fact and mutant.tests for mutant in mutants)


def test_a_mutant_that_does_not_fit_is_an_error_of_the_list() -> None:
    mutant = every_mutant()[0]
    for changes, words in (
        ({"old": "no such line"}, "occurs 0 times in packages/"),
        ({"old": "e"}, r"occurs \d+ times in .*, not once"),
        ({"new": mutant.old}, "nothing is changed"),
        ({"new": "(" + mutant.old}, "what results is no Python"),
        ({"tests": ("test_of_nothing.py",)}, "there is no packages/.*/tests/test_of_nothing.py"),
    ):
        with pytest.raises(MutantError, match=words):
            replace(mutant, **changes).mutated()
    with pytest.raises(MutantError, match="'x' is not in the list"):
        read_mutants(["x"])


def test_planting_changes_one_file_of_a_copy_and_nothing_of_the_source(tmp_path: Path) -> None:
    mutant = read_mutants(["painn-no-scalar-product"])[0]
    before = mutant.source.read_text()
    home = plant(mutant, tmp_path)
    copied, original = home / mutant.module, mutant.source.parents[1]
    files = {path.relative_to(copied) for path in copied.rglob("*.py")}
    assert files == {path.relative_to(original) for path in original.rglob("*.py")}
    assert [str(f) for f in files if (copied / f).read_text() != (original / f).read_text()] == [mutant.file]
    assert mutant.source.read_text() == before


def test_results_that_still_hold_are_kept_and_counted_by_package(tmp_path: Path) -> None:
    first, second = every_mutant()[:2]
    known = {m.name: Result(outcome, "a test", "push", 1.0, m.state()) for m, outcome in ((first, "noticed"), (second, "survived"))}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({name: vars(result) for name, result in known.items()}))
    assert run_all([first, second], path) == known
    lines = table([first, second], known).splitlines()
    assert lines[2:4] == [f"| {first.package} | 2 | 1 |", "| all | 2 | 1 (50.0 %) |"]
    assert lines[-1] == f"survived: {second.name}: {second.fact}"


@pytest.mark.parametrize(
    ("statuses", "outcome", "words"),
    [
        ([None, None, 0], "hung", "ends in 0 s without the mistake"),
        ([None, None, None], "timed out", "does not end without the mistake, too"),
        ([None, None, 1], "timed out", "fails without the mistake, too"),
        ([None, 0], "timed out", "passes alone"),
        ([None, 1], "noticed", "a_test.py::test_of_it"),
    ],
)
def test_a_time_out_counts_only_if_the_same_test_alone_ends_without_the_mistake(
    statuses: list[int | None], outcome: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(statuses)

    def pytest_that_ends(options: list[str], home: Path, log: Path, limit: float) -> int | None:
        (home / CURRENT).write_text("a_test.py::test_of_it")
        log.write_text("FAILED a_test.py::test_of_it - AssertionError\n")
        return next(left)

    monkeypatch.setattr(running, "_pytest", pytest_that_ends)
    mutant = every_mutant()[0]
    found = run(mutant, tiers=("push",))
    assert (found.outcome, found.killed, words in found.by) == (outcome, outcome in ("noticed", "hung"), True), found
    assert list(left) == []
    lines = table([mutant], {mutant.name: found}).splitlines()
    assert (lines[2], len(lines)) == (f"| {mutant.package} | 1 | {int(found.killed)} |", 4 if outcome == "noticed" else 6)


def test_a_test_that_fails_without_the_mistake_notices_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = every_mutant()[:2]
    failed = {first.name: "a_test.py::test_right", second.name: "a_test.py::test_broken"}
    monkeypatch.setattr(running, "run", lambda mutant, known: Result("noticed", failed[mutant.name], "push", 1.0, mutant.state()))

    def pytest_that_ends(options: list[str], home: Path, log: Path, limit: float) -> int:
        assert set(failed.values()) <= set(options)
        log.write_text("FAILED a_test.py::test_broken - AssertionError\n")
        return 1

    monkeypatch.setattr(running, "_pytest", pytest_that_ends)
    with pytest.raises(RuntimeError, match=f"{second.name}: a_test.py::test_broken fails without a mistake, too"):
        run_all([first, second], tmp_path / "results.json")
    assert list(running.read_results(tmp_path / "results.json")) == [first.name]


def test_the_list_is_printed_and_an_unknown_name_is_refused() -> None:
    found = subprocess.run([sys.executable, str(PROGRAM), "--list"], capture_output=True, text=True)
    assert found.returncode == 0
    assert "painn-no-scalar-product\n    The update of PaiNN adds" in found.stdout
    unknown = subprocess.run([sys.executable, str(PROGRAM), "--only", "x"], capture_output=True, text=True)
    assert (unknown.returncode, unknown.stderr) == (2, "tools/mutants: 'x' is not in the list (--list shows it)\n")


@pytest.mark.full
def test_a_mistake_is_noticed_and_none_is_imagined(tmp_path: Path) -> None:
    """In a process of its own: mlipfm is loaded here."""
    code = (
        "import sys; from dataclasses import replace; sys.path.insert(0, 'tools'); from mutants import running, planting\n"
        "mutant = planting.read_mutants(['painn-no-scalar-product'])[0]\n"
        "same, endless = ('  # the same', '\\n        while True: pass')\n"
        "print(running.run(mutant).outcome, running.run(replace(mutant, new=mutant.old + same), tiers=('push',)).outcome)\n"
        "print(running.run(replace(mutant, new=mutant.old + endless), tiers=('push',), limit=150).outcome)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split()[-3:] == ["noticed", "survived", "hung"], found.stderr
    assert callable(run)


@pytest.mark.full
def test_the_tests_notice_95_percent_of_the_planted_mistakes() -> None:
    """Resumes: mutants whose file and tests have not changed since their result are not run again."""
    found = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
