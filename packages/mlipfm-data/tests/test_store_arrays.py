"""`Store.arrays`: the same as reading structure by structure, bit for bit, and as watchful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mlipfm_data.store.store import Store, StoreWriter
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.errors import DamagedFileError, InvalidStructureError
from mlipfm_interfaces.flat import FlatStructures, flatten
from mlipfm_interfaces.structure import Provenance, Structure


def structure(k: int) -> Structure:
    """Structure k of a mixed series: molecules and crystals, two levels, charges and labels stated and not."""
    rng = np.random.default_rng(k)
    n = 1 + k % 6
    labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3))} if k % 4 else {"dipole": rng.normal(size=3)}
    state = {"total_charge": k % 2, "spin_multiplicity": None} if k % 3 == 0 else {}
    if k % 5 == 0:
        state |= {"cell": np.diag(rng.uniform(8, 9, 3)), "pbc": [True, k % 2 == 0, True]}
        labels["charges"] = rng.normal(size=n)
    if k % 7 == 0:
        state["external_field"] = rng.normal(size=3)
    numbers, place = rng.choice([2, 8, 14], n), 1.5 * np.arange(3 * n).reshape(n, 3) + rng.uniform(0, 0.3, (n, 3))
    where = Provenance("series", f"group {'x' * (k % 9)}", k)
    return Structure(numbers, place, level="pbe" if k % 2 else "gfn2-xtb", labels=labels, provenance=where, **state)


def mixed(path: Path, n: int = 60, **options: object) -> Store:
    with StoreWriter(path, name="mixed", shard_bytes=6000, **options) as writer:  # type: ignore[arg-type]
        for k in range(n):
            writer.add(structure(k))
    return Store(path)


def assert_equal(found: FlatStructures, wanted: FlatStructures) -> None:
    for name in FlatStructures.__dataclass_fields__:
        a, b = getattr(found, name), getattr(wanted, name)
        if isinstance(b, dict):
            assert a.keys() == b.keys(), name
            for key in b:
                np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}", strict=True)
        elif isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=name, strict=True)
        else:
            assert a == b, name


@pytest.mark.parametrize("single", [False, True])
def test_arrays_equal_the_structures_one_by_one(tmp_path: Path, single: bool):
    store = mixed(tmp_path / "s", single=single)
    assert len(store._shards) > 2
    rng = np.random.default_rng(0)
    for indices in ([7], [3, 3, -1], range(60), rng.permutation(60), rng.integers(-60, 60, 25)):
        assert_equal(store.arrays(indices), flatten([store[int(i)] for i in indices]))


def test_a_batch_of_arrays_equals_a_batch_of_structures(tmp_path: Path):
    store, graphs = mixed(tmp_path / "s"), [GraphSpec(4.0, "dense"), GraphSpec(3.0, kspace=2.0)]
    picked = [1, 5, 10, 25, 2, 59]
    one, two = collate(store.arrays(picked), graphs), collate([store[i] for i in picked], graphs)
    for graph in graphs:
        for name in one.views[graph].__dataclass_fields__:
            assert torch.equal(getattr(one.views[graph], name), getattr(two.views[graph], name))
    assert torch.equal(one.positions, two.positions)
    assert torch.equal(one.system, two.system)
    assert one.keys == two.keys


def test_labels_of_overlays_and_of_probes_are_joined(tmp_path: Path):
    store = mixed(tmp_path / "s", 12)
    rows = np.arange(2 * 2 * 3, dtype=float).reshape(2, 2, 3)
    probed = structure(1).replace(labels={"hessian_rows": rows, "hessian_rows_index": np.array([[0, 1], [1, 2]])}, level="probed")
    with StoreWriter(tmp_path / "s") as writer:
        writer.add(probed)
    plain = Store(tmp_path / "s")
    assert_equal(plain.arrays([12, 3, 12]), flatten([plain[12], plain[3], plain[12]]))
    with StoreWriter(tmp_path / "s") as writer:
        writer.add_overlay(store.key(3), "pbe", {"dipole": np.ones(3)})
    joined = Store(tmp_path / "s")
    found = joined.arrays([2, 3])
    assert_equal(found, flatten([joined[2], joined[3]]))
    assert found.label_mask["dipole"].tolist() == [False, True]


def test_every_flipped_bit_of_a_record_is_found_and_named(tmp_path: Path):
    store = mixed(tmp_path / "s")
    store.arrays(range(60))  # hashes are checked on first use; the damage comes later
    shard = store._shards[1]
    start, end = int(shard.columns.start[2]), int(shard.columns.end[2])
    sound = bytearray(shard.path.read_bytes())
    index = len(store._shards[0]) + 2
    for bit in np.random.default_rng(0).choice(8 * (end - start), 80, replace=False).tolist():
        damaged = bytearray(sound)
        damaged[start + bit // 8] ^= 1 << bit % 8
        with shard.path.open("r+b") as file:
            file.write(damaged)
        with pytest.raises(DamagedFileError, match="checksum") as caught:
            store.arrays([0, index, 5])
        assert caught.value.where == f"{shard.path}, record 2"
    with shard.path.open("r+b") as file:
        file.write(sound)
    store.arrays([index])


def test_a_shard_that_is_cut_under_an_open_store_is_an_error(tmp_path: Path):
    store = mixed(tmp_path / "s")
    store.arrays([0])
    with store._shards[0].path.open("r+b") as file:
        file.truncate(int(store._shards[0].columns.start[3]) + 20)
    with pytest.raises(DamagedFileError, match="truncated|checksum"):
        store.arrays([2, 3, 4])


def test_impossible_requests_are_refused(tmp_path: Path):
    store = mixed(tmp_path / "s", 5)
    with pytest.raises(IndexError, match="structure 5 of 5"):
        store.arrays([0, 5])
    with pytest.raises(InvalidStructureError, match="at least one"):
        store.arrays([])
