"""The objective of any quantity against sums made by hand, its contract, and heads that are scaled to their labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import MissingLabelsError, RecipeError, UnknownQuantityError
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.rules import findings
from mlipfm_interfaces.testing.training_rules import OBJECTIVE_RULES, ObjectiveCase
from mlipfm_train.head_scales import with_scales
from mlipfm_train.loop import fit
from mlipfm_train.objectives.quantities import Quantities
from mlipfm_train.recipe import make_recipe

HEADS = {"dipole": {}, "charges": {}, "band_gap": {}, "shieldings": {}, "quadrupole": {}}


def labelled(structures, seed=0):
    """Labels that depend on geometry and element in ways a network can learn."""
    rng = np.random.default_rng(seed)
    out = []
    for s in structures:
        charges = np.where(s.atomic_numbers == 1, 0.1, -0.05) + 0.01 * rng.normal(size=len(s))
        labels = {
            "charges": charges - charges.mean(),
            "dipole": ((charges - charges.mean())[:, None] * s.positions).sum(axis=0),
            "quadrupole": -0.3 * len(s) * np.eye(3),
            "band_gap": np.float64(5.0 + 0.1 * len(s)),
            "shieldings": np.where(s.atomic_numbers == 1, 30.0, 150.0) + rng.normal(size=len(s)),
        }
        out.append(s.replace(total_charge=0, labels={**s.labels, **labels}))
    return out


def test_errors_are_scaled_masked_and_extensive_ones_are_per_atom():
    pair = Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels={"dipole": [1.0, 0, 0], "charges": [0.5, -0.5], "homo": -3.0})
    one = Structure([1], [[0, 0, 0]], level="x", labels={"homo": -5.0})
    batch = collate([pair, one], [])
    predicted = {
        "dipole": torch.tensor([[4.0, 4.0, 0.0], [9.0, 9.0, 9.0]]),
        "charges": torch.tensor([0.0, 0.0, 7.0]),
        "homo": torch.tensor([-1.0, -4.0]),
    }
    objective = Quantities({"dipole": 2.0, "charges": 1.0, "homo": 1.0}, {"dipole": 0.5, "homo": 2.0}, "norm")
    terms = objective.terms(Prediction(predicted, "direct"), batch)
    assert {key: (float(total), float(count)) for key, (total, count) in terms.items()} == {
        "dipole": (2.0 * 5.0 / 2 / 0.5, 1.0),  # |(3, 4, 0)| over two atoms, over the scale
        "charges": (1.0, 2.0),
        "homo": (1.0 + 0.5, 2.0),
    }
    nothing = objective.terms(Prediction(predicted, "direct"), collate([Structure([1], [[0, 0, 0]]), Structure([1, 1], np.eye(3)[:2])], []))
    assert {float(count) for _, count in nothing.values()} == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {}}, "teach nothing"),
        ({"weights": {"dipole": 0.0}}, "teach nothing"),
        ({"weights": {"forces": 1.0}}, "a term of the objective 'energy-force'; take it there: forces_weight"),
        ({"weights": {"hvp": 1.0}}, "'hvp' belongs to probes"),
        ({"weights": {"dipole": 1.0}, "scales": {"homo": 1.0}}, "of quantities that have a weight"),
        ({"weights": {"dipole": 1.0}, "loss": "mad"}, "loss 'mad' is unknown; known: mae, mse, huber, norm"),
        ({"weights": {"dipole": 1.0}, "huber_delta": 0.0}, "huber_delta must be positive"),
    ],
)
def test_what_cannot_be_taught_is_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        Quantities(**options)


def test_unknown_quantity_is_refused_with_the_nearest():
    with pytest.raises(UnknownQuantityError, match="did you mean 'dipole'"):
        Quantities({"dipol": 1.0})


def test_the_contract_of_objectives_holds(morse_structures):
    data = [s.replace(level="any") for s in labelled(morse_structures(5, 3))]
    config = {"elements": ["H", "C", "O"], "levels": ["any"], "conditions": ["total_charge"], "heads": HEADS, "dtype": "float64"}
    potential = build("painn", config | {"backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}})
    case = ObjectiveCase(lambda: Quantities(dict.fromkeys(HEADS, 1.0), loss="mse"), potential, data)
    assert not [f.error for f in findings(tuple(OBJECTIVE_RULES), case) if f.error]


def test_heads_start_with_mean_and_deviation_of_their_labels(morse_structures):
    data = labelled(morse_structures(12, 0))
    found = with_scales({**HEADS, "noise": {}, "homo": {"scale": 9.0}}, data, ["H", "C", "O", 14], 0)
    gaps = np.array([s.labels["band_gap"] for s in data])
    assert found["band_gap"] == {"scale": pytest.approx(gaps.std()), "shift": pytest.approx(gaps.mean())}
    assert found["shieldings"]["shift"]["H"] == pytest.approx(30.0, abs=1.0)
    assert set(found["shieldings"]["shift"]) == {"H", "C", "O", "Si"}
    assert found["shieldings"]["scale"] < 2.0
    assert "shift" not in found["charges"]
    assert found["noise"] == {}
    assert found["homo"] == {"scale": 9.0}


@pytest.mark.parametrize("key", ["weight", "forces_weight", "fixed"])
def test_weights_and_constraints_are_nothing_to_learn(key):
    with pytest.raises(RecipeError, match=f"no model predicts '{key}'"):
        Quantities({key: 1.0})


@pytest.mark.ci
def test_a_run_learns_what_the_heads_are_shown(tmp_path, morse_structures, write_store, tiny):
    stores = [str(write_store(tmp_path / name, labelled(morse_structures(n, seed), seed))) for name, n, seed in (("a", 24, 0), ("b", 6, 1))]
    recipe = tiny | {
        "potential": tiny["potential"] | {"heads": HEADS, "conditions": ["total_charge"]},
        "data": {"train": stores[:1], "valid": stores[1:], "budget": 40},
        "objectives": [{"name": "energy-force"}, {"name": "quantities", "weights": dict.fromkeys(HEADS, 1.0)}],
        "steps": 60,
        "evaluate_every": 60,
        "checkpoint_every": 60,
        "weight_rule": {"name": "none"},
    }
    result = fit(make_recipe(recipe), tmp_path / "run")
    figures = {metric.name: metric for metric in result.metrics}
    assert figures["shieldings MAE"].unit == "ppm"
    assert figures["shieldings MAE"].value < 2.0  # the labels' own noise is 0.8
    assert figures["band_gap MAE"].value < 0.1
    assert figures["charges MAE"].value < 0.04
    assert figures["dipole MAE"].n_ok == 6
    assert (figures["quadrupole MAE"].unit, figures["quadrupole MAE"].n_ok) == ("e Angstrom^2", 6)
    assert figures["quadrupole MAE"].value < 0.1  # a third of the entries is -0.3 for each atom, of at least three atoms


def test_a_quantity_that_no_structure_has_is_refused_before_the_first_step(tmp_path, tiny):
    recipe = tiny | {
        "potential": tiny["potential"] | {"heads": {"homo": {}}},
        "objectives": [{"name": "quantities", "weights": {"homo": 1.0}}],
    }
    with pytest.raises(MissingLabelsError, match="has the label 'homo' that 'quantities' needs"):
        fit(make_recipe(recipe), tmp_path / "run")
