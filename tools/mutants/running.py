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
from functools import cache
from pathlib import Path
from typing import NoReturn

from mutants.planting import ROOT, Mutant, plant

#: Seconds that the tests of one mutant may take; a mutant that hangs is noticed.
LIMIT = 600
#: Tiers in which a mutant is looked for, cheapest first.
TIERS = ("push", "ci")
#: What takes longest to import; the rest comes with the tests.
LIBRARIES = ("torch", "numpy", "pytest", "hypothesis", "pydantic", "safetensors.torch", "vesin", "typer", "ase")


@dataclass(frozen=True)
class Result:
    """What became of one mutant.

    Attributes:
        killed: whether a test failed. by: that test, or why it counts as noticed. tier: in which. seconds: all tests took. state: see `Mutant.state`.
    """

    killed: bool
    by: str
    tier: str
    seconds: float
    state: str


def read_results(path: Path) -> dict[str, Result]:
    """Results by name; none if there is no file."""
    return {name: Result(**entry) for name, entry in json.loads(path.read_text()).items()} if path.is_file() else {}


def run_all(mutants: Sequence[Mutant], path: Path, *, again: bool = False) -> dict[str, Result]:
    """Results of all `mutants`, written to `path` after each; those that still hold are not run `again`."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "mutants-hypothesis"))
    results = read_results(path)
    for mutant in mutants:
        known = results.get(mutant.name)
        if again or known is None or known.state != mutant.state():
            results[mutant.name] = run(mutant, known=known)
            path.write_text(json.dumps({name: asdict(r) for name, r in sorted(results.items())}, indent=1) + "\n")
            print(f"{'killed  ' if results[mutant.name].killed else 'SURVIVED'} {mutant.name}: {results[mutant.name].by}", flush=True)
    return results


def run(mutant: Mutant, tiers: Sequence[str] = TIERS, limit: float = LIMIT, known: Result | None = None) -> Result:
    """Plant one mutant in a scratch folder and run the tests beside it, tier by tier, until one fails.

    The test that noticed it last time (`known`) runs alone before the others.

    Raises:
        RuntimeError: pytest itself did not run (no test collected, an unknown option), or the test that failed fails without the mistake too.
    """
    begin, state = time.monotonic(), mutant.state()
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        home = plant(mutant, Path(scratch))
        beside = [str(path.relative_to(ROOT)) for path in mutant.test_paths]
        again = [(known.tier, [known.by])] if known and known.killed and known.by.partition("::")[0] in beside else []
        for tier, tests in [*again, *((tier, beside) for tier in tiers)]:
            failed = _failed(mutant, tests, home, tier, limit)
            if failed is not None:
                _refuse_broken(failed, limit)
                break
    return Result(failed is not None, failed or "no test failed", tier, round(time.monotonic() - begin, 1), state)


def _failed(mutant: Mutant, tests: list[str], home: Path, tier: str, limit: float) -> str | None:
    """The one of `tests` that failed, None if all passed or none is of this tier."""
    loaded = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # its plug-ins may be loaded already
    words = ["-x", "-q", "-p", "no:cacheprovider", *loaded, "--tier", tier, *tests]
    log = home / "pytest.log"
    status = _forked(words, home, log, limit)
    if status is None:
        return f"the time limit of {limit:.0f} s"
    if status in (0, 5) or (status == 4 and "::" in tests[0]):  # 5: all are of a higher tier; 4: no test has that name any more
        return None
    output = log.read_text(errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) (\S+(?: \S+)*?)(?: - .*)?$", output, re.MULTILINE)
    if status not in (1, 2) or found is None:
        raise RuntimeError(f"{mutant.name}: pytest ended with {status}:\n{output[-2000:]}")
    return found.group(1)


@cache
def _refuse_broken(test: str, limit: float) -> None:
    """A test that fails without any mistake notices nothing."""
    if "::" not in test:  # the time limit, or a file that could not be imported
        return
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        home = Path(scratch)
        words = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "--tier", "ci", test]
        if _forked(words, home, home / "pytest.log", limit) not in (0, 4):  # 4: its name has characters that pytest does not find again
            raise RuntimeError(f"{test} fails without a mistake, too")


def _forked(words: list[str], home: Path, log: Path, limit: float) -> int | None:
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

        status = int(pytest.main(words))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def table(mutants: Sequence[Mutant], results: dict[str, Result]) -> str:
    """Markdown: mutants and those noticed for each package, and the names of the survivors."""
    lines = ["| package | mutants | noticed |", "|---|---|---|"]
    for package in sorted({mutant.package for mutant in mutants}):
        own = [results[m.name].killed for m in mutants if m.package == package]
        lines.append(f"| {package} | {len(own)} | {sum(own)} |")
    killed = sum(results[m.name].killed for m in mutants)
    lines += [f"| all | {len(mutants)} | {killed} ({100 * killed / max(1, len(mutants)):.1f} %) |", ""]
    lines += [f"survived: {m.name}: {m.fact}" for m in mutants if not results[m.name].killed]
    return "\n".join(lines)
