"""A checkpoint holds a few structures of the model's own data: geometry and state, no labels."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import load_model, save_potential
from mlipfm_interfaces.errors import DamagedFileError
from mlipfm_interfaces.examples import MAX_ATOMS, MAX_EXAMPLES, chosen, examples_json, examples_of
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.testing.structures import argon, rattled, silicon, supercell, water


def test_few_are_chosen_and_every_element_is_among_them():
    many = [rattled(water(), 0.1, seed=k) for k in range(1000)] + [rattled(silicon(), 0.1), rattled(argon(), 0.1)]
    found = chosen(many, tried=2000)
    assert len(found) == MAX_EXAMPLES
    assert {int(z) for s in found for z in s.atomic_numbers} == {1, 8, 14, 18}
    assert [s.key for s in chosen(many, tried=2000)] == [s.key for s in found]


def test_large_structures_are_left_out_and_nothing_gives_nothing():
    assert chosen([]) == []
    assert chosen([supercell(argon(), (6, 6, 6))]) == []
    assert sum(map(len, chosen([supercell(argon(), (3, 3, 3))] * 9))) <= MAX_ATOMS


def test_loaded_potential_knows_the_examples_of_its_checkpoint(tmp_path):
    s = [water().replace(total_charge=1, spin_multiplicity=2, labels={"energy": np.array(1.0)}), silicon()]
    save_potential(tmp_path / "model.safetensors", Morse(), {"examples": examples_json(s)})
    model, manifest = load_model(tmp_path / "model.safetensors")
    assert [e.formula for e in model.examples] == ["H2O", "Si2"]
    assert model.examples[0].total_charge == 1
    assert not model.examples[0].labels
    np.testing.assert_allclose(model.examples[1].cell, silicon().cell, atol=1e-6)
    assert model.examples[1].pbc.all()
    assert "energy" not in manifest["extra"]["examples"][0]


@pytest.mark.parametrize("damage", [{"examples": 3}, {"examples": [{"numbers": [1]}]}, {"examples": ["water"]}])
def test_damaged_examples_are_refused(damage):
    with pytest.raises(DamagedFileError, match="example"):
        examples_of(damage)
    assert examples_of({}) == ()
