"""`tools/bench ablations`: effects of paired seeds, and that nothing is called nothing."""

from __future__ import annotations

import pytest
from bench import ablations
from mlipfm_interfaces.errors import MlipfmError


def line(variant, seed, error):
    return {"ablation": "rotations", "variant": variant, "seed": seed, "steps": 100, "force MAE (meV/A)": error}


def test_a_change_of_a_tenth_in_every_seed_is_an_effect_although_seeds_differ_by_more():
    rows = ablations.table([*(line("as given", s, 40.0 + 10 * s) for s in range(3)), *(line("rotated", s, 36.0 + 9 * s) for s in range(3))])
    assert rows[0] == "| rotations | steps | force MAE (meV/A) |"
    assert rows[2] == "| as given | 100 | 50 |"
    assert rows[3] == "| rotated | 100 | 45 (-10.0 % [-10.0, -10.0]) |"


def test_changes_with_different_signs_are_no_effect_and_students_t_has_its_width():
    rows = ablations.table([*(line("as given", s, 50.0) for s in range(3)), *(line("rotated", s, 50.0 + s - 0.5) for s in range(3))])
    half = 4.302653 * 2.0 / 3**0.5  # changes of -1, 1 and 3 %: standard deviation 2, two degrees of freedom
    assert f"(+1.0 % [{1 - half:+.1f}, {1 + half:+.1f}], no effect seen)" in rows[3]


def test_what_has_not_been_made_has_no_row_and_an_unknown_name_is_refused(tmp_path):
    assert ablations.table([]) == []
    assert len(ablations.table([line("as given", 0, 1.0)])) == 3
    with pytest.raises(MlipfmError, match="'dropout' is unknown"):
        ablations.run(tmp_path, tmp_path, ["dropout"])
