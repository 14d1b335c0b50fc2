"""The assembled potential: configuration, references, outputs, gradients for training, reproducible construction."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import ContractError, LevelError, MlipfmError, PropertyNotAvailableError, RecipeError, UnknownElementError
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import copper, methane, rattled, silicon, water
from mlipfm_models import build_potential

MINIMAL = {"elements": ["H", "O"], "levels": ["gfn2-xtb"]}


def silent(potential: Any) -> Any:
    """The potential with the last layer of its energy head at zero: only references are left."""
    with torch.no_grad():
        for parameter in potential.heads.energy.outer.parameters():
            parameter.zero_()
    return potential


def batch_of(potential: Any, structures: list[Structure]) -> Any:
    level = potential.spec.levels[-1]
    return collate([s.replace(level=level) for s in structures], potential.spec.graphs, potential.spec.torch_dtype)


# Configuration


def test_plugin_builds_the_same_potential_again_from_its_config(two_levels: Any) -> None:
    first = two_levels(seed=3)
    again = build(first.plugin, json.loads(json.dumps(first.config)))
    assert again.config == first.config
    assert again.spec == first.spec
    for (name, one), (_, two) in zip(first.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"element": ["H"]}, r"painn: unknown key 'element'; did you mean 'elements'\?"),
        ({"backbone": {"chanels": 8}}, r"painn.backbone: unknown key 'chanels'; did you mean 'channels'\?"),
        ({"backbone": {"channels": 0}}, r"painn.backbone.channels: .* greater than 0, got 0"),
        ({"backbone": {"cutoff": "wide"}}, r"painn.backbone.cutoff: .* valid number.*got 'wide'"),
        ({"forces": "gradient"}, r"painn.forces: .*'conservative' or 'direct', got 'gradient'"),
        ({"scale": -1.0}, r"painn.scale: .* greater than 0"),
        ({"scale": float("inf")}, r"painn.scale: .*finite"),
        ({"levels": []}, r"painn.levels: levels must be named once each, got \[\]"),
        ({"levels": ["a", "a"]}, r"levels must be named once each"),
        ({"elements": []}, r"at least one element"),
        ({"elements": ["Xx"]}, r"no element is named 'Xx'"),
        ({"elements": [0]}, r"atomic number 0 does not exist"),
        ({"conditions": ["charge"]}, r"painn.conditions: 'charge' is not known here; did you mean 'total_charge'\?"),
        ({"references": {"gfn2_xtb": {}}}, r"painn.references: 'gfn2_xtb' is not known here; did you mean 'gfn2-xtb'\?"),
        ({"references": {"gfn2-xtb": {"Q": 1.0}}}, r"no element is named 'Q'"),
        ({"dtype": "float16"}, r"painn.dtype"),
    ],
)
def test_wrong_configuration_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MlipfmError, match=message) as caught:
        build_potential("painn", MINIMAL | change)
    assert "\n" not in str(caught.value)


def test_missing_key_is_named() -> None:
    with pytest.raises(RecipeError, match=r"painn.levels: .*required"):
        build_potential("painn", {"elements": ["H"]})


def test_elements_come_as_symbols_or_numbers_in_any_order() -> None:
    potential = build_potential("painn", {"elements": [8, "H", "O", 6], "levels": ["a"]})
    assert potential.spec.elements == (1, 6, 8)
    assert potential.config["elements"] == ["H", "C", "O"]


# Construction


def test_weights_depend_on_the_seed_and_not_on_the_global_generator(small: Any) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = small()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = small(), small(seed=1)
    weights = [p.backbone.layers[0].message.outer.weight for p in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_direct_and_conservative_models_of_one_seed_share_their_backbone(small: Any) -> None:
    one, two = dict(small().named_parameters()), dict(small(forces="direct", dtype="float32").named_parameters())
    assert one.keys() < two.keys()
    for name, value in one.items():
        assert torch.equal(value.float(), two[name]), name


def test_first_energies_and_forces_are_of_the_order_of_the_scale_at_every_width() -> None:
    s = [rattled(water(), 0.1, seed=k) for k in range(4)]
    for channels in (16, 64, 256):
        potential = build_potential("painn", MINIMAL | {"forces": "direct", "backbone": {"channels": channels, "layers": 2}})
        values = evaluate(potential, s)
        per_atom = np.array([a["energy"] / 3 for a in values])
        forces = np.stack([a["forces"] for a in values])
        assert np.abs(per_atom).max() < 1.0
        assert 1e-4 < np.sqrt((forces**2).mean()) < 1.0


# References


def test_without_the_network_energies_are_exactly_the_references(two_levels: Any) -> None:
    for dtype in ("float64", "float32"):
        potential = silent(
            two_levels(dtype=dtype, short_range="none", references={"gfn2-xtb": {"H": -13.605693, "C": -1030.123456789, "O": -2041.8396}})
        )
        hydrogen = Structure([1], np.zeros((1, 3)))
        values = [float(a["energy"]) for a in evaluate(potential, [hydrogen, water(), methane()], ("energy",), level="gfn2-xtb")]
        assert values == [-13.605693, -2041.8396 - 13.605693 - 13.605693, pytest.approx(-1030.123456789 - 4 * 13.605693, abs=1e-12)]
        assert evaluate(potential, [water()], ("energy",), level="gfn1-xtb")[0]["energy"] == 0.0


def test_changing_the_dtype_of_the_network_does_not_round_references(two_levels: Any) -> None:
    potential = silent(two_levels(references={"gfn2-xtb": {"H": -1e5 / 3, "C": 0.0, "O": 0.0}}))
    assert potential.float().references.energies.dtype == torch.float64
    assert potential.double().references.energies[1, 1] == -1e5 / 3


def test_float32_energies_keep_microelectronvolts_of_large_totals(small: Any) -> None:
    """-1e6 eV in float32 has steps of 0.06 eV; the references are added in float64."""
    references = {"gfn2-xtb": {"H": -1e6, "C": -1e6, "O": -1e6}}
    s = rattled(methane(), 0.1)
    large = evaluate(small(dtype="float32", references=references), [s], ("energy",))[0]["energy"]
    plain = evaluate(small(dtype="float32"), [s], ("energy",))[0]["energy"]
    assert large + 5e6 == pytest.approx(plain, abs=1e-8)


def test_element_without_reference_at_its_level_is_refused(small: Any) -> None:
    potential = small(references={"gfn2-xtb": {"H": -13.6, "O": -2000.0}})
    assert evaluate(potential, [water()], ("energy",))[0]["energy"] < -2000
    with pytest.raises(LevelError, match="level 'gfn2-xtb' has no reference energy for C"):
        evaluate(potential, [methane()], ("energy",))


def test_unknown_element_is_refused_in_the_forward_too(small: Any) -> None:
    potential = small()
    with pytest.raises(UnknownElementError, match="not trained on Cu; it supports H C O"):
        potential(batch_of(potential, [copper()]), ("energy",))


# Outputs


def test_direct_model_has_no_stress(small: Any) -> None:
    potential = small(elements=["Si"], forces="direct")
    assert potential.spec.kind == "direct"
    with pytest.raises(PropertyNotAvailableError, match="does not predict 'stress'"):
        potential(batch_of(potential, [silicon()]), ("stress",))


def test_scale_multiplies_energies_and_forces_alike(small: Any) -> None:
    for forces in ("conservative", "direct"):
        one, three = (evaluate(small(forces=forces, scale=scale, short_range="none"), [rattled(water(), 0.1)])[0] for scale in (1.0, 3.0))
        for key in ("energy", "forces"):
            np.testing.assert_allclose(three[key], 3 * one[key], rtol=1e-12)


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_hessian_rows_are_minus_rows_of_the_force_jacobian(small: Any, forces: str) -> None:
    potential, s = small(forces=forces), rattled(water(), 0.1)
    index = np.array([[0, 2], [2, 1]])
    asked = s.replace(labels={"hessian_rows": np.zeros((2, 3, 3)), "hessian_rows_index": index})
    rows = evaluate(potential, [water().replace(labels=asked.labels), asked], ("hessian_rows",))[1]["hessian_rows"]
    h = 1e-4
    for row, (atom, axis) in zip(rows, index, strict=True):
        numerical = np.zeros((3, 3))
        for moved, direction in itertools.product(range(3), range(3)):
            step = np.zeros((3, 3))
            step[moved, direction] = h
            plus, minus = (
                a["forces"][atom, axis] for a in evaluate(potential, [s.replace(positions=s.positions + d) for d in (step, -step)])
            )
            numerical[moved, direction] = -(plus - minus) / (2 * h)
        np.testing.assert_allclose(row, numerical, rtol=0, atol=1e-6)


def test_hessian_vector_product_is_the_sum_of_rows(small: Any) -> None:
    potential, s = small(), rattled(methane(), 0.1)
    index = np.array(list(itertools.product(range(5), range(3))))
    probe = np.random.default_rng(0).normal(size=(1, 5, 3))
    labels = {"hessian_rows": np.zeros((15, 5, 3)), "hessian_rows_index": index, "hvp": np.zeros((1, 5, 3)), "hvp_probe": probe}
    values = evaluate(potential, [s.replace(labels=labels)], ("hessian_rows", "hvp"))[0]
    np.testing.assert_allclose(values["hvp"][0], np.einsum("p,pax->ax", probe.ravel(), values["hessian_rows"]), atol=1e-12)


def test_rows_that_nobody_named_are_refused(small: Any) -> None:
    potential = small()
    with pytest.raises(
        PropertyNotAvailableError, match="'hessian_rows' needs to know which; give the structures the label 'hessian_rows_index'"
    ):
        potential(batch_of(potential, [water()]), ("hessian_rows",))


def test_features_have_their_names_shapes_and_parity(small: Any) -> None:
    potential = small()
    features = potential(batch_of(potential, [water(), methane()]), ("energy",)).features
    assert {name: (tuple(f.value.shape), f.irreps) for name, f in features.items()} == {
        "last_layer": ((8, 8), "0e"),
        "node_scalar": ((8, 8), "0e"),
        "node_vector": ((8, 3, 8), "1o"),
    }


# Gradients


@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("outputs", [("energy",), ("forces",), ("energy", "forces"), ("atomic_energies",), ("hvp",), ()], ids="+".join)
def test_every_parameter_gets_a_gradient_whatever_is_asked(two_levels: Any, forces: str, outputs: tuple[str, ...]) -> None:
    """Data-parallel training waits for every parameter; one without a gradient on one rank stops it."""
    potential = two_levels(forces=forces)
    s = rattled(water(), 0.1).replace(labels={"hvp": np.zeros((1, 3, 3)), "hvp_probe": np.ones((1, 3, 3))})
    prediction = potential(batch_of(potential, [s, Structure([1], np.zeros((1, 3)))]), outputs, create_graph=True)
    loss = sum(value.square().sum() for value in prediction.values.values())
    if not outputs:
        loss = prediction.features["node_vector"].value.square().sum() + prediction.features["node_scalar"].value.square().sum()
    loss.backward()
    assert [name for name, p in potential.named_parameters() if p.grad is None] == []
    assert all(bool(p.grad.isfinite().all()) for p in potential.parameters())


def test_isolated_atoms_alone_train_too(small: Any) -> None:
    potential = small()
    prediction = potential(batch_of(potential, [Structure([1], np.zeros((1, 3)))]), ("energy", "forces"), create_graph=True)
    (prediction["energy"].sum() + prediction["forces"].square().sum()).backward()
    assert all(p.grad is not None for p in potential.parameters())


def test_leaves_of_the_caller_stay_connected(small: Any) -> None:
    """A force computed inside a larger differentiable calculation, as in training on simulations."""
    potential = small()
    batch = batch_of(potential, [rattled(water(), 0.1)]).with_leaves()
    forces = potential(batch, ("forces",), create_graph=True)["forces"]
    (gradient,) = torch.autograd.grad(forces.square().sum(), batch.positions)
    assert gradient.abs().max() > 1e-3


def test_forces_inside_inference_mode_are_forces(small: Any) -> None:
    potential = small()
    batch = batch_of(potential, [rattled(water(), 0.1)])
    want = potential(batch, ("forces",))["forces"]
    with torch.inference_mode():
        got = potential(batch, ("forces",))["forces"]
    assert torch.equal(got, want)


def test_depths_follow_the_blocks_and_readouts_come_last(two_levels: Any) -> None:
    potential = two_levels(forces="direct")
    roles = potential.parameter_roles()
    by_block = {name: role.depth for name, role in roles.items()}
    assert {d for n, d in by_block.items() if n.startswith("conditioning")} == {0}
    assert {d for n, d in by_block.items() if n.startswith("backbone.layers.1.")} == {2}
    assert {d for n, d in by_block.items() if n.startswith("heads")} == {3}
    assert len(potential.blocks()) == 4
    held = {id(p) for block in potential.blocks() for p in block.parameters()}
    assert held == {id(p) for p in potential.parameters()}
    assert all(roles[n].scaling == "vector" and not roles[n].decay for n in roles if n.endswith("bias"))
    assert roles["backbone.layers.0.update.mix.weight"].irreps == roles["heads.forces.mix.weight"].irreps == "1o"
    assert {n for n, r in roles.items() if r.scaling == "output"} == {"heads.energy.outer.weight", "heads.forces.outer.weight"}


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, mlipfm_models; assert 'torch' not in sys.modules; assert 'build_potential' in mlipfm_models.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_parameter_outside_all_blocks_is_refused_by_name() -> None:
    from mlipfm_models.parameter_roles import roles_of

    net = torch.nn.Module()
    net.inner, net.loose = torch.nn.Linear(2, 2), torch.nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ContractError, match="'loose' of Module is in no block"):
        roles_of(net, [net.inner])


def test_a_norm_starts_with_gain_one() -> None:
    from mlipfm_models._initialisation import initialise
    from mlipfm_models.parameter_roles import roles_of

    norm = torch.nn.LayerNorm(4)
    initialise(norm, roles_of(norm, [norm]), 0)
    assert torch.equal(norm.weight, torch.ones(4))
    assert torch.equal(norm.bias, torch.zeros(4))
