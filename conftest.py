"""Test tiers with time budgets, and the shared data folder.

A test without a mark belongs to the push tier; `ci` and `full` marks move it up. `--tier` runs its tier and those below.
"""

import importlib.util
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Set before anything imports torch. The tests are small, and spinning threads on two cores slow everything 10-50 times.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BUDGETS = {"push": 120, "ci": 18 * 60, "full": None}  # seconds
TIERS = list(BUDGETS)
SLOWEST = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=TIERS, default="push", help="run the tests of this tier and the tiers below (default: push)")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(TierReport(config.getoption("--tier"), config), "tiers")


def pytest_xdist_auto_num_workers() -> int:
    """Workers of `-n auto`: one per core, and no more than memory allows at 3 GiB each (torch, and the largest tests)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, int(memory / 3)))


def tier_of(item: pytest.Item) -> str:
    """The highest tier an item is marked with; push without a mark."""
    return next((tier for tier in reversed(TIERS) if item.get_closest_marker(tier)), "push")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the higher tiers and skip what needs the shared data where there is none."""
    chosen = TIERS.index(config.getoption("--tier"))
    higher = [item for item in items if TIERS.index(tier_of(item)) > chosen]
    if higher:
        config.pluginmanager.getplugin("tiers").left_out = Counter(map(tier_of, higher))
        config.hook.pytest_deselected(items=higher)
        items[:] = [item for item in items if item not in set(higher)]
    folder = shared_folder(config)
    if not (folder / "unpack.py").is_file():
        absent = pytest.mark.skip(reason=f"no shared data at {folder}; set MLIPFM_SHARED_DATA")
        for item in items:
            if item.get_closest_marker("shared_data") or "shared_data" in getattr(item, "fixturenames", ()):
                item.add_marker(absent)


class TierReport:
    """Says after the run what was left out, how the time compares with the budget, and where it went."""

    def __init__(self, tier: str, config: pytest.Config) -> None:
        self.tier = tier
        self.config = config
        self.start = time.monotonic()
        self.left_out: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        """A worker of pytest-xdist hands what it left out to the process that prints the report."""
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["left_out"] = dict(self.left_out)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.left_out = Counter(getattr(node, "workeroutput", {}).get("left_out", self.left_out))  # every worker collects all tests

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        budget = BUDGETS[self.tier]
        used = time.monotonic() - self.start
        line = f"tier {self.tier}: {used:.0f} s" + (f" of {budget} s budget" if budget else "")
        over = budget is not None and used > budget
        terminalreporter.section("tiers")
        for name in sorted(self.seconds, key=self.seconds.__getitem__, reverse=True)[:SLOWEST]:
            terminalreporter.line(f"{self.seconds[name]:7.2f} s  {name}")
        for tier, count in self.left_out.items():
            terminalreporter.line(f"not run: {count} of tier {tier} (--tier {tier})")
        terminalreporter.line(line + (", over budget" if over else ""), yellow=over)


def shared_folder(config: pytest.Config) -> Path:
    """Where the shared data lie: MLIPFM_SHARED_DATA, else `shared/data` beside the clone."""
    return Path(os.environ.get("MLIPFM_SHARED_DATA", config.rootpath.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Function from the name of a shared set to its unpacked folder; a test that asks for it is skipped where there are none."""
    spec = importlib.util.spec_from_file_location("shared_data_unpack", shared_folder(pytestconfig) / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    unpack: Callable[[str], Path] = module.unpack
    return unpack
