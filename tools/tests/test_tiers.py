"""The tiers of the root conftest.py, seen from a small project that uses it."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PLAIN = ("-p", "no:hypothesispytest")  # importing hypothesis anew takes a second
CONFTEST = Path(__file__).parents[2] / "conftest.py"
SUITE = """
import os, pytest
def test_push(): assert os.environ["OMP_NUM_THREADS"]
@pytest.mark.ci
def test_ci(): assert 2 + 2 == 4
@pytest.mark.full
@pytest.mark.ci
def test_full(): assert 3 + 3 == 6
"""
DATA_TEST = """
def test_set(shared_data): assert (shared_data("water") / "energies").read_text() == "-76.4"
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("MLIPFM_SHARED_DATA", raising=False)
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini("[pytest]\nmarkers =\n  ci\n  full\n  shared_data\n")
    return pytester


@pytest.mark.parametrize(("tier", "passed"), [("push", 1), ("ci", 2), ("full", 3)])
def test_a_tier_runs_itself_and_the_tiers_below(project: pytest.Pytester, tier: str, passed: int) -> None:
    project.makepyfile(SUITE)
    result = project.runpytest(*PLAIN, "--tier", tier)
    result.assert_outcomes(passed=passed, deselected=3 - passed)
    result.stdout.fnmatch_lines([f"tier {tier}: * s*"])


def test_push_is_the_default_and_says_what_it_left_out(project: pytest.Pytester) -> None:
    project.makepyfile(SUITE)
    result = project.runpytest(*PLAIN)
    result.stdout.fnmatch_lines(
        ["*::test_push", "not run: 1 of tier ci (--tier ci)", "not run: 1 of tier full*", "tier push: * s of 120 s budget"]
    )


def test_workers_say_what_they_left_out_once(project: pytest.Pytester) -> None:
    project.makepyfile(SUITE)
    result = project.runpytest_subprocess(*PLAIN, "-n", "2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_push", "not run: 1 of tier ci (--tier ci)", "not run: 1 of tier full*"])


def test_without_the_shared_folder_its_tests_are_skipped_with_the_reason(project: pytest.Pytester) -> None:
    project.makepyfile(DATA_TEST)
    result = project.runpytest(*PLAIN, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no shared data at *set MLIPFM_SHARED_DATA"])


def test_a_shared_set_is_unpacked_by_the_folder_s_own_script(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = project.mkdir("elsewhere")
    (shared / "water").mkdir()
    (shared / "water" / "energies").write_text("-76.4")
    (shared / "unpack.py").write_text("from pathlib import Path\ndef unpack(name): return Path(__file__).parent / name\n")
    monkeypatch.setenv("MLIPFM_SHARED_DATA", str(shared))
    project.makepyfile(DATA_TEST)
    project.runpytest(*PLAIN).assert_outcomes(passed=1)
