"""Tables of numbers stay exact however often a model changes its dtype."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_models import build_potential
from mlipfm_models.assembly import AssembledPotential
from mlipfm_models.backbones.backbone import ExactConstants
from mlipfm_models.combinations import own_backbones

WATER = Structure(np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.1], [0.76, 0.1, -0.5], [-0.8, 0.2, -0.45]]))


def built(plugin: str, dtype: str) -> AssembledPotential:
    conditions = ["total_charge", "spin_multiplicity"]
    heads = {"dipole": {}} if plugin != "behler_parrinello" else {}
    return build_potential(
        plugin, {"elements": ["H", "O"], "levels": ["a"], "dtype": dtype, "short_range": "zbl", "heads": heads, "conditions": conditions}
    )


@pytest.mark.parametrize("plugin", own_backbones())
@pytest.mark.parametrize("change", [lambda m: m.double(), lambda m: copy.deepcopy(m).half().double(), lambda m: m.to(torch.float64)])
def test_constants_of_a_model_made_in_float32_are_exact_in_float64(plugin, change):
    exact = dict(built(plugin, "float64").named_buffers())
    turned = change(built(plugin, "float32"))
    kept = set(turned.state_dict())  # what is saved with the weights is rounded like the weights
    found = {name: value for name, value in turned.named_buffers() if name not in kept}
    assert found.keys() == exact.keys() - kept
    for name, value in found.items():
        assert torch.equal(value.nan_to_num(nan=-1.0), exact[name].nan_to_num(nan=-1.0)), name


@pytest.mark.parametrize("plugin", own_backbones())
def test_a_float32_model_turned_to_float64_gives_the_energy_of_a_float64_model_with_its_weights(plugin):
    rounded = built(plugin, "float32").double()
    exact = built(plugin, "float64")
    exact.load_state_dict(rounded.state_dict())
    rounded.spec = exact.spec
    first, second = (evaluate(model, [WATER], ("energy", "forces"))[0] for model in (rounded, exact))
    assert abs(first["energy"] - second["energy"]) < 1e-12 * max(1.0, abs(second["energy"]))
    assert np.abs(first["forces"] - second["forces"]).max() < 1e-11


def test_a_plain_buffer_keeps_its_rounding_and_a_constant_does_not():
    class Both(ExactConstants):
        def __init__(self) -> None:
            super().__init__()
            self.constant("exact", torch.tensor([1 / 3], dtype=torch.float64))
            self.register_buffer("plain", torch.tensor([1 / 3], dtype=torch.float64), persistent=False)

    module = Both().float().double()
    assert float(module.get_buffer("exact")) == 1 / 3
    assert float(module.get_buffer("plain")) != 1 / 3
    assert Both().float().get_buffer("exact").dtype == torch.float32
    assert module.state_dict() == {}
