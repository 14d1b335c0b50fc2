"""`duplicates`: how long duplicates take to find, and how many are found, in a store of real structures with planted copies.

A folder is searched for files that a reader knows. Where they hold fewer structures than asked, frames of them with every atom displaced by about
0.1 Å fill up: other geometries of the same systems, the hard case. 5 % of all are disguised copies, 1 % copies that are strained or have an atom
displaced and must not be found (see `curation.planting`).
"""

import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlipfm_data import Store, StoreWriter, read
from mlipfm_data.duplicates.match import TOLERANCE, match
from mlipfm_data.duplicates.report import find_duplicates
from mlipfm_data.parallel import processes
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Provenance, Structure
from sets.planted_duplicates import KINDS, NEAR_MISSES, disguise, possible

from bench.figures import Figure, figure

PER_FILE, PLANTED, NEARLY = 3000, 0.05, 0.01


def real(folder: Path) -> Iterator[Structure]:
    """Structures of every readable file, without labels; each file a trajectory of its own."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            for s in islice(read(path), PER_FILE):
                if isinstance(s, Structure):
                    yield s.replace(labels={}, label_std={}, provenance=Provenance(source=path.parent.name, group=path.name))
        except (MlipfmError, OSError, ValueError):
            continue


def filled(structures: list[Structure], count: int, rng: np.random.Generator) -> Iterator[Structure]:
    yield from islice(structures, count)
    for s in islice(cycle(structures), max(0, count - len(structures))):
        yield s.replace(positions=s.positions + rng.normal(scale=0.06, size=s.positions.shape))


def used() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def figures(found: dict[str, Any]) -> Iterator[Figure]:
    """Time, recall and false positives of what `measure` found."""
    what = f"{found['structures']:,} structures ({found['of real files']:,} of real files) of {found['atoms'] / found['structures']:.0f} atoms, "
    what += f"{found['workers']} processes"
    for name, unit, value in (
        ("search", "s", found["seconds"]),
        ("search, all processes", "s CPU", found["cpu seconds"]),
        (f"recall of {found['planted']:,} disguised copies", "1", found["recall"]),
        (f"found of {found['near misses']:,} near misses", "1", found["false positives"] / found["near misses"]),
    ):
        yield figure("duplicates", f"{what}: {name}", unit, [value], 1)


def measure(folder: Path, count: int, workers: int, seed: int = 0) -> dict[str, Any]:
    """Seconds, recall and false positives, with counts of each kind of copy."""
    rng = np.random.default_rng(seed)
    copies, misses = int(PLANTED * count), int(NEARLY * count)
    kept = count - copies - misses
    base = list(islice(real(folder), kept))
    planted: list[tuple[int, str]] = []  # original and disguise of each
    with TemporaryDirectory() as scratch:
        with StoreWriter(Path(scratch) / "store", name="scale") as writer:
            for s in filled(base, kept, rng):
                writer.add(s)
            for number, kinds in ((copies, list(KINDS)), (misses, list(NEAR_MISSES))):
                for k in rng.choice([k for k in range(len(base)) if possible(base[k], kinds)], number).tolist():
                    kind = str(rng.choice(possible(base[k], kinds)))
                    writer.add(disguise(base[k], kind, rng))
                    planted.append((k, kind))
        begin, before = time.perf_counter(), used()
        with Store(Path(scratch) / "store") as store, processes(workers) as executor:
            atoms = int(store.natoms.sum())
            report = find_duplicates(store, executor=executor)
        seconds, work = time.perf_counter() - begin, used() - before
    cluster = {k: members for members in report.clusters for k in members}
    found = [_with_its_original(cluster.get(kept + q, ()), base, k) for q, (k, _) in enumerate(planted[:copies])]
    direct = {(p.first, p.second) for p in report.duplicates}
    wrong = sum((k, kept + copies + q) in direct for q, (k, _) in enumerate(planted[copies:]))
    outcome = Counter(kind if hit else f"{kind} MISSED" for (_, kind), hit in zip(planted[:copies], found, strict=True))
    return {
        "structures": count,
        "workers": workers,
        "of real files": len(base),
        "atoms": atoms,
        "seconds": round(seconds, 1),
        "cpu seconds": round(work, 1),
        "planted": copies,
        "recall": float(np.mean(found)),
        "kinds": dict(sorted(outcome.items())),
        "near misses": misses,
        "false positives": wrong,
        "duplicates": len(report.duplicates),
        "candidates": report.found.candidates,
        "not superimposed": report.found.crowded,
        "within": report.within(),
        "not compared": dict(report.unfit),
    }


def _with_its_original(members: Sequence[int], base: Sequence[Structure], original: int) -> bool:
    """Whether a cluster holds the original, or a frame that is the same as it: files repeat frames, and one then stands for all."""
    if original in members:
        return True
    return any(match(base[k], base[original], 2 * TOLERANCE) is not None for k in members if k < len(base))
