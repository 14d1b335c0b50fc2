"""Charges and multiplicities that data do not give, on top of a model whose data always gave them."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.potential import evaluate
from mlipfm_train.loop import fit
from mlipfm_train.recipe import make_recipe

pytestmark = pytest.mark.filterwarnings("ignore::mlipfm_interfaces.errors.UntrainedStateWarning")  # of the model before training
BOTH = ["total_charge", "spin_multiplicity"]


@pytest.fixture(scope="module")
def stated(tiny, morse_structures, write_store, tmp_path_factory):
    """A model of structures that give their charge and multiplicity."""
    folder = tmp_path_factory.mktemp("stated")
    structures = [s.replace(total_charge=0, spin_multiplicity=1) for s in morse_structures(12, 3)]
    store = write_store(folder / "store", structures)
    document = tiny | {"potential": tiny["potential"] | {"conditions": BOTH}, "data": tiny["data"] | {"train": [str(store)], "valid": []}}
    return fit(make_recipe(document), folder / "run").last


@pytest.mark.parametrize("changes", [[], ["adapt={mode: lora, rank: 2}"]])
def test_fine_tuned_on_data_that_give_none_a_neutral_singlet_is_what_is_not_given(stated, tiny, morse_structures, tmp_path, changes):
    """The warning of the model says that it takes them so; calculators are given charge 0 and spin 1, and must predict the same."""
    lines = []
    recipe = make_recipe(tiny | {"init_from": str(stated), "potential": {}, "steps": 30}, changes)
    result = fit(recipe, tmp_path / "run", say=lines.append)
    potential, manifest = load_model(result.last)
    assert any(line == "24 structures give no total charge and are taken as neutral, as the starting model takes them" for line in lines)
    assert any("24 structures give no spin multiplicity and are taken as a singlet" in line for line in lines)
    assert manifest["extra"]["trained_states"] == {"total_charge": [0], "spin_multiplicity": [1], "pairs": [[0, 1]]}
    structures = morse_structures(3, 5)
    unstated, neutral = (evaluate(potential, [s.replace(**state) for s in structures], ("energy", "forces")) for state in STATES)
    for a, b in zip(unstated, neutral, strict=True):
        np.testing.assert_array_equal(a["energy"], b["energy"])
        np.testing.assert_array_equal(a["forces"], b["forces"])


STATES = ({}, {"total_charge": 0, "spin_multiplicity": 1})


def test_a_run_that_goes_on_leaves_the_weights_of_what_is_not_given_at_zero(stated, tiny, tmp_path):
    document = tiny | {"init_from": str(stated), "potential": {}}
    fit(make_recipe(document | {"steps": 8}), tmp_path / "run")
    weights = load_model(fit(make_recipe(document | {"steps": 16}), tmp_path / "run").last)[0].state_dict()
    unknown = [value for name, value in weights.items() if "unknown" in name]
    assert len(unknown) == 2
    assert all(float(value.abs().max()) == 0.0 for value in unknown)


def test_data_that_give_none_from_random_weights_keep_their_own_state(tiny, morse_structures, write_store, tmp_path):
    """Nothing was shown before: both are the same afterwards, see `settle_states`."""
    document = tiny | {"potential": tiny["potential"] | {"conditions": BOTH}}
    _, manifest = load_model(fit(make_recipe(document), tmp_path / "run").last)
    assert manifest["extra"]["trained_states"]["total_charge"] == [None]
