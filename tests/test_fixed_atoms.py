"""`mlipfm data import` and `mlipfm md run` fix the same atoms of a file."""

from __future__ import annotations

import pytest
from mlipfm_data.readers.registry import read
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_md.initial_files import read_initial_states


def written(path, name: str, kind: str, cells: list[str]):
    rows = [f"Cu {2.5 * k} 0 0 {cell}\n" for k, cell in enumerate(cells)]
    path.write_text(f'3\nProperties=species:S:1:pos:R:3:{name}:{kind} energy=-1.0 pbc="F F F"\n' + "".join(rows))
    return path


@pytest.mark.parametrize("name", ["fixed", "REF_fixed", "is_fixed", "fixed_atoms", "frozen_atoms", "freeze", "constrained", "Frozen"])
@pytest.mark.parametrize(("kind", "cells"), [("L:1", ["T", "F", "T"]), ("I:1", ["1", "0", "1"]), ("R:1", ["1.0", "0.0", "1.0"])])
def test_columns_that_are_true_for_fixed_atoms_fix_the_same_atoms_in_both(tmp_path, name, kind, cells):
    path = written(tmp_path / "a.xyz", name, kind, cells)
    assert fixed_by_both(path) == [[1, 0, 1], [1, 0, 1]]


@pytest.mark.parametrize("name", ["move_mask", "movable", "mobile_atoms", "selective_dynamics"])
@pytest.mark.parametrize(("kind", "cells"), [("L:1", ["F", "T", "F"]), ("L:3", ["F F F", "T T T", "F F F"])])
def test_columns_that_are_true_for_atoms_that_move_fix_the_others_in_both(tmp_path, name, kind, cells):
    path = written(tmp_path / "a.xyz", name, kind, cells)
    assert fixed_by_both(path) == [[1, 0, 1], [1, 0, 1]]


def fixed_by_both(path):
    ((start, _),) = read_initial_states(path)
    (structure,) = read(path)
    return [structure.labels["fixed"].tolist(), start.axes_fixed.all(axis=1).tolist()]


def test_other_values_under_such_a_name_are_no_labels_and_no_start_of_dynamics(tmp_path):
    path = written(tmp_path / "a.xyz", "fixed_charges", "R:1", ["0.3", "-0.1", "-0.2"])
    assert "fixed" not in next(iter(read(path))).labels
    with pytest.raises(MlipfmError, match=r"'fixed_charges' seems to say which atoms are fixed: .* got 0\.3"):
        read_initial_states(path)
