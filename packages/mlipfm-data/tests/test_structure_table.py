"""`Store.structure_table`: what it says of structures without decoding them is what decoding gives, overlays included."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.store import structure_table
from mlipfm_data.store.store import Store, StoreWriter
from mlipfm_data.store.structure_table import StructureTable, shared
from mlipfm_interfaces.errors import DamagedFileError
from mlipfm_interfaces.record_blocks import read_heads
from mlipfm_interfaces.structure import Provenance, Structure


def structure(k: int) -> Structure:
    """Structure k of a mixed series: molecules and crystals, charges, levels, licences and labels stated and not."""
    rng = np.random.default_rng(k)
    n = 1 + k % 6
    labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3))} if k % 4 else {}
    if k % 6 == 0:
        labels |= {"hessian_rows": rng.normal(size=(1, n, 3)), "hessian_rows_index": [[0, 1]]}
    state = {"total_charge": k % 3 - 1, "spin_multiplicity": None} if k % 2 else {"spin_multiplicity": 1 + k % 3}
    box = {"cell": np.eye(3) * 20, "pbc": [True, True, k % 5 == 0]} if k % 4 == 0 else {}
    where = Provenance("one" if k % 2 else None, f"group {'x' * (k % 9)}", k, licence=("MIT", "CC0-1.0", None)[k % 3])
    numbers, place = rng.choice([2, 8, 14, 118], n), 1.5 * np.arange(3 * n).reshape(n, 3)
    return Structure(numbers, place, level=("pbe", "gfn2-xtb", None)[k % 3], labels=labels, provenance=where, **state, **box)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Many shards, and overlays over some structures: two on one, one of another level, one that gives a source and a licence."""
    with StoreWriter(tmp_path / "s", name="mixed", shard_bytes=6000) as writer:
        for k in range(60):
            writer.add(structure(k))
        for k in (0, 3, 6):
            writer.add_overlay(structure(k).key, "pbe", {"dipole": np.ones(3)})
        writer.add_overlay(structure(3).key, "pbe", {"band_gap": 1.0}, source="teacher:abc", licence="CC-BY-4.0")
        writer.add_overlay(structure(9).key, "other", {"dipole": np.ones(3)}, licence="ISC")
    return Store(tmp_path / "s")


def assert_counts(table: StructureTable, decoded: list[Structure]) -> None:
    assert len(table) == len(decoded)
    assert table.keys.tobytes().hex() == "".join(s.key for s in decoded)
    assert table.n_atoms.tolist() == [len(s) for s in decoded]
    assert table.atomic_numbers.tolist() == [z for s in decoded for z in s.atomic_numbers]
    assert table.charge_stated.tolist() == [s.total_charge is not None for s in decoded]
    assert table.total_charge.tolist() == [s.total_charge or 0 for s in decoded]
    assert table.spin_multiplicity.tolist() == [s.spin_multiplicity or 0 for s in decoded]
    assert table.elements == tuple(sorted({int(z) for s in decoded for z in s.atomic_numbers}))
    assert all(table.having(z).tolist() == [k for k, s in enumerate(decoded) if z in s.atomic_numbers] for z in (2, 8, 118, 99))
    kinds = [table.kinds[k] for k in table.kind]
    found = [(kind.level, kind.periodic, kind.licence, kind.labels) for kind in kinds]
    assert found == [(s.level, bool(s.pbc.all()), s.provenance.licence, frozenset(s.labels)) for s in decoded]
    assert table.count(lambda kind: kind.labels) == Counter(key for s in decoded for key in s.labels)


@pytest.mark.parametrize("chunk", [500, 2**22])
def test_what_is_counted_is_what_decoding_gives(store: Store, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(structure_table, "_CHUNK", chunk)
    decoded = list(store)
    table = store.structure_table()
    assert_counts(table, decoded)
    rows = np.random.default_rng(0).permutation(60)[:20]
    assert_counts(table.take(rows), [decoded[k] for k in rows])
    assert_counts(StructureTable.joined([table, table]), decoded * 2)
    nothing = StructureTable.joined([])
    assert (len(nothing), nothing.elements, nothing.having(1).tolist(), nothing.count(lambda kind: kind.labels)) == (0, (), [], Counter())


def test_labels_of_others_bring_their_source_and_licence(store: Store) -> None:
    table = store.structure_table()
    kinds = [table.kinds[k] for k in table.kind]
    assert (kinds[3].licence, kinds[3].sources) == ("MIT AND CC-BY-4.0", ("one", "teacher:abc"))
    assert store[3].provenance.licence == "MIT AND CC-BY-4.0"
    assert (kinds[6].licence, kinds[6].sources) == ("MIT", ())  # an overlay that states nothing changes nothing
    assert store[9].provenance.licence == "MIT"
    assert store.at_level(9, "other").provenance.licence == "MIT AND ISC"
    assert {(laid.level, laid.source, laid.licence) for laid in store.overlays()} == {
        ("pbe", None, None),
        ("pbe", "teacher:abc", "CC-BY-4.0"),
        ("other", None, "ISC"),
    }


def test_structures_shared_by_two_sets_have_one_key_and_one_level(store: Store, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "t", name="others") as writer:
        for k in (5, 70, 30, 7):
            writer.add(structure(k) if k != 7 else structure(7).replace(level="pbe"))
    other = Store(tmp_path / "t").structure_table()
    assert shared(store.structure_table(), other).tolist() == [0, 2]
    assert shared(other, store.structure_table()).tolist() == [5, 30]
    assert shared(other, StructureTable.joined([])).tolist() == shared(StructureTable.joined([]), other).tolist() == []


def test_a_damaged_record_is_named(store: Store) -> None:
    records = list(store._shards[0].records())
    torn = records[2][:-1] + bytes([records[2][-1] ^ 1])
    with pytest.raises(DamagedFileError, match="record 2: the checksum"):
        read_heads([*records[:2], torn])
