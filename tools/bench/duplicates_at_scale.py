"""How long duplicates take to find, and how many are found: a store of real structures with planted copies.

python duplicates_at_scale.py FOLDER [--count 100000] [--workers 2]

FOLDER is searched for files that a reader knows. Where they hold fewer structures than asked, frames of them with every atom displaced by about
0.1 Å fill up: other geometries of the same systems, the hard case. 5 % of all are disguised copies (see `curation.planting`).
"""

import argparse
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlipfm_data import Store, StoreWriter, read
from mlipfm_data.curation.duplicates import find_duplicates
from mlipfm_data.curation.planting import KINDS, disguise, possible
from mlipfm_data.curation.pool import processes
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Provenance, Structure

PER_FILE, PLANTED = 3000, 0.05


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


def measure(folder: Path, count: int, workers: int, seed: int = 0) -> dict[str, object]:
    """Seconds and recall, as a record of figures."""
    rng = np.random.default_rng(seed)
    copies = int(PLANTED * count)
    base = list(islice(real(folder), count - copies))
    with TemporaryDirectory() as scratch:
        origin, kinds, atoms = [], Counter[str](), 0
        with StoreWriter(Path(scratch) / "store", name="scale") as writer:
            for s in filled(base, count - copies, rng):
                writer.add(s)
            for k in rng.choice(len(base), copies).tolist():
                kind = str(rng.choice(possible(base[k], list(KINDS))))
                writer.add(disguise(base[k], kind, rng))
                origin.append((k, kind))
        begin, before = time.perf_counter(), used()
        with Store(Path(scratch) / "store") as store, processes(workers) as executor:
            atoms = int(store.natoms.sum())
            report = find_duplicates(store, executor=executor)
        seconds, work = time.perf_counter() - begin, used() - before
    cluster = {k: n for n, members in enumerate(report.clusters) for k in members}
    found = [cluster.get(count - copies + q, -1) == cluster.get(k) for q, (k, _) in enumerate(origin)]
    for (_, kind), hit in zip(origin, found, strict=True):
        kinds[kind if hit else f"{kind} MISSED"] += 1
    return {
        "structures": count,
        "of real files": len(base),
        "atoms": atoms,
        "seconds": round(seconds, 1),
        "cpu seconds": round(work, 1),
        "planted": copies,
        "recall": float(np.mean(found)),
        "kinds": dict(kinds),
        "duplicates": len(report.duplicates),
        "candidates": report.found.candidates,
        "not superimposed": report.found.crowded,
        "within": report.within(),
        "not compared": dict(report.unfit),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.folder, arguments.count, arguments.workers), indent=1))
