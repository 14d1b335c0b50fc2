"""Splits: parts that share nothing they must not share, the same for any order."""

import json
from dataclasses import replace

import numpy as np
import pytest
from mlipfm_data.curation.classes import temperature_class
from mlipfm_data.curation.splits import OOD, WAYS, make_split
from mlipfm_data.store import Store
from mlipfm_data.store_writer import StoreWriter
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnknownElementError
from mlipfm_interfaces.structure import Provenance, Structure

SHARES = {"train": 0.6, "valid": 0.15, "id": 0.1, OOD: 0.15}
FORMULAS = {"water": [8, 1, 1], "ammonia": [7, 1, 1, 1], "methane": [6, 1, 1, 1, 1], "bromomethane": [6, 35, 1, 1, 1], "hydroxide": [8, 1]}


def frames(n: int = 40) -> list[Structure]:
    """Frames of five molecules at three temperatures."""
    rng = np.random.default_rng(0)
    found = []
    for name, numbers in FORMULAS.items():
        legs = np.array([[0.0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]])[: len(numbers)]
        if 35 in numbers:
            legs = legs * np.array([[1.0], [1.75], [1.0], [1.0], [1.0]])
        for k in range(n):
            kelvin = (300, 600, 1200)[k % 3]
            where = Provenance(source="md", group=f"{name}-{kelvin}", index=k, sampling=f"langevin-{kelvin}K")
            found.append(
                Structure(
                    numbers, legs + 0.02 * rng.normal(size=legs.shape), total_charge=-1 if name == "hydroxide" else 0, provenance=where
                )
            )
    return found


ALL = frames()


@pytest.mark.parametrize("by", WAYS)
def test_every_structure_is_in_one_part_and_the_order_does_not_matter(by):
    shares = {"train": 0.8, "valid": 0.1, "id": 0.1} if by == "random" else SHARES
    hold_out = ["Br"] if by == "element" else []
    split = make_split(ALL, by, shares, seed=3, hold_out=hold_out)
    assert sorted(k for part in split.parts.values() for k in part) == list(range(len(ALL)))
    order = np.random.default_rng(1).permutation(len(ALL))
    again = make_split([ALL[k] for k in order], by, shares, seed=3, hold_out=hold_out)
    for name, part in split.parts.items():
        assert sorted(int(order[k]) for k in again.parts[name]) == part
    assert again.held_out == split.held_out


@pytest.mark.parametrize(
    ("by", "label"),
    [
        ("group", lambda s: s.provenance.group),
        ("molecule", lambda s: s.formula),
        ("composition", lambda s: s.formula),
        ("size", len),
        ("temperature", temperature_class),
        ("charge", lambda s: s.total_charge),
    ],
)
def test_held_out_classes_are_in_no_other_part(by, label):
    split = make_split(ALL, by, SHARES, seed=1)
    ood = {label(ALL[k]) for k in split.parts[OOD]}
    rest = {label(ALL[k]) for name, part in split.parts.items() if name != OOD for k in part}
    assert ood
    assert not ood & rest


def test_extremes_are_held_out():
    split = make_split(ALL, "temperature", SHARES)
    assert split.held_out == (1200.0,)
    assert make_split(ALL, "charge", SHARES).held_out == (-1,)
    assert make_split(ALL, "size", SHARES).held_out == (5,)
    assert make_split(ALL, "size", SHARES, hold_out=["4"]).held_out == (4, 5)


def test_left_out_element_is_nowhere_else():
    split = make_split(ALL, "element", {"train": 0.9, "valid": 0.1}, hold_out=["Br"])
    assert len(split.parts[OOD]) == 40
    assert all(35 not in ALL[k].atomic_numbers for name in ("train", "valid") for k in split.parts[name])


def test_another_seed_gives_another_split_of_the_same_sizes():
    shares = {"train": 0.7, "valid": 0.3}
    one, two = (make_split(ALL, "random", shares, seed=seed) for seed in (0, 1))
    assert one.parts != two.parts
    assert [len(p) for p in one.parts.values()] == [len(p) for p in two.parts.values()] == [140, 60]


def test_levels_of_one_geometry_stay_together():
    both = [s.replace(level=level) for s in ALL for level in ("pbe", "r2scan")]
    for part in make_split(both, "random", {"train": 0.5, "valid": 0.5}).parts.values():
        chosen = set(part)
        assert all(k ^ 1 in chosen for k in chosen)


def test_clusters_of_near_duplicates_stay_together():
    clusters = [[0, 50, 100], [3, 77]]
    for seed in range(5):
        split = make_split(ALL, "random", {"train": 0.5, "valid": 0.5}, seed=seed, together=clusters)
        place = {k: name for name, part in split.parts.items() for k in part}
        assert all(len({place[k] for k in cluster}) == 1 for cluster in clusters)


def test_what_nobody_stated_is_refused_by_name():
    unstated = [s.replace(total_charge=None, provenance=Provenance(source="x")) for s in ALL[:5]]
    with pytest.raises(InvalidStructureError, match="5 of 5 structures state no charge"):
        make_split(unstated, "charge", SHARES)
    with pytest.raises(InvalidStructureError, match="state no group.*--group-key"):
        make_split(unstated, "group", SHARES)
    with pytest.raises(InvalidStructureError, match="state no temperature"):
        make_split(unstated, "temperature", SHARES)
    box = ALL[0].replace(cell=9.0 * np.eye(3), pbc=[True] * 3)
    with pytest.raises(InvalidStructureError, match="state no molecule.*composition"):
        make_split([box], "molecule", SHARES)


def test_what_cannot_be_is_refused():
    with pytest.raises(MlipfmError, match="add up to 1"):
        make_split(ALL, "random", {"train": 0.5})
    with pytest.raises(MlipfmError, match="no part 'ood'"):
        make_split(ALL, "random", SHARES)
    with pytest.raises(MlipfmError, match="needs the elements"):
        make_split(ALL, "element", SHARES)
    with pytest.raises(MlipfmError, match="no structure has the element Cl; there are: H, C, N, O, Br"):
        make_split(ALL, "element", SHARES, hold_out=["Cl"])
    with pytest.raises(UnknownElementError):
        make_split(ALL, "element", SHARES, hold_out=["Xx"])
    with pytest.raises(MlipfmError, match=r"no structure has the charge '3'; there are: 0, -1"):
        make_split(ALL, "charge", SHARES, hold_out=["3"])
    with pytest.raises(MlipfmError, match="leaves one part empty"):
        make_split(ALL[:40], "composition", SHARES)


@pytest.mark.parametrize(
    ("sampling", "kelvin"),
    [("langevin-600K", 600), ("MD at 300 K", 300), ("aimd_T=1200K", 1200), ("normal-modes-12.5K", 12.5), ("OK", None), ("10KPa", None)],
)
def test_temperatures_are_read_from_words(sampling, kelvin):
    s = replace(ALL[0], provenance=Provenance(sampling=sampling))
    assert temperature_class(s) == kelvin


def test_command_writes_stores_that_training_takes(tmp_path, capsys):
    with StoreWriter(tmp_path / "all", name="set") as writer:
        for s in ALL:
            writer.add(s)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["data", "split", str(tmp_path / "all"), "--workers", "1", *words])
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out + printed.err

    code, out = run("--by", "molecule", "--fractions", "train=0.6,valid=0.2,ood=0.2", "--out", str(tmp_path / "parts"))
    assert code == 0, out
    record = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert record["shared_with_the_first"]["ood"]["molecule"] == 0
    assert record["shared_with_the_first"]["valid"]["geometry"] == 0
    assert record["shared_with_the_first"]["valid"]["molecule"] == len(record["parts"]["valid"])
    stored = [s.key for name in ("train", "valid", "ood") for s in Store(tmp_path / "parts" / name)]
    assert sorted(stored) == sorted(s.key for s in ALL)
    assert Store(tmp_path / "parts" / "ood")[0].provenance.source == "md"
    code, out = run("--by", "molecule", "--out", str(tmp_path / "parts"))
    assert code == 2
    assert "not empty" in out
    code, out = run("--by", "random", "--out", str(tmp_path / "random"))  # its default shares hold nothing out
    assert code == 0, out
    assert sorted(json.loads((tmp_path / "random" / "split.json").read_text())["parts"]) == ["id", "train", "valid"]


def test_a_store_that_still_grows_is_not_split(tmp_path, capsys):
    writer = StoreWriter(tmp_path / "all", name="set")
    for s in ALL[:5]:
        writer.add(s)
    writer.commit()
    with pytest.raises(SystemExit) as stopped:
        main(["data", "split", str(tmp_path / "all"), "--by", "random", "--out", str(tmp_path / "parts")])
    writer.close()
    assert stopped.value.code == 2
    assert "is not complete" in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()
