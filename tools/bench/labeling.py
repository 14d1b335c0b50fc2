"""`label`: GFN2-xTB labels of molecules with `label_all` on two processes, beside two processes that only loop over tblite.

The raw loop makes a calculator for each molecule, with the same settings, fetches the same outputs, and keeps nothing. Ours also checks, sends,
writes a log from which a killed run goes on, and writes a store, reads it back and hashes it. Both sets of processes have started when the clocks do.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from mlipfm_data.conformers import conformers, quickstart_molecules
from mlipfm_data.labeling import label_all
from mlipfm_data.normal_modes import NormalModeSampler
from mlipfm_data.parallel import worker_pool
from mlipfm_data.tblite_adapter import ACCURACY, BOHR
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.structure import Structure

from bench.figures import Figure, figure

WORKERS, SMALLEST, LARGEST = 2, 6, 12
RAW = "bare tblite loop, 2 processes"
OUTPUTS = ("energy", "gradient", "charges", "dipole")

_Atoms = tuple[np.ndarray, np.ndarray]  # [N] atomic numbers, [N, 3] positions in Å


def measure(threads: int, quick: bool) -> Iterator[Figure]:
    """Labels are made in blocks, with a raw block before and after each; 100,000 labels unless `quick`."""
    block, blocks, raw = (1_000, 3, 500) if quick else (100_000, 1, 10_000)
    structures = molecules(block * blocks)
    own, theirs = list[tuple[float, float]](), list[tuple[float, float]]()
    with worker_pool(WORKERS) as pool, tempfile.TemporaryDirectory() as folder:
        label_all(structures[:100], TbliteLabeler(), Path(folder) / "warm", executor=pool, workers=WORKERS, progress=False)
        theirs.append(_raw(pool, structures[:raw]))
        for k in range(blocks):
            own.append(_ours(pool, structures[k * block : (k + 1) * block], Path(folder) / f"{k}"))
            theirs.append(_raw(pool, structures[k * block : k * block + raw]))
    atoms = np.mean([len(s) for s in structures])
    what = f"{block:,} molecules of {SMALLEST} to {LARGEST} atoms (mean {atoms:.1f}), {WORKERS} processes"
    for column, unit in enumerate(("labels/s", "ms CPU/label")):
        values = [[measured[column] for measured in side] for side in (own, theirs)]
        yield figure("label", what, unit, values[0], threads, RAW, values[1])


def molecules(n: int) -> list[Structure]:
    """Normal-mode samples at 300 K of small organic molecules, in random order."""
    rng = np.random.default_rng(0)
    starts = [conformers(smiles, n=1, seed=0)[0] for smiles in quickstart_molecules().values()]
    starts = [s for s in starts if SMALLEST <= len(s) <= LARGEST]
    samples = [s for start in starts for s in NormalModeSampler().sample(start, n // len(starts) + 1, rng)]
    return [samples[k] for k in rng.permutation(len(samples))[:n].tolist()]


def _ours(pool: ProcessPoolExecutor, structures: list[Structure], out: Path) -> tuple[float, float]:
    """(labels/s, ms of CPU for each label in all processes)."""
    begin, cpu = time.perf_counter(), _cpu()
    report = label_all(structures, TbliteLabeler(), out, executor=pool, workers=WORKERS)
    assert report.labelled == len(structures), report.lines()
    return len(structures) / (time.perf_counter() - begin), 1e3 * (_cpu() - cpu) / len(structures)


def _raw(pool: ProcessPoolExecutor, structures: list[Structure]) -> tuple[float, float]:
    """The same of the raw loop."""
    parts = [[(s.atomic_numbers, s.positions) for s in structures[k::WORKERS]] for k in range(WORKERS)]
    found = [future.result() for future in [pool.submit(_loop, part) for part in parts]]
    rate = sum(len(part) / seconds for part, (seconds, _) in zip(parts, found, strict=True))
    return rate, 1e3 * sum(cpu for _, cpu in found) / len(structures)


def _loop(atoms: list[_Atoms]) -> tuple[float, float]:
    """Seconds on the wall and of CPU. Runs in a worker."""
    from tblite.interface import Calculator

    begin, cpu = time.perf_counter(), time.process_time()
    for numbers, positions in atoms:
        calculator = Calculator("GFN2-xTB", numbers, positions / BOHR, 0.0, 0)
        calculator.set("verbosity", 0)
        calculator.set("accuracy", ACCURACY)
        result = calculator.singlepoint()
        for name in OUTPUTS:
            result.get(name)
    return time.perf_counter() - begin, time.process_time() - cpu


def _cpu() -> float:
    """Seconds of CPU that this process and its children have used (Linux)."""
    total, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / tick
    return total
