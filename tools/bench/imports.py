"""`import`: CPU seconds of a fresh process that imports a package or prints the help of the command; importing data files beside ASE's reading."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.extxyz_import import measured
from bench.figures import Figure, figure

PACKAGES = ("mlipfm_interfaces", "mlipfm_data", "mlipfm_models", "mlipfm_train", "mlipfm_md", "mlipfm_eval", "mlipfm_distill", "mlipfm")


def measure(threads: int, quick: bool) -> Iterator[Figure]:
    """Each against `python -c pass` (the floor); the packages together, and the command, against `import ase` as well."""
    repeats = 5 if quick else 11
    floor = _times(["-c", "pass"], repeats)
    ase = _times(["-c", "import ase"], repeats)
    for name in PACKAGES:
        found = _times(["-c", f"import {name}"], repeats)
        yield figure("import", f"import {name}", "s CPU", found, threads, "python -c pass", floor)
    everything = _times(["-c", f"import {', '.join(PACKAGES)}"], repeats)
    yield figure("import", "import all packages", "s CPU", everything, threads, "import ase", ase)
    command = str(Path(sys.executable).parent / "mlipfm")
    yield figure("import", "mlipfm --help", "s CPU", _times([command, "--help"], repeats), threads, "import ase", ase)
    for name, unit, ours, theirs in measured(quick):
        yield figure("import", name, unit, ours, threads, "ase.io.iread", theirs)


def _times(arguments: list[str], repeats: int) -> list[float]:
    """CPU seconds (user and system) of each of `repeats` processes; one before them is not counted, it fills the caches."""
    return [_cpu([sys.executable, *arguments]) for _ in range(repeats + 1)][1:]


def _cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
