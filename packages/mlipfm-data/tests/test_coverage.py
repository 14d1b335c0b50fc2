"""The coverage report counts what is there and says what is not."""

import numpy as np
import pytest
from mlipfm_data.curation.coverage import FORCE_EDGES, cover, gaps, nearest_contact
from mlipfm_data.curation.coverage_figures import place
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Provenance, Structure

WATER = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def water(largest: float = 0.0, **more) -> Structure:
    forces = np.zeros((3, 3))
    forces[0, 0] = largest
    return Structure([8, 1, 1], WATER, **{"level": "pbe", "labels": {"energy": -10.0, "forces": forces}} | more)


def dimer(distance: float) -> Structure:
    """Two waters, the second `distance` Å behind the first in z."""
    return Structure([8, 1, 1] * 2, np.concatenate([WATER, WATER + [0, 0, distance]]))


def some() -> list[Structure]:
    broken = water().replace(positions=WATER * [2.5, 1, 1], provenance=Provenance(source="a", group="w"))
    iron = Structure([26], [[0.0, 0, 0]], total_charge=3, spin_multiplicity=6, level="pbe0")
    vacancy = Structure([29], [[0.0, 0, 0]], 2.5 * np.eye(3), [True] * 3, provenance=Provenance(source="Cu vacancy"))
    return [water(0.01, provenance=Provenance(source="a", group="w")), broken, water(60.0), water(5.0), dimer(3.0), iron, vacancy]


def test_forces_fall_into_the_regions_of_the_paper():
    found = cover(some())
    assert found.forces.sum() == 12
    assert found.force_share(0, 10) == pytest.approx(11 / 12)
    assert found.force_share(50, np.inf) == pytest.approx(1 / 12)
    assert {10.0, 50.0} <= set(FORCE_EDGES)
    assert dict(found.largest) == {"at equilibrium": 2, "far": 2, "no forces": 3}


def test_contacts_are_between_molecules_only():
    assert nearest_contact(water()) is None
    assert nearest_contact(dimer(3.0)) == pytest.approx(3.0)
    assert nearest_contact(dimer(50.0)) == 6.0


def test_gaps_name_what_is_there():
    found = {gap.letter: gap for gap in gaps(cover(some()))}
    assert [found[k].count for k in "abcdefghij"] == [1, 2, 1, 1, 0, 0, 0, 1, 0, 0]  # b: the dimer and the dissociated water
    assert found["a"].seen == "1 elements: Fe"
    assert found["c"].seen == "1 charged, 1 open-shell"
    assert not found["h"].told


def test_elements_stand_where_mendeleev_put_them():
    seats = {z: place(z) for z in range(1, 119)}
    assert len(set(seats.values())) == 118
    columns = {"He": 17, "B": 12, "Sc": 2, "Zn": 11, "Ga": 12, "Hf": 3, "Au": 10, "Og": 17, "Cs": 0, "Ra": 1}
    assert {name: seats[number(name)][1] for name in columns} == columns
    assert (seats[57], seats[71], seats[89]) == ((8, 2), (8, 16), (9, 2))


@pytest.mark.ci
def test_command_writes_a_page_and_a_picture(tmp_path, capsys):
    with StoreWriter(tmp_path / "store", name="a <set>") as writer:
        for s in some():
            writer.add(s)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "coverage", str(tmp_path / "store"), "--out", str(tmp_path / "report.html")])
    assert not stopped.value.code
    assert "d  Reactivity" in capsys.readouterr().out
    text = (tmp_path / "report.html").read_text()
    assert "Coverage of a &lt;set&gt;" in text
    assert text.count("<img") == 5
    assert "<script" not in text
    assert "://" not in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_no_report():
    with pytest.raises(MlipfmError, match="no structures"):
        cover([])
