"""Overlap between the sets of one store: exact and near geometries, levels, states, and structures that several sets hold."""

import numpy as np
import pytest
from mlipfm_data.duplicates.report import find_overlaps, geometry_digest
from mlipfm_data.parallel import processes
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.structures import benzene, copper, ethanol, rattled, water
from sets.planted_duplicates import disguise


def of(name: str, s: Structure, level: str | None = "pbe", **changes: object) -> Structure:
    return s.replace(provenance=Provenance(name), level=level, **changes)


def names(_position: int, s: Structure) -> list[str]:
    return [str(s.provenance.source)]


def kinds(structures: list[Structure], sets_of=names, **options: object) -> dict[tuple[str, str], tuple[int, ...]]:
    """(first, second) -> structures, identical, identical at another level, near, near at another level."""
    report = find_overlaps(structures, sets_of, **options)
    return {(one.first, one.second): (one.of, *one.kinds.values()) for one in report.overlaps}


def test_each_structure_counts_once_where_it_is_strongest():
    """Identical at the same level wins over identical at another, which wins over near."""
    s = ethanol()
    noisy = s.replace(positions=s.positions + 0.003)
    frames = [of("a", s), of("a", s, "scan"), of("b", s), of("b", noisy), of("b", s, "b3lyp"), of("b", benzene())]
    assert kinds(frames) == {("a", "b"): (2, 1, 1, 0, 0), ("b", "a"): (4, 1, 1, 1, 0)}


@pytest.mark.parametrize("make", [ethanol, benzene, copper])
def test_disguised_copies_are_near_and_only_when_asked(make):
    """Turned, reordered, in another cell, with noise: the same geometry for anyone who trains on one and tests on the other."""
    s = rattled(make(), 0.05, 3)
    copy = disguise(s, "everything", np.random.default_rng(0))
    assert kinds([of("a", s), of("b", copy)]) == {("a", "b"): (1, 0, 0, 1, 0), ("b", "a"): (1, 0, 0, 1, 0)}
    assert kinds([of("a", s), of("b", copy, "scan")])["a", "b"] == (1, 0, 0, 0, 1)
    assert kinds([of("a", s), of("b", copy)], near=False) == {}


def test_levels_that_nobody_stated_are_not_the_same_level():
    assert kinds([of("a", water(), None), of("b", water(), None)])["a", "b"] == (1, 0, 1, 0, 0)


def test_a_charge_that_one_set_does_not_state_is_no_other_state_but_two_that_differ_are():
    neutral = {"total_charge": 0, "spin_multiplicity": 1}
    s = water()
    assert geometry_digest(s.replace(**neutral)) == s.key
    assert kinds([of("a", s), of("b", s, **neutral)])["a", "b"] == (1, 1, 0, 0, 0)
    assert kinds([of("a", s, total_charge=1), of("b", s, **neutral)]) == {}


def test_a_structure_that_two_sets_hold_is_compared_for_both():
    """Stored once: what b had brought too is shared by a, and near to the frame of c, for both of them."""
    s = ethanol()
    frames = [of("a", s), of("c", s.replace(positions=s.positions + 0.003))]
    held = {0: ["a", "b"], 1: ["c"]}
    found = kinds(frames, lambda k, _: held[k])
    assert found["a", "b"] == found["b", "a"] == (1, 1, 0, 0, 0)
    assert found["a", "c"] == found["b", "c"] == (1, 0, 0, 1, 0)


def test_neighbours_of_one_set_are_no_overlap():
    frames = [of("a", rattled(ethanol(), 0.001, k)) for k in range(5)] + [of("b", benzene())]
    assert kinds(frames) == {}


def test_the_table_begins_with_the_sets_that_share_most_and_tells_the_larger_share():
    s = ethanol()
    frames = [of("big", rattled(s, 0.2, k)) for k in range(4)] + [of("small", rattled(s, 0.2, k)) for k in range(2)]
    frames += [of("big", water()), of("tiny", water())]
    lines = list(find_overlaps(frames, names).lines())
    assert lines[2].split() == ["small", "big", "2", "2", "0", "0", "0", "100.0%"]
    assert lines[3].split() == ["tiny", "big", "1", "1", "0", "0", "0", "100.0%"]
    assert "equal coordinates among all 8 structures of 3 sets" in lines[4]
    assert "among the 8 geometries of the 2 compositions" in lines[5]


def test_compositions_of_one_set_only_are_not_searched():
    report = find_overlaps([of("a", ethanol()), of("b", benzene()), of("b", benzene(), "scan")], names)
    assert (report.compared, report.compositions, report.overlaps) == (0, 0, [])
    assert list(report.lines())[1] == "  none"


def test_atoms_on_top_of_each_other_are_said_to_be_not_compared():
    s = copper().replace(positions=np.zeros((len(copper()), 3)))
    report = find_overlaps([of("a", s), of("b", s.replace(positions=s.positions + 1e-5))], names)
    assert report.unfit.total() == 2
    assert any("not compared: 2 structures" in line for line in report.lines())


@pytest.mark.ci
def test_two_processes_find_the_same():
    frames = [of("a", rattled(ethanol(), 0.1, k)) for k in range(40)] + [
        of("b", disguise(rattled(ethanol(), 0.1, k), "everything", np.random.default_rng(k))) for k in range(20)
    ]
    alone = kinds(frames)
    with processes(2) as executor:
        assert kinds(frames, executor=executor) == alone
    assert alone["b", "a"] == (20, 0, 0, 20, 0)


def test_a_tolerance_beyond_any_noise_is_refused():
    with pytest.raises(MlipfmError, match="the tolerance must be above 0"):
        find_overlaps([water()], names, tolerance=1.0)
