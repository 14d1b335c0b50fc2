"""LMDB containers: rows of ASE databases (OMat24, OC20), pickles of Open Catalyst and Uni-Mol; and what hostile files can not do.

The files are written by the lmdb library in the published layouts. A pickle that would run code must be refused before anything happens: each hostile
one would leave a canary file, and none may appear.
"""

import io
import json
import pickle
import struct
import sys
import time
import types
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from mlipfm_data.readers.ase_db import AseLmdbReader
from mlipfm_data.readers.lmdb import PickledLmdbReader, check_size, entries
from mlipfm_data.readers.registry import read, read_all
from mlipfm_data.readers.report import ReadReport
from mlipfm_data.readers.safe_pickle import plain
from mlipfm_interfaces.errors import DamagedFileError, RefusedFileError, UnreadableFileError
from mlipfm_interfaces.protocols import Refusal
from mlipfm_interfaces.testing.contract_suites import ReaderContract
from mlipfm_interfaces.testing.data_rules import ReaderCase

WATER = np.array([[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]])


def write_lmdb(path: Path, records: dict[str, bytes]) -> None:
    with lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False) as env, env.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)


def row(k: int, **changes) -> bytes:
    """A row as ase-db-backends writes it."""
    values = {
        "numbers": [8, 1, 1], "positions": (WATER + [0, 0, 0.001 * k]).tolist(), "cell": (9.0 * np.eye(3)).tolist(), "pbc": [True, True, True],
        "energy": -14.25 + k, "forces": (0.1 * WATER).tolist(), "stress": [0.1, 0.2, 0.3, 0.04, 0.05, 0.06], "calculator": "unknown",
        "data": {"charge": 0, "spin": 1, "sid": "water"}, "key_value_pairs": {"source": "made"}, "unique_id": f"{k:032x}", "ctime": 1.0,
    } | changes  # fmt: skip
    return zlib.compress(json.dumps({key: value for key, value in values.items() if value is not None}).encode())


def write_rows(path: Path, n: int) -> None:
    records = {str(k + 1): row(k, pbc=[n < 20] * 3) for k in range(n)}  # neighbours without periodicity are found faster
    write_lmdb(path, records | {"nextid": zlib.compress(str(n + 1).encode()), "metadata": zlib.compress(b'{"format": "x"}')})


def damaged_rows(path: Path) -> tuple[int, tuple[int, ...]]:
    bad = {1: row(1)[:40], 2: row(2, positions=WATER[:2].tolist()), 3: row(3, numbers=None), 4: zlib.compress(b"[1, 2]"), 5: b"no zlib"}
    write_lmdb(path, {str(k + 1): bad.get(k) or row(k) for k in range(7)})
    return 7, (1, 2, 3, 4, 5)


def geometric(name: str, state: dict) -> object:
    """An object of a class that only looks like that of torch_geometric, which writes such files and which we never import."""
    place = "torch_geometric.data." + ("data" if name == "Data" else "storage")
    for parent in ("torch_geometric", "torch_geometric.data", place):
        sys.modules.setdefault(parent, types.ModuleType(parent))
    kind = getattr(sys.modules[place], name, None) or type(name, (), {"__module__": place})
    setattr(sys.modules[place], name, kind)
    made = kind()
    made.__dict__.update(state)
    return made


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("torch_geometric")]:
        del sys.modules[name]


def catalyst(k: int, new: bool = True, **changes) -> bytes:
    """A record as the scripts of Open Catalyst write it, with version 2 (a store inside) or 1 (a dictionary) of torch_geometric."""
    state = {
        "pos": torch.tensor(WATER + [0, 0, 0.001 * k]), "cell": 9 * torch.eye(3, dtype=torch.float64)[None], "natoms": 3, "sid": 77, "fid": k,
        "atomic_numbers": torch.tensor([8.0, 1.0, 1.0]), "y": -14.25 + k, "force": torch.tensor(0.1 * WATER), "tags": torch.tensor([0, 1, 1]),
        "fixed": torch.tensor([0, 0, 0]), "edge_index": None,
    } | changes  # fmt: skip
    data = geometric("Data", {})
    if new:
        store = geometric("GlobalStorage", {"_mapping": state, "_parent": data})
        data.__dict__.update(_store=store)
    else:
        data.__dict__.update(state)
    try:
        return pickle.dumps(data, protocol=2 + 2 * new)
    finally:
        forget()


def write_catalyst(path: Path, n: int) -> None:
    cell = (n < 20) * 9 * torch.eye(3)[None]
    write_lmdb(path, {str(k): catalyst(k, cell=cell) for k in range(n)} | {"length": pickle.dumps(n)})


def damaged_catalyst(path: Path) -> tuple[int, tuple[int, ...]]:
    bad = {
        0: catalyst(0)[:200],
        2: catalyst(2, pos=torch.tensor(WATER[:2])),
        3: pickle.dumps({"energy": 1.0}),
        4: catalyst(4, pos=torch.tensor(WATER * np.nan)),
    }
    write_lmdb(path, {str(k): bad.get(k) or catalyst(k) for k in range(6)})
    return 6, (0, 2, 3, 4)


def unknown_row(path: Path) -> str:
    write_lmdb(path, {"1": row(0, data={"hirshfeld": [0.5, -0.25, -0.25]})})
    return "hirshfeld"


def unknown_catalyst(path: Path) -> str:
    write_lmdb(path, {"0": catalyst(0, entropy=0.5)})
    return "entropy"


class TestAseLmdb(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(AseLmdbReader(), read, write_rows, damaged_rows, unknown_row, ReadReport)


@pytest.mark.ci  # its files are slow to write
class TestPickledLmdb(ReaderContract):
    def reader_case(self) -> ReaderCase:
        return ReaderCase(PickledLmdbReader(), read, write_catalyst, damaged_catalyst, unknown_catalyst, ReadReport)


def test_row_of_aselmdb_carries_labels_charge_and_spin(tmp_path):
    write_rows(tmp_path / "a.aselmdb", 12)
    structures = read_all(tmp_path / "a.aselmdb", level="pbe")
    assert [float(s.labels["energy"]) for s in structures] == [-14.25 + k for k in range(12)]  # ids 1 to 12, and not 1, 10, 11, 12, 2
    s = structures[3]
    assert (s.total_charge, s.spin_multiplicity, s.level) == (0, 1, "pbe")
    assert s.labels["stress"][1, 2] == 0.04
    assert np.array_equal(s.labels["forces"], 0.1 * WATER)


def test_deleted_rows_of_aselmdb_are_left_out(tmp_path):
    path = tmp_path / "a.aselmdb"
    records = {str(k + 1): row(k) for k in (0, 2)}
    write_lmdb(path, records | {"nextid": zlib.compress(b"4"), "deleted_ids": zlib.compress(b"[2]")})
    assert [float(s.labels["energy"]) for s in read_all(path)] == [-14.25, -12.25]


def test_row_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mlipfm_data.readers.ase_db.LARGEST_ROW", 1 << 20)
    write_lmdb(tmp_path / "a.aselmdb", {"1": zlib.compress(b" " * (1 << 22)), "2": row(2)})
    first, second = read(tmp_path / "a.aselmdb", AseLmdbReader())
    assert isinstance(first, Refusal)
    assert "when it is unpacked" in str(first.error)
    assert not isinstance(second, Refusal)


@pytest.mark.parametrize("new", [True, False])
def test_open_catalyst_record_is_read_without_its_classes(tmp_path, new):
    write_lmdb(tmp_path / "a.lmdb", {"0": catalyst(0, new), "1": catalyst(1, new)})
    assert not [name for name in sys.modules if name.startswith("torch_geometric")]
    one, two = read_all(tmp_path / "a.lmdb", level="rpbe")
    assert (one.formula, one.provenance.group, one.pbc.tolist()) == ("H2O", "77", [True] * 3)
    assert float(two.labels["energy"]) == -13.25
    assert np.array_equal(one.labels["forces"], 0.1 * WATER)
    assert np.allclose(two.positions, WATER + [0, 0, 0.001])
    assert not [name for name in sys.modules if name.startswith("torch_geometric")]


def test_conformers_of_unimol_are_frames_of_one_group(tmp_path):
    coordinates = [(WATER + 0.01 * k).astype(np.float32) for k in range(3)]
    records = {
        "0": pickle.dumps({"atoms": ["O", "H", "H"], "coordinates": coordinates, "smi": "O"}),
        "1": pickle.dumps({"atoms": ["O", "H"], "coordinates": [coordinates[0], coordinates[0][:2]], "smi": "[OH]"}),
    }
    write_lmdb(tmp_path / "train.lmdb", records)
    items = list(read(tmp_path / "train.lmdb", PickledLmdbReader()))
    assert [isinstance(item, Refusal) for item in items] == [False, False, False, True, False]
    assert [item.provenance.group for item in items if not isinstance(item, Refusal)] == ["O", "O", "O", "[OH]"]
    assert not items[0].labels


# What a file can not do


@pytest.mark.parametrize("name", ["a.aselmdb", "a.lmdb"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_cut_lmdb_file_is_an_error_and_not_the_end_of_python(tmp_path, name, part):
    write_rows(tmp_path / name, 300)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(DamagedFileError, match="it is cut off"):
        list(read(tmp_path / name))


@pytest.mark.parametrize("data", [b"", b"\x00" * 9000, b"SQLite format 3\x00" * 700])
def test_what_is_no_lmdb_file_is_not_mapped(tmp_path, data):
    (tmp_path / "a.lmdb").write_bytes(data)
    with pytest.raises(UnreadableFileError, match=r"too short|no LMDB file"):
        check_size(tmp_path / "a.lmdb")


def test_one_path_can_be_read_twice_at_once_in_one_process(tmp_path):
    write_rows(tmp_path / "a.aselmdb", 5)
    one, two = entries(tmp_path / "a.aselmdb"), entries(tmp_path / "a.aselmdb")
    assert next(one)[0] == next(two)[0] == b"1"
    assert len(list(one)) == len(list(two)) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.aselmdb"]  # not even a lock file was written


def hostile(canary: Path) -> dict[str, bytes]:
    """Pickles that run code, or that exhaust the machine, when they are loaded as pickles are."""
    shell = f"touch {canary}".encode()

    class Reduces:
        def __init__(self, function, *arguments):
            self.what = (function, arguments)

        def __reduce__(self):
            return self.what

    def text(word: str) -> bytes:
        return b"\x8c" + bytes([len(word)]) + word.encode()

    def calls(module: str, name: str, *words: str) -> bytes:
        return b"\x80\x04" + text(module) + text(name) + b"\x93(" + b"".join(map(text, words)) + b"tR."

    inner = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    nested = b"\x80\x02ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tR."
    script = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": pickle.dumps(Reduces(__import__("os").system, shell.decode())),
        "posix.system as text": b"cposix\nsystem\n(S'" + shell + b"'\ntR.",
        "builtins.eval": calls("builtins", "eval", script),
        "builtins.exec": calls("builtins", "exec", script),
        "builtins.getattr": calls("builtins", "getattr", "a", "b"),
        "operator.attrgetter": calls("operator", "attrgetter", "__class__"),
        "dotted name": calls("torch", "Size.__init__.__globals__"),
        "dunder of an allowed module": calls("collections", "OrderedDict.__reduce__"),
        "numpy eval": calls("numpy.testing._private.utils", "runstring", script),
        "numpy load": calls("numpy", "load", str(canary)),
        "torch load": calls("torch", "load", str(canary)),
        "subprocess": calls("subprocess", "Popen", shell.decode()),
        "import": calls("importlib", "import_module", "antigravity"),
        "INST": b"(S'" + shell + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + shell + b"'\no.",
        "pickle in a storage": nested,
        "EXT": b"\x80\x02\x82\x01.",
        "PERSID": b"Pcanary\n.",
        "BUILD of a class": b"\x80\x02cnumpy\nndarray\n}X\x08\x00\x00\x00__init__K\x01sb.",
        "object array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\n"
        b"U\x02O8K\x00K\x01\x87R\x89]tb.",
        "REDUCE of a tensor": b"\x80\x04N" + b"\x85R.",
    }  # fmt: skip


def test_pickles_that_run_code_are_refused_and_nothing_happens(tmp_path):
    canary = tmp_path / "canary"
    for name, data in hostile(canary).items():
        with pytest.raises((RefusedFileError, UnreadableFileError)):
            plain(data)
        assert not canary.exists(), name
        write_lmdb(tmp_path / "h.lmdb", {"0": data, "1": catalyst(1)})
        bad, good = read(tmp_path / "h.lmdb", PickledLmdbReader())
        assert isinstance(bad, Refusal), name
        assert not isinstance(good, Refusal), name
        assert not canary.exists(), name
        (tmp_path / "h.lmdb").unlink()


def test_the_hostile_pickles_are_hostile(tmp_path):
    """The first of them does run when Python loads it: the test above tests something."""
    canary = tmp_path / "canary"
    pickle.loads(hostile(canary)["os.system"])
    assert canary.exists()


def bombs() -> dict[str, bytes]:
    twice = b"".join(b"(h" + bytes([k]) + b"h" + bytes([k]) + b"lq" + bytes([k + 1]) for k in range(60))
    zeros = io.BytesIO()
    torch.save(torch.zeros(1).untyped_storage(), zeros, _use_new_zipfile_serialization=False)
    wide = pickle.dumps(torch.zeros(1).expand(1 << 14, 1 << 14), protocol=2)
    return {
        "lists of lists": b"\x80\x02]q\x00" + twice + b".",
        "deep lists": b"]" * 5000 + b"a" * 4999 + b".",
        "deep tuples": b"\x80\x02N" + b"\x85" * 100_000 + b".",
        "list in itself": b"]q\x00h\x00a.",
        "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        "text that is not there": b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"x.",
        "endless marks": b"(" * 1_000_000 + b".",
        "large number": b"\x80\x02\x8b" + struct.pack("<I", 1 << 20) + b"\x01" * (1 << 20) + b".",
        "many digits": b"I" + b"9" * 4000 + b"\n.",
        "one number as many": wide,
        "memo slots": b"\x80\x02]" + b"".join(b"r" + struct.pack("<I", k) for k in range(0, 1 << 31, 1 << 20)) + b"0.",
        "popped too often": b"\x80\x020.",
        "nothing": b"",
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_pickles_that_would_exhaust_the_machine_end_quickly(name):
    start = time.monotonic()
    with pytest.raises(UnreadableFileError):
        plain(bombs()[name])
    assert time.monotonic() - start < 20  # of a second or two; the limit allows for busy machines


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_numpy_and_torch_come_out_as_they_went_in(protocol):
    values = {
        "c": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big": np.arange(3, dtype=">i4"),
        "t": torch.arange(6).reshape(2, 3).T, "slice": torch.arange(10.0)[2:9:3], "scalar": torch.tensor(3.5), "half": torch.ones(2).half(),
        "empty": np.zeros((0, 3)), "flags": np.array([True, False]),
    }  # fmt: skip
    others = {
        "f": np.float32(1.5),
        "i": -1,
        "l": 2**70,
        "s": "µ",
        "b": b"\x00\xff",
        "n": None,
        "t": (1, (2, 3)),
        "bool": [True, False],
        "x": 1e-300,
    }
    found = plain(pickle.dumps({"arrays": values, "others": others}, protocol=protocol))
    for key, value in values.items():
        assert np.array_equal(found["arrays"][key], np.asarray(value)), key
        assert found["arrays"][key].dtype == np.asarray(value).dtype.newbyteorder("="), key
    assert found["others"] == others
