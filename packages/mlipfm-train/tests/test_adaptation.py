"""Modes of fine-tuning: which weights move, that low-rank changes start at zero and merge exactly, that a readout solves its normal equations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build, load_model
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import evaluate
from mlipfm_train import fit, make_recipe
from mlipfm_train.adaptation import LowRank, make_adapter, rate_factors
from mlipfm_train.ridge_readout import fit_readout

pytestmark = pytest.mark.ci

BACKBONES = {
    "painn": {"channels": 8, "layers": 2, "cutoff": 3.0},
    "mace": {"channels": 4, "layers": 1, "cutoff": 3.0, "degree": 1, "correlation": 2},
}


def potential_of(backbone: str = "painn", dtype: str = "float64"):
    options = {"elements": ["H", "C", "O"], "levels": ["morse"], "dtype": dtype, "backbone": BACKBONES[backbone], "seed": 3}
    return build(backbone, options)


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory) -> str:
    """A checkpoint after a few steps."""
    return str(fit(make_recipe(tiny | {"steps": 4}), tmp_path_factory.mktemp("base") / "run").last)


def tuned(tiny, base, folder, adapt, **changes):
    document = {key: value for key, value in tiny.items() if key != "potential"}
    result = fit(make_recipe(document | {"init_from": base, "adapt": adapt, "steps": 4} | changes), folder)
    first, last = (load_model(folder / name)[0].state_dict() for name in ("initial.safetensors", "last.safetensors"))
    return result, {name for name in first if not torch.equal(first[name], last[name])}


def test_a_recipe_without_adapt_is_written_as_before():
    assert "adapt" not in json.loads(make_recipe({"potential": {"name": "painn"}}).model_dump_json())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_low_rank_changes_are_nothing_at_first_and_equivariant_and_merge_exactly_later(backbone, morse_structures):
    potential, structures = potential_of(backbone), morse_structures(3, 0)
    adapter = LowRank(potential, rank=2, alpha=4.0, seed=0).double()
    for name, matrix in adapter.merged(dict(potential.named_parameters())).items():
        assert torch.equal(matrix, dict(potential.named_parameters())[name])
    for up in adapter.up:
        torch.nn.init.normal_(up, std=0.1)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = [s.replace(positions=s.positions @ turn.T) for s in structures]

    def predicted(which):
        batch = collate(which, potential.spec.graphs, torch.float64)
        found = adapter.call(potential, batch, ("energy", "forces"), False)
        return found["energy"].detach().numpy(), found["forces"].detach().numpy()

    energy, forces = predicted(structures)
    other, rotated = predicted(turned)
    np.testing.assert_allclose(other, energy, atol=1e-10)
    np.testing.assert_allclose(rotated, forces @ turn.T, atol=1e-10)
    before = np.concatenate([p["forces"] for p in evaluate(potential, structures)])
    assert np.abs(before - forces).max() > 1e-4  # the changes do something
    weights = {f"potential.{n}": p.detach() for n, p in potential.named_parameters()} | {
        f"adapter.{n}": p.detach() for n, p in adapter.named_parameters()
    }
    merged = adapter.exported(weights)
    potential.load_state_dict(
        {name.removeprefix("potential."): value for name, value in merged.items() if name.startswith("potential.")}, strict=False
    )
    found = evaluate(potential, structures)
    np.testing.assert_allclose(np.concatenate([p["forces"] for p in found]), forces, atol=1e-10)
    np.testing.assert_allclose([p["energy"] for p in found], energy, atol=1e-10)


def test_a_frozen_trunk_keeps_its_bits_and_low_rank_changes_reach_the_exported_model(tiny, base, tmp_path):
    _, moved = tuned(tiny, base, tmp_path / "frozen", {"mode": "frozen"})
    assert moved
    assert all(name.startswith("heads.") for name in moved)
    _, moved = tuned(tiny, base, tmp_path / "lora", {"mode": "lora", "rank": 2})
    assert any(name.startswith("backbone.") for name in moved)
    assert not any(name.endswith("bias") for name in moved)  # only matrices are changed


def test_a_run_with_low_rank_changes_goes_on_to_the_bit(tiny, base, tmp_path):
    document = {key: value for key, value in tiny.items() if key != "potential"} | {
        "init_from": base,
        "adapt": {"mode": "lora"},
        "checkpoint_every": 2,
    }
    whole = fit(make_recipe(document | {"steps": 4}), tmp_path / "whole")
    recipe = make_recipe(document | {"steps": 4, "time_limit": 1e-6})
    for _ in range(4):
        result = fit(recipe, tmp_path / "parts")
    assert result.steps == 4
    states = [load_model(run.last)[0].state_dict() for run in (whole, result)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_blocks_far_from_the_readout_learn_more_slowly():
    potential = potential_of()
    factors = rate_factors(potential, make_recipe({"init_from": "x", "adapt": {"mode": "layerwise", "decay": 0.5}}).adapt)
    depths = {name: role.depth for name, role in potential.parameter_roles().items()}
    assert {factors[name] for name, depth in depths.items() if depth == max(depths.values())} == {1.0}
    assert {factors[name] for name, depth in depths.items() if depth == 0} == {0.5 ** max(depths.values())}


def test_the_last_layer_is_the_minimum_of_the_squared_errors_of_energies_and_forces(morse_structures):
    """The closed form: no change of the last layer lowers the sum; one that stops short of it is noticed."""
    potential, structures = potential_of(), morse_structures(12, 0)
    weight, _ = potential.energy_readout("morse")

    def loss() -> float:
        found = evaluate(potential, structures)
        energy = np.mean([((p["energy"] - s.labels["energy"]) / len(s)) ** 2 for p, s in zip(found, structures, strict=True)])
        return float(
            energy
            + 3 * np.mean(np.concatenate([(p["forces"] - s.labels["forces"]).ravel() for p, s in zip(found, structures, strict=True)]) ** 2)
        )

    before = loss()
    change = fit_readout(potential, structures, energy=1.0, forces=3.0, ridge=1e-10)
    best = loss()
    assert best < before
    rng = torch.Generator().manual_seed(0)
    for size in (1e-2, -1e-2):
        for direction in (change / change.norm(), torch.randn(len(weight), generator=rng, dtype=torch.float64)):
            with torch.no_grad():
                weight += size * weight.norm() * direction
            assert loss() >= best * (1 - 1e-9)
            with torch.no_grad():
                weight -= size * weight.norm() * direction


def test_labels_of_weight_0_do_not_change_the_last_layer(morse_structures):
    """Energies of one structure, and the force on one atom of another, are nonsense and have weight 0."""
    right = morse_structures(8, 0)
    first, second = right[0].labels, right[1].labels
    ones, nonsense = np.ones(len(right[1])), np.array(second["forces"])
    ones[0], nonsense[0] = 0.0, 50.0
    left_out = right[2:] + [right[1].replace(labels={**second, "forces_weight": ones})]
    spoilt = right[2:] + [
        right[1].replace(labels={**second, "forces": nonsense, "forces_weight": ones}),
        right[0].replace(labels={**first, "energy": np.array(99.0), "weight": np.array(0.0)}),
    ]
    changes = [fit_readout(potential_of(), structures, ridge=1e-10) for structures in (left_out, spoilt, right)]
    torch.testing.assert_close(changes[1], changes[0], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(changes[2], changes[0], rtol=1e-2)


def test_a_weight_of_4_counts_as_four_structures(morse_structures):
    structures = morse_structures(6, 1)
    heavy = [structures[0].replace(labels={**structures[0].labels, "weight": np.array(4.0)}), *structures[1:]]
    once, four = ([s.replace(labels={"energy": s.labels["energy"]}) for s in some] for some in (structures, heavy))
    four[0] = four[0].replace(labels={**four[0].labels, "weight": np.array(4.0)})
    change = fit_readout(potential_of(), four, ridge=1e-3)
    repeated = fit_readout(potential_of(), [once[0]] * 4 + once[1:], ridge=1e-3)
    torch.testing.assert_close(change / change.norm(), repeated / repeated.norm(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("head", "parts"), [("dipole", {"dipole", "charges"}), ("spin_charges", {"spin_charges"}), ("energy", {"energy"})])
def test_all_that_one_head_alone_reads_trains_and_a_shared_part_does_not(head, parts):
    """Charges belong to the dipole, unless the model has a head for them that was trained."""
    options = {"elements": ["H", "O"], "levels": ["a"], "backbone": BACKBONES["painn"], "conditions": ["total_charge", "spin_multiplicity"]}
    adapt = make_recipe({"init_from": "x", "adapt": {"mode": "frozen", "head": head}}).adapt
    potential = build("painn", options | {"heads": {} if head == "energy" else {head: {}}})
    make_adapter(potential, adapt, 0, "single")
    trains = {
        name.removeprefix("heads.").removeprefix("parts.").split(".")[0] for name, p in potential.named_parameters() if p.requires_grad
    }
    assert trains == parts
    both = build("painn", options | {"heads": {"dipole": {}, "charges": {}}})
    assert {name.split(".")[2] for name in both.parameters_of_head("dipole")} == {"dipole"}


def test_a_head_that_is_not_there_is_refused_with_those_that_are():
    adapt = make_recipe({"init_from": "x", "adapt": {"mode": "frozen", "head": "dipolee"}}).adapt
    with pytest.raises(RecipeError, match="no head 'dipolee'") as refused:
        make_adapter(potential_of(), adapt, 0, "single")
    assert "energy" in str(refused.value.hint)


@pytest.mark.parametrize("objectives", [["denoise"], ["energy-force", "denoise"]])
def test_the_last_layer_is_solved_for_energies_and_forces_alone(objectives, tiny, base, tmp_path):
    document = {key: value for key, value in tiny.items() if key != "potential"} | {"init_from": base, "adapt": {"mode": "heads"}}
    document |= {"steps": 1, "weight_rule": {"name": "none"}, "objectives": []}
    document["objectives"] = [{"name": name, **({"predict": "forces"} if name == "denoise" else {})} for name in objectives]
    with pytest.raises(RecipeError, match=f"not for {', '.join(objectives)}"):
        fit(make_recipe(document), tmp_path / "heads")


def test_heads_mode_solves_the_last_layer_and_moves_nothing_else(tiny, base, tmp_path):
    document = {key: value for key, value in tiny.items() if key != "potential"} | {"init_from": base, "adapt": {"mode": "heads"}}
    fit(make_recipe(document | {"steps": 1, "weight_rule": {"name": "none"}}), tmp_path / "heads")
    old, new = load_model(base)[0].state_dict(), load_model(tmp_path / "heads" / "last.safetensors")[0].state_dict()
    moved = [name for name in old if not torch.equal(old[name], new[name])]
    assert moved == ["heads.energy.outer.weight"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"potential": {"name": "painn"}, "adapt": {"mode": "lora"}}, "adapt needs init_from"),
        ({"init_from": "x", "adapt": {"mode": "frozen", "rank": 8}}, "rank has no effect with mode frozen"),
        ({"init_from": "x", "adapt": {"mode": "heads"}}, "set steps=1"),
        ({"init_from": "x", "adapt": {"mode": "lorra"}}, "adapt.mode"),
    ],
)
def test_settings_without_effect_are_refused(document, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(document)
