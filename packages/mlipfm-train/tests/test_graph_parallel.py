"""Ranks that share one structure: their parts add up to the whole, and no rank computes more than its slab and halo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import water
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.objectives.masked import Masked
from mlipfm_train.objectives.quantities import Quantities
from mlipfm_train.step import Step
from mlipfm_train.strategies import graph_parallel
from mlipfm_train.strategies.graph_parallel import GraphParallel, split_atoms

RANKS = 4


def rank_of(rank: int) -> GraphParallel:
    """One rank of four, without the others."""
    made = object.__new__(GraphParallel)
    made.rank, made.world_size, made.waited = rank, RANKS, 0.0
    return made


def model(name: str, **options: Any) -> Any:
    backbone = {"channels": 16, "layers": 2, "cutoff": 3.0}
    potential = build(name, {"elements": ["H", "O"], "levels": ["pbe"], "dtype": "float64", "backbone": backbone, **options})
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return potential


def long_box(potential: Any) -> Batch:
    """Two bars of 24 and 12 molecules, 3 Å apart, which are periodic in three directions and in none."""
    rng, one = np.random.default_rng(0), water()
    found = []
    for n, pbc in ((24, True), (12, False)):
        positions = np.concatenate([one.positions + [0.0, 0.0, 3.0 * k] for k in range(n)]) + rng.normal(0, 0.1, (3 * n, 3))
        positions[:, 2] -= 5.0  # over the boundary
        cell = np.diag([7.0, 7.5, 3.0 * n]) if pbc else np.zeros((3, 3))
        found.append(Structure(np.tile(one.atomic_numbers, n), positions, cell, np.full(3, pbc), level="pbe"))
    return collate(found, potential.spec.graphs, torch.float64)


def parts(potential: Any, batch: Batch, outputs: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], list[tuple[int, int]]]:
    """Sums over four ranks, and the atoms that each owned and evaluated."""
    total: dict[str, Any] = dict.fromkeys(outputs, 0.0)
    sizes = []
    for rank in range(RANKS):
        strategy = rank_of(rank)
        leaves = replace(batch.with_leaves(strain="stress" in outputs), mask_undefined=True)
        made = strategy.evaluate(potential, leaves, outputs, True)
        total = {key: total[key] + made[key].detach() for key in outputs}
        sizes.append(strategy.last_split)
    return total, sizes


@pytest.fixture(autouse=True)
def no_communication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_parallel.dist, "all_reduce", lambda tensor: None)


@pytest.mark.parametrize(
    ("name", "options", "outputs"),
    [
        ("density", {}, ("energy", "forces", "stress")),
        ("painn", {}, ("energy", "forces", "stress")),
        ("mace", {"short_range": "zbl"}, ("energy", "forces")),
        ("painn", {"forces": "direct"}, ("energy", "forces")),
    ],
)
def test_parts_of_four_ranks_add_up_to_the_whole(name: str, options: dict[str, Any], outputs: tuple[str, ...]) -> None:
    potential = model(name, **options)
    batch = long_box(potential)
    got, sizes = parts(potential, batch, outputs)
    want = potential(replace(batch, mask_undefined=True), outputs).values
    for key in outputs:
        torch.testing.assert_close(got[key], want[key].detach(), rtol=1e-11, atol=1e-11)
    assert sum(own for own, _ in sizes) == len(batch.positions)
    assert all(evaluated < 0.7 * len(batch.positions) for _, evaluated in sizes)


def test_a_halo_of_one_layer_less_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = model("painn")
    batch = long_box(potential)
    right = split_atoms

    def thin(batch: Batch, spec: Any, rank: int, ranks: int) -> Any:
        return right(batch, replace(spec, interaction_range=spec.interaction_range / 2), rank, ranks)

    monkeypatch.setattr(graph_parallel, "split_atoms", thin)
    got, _ = parts(potential, batch, ("energy", "forces"))
    want = potential(replace(batch, mask_undefined=True), ("energy", "forces")).values
    assert float((got["forces"] - want["forces"].detach()).abs().max()) > 1e-6


def test_slabs_are_equal_and_cover_every_atom_once() -> None:
    potential = model("painn")
    batch = long_box(potential)
    owned = [s.atoms[s.own] for s in (split_atoms(batch, potential.spec, rank, RANKS) for rank in range(RANKS))]
    assert sorted(np.concatenate(owned).tolist()) == list(range(len(batch.positions)))
    assert {len(atoms) for atoms in owned} == {len(batch.positions) // RANKS}
    z = batch.positions[owned[0][owned[0] < 72]][:, 2].numpy()
    assert np.ptp(np.where(z < 0, z + 72.0, z)) < 20.0  # a slab is not scattered over the bar of 72 Å


def test_what_parts_of_a_structure_cannot_give_is_refused_by_name() -> None:
    strategy = rank_of(0)
    plain = {"energy-force": EnergyForce()}
    strategy.check(Step(model("painn"), plain))
    with pytest.raises(RecipeError, match="the objective 'gap' cannot be computed from parts of a structure: its homo"):
        strategy.check(Step(model("painn", heads={"homo": {}}), {"gap": Quantities({"homo": 1.0})}))
    with pytest.raises(RecipeError, match="'hidden' cannot be computed from parts of a structure: what it needs of all atoms"):
        strategy.check(Step(model("painn"), {"hidden": Masked()}))
    stressed = model("painn", forces="direct", heads={"stress": {}})
    with pytest.raises(RecipeError, match="a direct stress is a mean over all atoms"):
        strategy.check(Step(stressed, {"energy-force": EnergyForce(stress_weight=1.0)}))
    potential = model("painn", conditions=["total_charge"])
    batch = long_box(potential)
    ion = replace(batch, total_charge=torch.tensor([1, 0]), charge_stated=torch.tensor([True, True])).with_leaves()
    with pytest.raises(RecipeError, match="electrons of ions and open shells are shared out over all atoms"):
        strategy.evaluate(potential, ion, ("energy",), True)
