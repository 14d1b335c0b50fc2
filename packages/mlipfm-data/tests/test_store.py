import inspect
import json
import operator
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from damage import flip_bits, truncate_everywhere
from mlipfm_data.store import manifest as manifests, open_files
from mlipfm_data.store.store import Store, StoreWriter
from mlipfm_interfaces.errors import (
    DamagedFileError,
    FormatVersionError,
    InvalidStructureError,
    LockedError,
    MissingLabelsError,
    RefusedFileError,
    ShapeError,
    UnreadableFileError,
)
from mlipfm_interfaces.structure import Provenance, Structure

SHARD = 4_000  # bytes: several shards with a few structures each


def molecule(k: int, level: str = "gfn2-xtb") -> Structure:
    """Structure k of a series: 3 to 7 atoms, energy and forces drawn from a generator seeded with k."""
    rng = np.random.default_rng(k)
    n = 3 + k % 5
    labels = {"energy": -10.0 * n + rng.normal(), "forces": rng.normal(size=(n, 3))}
    where = Provenance("series", f"group {k % 4}", k, "langevin-300K", "CC0-1.0" if k % 2 else None)
    return Structure(rng.choice([1, 6, 8], n), rng.normal(size=(n, 3)) * 5, total_charge=0, level=level, labels=labels, provenance=where)


def make_store(path: Path, n: int = 40, **options: object) -> list[Structure]:
    content = [molecule(k) for k in range(n)]
    with StoreWriter(path, name="series", shard_bytes=SHARD, **options) as writer:  # type: ignore[arg-type]
        for structure in content:
            writer.add(structure)
    return content


def same(a: Structure, b: Structure) -> bool:
    fields = ("total_charge", "spin_multiplicity", "level", "provenance", "key")
    arrays = ("atomic_numbers", "positions", "cell", "pbc")
    return (
        all(getattr(a, name) == getattr(b, name) for name in fields)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
        and a.labels.keys() == b.labels.keys()
        and all(np.array_equal(a.labels[key], b.labels[key]) for key in a.labels)
    )


def all_same(a: list[Structure], b: list[Structure]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def everything(path: Path) -> tuple[list[Structure], object]:
    """All that a store says, read from scratch."""
    with Store(path) as store:
        by_index = [store[i] for i in range(len(store))]
        rest = (
            store.name,
            store.complete,
            store.statistics,
            store.natoms.tolist(),
            store.levels,
            [store.key(i) for i in range(len(store))],
        )
        assert all_same(list(store), by_index)
        return by_index, rest


def equal(a: tuple[list[Structure], object], b: tuple[list[Structure], object]) -> bool:
    return all_same(a[0], b[0]) and a[1] == b[1]


def test_a_store_gives_back_what_was_added(tmp_path: Path):
    content = make_store(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        assert (store.name, store.complete, len(store)) == ("series", True, 40)
        assert all_same(list(store), content)
        assert all_same([store[i] for i in (39, 0, -1)], [content[i] for i in (39, 0, 39)])
        assert all_same(store[3:6], content[3:6])
        assert store.natoms.tolist() == [len(s) for s in content]
        assert store.key(7) == content[7].key
        assert not store[0].positions.flags.writeable
        assert store.verify() == []
        with pytest.raises(IndexError, match="structure 40 of 40"):
            store[40]
    assert len(list((tmp_path / "s").glob("shard-*.frames"))) > 3
    assert not list((tmp_path / "s").glob("*.part"))


@pytest.mark.parametrize("single", [False, True])
def test_weights_of_atoms_and_constraints_are_kept(single: bool, tmp_path: Path):
    first = molecule(0)
    marked = first.replace(labels={**first.labels, "weight": 0.0, "forces_weight": [1.0, 0.0, 0.5], "fixed": [0, 1, 0]})
    with StoreWriter(tmp_path / "s", name="series", single=single) as writer:
        for structure in (first, marked):
            writer.add(structure)
    with Store(tmp_path / "s") as store:
        assert set(store[0].labels) == {"energy", "forces"}
        assert store[1].labels["forces_weight"].tolist() == [1.0, 0.0, 0.5]
        assert store[1].labels["fixed"].tolist() == [0.0, 1.0, 0.0]
        assert float(store[1].labels["weight"]) == 0.0


def test_statistics_are_those_of_the_content(tmp_path: Path):
    content = make_store(tmp_path / "s")
    with StoreWriter(tmp_path / "s") as writer:
        writer.add(molecule(100, "pbe/520ev"))
    found = Store(tmp_path / "s").statistics
    level = found.levels["gfn2-xtb"]
    per_atom = [float(s.labels["energy"]) / len(s) for s in content]
    forces = np.concatenate([s.labels["forces"] for s in content])
    assert (level.structures, level.energies, level.force_components) == (40, 40, forces.size)
    assert level.mean_energy == pytest.approx(np.mean(per_atom), rel=1e-12)
    assert level.std_energy == pytest.approx(np.std(per_atom), rel=1e-9)
    assert level.rms_force == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-12)
    assert found.levels["pbe/520ev"].structures == 1
    assert found.elements["H"] == sum(int((s.atomic_numbers == 1).sum()) for s in [*content, molecule(100)])
    assert found.sizes == {3: 9, 4: 8, 5: 8, 6: 8, 7: 8}
    assert found.licences == {"": 21, "CC0-1.0": 20}
    assert found.structures == 41


def test_appending_to_a_store_adds_shards_and_leaves_the_old_ones_alone(tmp_path: Path):
    content = make_store(tmp_path / "s", 20)
    before = {path: path.read_bytes() for path in (tmp_path / "s").glob("shard-*")}
    old = Store(tmp_path / "s")
    with StoreWriter(tmp_path / "s") as writer:
        writer.add(molecule(77))
        assert not manifests.load(tmp_path / "s").complete
    assert all(path.read_bytes() == data for path, data in before.items())
    assert all_same(list(Store(tmp_path / "s")), [*content, molecule(77)])
    assert all_same(list(old), content)


def test_a_store_in_single_precision_is_half_as_large_and_keeps_energies(tmp_path: Path):
    content = make_store(tmp_path / "double")
    make_store(tmp_path / "single", single=True)
    with StoreWriter(tmp_path / "single", single=True) as writer:
        assert writer.has(content[3])
    for found, given in zip(Store(tmp_path / "single"), content, strict=True):
        assert found.labels["energy"] == given.labels["energy"]
        assert np.array_equal(found.positions, given.positions.astype(np.float32))
        assert found.key == found.replace().key
    size = {name: sum(path.stat().st_size for path in (tmp_path / name).glob("*.frames")) for name in ("double", "single")}
    assert size["single"] < 0.8 * size["double"]  # molecules of five atoms; half of it for larger ones


def test_overlays_join_by_key_and_level(tmp_path: Path):
    content = make_store(tmp_path / "s", 12)
    with StoreWriter(tmp_path / "s") as writer:
        for s in content[:3]:
            writer.add_overlay(s.key, "gfn2-xtb", {"charges": np.full(len(s), 0.1), "dipole": [1.0, 2.0, 3.0]})
        writer.add_overlay(content[1].key, "gfn2-xtb", {"dipole": [0.0, 0.0, 9.0]})
        writer.add_overlay(content[2].key, "ccsd(t)/cbs", {"energy": -7.0})
    store = Store(tmp_path / "s")
    assert set(store[0].labels) == {"energy", "forces", "charges", "dipole"}
    assert store[1].labels["dipole"].tolist() == [0.0, 0.0, 9.0]
    assert store[2].labels["energy"] == content[2].labels["energy"]
    assert same(store[3], content[3])
    better = store.at_level(2, "ccsd(t)/cbs")
    assert (better.level, better.key, dict(better.labels)) == ("ccsd(t)/cbs", content[2].key, {"energy": -7.0})
    assert all_same(list(store), [store[i] for i in range(12)])
    assert store.verify() == []
    with pytest.raises(MissingLabelsError, match="no labels of level 'ccsd' for structure 5"):
        store.at_level(5, "ccsd")


def test_an_overlay_that_fits_no_structure_is_refused(tmp_path: Path):
    content = make_store(tmp_path / "s", 3)
    with StoreWriter(tmp_path / "s") as writer:
        with pytest.raises(InvalidStructureError, match="no structure with key 0000"):
            writer.add_overlay("0" * 32, "pbe", {"energy": 1.0})
        with pytest.raises(ShapeError, match=r"'forces' must have shape \[3, 3\]"):
            writer.add_overlay(content[0].key, "pbe", {"forces": np.zeros((4, 3))})
    assert len(Store(tmp_path / "s")) == 3


def test_two_writers_are_kept_apart(tmp_path: Path):
    with StoreWriter(tmp_path / "s", name="a"), pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        StoreWriter(tmp_path / "s", name="a")


def test_an_error_while_writing_loses_nothing_that_was_added(tmp_path: Path):
    def break_off() -> None:
        with StoreWriter(tmp_path / "s", name="series") as writer:
            writer.add(molecule(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    store = Store(tmp_path / "s")
    assert (len(store), store.complete) == (1, False)


def test_wrong_folders_and_names_are_refused(tmp_path: Path):
    make_store(tmp_path / "s", 2)
    with pytest.raises(UnreadableFileError, match="is not a store: it has no manifest"):
        Store(tmp_path)
    with pytest.raises(RefusedFileError, match="is the store of 'series', not of 'other'"):
        StoreWriter(tmp_path / "s", name="other")
    with pytest.raises(UnreadableFileError, match="give a name to make a new one"):
        StoreWriter(tmp_path / "new")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    with pytest.raises(RefusedFileError, match="not the manifest of a store"):
        Store(tmp_path / "other")


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    """Change a manifest and give it the digest that fits, as another program might."""
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    value["digest"] = manifests._digest(value)
    (folder / "manifest.json").write_bytes(manifests._spell(value))


def test_a_newer_store_asks_for_an_upgrade_and_an_older_one_climbs_the_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = make_store(tmp_path / "s", 3)
    monkeypatch.setattr(manifests, "FORMAT", 2)
    monkeypatch.setitem(manifests.UPGRADES, 1, lambda value: value | {"name": "upgraded"})
    assert Store(tmp_path / "s").name == "upgraded"
    assert all_same(list(Store(tmp_path / "s")), content)
    rewrite(tmp_path / "s", lambda value: value.update(format=3))
    with pytest.raises(FormatVersionError, match="store format 3, this mlipfm reads up to 2; upgrade"):
        Store(tmp_path / "s")


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path):
    make_store(tmp_path / "s", 3)
    rewrite(tmp_path / "s", lambda value: value["shards"][0].update(file="../outside.frames"))
    with pytest.raises(RefusedFileError, match=r"names a file outside the store: '\.\./outside\.frames'"):
        Store(tmp_path / "s")


def test_a_truncated_shard_is_an_error_before_it_is_read(tmp_path: Path):
    make_store(tmp_path / "s", 10)
    shard = next((tmp_path / "s").glob("*.frames"))
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(DamagedFileError, match=f"{shard.name}: has {size - 1} bytes, the manifest says {size}"):
        Store(tmp_path / "s")
    shard.unlink()
    with pytest.raises(UnreadableFileError, match=f"{shard.name}: is missing from the store"):
        Store(tmp_path / "s")


def test_a_shard_that_is_cut_or_changed_under_an_open_store_is_an_error_and_no_crash(tmp_path: Path):
    make_store(tmp_path / "s", 10)
    store = Store(tmp_path / "s")
    assert len(store[9]) > 0
    shard = sorted((tmp_path / "s").glob("*.frames"))[-1]
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedFileError, match=f"{shard.name}, record .*checksum"):
        store[9]
    assert [type(error) for error in store.verify()] == [UnreadableFileError]
    os.truncate(shard, 100)
    with pytest.raises(DamagedFileError, match=f"{shard.name}, record .*truncated|checksum"):
        store[9]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_works_in_other_processes(method: str, tmp_path: Path):
    content = make_store(tmp_path / "s", 8)
    store = Store(tmp_path / "s")
    assert len(store[5]) == len(content[5])  # opens the file before the fork
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        assert same(pool.submit(operator.itemgetter(5), store).result(timeout=60), content[5])
    assert same(store[5], content[5])


def test_a_forked_child_opens_files_of_its_own(tmp_path: Path):
    content = make_store(tmp_path / "s", 8)
    store = Store(tmp_path / "s")
    assert same(store[5], content[5])
    child = os.fork()
    if child == 0:
        fresh = not open_files._open
        os._exit(0 if fresh and same(store[5], content[5]) and open_files._open else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_two_stores_of_one_path_share_a_descriptor_until_the_last_is_closed(tmp_path: Path):
    make_store(tmp_path / "s", 4)
    (tmp_path / "link").symlink_to("s")
    first, second = Store(tmp_path / "s"), Store(tmp_path / "link")
    assert same(first[0], second[0])
    path = (tmp_path / "s" / "shard-000000.frames").resolve()
    assert open_files._open[path].holders == 2
    first.close()
    assert same(second[1], first[1])
    first.close()
    second.close()
    assert path not in open_files._open


def test_a_store_made_anew_under_an_old_name_is_read_and_the_old_one_stays_readable(tmp_path: Path):
    content = make_store(tmp_path / "s", 4)
    old = Store(tmp_path / "s")
    assert same(old[0], content[0])
    shutil.rmtree(tmp_path / "s")
    with StoreWriter(tmp_path / "s", name="new") as writer:
        writer.add(molecule(50))
    assert same(Store(tmp_path / "s")[0], molecule(50))
    assert all_same(list(old), content)


def test_a_pickled_store_does_not_carry_its_content(tmp_path: Path):
    make_store(tmp_path / "s", 40)
    store = Store(tmp_path / "s")
    list(store)
    assert len(pickle.dumps(store)) < 6_000


def sound_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("n", [100, pytest.param(1000, marks=pytest.mark.ci)])
def test_no_flipped_bit_of_a_sealed_store_goes_unnoticed(n: int, tmp_path: Path):
    folder = tmp_path / "s"
    content = make_store(folder, 12)
    with StoreWriter(folder) as writer:
        writer.add_overlay(content[1].key, "gfn2-xtb", {"dipole": [0.0, 0.0, 9.0]})
    paths = sound_files(folder)
    report = flip_bits(paths, n, seed=n, read=lambda: everything(folder), equal=equal)
    print(f"{n} bit flips over a sealed store of {len(paths)} files, {sum(p.stat().st_size for p in paths)} bytes: {report}")
    assert report.sound, report


def test_every_flipped_bit_of_a_manifest_is_detected(tmp_path: Path):
    make_store(tmp_path / "s", 2)
    path = tmp_path / "s" / "manifest.json"
    report = flip_bits([path], 100, seed=1, read=lambda: Store(tmp_path / "s").statistics, equal=lambda a, b: a == b)
    assert report.detected == 100, report


def test_no_truncation_of_a_sealed_store_goes_unnoticed(tmp_path: Path):
    folder = tmp_path / "s"
    make_store(folder, 6)
    paths = [path for path in sound_files(folder) if path.name != "writer.lock"]
    report = truncate_everywhere(paths, 64, lambda: everything(folder), equal)
    assert report.detected == sum(-(-path.stat().st_size // 64) for path in paths), report


WRITER = f"""
import sys
import numpy as np
from mlipfm_data.store.store import StoreWriter
from mlipfm_interfaces.structure import Provenance, Structure
{inspect.getsource(molecule)}
with StoreWriter(sys.argv[1], name="series", shard_bytes={SHARD}) as writer:
    print("has", len(writer), flush=True)
    for k in range(int(sys.argv[2])):
        if not writer.has(molecule(k)):
            writer.add(molecule(k))
            print("added", k, flush=True)
"""


def start_writer(folder: Path, n: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(n)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.full)])
def test_kill_minus_nine_loses_nothing_and_repeats_nothing(kills: int, tmp_path: Path):
    folder, dice, n = tmp_path / "s", random.Random(kills), 60 * kills  # many more than a writer adds before it is killed
    acknowledged = inside = 0
    for _ in range(kills):
        process = start_writer(folder, n)
        assert process.stdout is not None
        assert acknowledged <= int(process.stdout.readline().split()[1]) <= acknowledged + 1
        for _ in range(dice.randrange(1, 13)):
            acknowledged = int(process.stdout.readline().split()[1]) + 1
        time.sleep(0.01 * dice.random())  # the writer goes on meanwhile
        process.kill()
        for _ in process.stdout:  # what it still said before it died; the last line may be cut
            acknowledged += 1
        process.wait()
        process.stdout.close()
        with Store(folder) as store:
            assert store.verify() == []
            assert all_same(list(store), [molecule(k) for k in range(len(store))])
            if store.complete:  # on a busy machine a writer may be through before it is killed
                break
            inside += 1
    assert inside > kills / 2
    process = start_writer(folder, n)
    process.communicate(timeout=120)
    make_store(tmp_path / "never killed", n)
    names = sorted(path.name for path in (tmp_path / "never killed").iterdir() if path.name != "writer.lock")
    assert sorted(path.name for path in folder.iterdir() if path.name != "writer.lock") == names
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "never killed" / name).read_bytes(), name
