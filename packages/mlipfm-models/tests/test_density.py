"""The density backbone: harmonics in closed form, the contract suite, padding, symmetric sites."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_interfaces.testing.structures import methane, random_rotation, rattled, silicon, water
from mlipfm_models import build_potential
from mlipfm_models.backbones.density import harmonics, harmonics_table
from numpy.polynomial.legendre import legval


def small(**changes: Any) -> Potential:
    backbone = {"channels": 8, "layers": 1, "cutoff": 4.0, "radial": 6} | changes.pop("backbone", {})
    config = {"elements": ["H", "C", "O", "Si"], "levels": ["gfn2-xtb"], "dtype": "float64", "backbone": backbone}
    return build_potential("density", config | changes)


class TestContract(PotentialContract):
    def potential(self) -> Potential:
        return small()


@pytest.mark.ci
class TestContractOfTwoLayersTwoLevelsChargeAndSpin(PotentialContract):
    def potential(self) -> Potential:
        conditions = ["total_charge", "spin_multiplicity"]
        return small(levels=["gfn1-xtb", "gfn2-xtb"], conditions=conditions, scale=1.7, backbone={"layers": 2, "degree": 2})


@pytest.mark.ci
class TestContractOfFewMixtures(PotentialContract):
    def potential(self) -> Potential:
        return small(backbone={"layers": 2, "mixed": 2})


@pytest.mark.ci
class TestContractOfDirectForces(PotentialContract):
    def potential(self) -> Potential:
        return small(forces="direct", backbone={"layers": 2})


def test_harmonics_obey_the_addition_theorem() -> None:
    u, v = torch.nn.functional.normalize(torch.randn(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)
    table = harmonics_table(3)
    assert table.shape == (40, 16)
    product = harmonics(u, table, 3) * harmonics(v, table, 3)
    cosine = (u * v).sum(-1).numpy()
    for ell in range(4):
        legendre = legval(cosine, np.eye(4)[ell])
        np.testing.assert_allclose(product[:, ell**2 : (ell + 1) ** 2].sum(-1), legendre, atol=1e-13)


def test_double_of_a_float32_model_turns_with_the_system_to_float64() -> None:
    potential = small(dtype="float32").double()
    assert torch.equal(potential.backbone.table, harmonics_table(3))


def test_node_vectors_turn_with_the_system() -> None:
    potential, turn, s = small(backbone={"layers": 2}), random_rotation(3, improper=True), rattled(water(), 0.1)
    vectors = []
    for x in (s, s.replace(positions=s.positions @ turn.T)):
        features = potential(collate([x], potential.spec.graphs, torch.float64), ("energy",)).features
        vectors.append(features["node_vector"].value)
    torch.testing.assert_close(vectors[1], torch.einsum("xy,ayc->axc", torch.as_tensor(turn), vectors[0]), rtol=0, atol=1e-12)
    assert vectors[0].abs().max() > 1e-3


def test_more_capacity_than_needed_changes_nothing() -> None:
    potential, s = small(), rattled(silicon(), 0.05)
    tight = potential(collate([s], potential.spec.graphs, torch.float64), ("energy",))["energy"]
    backbone = potential.backbone
    backbone.graph = GraphSpec(4.0, layout="dense", capacity=40)
    wide = potential(collate([s], (backbone.graph,), torch.float64), ("energy",))["energy"]
    torch.testing.assert_close(wide, tight, rtol=0, atol=1e-12)


def test_hessian_rows_of_tetrahedral_carbon_are_finite_and_isotropic() -> None:
    """At a site of T_d symmetry the block d2E/dr dr of the centre is a multiple of the unit matrix."""
    potential = small()
    s = methane().replace(labels={"hessian_rows": np.zeros((3, 5, 3)), "hessian_rows_index": np.array([[0, 0], [0, 1], [0, 2]])})
    block = evaluate(potential, [s], ("hessian_rows",))[0]["hessian_rows"][:, 0]
    assert abs(block[0, 0]) > 1e-3
    np.testing.assert_allclose(block, block[0, 0] * np.eye(3), atol=1e-8 * abs(block[0, 0]) + 1e-10)


def test_an_atom_without_neighbours_has_the_energy_of_its_element_alone() -> None:
    potential, s = small(), water()
    far = s.replace(positions=s.positions * 100.0)
    alone = evaluate(potential, [far], ("energy", "forces"))[0]
    singles = [evaluate(potential, [type(s)([int(z)], [[0.0, 0.0, 0.0]])], ("energy",))[0]["energy"] for z in s.atomic_numbers]
    assert alone["energy"] == pytest.approx(sum(singles), abs=1e-12)
    assert np.abs(alone["forces"]).max() == 0


def test_as_many_mixtures_as_channels_is_the_model_without_the_option_which_its_configuration_then_lacks() -> None:
    plain, same = small(), small(backbone={"mixed": 8})
    assert "mixed" not in plain.config["backbone"]
    energies = [evaluate(potential, [rattled(silicon(), 0.05)], ("energy",))[0]["energy"] for potential in (plain, same)]
    assert energies[0] == energies[1]


def test_fewer_mixtures_leave_heads_vectors_of_all_channels() -> None:
    potential = small(backbone={"mixed": 2}, forces="direct")
    assert potential.backbone.layers[0].mix.weight.shape == (4, 8)
    forces = evaluate(potential, [rattled(silicon(), 0.05)], ("forces",))[0]["forces"]
    assert np.abs(forces).max() > 0
