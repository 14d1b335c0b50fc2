"""Charges and multiplicities that training showed each alone, but never together."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from mlipfm_interfaces.checkpoint import load_potential, save_potential
from mlipfm_interfaces.errors import DamagedFileError, UntrainedStateWarning
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.trained_states import merge_states
from mlipfm_models import build_potential

WATER = Structure([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
STATES = {"total_charge": [0, 1], "spin_multiplicity": [1, 2], "pairs": [[0, 1], [0, 2], [1, 1]]}


def checkpoint(folder: Path, states: dict[str, Any]) -> Path:
    config = {
        "elements": ["H", "O"],
        "levels": ["gfn2-xtb"],
        "conditions": ["total_charge", "spin_multiplicity"],
        "backbone": {"channels": 16},
    }
    save_potential(folder / "model.safetensors", build_potential("density", config), {"trained_states": states})
    return folder / "model.safetensors"


def warnings_of(path: Path, charge: int | None, multiplicity: int | None) -> list[str]:
    potential = load_potential(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(potential, [WATER.replace(total_charge=charge, spin_multiplicity=multiplicity)], ("energy",))
    return [str(w.message) for w in caught if w.category is UntrainedStateWarning]


def test_a_radical_cation_is_extrapolated_where_cations_were_singlets_and_radicals_neutral(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, STATES)
    (text,) = warnings_of(path, 1, 2)
    assert text.startswith("charge +1 with spin multiplicity 2 was not trained, the prediction is extrapolated")
    assert text.endswith("training showed this model 0 with 1, 0 with 2, +1 with 1")
    assert not warnings_of(path, 0, 1)


def test_what_was_trained_together_and_models_that_do_not_say_are_not_remarked(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert not warnings_of(checkpoint(tmp_path, STATES | {"pairs": [*STATES["pairs"], [1, 2]]}), 1, 2)
    assert not warnings_of(checkpoint(tmp_path / "one", {k: v for k, v in STATES.items() if k != "pairs"}), 1, 2)


def test_a_charge_that_was_not_trained_at_all_is_remarked_once(tmp_path: Path) -> None:
    (text,) = warnings_of(checkpoint(tmp_path, STATES), 2, 1)
    assert "charge +2 was not trained" in text


def test_pairs_of_two_trainings_are_joined_and_unknown_where_one_does_not_say() -> None:
    later = {"total_charge": [1], "spin_multiplicity": [2], "pairs": [[1, 2]]}
    assert merge_states(STATES, later)["pairs"] == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert merge_states({}, later)["pairs"] == [[1, 2]]
    assert "pairs" not in merge_states({"total_charge": [0]}, later)


@pytest.mark.parametrize("pairs", [[[0]], [[0, None]], [0, 1], "0 1", [[0, 1.5]]])
def test_pairs_that_are_none_are_refused(pairs: Any, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, STATES | {"pairs": pairs})
    with pytest.raises(DamagedFileError, match="trained_states.pairs"):
        load_potential(path)
