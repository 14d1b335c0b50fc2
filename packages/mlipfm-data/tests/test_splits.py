"""Splits: parts that share nothing they must not share, the same for any order."""

import json
from dataclasses import replace

import numpy as np
import pytest
from mlipfm_data.curation.classes import temperature_class
from mlipfm_data.curation.splits import OOD, WAYS, make_split
from mlipfm_data.curation.trajectories import beside_training, time_split
from mlipfm_data.store.store import Store
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import InvalidStructureError, MlipfmError, UnknownElementError
from mlipfm_interfaces.structure import Provenance, Structure

SHARES = {"train": 0.6, "valid": 0.15, "test": 0.1, OOD: 0.15}
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
    shares = {"train": 0.8, "valid": 0.1, "test": 0.1} if by == "random" else SHARES
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
    with pytest.raises(InvalidStructureError, match="5 of 5 structures give no charge"):
        make_split(unstated, "charge", SHARES)
    with pytest.raises(InvalidStructureError, match="give no group.*--group-key"):
        make_split(unstated, "group", SHARES)
    with pytest.raises(InvalidStructureError, match="give no temperature"):
        make_split(unstated, "temperature", SHARES)
    box = ALL[0].replace(cell=9.0 * np.eye(3), pbc=[True] * 3)
    with pytest.raises(InvalidStructureError, match="give no molecule.*composition"):
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
    for least in (["big"], ["4", "9"], ["-1"]):
        with pytest.raises(MlipfmError, match="the least number of atoms is held out"):
            make_split(ALL, "size", SHARES, hold_out=least)
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
    assert "valid: no structure is left for it of 200" in out
    assert sorted(json.loads((tmp_path / "random" / "split.json").read_text())["parts"]) == ["test", "train", "valid"]


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


def trajectory(n: int, group: str | None = "a", step: float = 0.05, seed: int = 0, box: float | None = None) -> list[Structure]:
    """A molecule (or its periodic image) that vibrates: neighbouring frames differ by about `step` of the amplitude."""
    rng = np.random.default_rng(seed)
    phase, rest = (
        rng.uniform(0, 6, size=(5, 3)),
        np.array([[0.0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]),
    )
    cell = {} if box is None else {"cell": np.eye(3) * box, "pbc": True}
    return [
        Structure(
            [6, 1, 1, 1, 1],
            rest + 0.1 * np.sin(step * k * (1 + phase) + phase),
            provenance=Provenance(source="md", group=group, index=k),
            **cell,
        )
        for k in range(n)
    ]


def test_blocks_of_time_are_contiguous_in_every_trajectory_and_apart_by_the_gap():
    both = [*trajectory(100, "a", seed=1), *trajectory(50, "b", seed=2)]
    order = np.random.default_rng(3).permutation(len(both))
    split, dropped = time_split([both[k] for k in order], {"train": 0.8, "valid": 0.2}, gap=5)
    for group, first in (("a", 0), ("b", 100)):
        placed = {
            name: sorted(int(order[k]) - first for k in part if both[order[k]].provenance.group == group)
            for name, part in split.parts.items()
        }
        n = 100 if group == "a" else 50
        edge = round(0.8 * (n - 5))
        assert placed == {"train": list(range(edge)), "valid": list(range(edge + 5, n))}
    assert len(dropped) == 10


def test_a_geometry_that_comes_again_stays_where_it_came_first():
    once = trajectory(40, "a")
    again = [s.replace(provenance=replace(s.provenance, group="b", index=k)) for k, s in enumerate(once[::-1])]
    split, _ = time_split([*once, *again], {"train": 0.5, "valid": 0.5})
    keys = [{([*once, *again])[k].key for k in part} for part in split.parts.values()]
    assert not keys[0] & keys[1]


def test_what_is_no_trajectory_is_not_cut():
    with pytest.raises(MlipfmError, match="no trajectory can be cut into 2 blocks"):
        time_split(
            [s.replace(provenance=replace(s.provenance, group=str(k))) for k, s in enumerate(trajectory(9))], {"train": 0.8, "valid": 0.2}
        )
    with pytest.raises(InvalidStructureError, match="gives no index"):
        time_split([trajectory(1)[0].replace(provenance=Provenance(source="x"))], {"train": 0.8, "valid": 0.2})


@pytest.mark.parametrize("box", [None, 8.0])
def test_frames_beside_training_frames_are_found_and_independent_ones_are_not(box):
    slow, fast = trajectory(200, step=0.05, box=box), trajectory(200, step=7.3, box=box)
    for frames, by, matters in ((slow, "random", True), (slow, "time", False), (fast, "random", False)):
        shares = {"train": 0.8, "valid": 0.2}
        parts = time_split(frames, shares)[0].parts if by == "time" else make_split(frames, "random", shares).parts
        beside = beside_training([frames[k] for k in parts["train"]], [frames[k] for k in parts["valid"]])
        assert (beside.looked_at >= 30, beside.matters) == (True, matters)


def test_the_command_cuts_time_and_warns_of_a_random_split_of_a_trajectory(tmp_path, capsys):
    with StoreWriter(tmp_path / "all", name="all") as writer:
        for s in trajectory(60):
            writer.add(s)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["data", "split", str(tmp_path / "all"), "--workers", "1", *words])
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out + captured.err

    status, text = run("--by", "random", "--no-check", "--out", str(tmp_path / "random"))
    assert status == 0
    assert "warning: 6 of 6 structures of 'valid' lie beside training structures of the same trajectory" in text
    assert "--by time" in text
    status, text = run("--by", "time", "--gap", "3", "--out", str(tmp_path / "time"))
    assert (status, "warning" in text, "6 frames in gaps are in no part" in text) == (0, False, True)
    assert [len(Store(tmp_path / "time" / name)) for name in ("train", "valid", "test")] == [43, 6, 5]
    assert json.loads((tmp_path / "time" / "split.json").read_text())["dropped"] == [43, 44, 45, 52, 53, 54]
    for words in (["--by", "time", "--seed", "3"], ["--by", "random", "--gap", "3"], ["--by", "time", "--hold-out", "x"]):
        status, text = run(*words, "--out", str(tmp_path / "never"))
        assert status == 2
    assert not (tmp_path / "never").exists()


def test_a_geometry_in_several_states_is_in_one_part():
    """The cation of a geometry tells a model what the neutral molecule is like."""
    both = [s.replace(total_charge=q, spin_multiplicity=None) for s in ALL for q in (0, 2)]
    for part in make_split(both, "random", {"train": 0.5, "valid": 0.5}).parts.values():
        chosen = set(part)
        assert all(k ^ 1 in chosen for k in chosen)


def test_a_geometry_of_a_held_out_class_is_held_out_in_every_class():
    """Of every tenth geometry there is also an ion of charge 5, which is held out: its neutral twin must not be trained on."""
    twins = [s.replace(total_charge=5, spin_multiplicity=None) for s in ALL[::10]]
    split = make_split([*ALL, *twins], "charge", {"train": 0.8, "valid": 0.1, "ood": 0.1}, hold_out=["5"])
    assert set(range(0, len(ALL), 10)) <= set(split.parts[OOD])
    assert set(range(len(ALL), len(ALL) + len(twins))) <= set(split.parts[OOD])
    assert len(split.parts[OOD]) == 2 * len(twins)


def test_isolated_atoms_are_trained_on_for_their_energies_are_references():
    cells = [Structure([29, 13], np.array([[0, 0, 0], [1.8, 1.8, 0.01 * k]]), np.eye(3) * 3.6, [True] * 3) for k in range(20)]
    atoms = [Structure([z], np.zeros((1, 3)), np.eye(3) * 14.0, [True] * 3) for z in (29, 13)]
    crystal = Structure([29], np.zeros((1, 3)), np.eye(3) * 2.5, [True] * 3)  # one atom, and not an isolated one
    for seed in range(8):
        made = make_split([*cells, *atoms, crystal], "random", {"train": 0.5, "valid": 0.5}, seed=seed)
        assert {20, 21} <= set(made.parts["train"])
        assert sorted([*made.parts["train"], *made.parts["valid"]]) == list(range(23))
    alone = make_split([atoms[0], atoms[1], *(a.replace(level="x") for a in atoms)], "random", {"train": 0.5, "valid": 0.5})
    assert alone.parts["valid"]
    assert any(22 in make_split([*cells, *atoms, crystal], "random", {"train": 0.5, "valid": 0.5}, seed=k).parts["valid"] for k in range(8))
