"""The energy-force objective against sums made by hand, and the contract of objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.training_rules import OBJECTIVE_RULES, ObjectiveCase
from mlipfm_train.objectives.denoise import Denoise
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.objectives.quantities import Quantities


def two_systems(second_labels=None):
    """Two atoms labelled with zeros, one atom with `second_labels`."""
    pair = Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels={"energy": 0.0, "forces": np.zeros((2, 3))})
    one = Structure([1], [[0, 0, 0]], level="x", labels=second_labels or {})
    return collate([pair, one], [])


PREDICTED = {
    "energy": torch.tensor([6.0, 5.0], dtype=torch.float64),
    "forces": torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64, requires_grad=True),
}


def terms(objective, batch):
    values = objective.terms(Prediction(PREDICTED, "direct"), batch)
    return {key: (float(total.detach()), float(count)) for key, (total, count) in values.items()}


def test_norms_count_atoms_and_energies_are_per_atom():
    assert terms(EnergyForce(energy_weight=2.0, forces_weight=10.0), two_systems()) == {"energy": (6.0, 1.0), "forces": (50.0, 2.0)}


def test_component_losses_count_components():
    assert terms(EnergyForce(forces_weight=1.0, forces_loss="mse"), two_systems())["forces"] == (25.0, 6.0)
    assert terms(EnergyForce(forces_weight=1.0, forces_loss="mae"), two_systems())["forces"] == (7.0, 6.0)
    # Huber of x > d is d (x - d/2)
    assert terms(EnergyForce(forces_weight=1.0, forces_loss="huber", huber_delta=1.0), two_systems())["forces"] == (2.5 + 3.5, 6.0)


def test_labels_of_each_system_are_masked_apart():
    assert terms(EnergyForce(), two_systems({"energy": np.float64(1.0)})) == {"energy": (3.0 + 4.0, 2.0), "forces": (50.0, 2.0)}


def test_batches_without_any_label_count_nothing():
    bare = collate([Structure([1, 1, 1], np.eye(3), level="x"), Structure([1], [[0, 0, 0]], level="x")], [])
    assert terms(EnergyForce(), bare) == {"energy": (0.0, 0.0), "forces": (0.0, 0.0)}


def test_exact_forces_have_a_finite_gradient():
    exact = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    batch = collate([Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels={"forces": np.zeros((2, 3))})], [])
    total, _ = EnergyForce(energy_weight=0.0).terms(Prediction({"forces": exact}, "direct"), batch)["forces"]
    total.backward()
    assert torch.equal(exact.grad, torch.zeros(2, 3, dtype=torch.float64))


def test_weights_of_zero_switch_a_quantity_off():
    assert EnergyForce(energy_weight=0.0).outputs == ("forces",)
    assert EnergyForce(stress_weight=1.0).requires == ("energy", "forces", "stress")
    with pytest.raises(RecipeError, match="teach nothing"):
        EnergyForce(energy_weight=0.0, forces_weight=0.0)
    with pytest.raises(RecipeError, match="huber_delta must be positive"):
        EnergyForce(huber_delta=0.0)


@pytest.mark.parametrize(
    ("objective", "options", "idle"),
    [
        (EnergyForce, {"huber_delta": 0.5}, "huber_delta"),
        (EnergyForce, {"huber_delta": 0.5, "stress_loss": "huber", "stress_weight": 1.0}, None),
        (EnergyForce, {"huber_delta": 0.01, "stress_loss": "mae"}, None),  # as a resolved recipe writes its defaults
        (Quantities, {"weights": {"dipole": 1.0}, "huber_delta": 0.5}, "huber_delta"),
        (Quantities, {"weights": {"dipole": 1.0}, "huber_delta": 0.5, "loss": "huber"}, None),
        (Denoise, {"kt": 0.05}, "kt"),
        (Denoise, {"kt": 0.05, "predict": "forces"}, None),
    ],
)
def test_an_option_that_nothing_uses_is_refused(objective, options, idle):
    if idle is None:
        assert objective(**options).outputs
        return
    with pytest.raises(RecipeError, match=f"{idle} has no effect here"):
        objective(**options)


@pytest.mark.parametrize("loss", ["norm", "mse", "huber"])
def test_the_contract_of_objectives_holds(loss, morse_structures):
    potential = Morse()
    data = [s.replace(level="closed-form", labels={k: v + 0.1 for k, v in s.labels.items()}) for s in morse_structures(5, 3)]
    case = ObjectiveCase(lambda: EnergyForce(forces_loss=loss), potential, data)
    assert not [f.error for f in findings(tuple(OBJECTIVE_RULES), case) if f.error]
