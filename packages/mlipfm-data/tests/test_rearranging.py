"""Stores merged and filtered: nothing changed, nothing lost, everything counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlipfm_data.store.merge import StoreFilter, filter_store, merge_stores
from mlipfm_data.store.store import Store, StoreWriter
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import DamagedFileError, InvalidStructureError, MlipfmError, RefusedFileError
from mlipfm_interfaces.structure import Provenance, Structure


def molecule(k: int) -> Structure:
    rng = np.random.default_rng(k)
    n = 2 + k % 5
    labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3))} if k % 3 else {"energy": rng.normal()}
    place = 2.0 * np.arange(3 * n).reshape(n, 3) + rng.uniform(0, 0.5, (n, 3))
    level = "pbe" if k % 2 else "gfn2-xtb"
    return Structure(rng.choice([1, 6, 8], n), place, level=level, labels=labels, provenance=Provenance("series", f"g{k % 4}", k))


def store(path: Path, numbers: range, **options: object) -> Path:
    with StoreWriter(path, name=path.name, shard_bytes=2000, **options) as writer:  # type: ignore[arg-type]
        for k in numbers:
            writer.add(molecule(k))
    return path


def same(a: Structure, b: Structure) -> bool:
    return (a.key, a.level, a.provenance) == (b.key, b.level, b.provenance) and all(
        np.array_equal(a.labels[k], b.labels[k]) for k in b.labels
    )


def test_a_merged_store_has_the_structures_of_all_in_order(tmp_path: Path):
    one, two = store(tmp_path / "one", range(30)), store(tmp_path / "two", range(30, 45))
    with StoreWriter(two) as writer:
        writer.add_overlay(molecule(31).key, "ccsd(t)", {"energy": 5.0})
    assert merge_stores([one, two], tmp_path / "both", "both").structures == 45
    merged = Store(tmp_path / "both")
    assert (merged.name, merged.complete, len(merged), merged.verify()) == ("both", True, 45, [])
    assert all(same(a, molecule(k)) for k, a in enumerate(merged))
    assert float(merged.at_level(31, "ccsd(t)").labels["energy"]) == 5.0
    whole = Store(store(tmp_path / "at once", range(45))).statistics
    assert merged.statistics.sizes == whole.sizes
    assert merged.statistics.levels["pbe"].mean_energy == pytest.approx(whole.levels["pbe"].mean_energy, rel=1e-12)
    with StoreWriter(tmp_path / "both") as writer:
        writer.add(molecule(99))
    assert len(Store(tmp_path / "both")) == 46
    assert Store(one).verify() == []


def test_merges_that_would_be_wrong_are_refused(tmp_path: Path):
    one, two = store(tmp_path / "one", range(10)), store(tmp_path / "two", range(8, 12))
    with pytest.raises(InvalidStructureError, match="2 structures are there more than once"):
        merge_stores([one, two], tmp_path / "both", "both")
    assert not (tmp_path / "both").exists()
    assert merge_stores([one, two], tmp_path / "both", "both", keep_duplicates=True).structures == 14
    with pytest.raises(RefusedFileError, match="exists already"):
        merge_stores([one], tmp_path / "both", "both")
    damaged = bytearray((shard := sorted(two.glob("*.frames"))[0]).read_bytes())
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(DamagedFileError, match="hash"):
        merge_stores([two], tmp_path / "other", "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("single", [False, True])
def test_a_filter_keeps_what_is_asked_and_counts_the_rest(tmp_path: Path, single: bool):
    path = store(tmp_path / "all", range(40), single=single)
    source = list(Store(path))
    done = filter_store(path, tmp_path / "few", StoreFilter(levels=["pbe"], max_atoms=4, labels=["forces"]))
    expected = [s for s in source if s.level == "pbe" and len(s) <= 4 and "forces" in s.labels]
    found = Store(tmp_path / "few")
    assert done.structures == len(found) == len(expected)
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert done.structures + sum(done.dropped.values()) == 40
    assert set(done.dropped) == {"another level", "number of atoms", "no forces"}
    assert found.single == single
    quiet = filter_store(path, tmp_path / "quiet", StoreFilter(max_force=2.0, elements=["H", "C", "O"]))
    largest = [float(np.linalg.norm(s.labels["forces"], axis=1).max()) for s in source if "forces" in s.labels]
    assert quiet.dropped == {"forces too large": sum(f > 2.0 for f in largest)}


def test_duplicates_are_dropped_and_overlays_follow(tmp_path: Path):
    one, two = store(tmp_path / "one", range(6)), store(tmp_path / "two", range(4, 9))
    with StoreWriter(one) as writer:
        writer.add_overlay(molecule(2).key, "ccsd(t)", {"energy": 5.0})
    merge_stores([one, two], tmp_path / "both", "both", keep_duplicates=True)
    assert filter_store(tmp_path / "both", tmp_path / "unique", StoreFilter(unique=True)).dropped == {"there already": 2}
    found = Store(tmp_path / "unique")
    assert all(same(a, molecule(k)) for k, a in enumerate(found))
    assert float(found.at_level(2, "ccsd(t)").labels["energy"]) == 5.0


def test_a_filter_that_was_killed_goes_on(tmp_path: Path):
    path = store(tmp_path / "all", range(40))
    for folder, first in (("half", 0), ("other", 5)):
        writer = StoreWriter(tmp_path / folder, name="all")
        for k in range(first, first + 10):
            writer.add(molecule(k))
        writer.commit()
        writer._release()  # as a kill does: nothing says that the store is complete
    assert filter_store(path, tmp_path / "half", StoreFilter()).structures == 40
    assert all(same(a, molecule(k)) for k, a in enumerate(Store(tmp_path / "half")))
    with pytest.raises(RefusedFileError, match="exists already"):
        filter_store(path, tmp_path / "half", StoreFilter())
    with pytest.raises(RefusedFileError, match="does not give"):
        filter_store(path, tmp_path / "other", StoreFilter(max_atoms=3))


def unfinished(path: Path, n: int = 10) -> Path:
    """A store as a writer leaves it that is killed after a commit."""
    writer = StoreWriter(path, name="all")
    for k in range(n):
        writer.add(molecule(k))
    writer.commit()
    writer._release()
    return path


def test_a_filter_takes_an_incomplete_store_only_when_asked(tmp_path: Path):
    path = unfinished(tmp_path / "all")
    with pytest.raises(RefusedFileError, match=r"is not complete: .* or take what it holds so far \(--incomplete\)"):
        filter_store(path, tmp_path / "out", StoreFilter())
    assert not (tmp_path / "out").exists()
    assert filter_store(path, tmp_path / "out", StoreFilter(), incomplete=True).structures == 10


def test_a_filter_that_keeps_nothing_writes_nothing_and_says_what_each_condition_left(tmp_path: Path, capsys):
    path = store(tmp_path / "all", range(10))  # five of each level, of 2 to 6 atoms
    assert filter_store(path, tmp_path / "out", StoreFilter(min_atoms=7)).structures == 0
    words = ["--level", "pbe", "--max-atoms", "4", "--elements", "Fe", "--label", "dipole"]
    status, out, err = run(["filter", path, "--out", tmp_path / "out", *words], capsys)
    assert (status, out) == (1, "")
    assert err.strip() == (
        f"{path}: the filter keeps none of 10 structures, nothing is written; left: 5 after dropping 5 (another level), "
        "then 3 after dropping 2 (number of atoms), then 0 after dropping 3 (other elements), then 0 after dropping 0 (no dipole)"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["all"]


def test_a_filter_gives_a_licence_to_what_states_none_and_replaces_only_the_text_it_is_told(tmp_path: Path, capsys):
    stated = [None, "Proprietary, do not share", "ISC", "NOASSERTION AND MIT", "MIT AND (CC-BY-NC-4.0 OR foo)", "CC BY 4.0"]
    with StoreWriter(tmp_path / "all", name="all") as writer:
        for k, licence in enumerate(stated):
            writer.add(molecule(k).replace(provenance=Provenance("series", index=k, licence=licence)))
        writer.add_overlay(molecule(0).key, "ccsd(t)", {"energy": 5.0}, licence="NOASSERTION")
    status, out, _ = run(["filter", tmp_path / "all", "--out", tmp_path / "given", "--licence", "cc-by-4.0"], capsys)
    assert status == 0
    assert "given to 2 structures, 4 keep what they state" in out
    assert "kept, but no SPDX expression: 'Proprietary, do not share' of 1 structures" in out
    found = Store(tmp_path / "given")
    assert [s.provenance.licence for s in found] == ["CC-BY-4.0", stated[1], "ISC", "CC-BY-4.0 AND MIT", *stated[4:]]
    assert found.at_level(0, "ccsd(t)").provenance.licence == "CC-BY-4.0"
    assert [found.key(k) for k in range(6)] == [molecule(k).key for k in range(6)]
    assert Store(tmp_path / "all").statistics.licences[""] == 1  # the old store is as it was
    words = ["--licence", "CC-BY-4.0", "--replace-licence", "CC BY 4.0"]
    assert run(["filter", tmp_path / "given", "--out", tmp_path / "spelled", *words], capsys)[0] == 0
    assert [s.provenance.licence for s in Store(tmp_path / "spelled")] == [
        "CC-BY-4.0",
        stated[1],
        "ISC",
        "CC-BY-4.0 AND MIT",
        stated[4],
        "CC-BY-4.0",
    ]
    with pytest.raises(MlipfmError, match="did you mean 'CC-BY-4.0'"):
        filter_store(tmp_path / "all", tmp_path / "wrong", StoreFilter(), licence="CC BY 4.0")
    assert not (tmp_path / "wrong").exists()


def test_an_unfinished_store_is_not_finished_by_filtering_it_into_itself(tmp_path: Path, capsys):
    path = unfinished(tmp_path / "all")
    with pytest.raises(RefusedFileError, match="is the store that is read"):
        filter_store(path, path, StoreFilter(), incomplete=True)
    assert not Store(path).complete
    status, out, _ = run(["filter", path, "--out", tmp_path / "out", "--incomplete"], capsys)
    assert status == 0
    assert "warning: " in out
    assert "is not complete" in out


def test_a_killed_filter_goes_on_with_the_same_labels_only(tmp_path: Path):
    path = store(tmp_path / "all", range(12))
    with StoreWriter(tmp_path / "other", name="all") as writer:
        for s in Store(path):
            writer.add(s.replace(labels={**s.labels, "energy": s.labels["energy"] + 5.0}))
    unfinished(tmp_path / "out")
    with pytest.raises(RefusedFileError, match="does not give"):
        filter_store(tmp_path / "other", tmp_path / "out", StoreFilter())
    assert filter_store(path, tmp_path / "out", StoreFilter()).structures == 12


def test_a_filter_does_not_go_on_with_what_another_licence_was_given(tmp_path: Path):
    path = store(tmp_path / "all", range(12))
    unfinished(tmp_path / "out")
    with pytest.raises(RefusedFileError, match="does not give"):
        filter_store(path, tmp_path / "out", StoreFilter(), licence="MIT")


def run(words: list[object], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["data", *map(str, words)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_the_commands(tmp_path: Path):
    one, two = store(tmp_path / "one", range(10)), store(tmp_path / "two", range(10, 20))
    mlipfm = str(Path(sys.executable).parent / "mlipfm")

    def run(*words: object) -> str:
        return subprocess.run([mlipfm, "data", *map(str, words)], capture_output=True, text=True, check=True).stdout

    assert run("merge", one, two, "--out", tmp_path / "both").strip().endswith("both: 20 structures of 2 stores")
    text = run("filter", tmp_path / "both", "--out", tmp_path / "pbe", "--level", "pbe")
    assert text.strip().endswith("10 structures kept; dropped: 10 another level")
