"""Run the tests beside each mutant and keep what became of it."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from mutants.planting import ROOT, Mutant, plant

#: Seconds that the tests of one mutant may take in one tier.
LIMIT = 600
#: Tiers in which a mutant is looked for, cheapest first.
TIERS = ("push", "ci")
#: Mutants whose tests are run together without a mistake, before the results are kept.
CHUNK = 20
#: File of the scratch folder that names the running test.
CURRENT = "running.txt"
#: What takes longest to import; the rest comes with the tests.
LIBRARIES = (
    "torch",
    "numpy",
    "pytest",
    "hypothesis",
    "pydantic",
    "safetensors.torch",
    "vesin",
    "typer",
    "ase.build",
    "ase.io",
    "scipy.stats",
)


@dataclass(frozen=True)
class Result:
    """What became of one mutant.

    Attributes:
        outcome: `noticed` by a test that failed; `hung` in a test that ends without the mistake; `survived`; `timed out`: no test failed
            within the limit, and nothing shows that the mistake is why.
        by: that test, or why there is none. tier: in which. seconds: all tests took. state: see `Mutant.state`.
    """

    outcome: str
    by: str
    tier: str
    seconds: float
    state: str

    @property
    def killed(self) -> bool:
        """Whether the tests found the mistake: a time-out alone finds nothing."""
        return self.outcome in ("noticed", "hung")


def read_results(path: Path) -> dict[str, Result]:
    """Results by name; none if there is no file."""
    return {name: Result(**entry) for name, entry in json.loads(path.read_text()).items()} if path.is_file() else {}


def run_all(mutants: Sequence[Mutant], path: Path, *, again: bool = False) -> dict[str, Result]:
    """Results of all `mutants`, written to `path` after every `CHUNK`; those that still hold are not run `again`.

    Raises:
        RuntimeError: after the last mutant, with all for which pytest itself did not run (see `run`) or whose test fails without the mistake too.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "mutants-hypothesis"))
    results, broken = read_results(path), []
    todo = [m for m in mutants if again or m.name not in results or results[m.name].state != m.state()]
    for start in range(0, len(todo), CHUNK):
        found: dict[str, Result] = {}
        for mutant in todo[start : start + CHUNK]:
            try:
                found[mutant.name] = result = run(mutant, known=results.get(mutant.name))
                print(
                    f"{result.outcome if result.outcome == 'noticed' else result.outcome.upper():9s} {mutant.name}: {result.by}", flush=True
                )
            except RuntimeError as error:
                broken.append(str(error))
        fail = _failing_without({result.by for result in found.values() if result.outcome == "noticed"})
        broken += [f"{name}: {result.by} fails without a mistake, too" for name, result in found.items() if result.by in fail]
        results |= {name: result for name, result in found.items() if result.by not in fail}
        path.write_text(json.dumps({name: asdict(r) for name, r in sorted(results.items())}, indent=1) + "\n")
    if broken:
        raise RuntimeError("\n".join(broken))
    return results


def run(mutant: Mutant, tiers: Sequence[str] = TIERS, limit: float = LIMIT, known: Result | None = None) -> Result:
    """Plant one mutant in a scratch folder and run the tests beside it, tier by tier, until one fails.

    The test that noticed it last time (`known`) runs alone before the others.

    Raises:
        RuntimeError: pytest itself did not run (no test collected, an unknown option).
    """
    begin, state = time.monotonic(), mutant.state()
    outcome, by, tier = "survived", "no test failed", tiers[-1]
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        home = plant(mutant, Path(scratch))
        beside = [str(path.relative_to(ROOT)) for path in mutant.test_paths]
        again = [(known.tier, [known.by])] if known and known.outcome == "noticed" and known.by.partition("::")[0] in beside else []
        for tried, tests in [*again, *((tier, beside) for tier in tiers)]:
            found = _found(mutant, tests, home, tried, limit)
            if found is not None:
                (outcome, by), tier = found, tried
                if outcome != "timed out":
                    break
    return Result(outcome, by, tier, round(time.monotonic() - begin, 1), state)


def _found(mutant: Mutant, tests: list[str], home: Path, tier: str, limit: float) -> tuple[str, str] | None:
    """Outcome and the one of `tests` that failed or did not end; None if all passed or none is of this tier."""
    log = home / "pytest.log"
    status = _pytest(["-x", *_words(tier), *tests], home, log, limit)
    if status is None:
        return _timed_out(mutant, tests, home, tier, limit)
    if status in (0, 5) or (status == 4 and "::" in tests[0]):  # 5: all are of a higher tier; 4: no test has that name any more
        return None
    output = log.read_text(errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) (\S+(?: \S+)*?)(?: - .*)?$", output, re.MULTILINE)
    if status not in (1, 2, 3) or found is None:  # 3: a test failed, and pytest then fell over a process that it left behind
        raise RuntimeError(f"{mutant.name}: pytest ended with {status}:\n{output[-2000:]}")
    return "noticed", found.group(1)


def _timed_out(mutant: Mutant, tests: list[str], home: Path, tier: str, limit: float) -> tuple[str, str]:
    """Tell a mistake that hangs from tests that are slow.

    The test in which the time ran out is run alone: a mistake `hung` if it still does not end in half the limit, and without the mistake ends
    in a tenth of it.
    """
    current = home / CURRENT
    if not current.is_file():
        return "timed out", f"{limit:.0f} s before the first test"
    test = current.read_text()
    if tests != [test]:
        return _found(mutant, [test], home, tier, limit / 2) or (
            "timed out",
            f"{limit:.0f} s, the last of them in {test}, which passes alone",
        )
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        begin = time.monotonic()
        status = _pytest([*_words(tier), test], Path(scratch), Path(scratch) / "pytest.log", limit / 5)
    if status == 0:
        return "hung", f"{test} (ends in {time.monotonic() - begin:.0f} s without the mistake)"
    return "timed out", f"{limit:.0f} s in {test}, which " + ("does not end" if status is None else "fails") + " without the mistake, too"


def _words(tier: str) -> list[str]:
    """Options of pytest; its plug-ins may be loaded already."""
    return ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "--tier", tier]


def _failing_without(tests: set[str]) -> set[str]:
    """Those of `tests` that fail without any mistake, too: they notice nothing. All are run at once, if pytest finds them all by their names."""
    named = sorted(test for test in tests if "::" in test)  # else a file that could not be imported
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        log = Path(scratch) / "pytest.log"
        status = _pytest([*_words("ci"), *named], Path(scratch), log, 2 * LIMIT) if named else 0
        if status in (0, 1):
            said = log.read_text(errors="replace") if status else ""
            return set(re.findall(r"^(?:FAILED|ERROR) (\S+(?: \S+)*?)(?: - .*)?$", said, re.MULTILINE))
        if len(named) > 1:  # 4: a name has characters that pytest does not find again
            return {test for one in named for test in _failing_without({one})}
        return set() if status == 4 else set(named)


def _pytest(words: list[str], home: Path, log: Path, limit: float) -> int | None:
    """Exit status of pytest in a copy of this process, in which the heavy libraries are loaded and mlipfm is not; None after `limit` seconds."""
    for library in LIBRARIES:
        importlib.import_module(library)
    assert not any(name.startswith("mlipfm") for name in sys.modules)
    child = os.fork()
    if child == 0:
        _become_pytest(words, home, log)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class _Current:
    """A plug-in of pytest that writes the name of the running test to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.path.write_text(nodeid)


def _become_pytest(words: list[str], home: Path, log: Path) -> NoReturn:
    """Run pytest from the root with `home` before everything else on the path, here and in processes that tests start."""
    status = 3
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(home))
        import pytest

        status = int(pytest.main(words, plugins=[_Current(home / CURRENT)]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def table(mutants: Sequence[Mutant], results: dict[str, Result]) -> str:
    """Markdown: mutants and those noticed for each package, and those that were not, with those that only hung, by name."""
    lines = ["| package | mutants | noticed |", "|---|---|---|"]
    for package in sorted({mutant.package for mutant in mutants}):
        own = [results[m.name].killed for m in mutants if m.package == package]
        lines.append(f"| {package} | {len(own)} | {sum(own)} |")
    killed = sum(results[m.name].killed for m in mutants)
    lines += [f"| all | {len(mutants)} | {killed} ({100 * killed / max(1, len(mutants)):.1f} %) |", ""]
    told = [(results[m.name], m) for m in mutants if results[m.name].outcome != "noticed"]
    return "\n".join([*lines, *(f"{r.outcome}: {m.name}: {m.fact}" + (f" ({r.by})" if r.outcome != "survived" else "") for r, m in told)])
