"""The planted mistakes: every one fits the source, and the tests beside it notice at least 95 % of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mutants.planting import ROOT, MutantError, plant, read_mutants
from mutants.running import Result, run, run_all, table

PROGRAM = ROOT / "tools" / "mutants"


def test_every_mutant_changes_one_place_of_the_source_and_has_tests_beside_it() -> None:
    mutants = read_mutants()
    assert len(mutants) >= 60
    assert all(mutant.fact and mutant.tests for mutant in mutants)


def test_a_mutant_that_does_not_fit_is_an_error_of_the_list() -> None:
    mutant = read_mutants()[0]
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
    first, second = read_mutants()[:2]
    known = {m.name: Result(killed, "a test", "push", 1.0, m.state()) for m, killed in ((first, True), (second, False))}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({name: vars(result) for name, result in known.items()}))
    assert run_all([first, second], path) == known
    lines = table([first, second], known).splitlines()
    assert lines[2:4] == [f"| {first.package} | 2 | 1 |", "| all | 2 | 1 (50.0 %) |"]
    assert lines[-1] == f"survived: {second.name}: {second.fact}"


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
        "print(running.run(mutant).killed, running.run(replace(mutant, new=mutant.old + '  # the same'), tiers=('push',)).killed)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split()[-2:] == ["True", "False"], found.stderr
    assert callable(run)


@pytest.mark.full
def test_the_tests_notice_95_percent_of_the_planted_mistakes() -> None:
    """Resumes: mutants whose file and tests have not changed since their result are not run again."""
    found = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
