"""`data`: reading a store in random order, its size, and collating with neighbours; 20 atoms with energy and forces in float32."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from mlipfm_data.store.shards import Shard
from mlipfm_data.store.store import Store, StoreWriter
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.structure import Provenance, Structure

from bench.aselmdb import Reader, write
from bench.figures import Figure, figure, seconds

ATOMS, BATCH, CUTOFF = 20, 64, 5.0
PEER = "file in the layout of .aselmdb, our reading of it"
RATE = "structures/s"


def measure(threads: int, quick: bool) -> Iterator[Figure]:
    """See the module. The floor of reading is the system call, the checksum and one copy of every record's bytes."""
    n, theirs_n, repeats = (4_000, 500, 5) if quick else (50_000, 2_000, 9)
    with tempfile.TemporaryDirectory() as folder:
        here, rng = Path(folder), np.random.default_rng(0)
        structures = [structure(k) for k in range(n)]
        yield from _writing(here, structures, theirs_n, threads)
        store, reader = Store(here / "store"), Reader(here / "peer.aselmdb")
        _ = store[0]  # verifies hashes, which is done once in a process
        [shard] = store._shards

        def rates(read: Callable[[np.ndarray], object], size: int) -> list[float]:
            return [_rate(read, rng.permutation(size), threads) for _ in range(repeats)]

        peer = rates(reader.arrays, theirs_n)
        one = rates(lambda chosen: [store[k] for k in chosen.tolist()], n)
        yield figure("data", f"shuffled, as training reads, checksum verified, batches of {BATCH}", RATE, one, threads, PEER, peer)
        yield figure("data", "the same against its floor", RATE, one, threads, "pread + crc32 + copy", rates(_floor(shard), n))
        yield from _collating(store, rates, min(n, 4_000), threads)
        reader.close()


def structure(k: int) -> Structure:
    """Structure k: 20 atoms on a distorted grid of 1.5 Å, no two closer than 0.9 Å, with energy and forces."""
    rng = np.random.default_rng(k)
    grid = np.array(list(product(range(3), repeat=3)))[rng.permutation(27)[:ATOMS]]
    labels = {"energy": np.array(-100.0 + rng.normal()), "forces": rng.normal(size=(ATOMS, 3))}
    place = 1.5 * grid + rng.uniform(-0.15, 0.15, (ATOMS, 3))
    where = Provenance("bench", f"molecule {k // 100}", k)
    return Structure(rng.choice([1, 6, 7, 8], ATOMS), place, total_charge=0, level="gfn2-xtb", labels=labels, provenance=where)


def _writing(folder: Path, structures: list[Structure], theirs_n: int, threads: int) -> Iterator[Figure]:
    def ours() -> None:
        with StoreWriter(folder / "store", name="bench", single=True) as writer:
            for item in structures:
                writer.add(item)

    own = len(structures) / seconds(ours, threads)
    their = theirs_n / seconds(lambda: write(folder / "peer.aselmdb", structures[:theirs_n]), threads)
    yield figure("data", "written, read back, verified and sealed", RATE, [own], threads, PEER, [their])
    size = sum(path.stat().st_size for path in (folder / "store").iterdir()) / len(structures)
    arrays = 4.0 * (3 * ATOMS + 3 * ATOMS + 1) + ATOMS  # positions, forces and energy in float32, atomic numbers as bytes
    yield figure(
        "data", "size of the store, index and manifest included", "bytes/structure", [size], threads, "its arrays in float32", [arrays]
    )


def _collating(store: Store, rates: Callable[..., list[float]], n: int, threads: int) -> Iterator[Figure]:
    def theirs(chosen: np.ndarray) -> None:
        for k in chosen.tolist():
            s = store[k]
            neighbor_list("ijS", Atoms(s.atomic_numbers, s.positions), CUTOFF)

    peer = rates(theirs, n // 10)
    for layout in ("pairs", "dense"):
        graph = GraphSpec(CUTOFF, layout)
        found = rates(lambda chosen, graph=graph: collate([store[k] for k in chosen.tolist()], [graph]), n)
        what = f"read and collated with neighbours, {CUTOFF:g} Å, {layout}"
        yield figure("data", what, RATE, found, threads, "read, neighbor_list of ASE", peer)


def _rate(read: Callable[[np.ndarray], object], order: np.ndarray, threads: int) -> float:
    def everything() -> None:
        for k in range(0, len(order), BATCH):
            read(order[k : k + BATCH])

    return len(order) / seconds(everything, threads)


def _floor(shard: Shard) -> Callable[[np.ndarray], object]:
    columns, descriptor = shard.columns, shard._descriptor()
    starts, lengths = columns.start.tolist(), (columns.end - columns.start).tolist()

    def read(chosen: np.ndarray) -> bytes:
        records = [os.pread(descriptor, lengths[k], starts[k]) for k in chosen.tolist()]
        for record in records:
            zlib.crc32(record)
        return b"".join(records)

    return read
