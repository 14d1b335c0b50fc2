"""`tools/bench hessian`: students at equal structures and at equal cost, and their table."""

from __future__ import annotations

import json

import pytest
from bench import hessian
from mlipfm_interfaces.errors import MlipfmError


def test_every_way_has_all_structures_and_few_of_each_seed():
    found = list(hessian.students(40, 8, 2))
    assert len(set(found)) == len(found) == 2 * 2 * len(hessian.WAYS)
    assert [student.structures for student in found[: 2 * len(hessian.WAYS)]] == [40] * 3 + [8] * 3


def test_means_of_the_table_have_standard_errors_and_what_was_not_compared_a_dash():
    way = "energies and forces"
    line = {"way": way, "structures": 40, "labels": 40, "seconds": 10.0, "steps": 5, "kind": "phonons", "unit": "THz"}
    found = [line | {"seed": seed, "force_mae": 10.0 + 2 * seed, "mae": 0.2} for seed in (0, 1)]
    rows = hessian.table([*found, line | {"way": "and rows of the Hessian", "labels": 200, "seed": 0, "force_mae": 5.0}])
    assert rows[0].count("THz") == 1
    assert rows[2] == f"| {way} | 40 | 40 | 11 ± 1 | 0.2 ± 0 | 2 | 10 |"
    assert rows[3] == "| and rows of the Hessian | 40 | 200 | 5 | - | 1 | 10 |"


def test_a_distillation_without_labels_of_the_hessian_is_refused(tmp_path):
    from mlipfm_data.store.writer import StoreWriter
    from mlipfm_interfaces.structure import Structure

    request = {"teacher": "emt:", "level": None, "charge": None, "multiplicity": None}
    (tmp_path / "request.json").write_text(json.dumps(request))
    copper = Structure([29], [[0, 0, 0]], cell=[[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]], pbc=[True] * 3)
    for part in ("train", "valid", "test-02"):
        with StoreWriter(tmp_path / "labels" / part, name=part) as writer:
            writer.add(copper.replace(level="emt", labels={"energy": -3.0}))
    (tmp_path / "start.xyz").write_text('1\nLattice="0 1.8 1.8 1.8 0 1.8 1.8 1.8 0" Properties=species:S:1:pos:R:3 pbc="T T T"\nCu 0 0 0\n')
    with pytest.raises(MlipfmError, match="as many rows as products"):
        hessian.run(tmp_path, tmp_path / "start.xyz", 10, 1)
