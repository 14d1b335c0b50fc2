"""Structures per second of `mlipfm data import` of one extended XYZ file, beside ASE's reading of it, and the memory that both take.

Each runs in a process of its own: `python extxyz_import.py mlipfm|ase FILE` prints structures, CPU seconds and peak memory in MiB.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

#: Structures of 20 atoms in the file: the smaller for the rate, all for the memory.
SIZES, QUICK = (10_000, 100_000, 1_000_000), (500,)
REPEATS = 3


def measured(quick: bool) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """Name, unit, values of mlipfm and of ASE."""
    for count in QUICK if quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "structures.extxyz"
            write(path, count)
            repeats = REPEATS if count <= SIZES[0] else 1
            ours, theirs = zip(*((_child("mlipfm", path), _child("ase", path)) for _ in range(repeats)), strict=True)
        name = f"extended XYZ, {count:,} structures of 20 atoms"
        yield name, "structures/s CPU", [n / s for n, s, _ in ours], [n / s for n, s, _ in theirs]
        yield name, "MiB peak memory", [m for _, _, m in ours], [m for _, _, m in theirs]


def write(path: Path, count: int) -> None:
    """A file as ASE writes it: random positions in a periodic cell, with energies and forces."""
    rng, symbols = np.random.default_rng(0), [*("C" * 6), *("H" * 14)]
    grid = 2.5 * np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[:20]
    head = 'Lattice="9.0 0.0 0.0 0.0 9.0 0.0 0.0 0.0 9.0" Properties=species:S:1:pos:R:3:forces:R:3'
    with path.open("w", encoding="ascii") as stream:
        for k in range(count):
            rows = np.hstack([grid + rng.normal(0, 0.1, (20, 3)), rng.normal(0, 1.0, (20, 3))]).tolist()
            lines = [f"{s:2s} " + " ".join(f"{x:16.8f}" for x in row) for s, row in zip(symbols, rows, strict=True)]
            stream.write(f'20\n{head} energy={-1000.0 + 1e-3 * k:.6f} pbc="T T T"\n' + "\n".join(lines) + "\n")


def _child(kind: str, path: Path) -> tuple[int, float, float]:
    done = subprocess.run([sys.executable, __file__, kind, str(path)], check=True, capture_output=True, text=True)
    count, spent, memory = json.loads(done.stdout.splitlines()[-1])
    return count, spent, memory


def main(kind: str, path: Path) -> None:
    """Import or read the file and print what it took; what is imported first is not counted."""
    if kind == "ase":
        from ase.io import iread

        next(iter(iread(path, ":")))
        begin = time.process_time()
        count = sum(1 for _ in iread(path, ":"))
    else:
        from mlipfm_data.importing import Importer

        with tempfile.TemporaryDirectory() as folder:
            short = Path(folder) / "short.extxyz"
            write(short, 2)
            for file in (short, path):
                begin = time.process_time()
                with Importer(Path(folder) / file.stem, name="bench") as importer:
                    count = importer.add(file, level="pbe").stored
    spent = time.process_time() - begin
    print(json.dumps([count, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
