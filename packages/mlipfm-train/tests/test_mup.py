"""muP: what `optimizer.width_ratio` does to rates, and that activations keep their size at every width with it and not without."""

from __future__ import annotations

import pytest
from mlipfm_interfaces.checkpoint import build
from mlipfm_models.parameter_roles import InputLinear
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.optimizers import adamw
from mlipfm_train.recipe import Optimizer, make_recipe
from mlipfm_train.scaling.coordinates import check_coordinates
from mlipfm_train.scaling.laws import ScalingError
from mlipfm_train.step import Step


def groups(ratio):
    potential = build("painn", {"backbone": {"channels": 8}, "elements": ["H"], "levels": ["a"]})
    step = Step(potential, {"energy-force": EnergyForce()})
    made = adamw(Optimizer(width_ratio=ratio, weight_decay=0.1))(step).param_groups
    names = {id(p): name for name, p in potential.named_parameters()}
    return {names[id(p)]: (g["lr_factor"], g["weight_decay"]) for g in made for p in g["params"]}, potential.parameter_roles()


def test_rates_of_hidden_and_output_matrices_are_divided_by_the_ratio_and_no_others():
    # arXiv:2203.03466, table 8: Adam's rate of input weights and biases does not depend on the width; lr x decay stays
    found, roles = groups(4.0)
    for name, role in roles.items():
        wide = role.scaling in ("hidden", "output")
        assert found[name] == (0.25 if wide else 1.0, (0.1 if role.decay else 0.0) * (4.0 if wide else 1.0))
    assert {role.scaling for role in roles.values()} == {"input", "hidden", "output", "vector"}
    assert groups(None)[0] == groups(1.0)[0]


def test_a_recipe_without_the_ratio_has_the_document_of_before():
    recipe = make_recipe({"potential": {"name": "painn"}})
    assert "width_ratio" not in recipe.model_dump(mode="json")["optimizer"]
    assert make_recipe(recipe.model_dump(mode="json")) == recipe
    assert make_recipe({"potential": {"name": "painn"}, "optimizer": {"width_ratio": 2}}).optimizer.width_ratio == 2.0


@pytest.mark.ci
def test_activations_are_flat_in_the_width_with_the_ratio_and_steep_without():
    flat, steep = (check_coordinates("density", (32, 256), lr=1e-2, seeds=3, mup=mup) for mup in (True, False))
    assert flat.outcome != "not flat"
    assert abs(flat.outputs.steepest[0]) < 0.1
    assert steep.outcome == "not flat"
    assert steep.steepest > 5 * abs(flat.steepest)


@pytest.mark.ci
def test_a_matrix_with_the_wrong_role_shows_in_the_changes_and_not_in_the_outputs(monkeypatch):
    """The fitting network of DeepPot-SE reads a descriptor of fixed size: at the rate of a hidden matrix it learns too little."""
    right = check_coordinates("deeppot_se", (32, 256), lr=3e-3, seeds=4)
    monkeypatch.setattr(InputLinear, "scaling", "hidden")
    wrong = check_coordinates("deeppot_se", (32, 256), lr=3e-3, seeds=4)
    assert wrong.outcome == "not flat"
    assert wrong.changes.steepest[0] < -0.3 < right.changes.steepest[0]
    assert abs(wrong.outputs.steepest[0]) < 0.15


@pytest.mark.full
@pytest.mark.parametrize("backbone", ["behler_parrinello", "deeppot_se", "density", "escaip", "mace", "painn", "pet"])
def test_no_block_of_a_backbone_grows_or_shrinks_with_the_width(backbone):
    found = check_coordinates(backbone, (32, 64, 128), lr=3e-3, seeds=12)
    assert found.outcome != "not flat"
    assert abs(found.outputs.steepest[0]) < 0.1


@pytest.mark.parametrize(("widths", "seeds", "said"), [((32,), 2, "two widths"), ((32, 64), 1, "two seeds")])
def test_one_width_has_no_slope_and_one_seed_no_scatter(widths, seeds, said):
    with pytest.raises(ScalingError, match=said):
        check_coordinates("density", widths, seeds=seeds)
