"""The DeepPot-SE backbone: its switch and its descriptor in closed form, the contract suite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_interfaces.testing.structures import random_rotation, rattled, water
from mlipfm_models import build_potential
from mlipfm_models.backbones.deeppot_se import DeepPotSe, DeepPotSeConfig, switched_inverse

CONFIG = DeepPotSeConfig(channels=8, embedding=(4, 8, 6), axis=3, cutoff=4.0, switch=1.0, mean_neighbors=7.0)


def small(**changes: Any) -> Potential:
    backbone = {"channels": 8, "embedding": [4, 8], "axis": 3, "cutoff": 4.0} | changes.pop("backbone", {})
    config = {"elements": ["H", "O", "Si"], "levels": ["a"], "dtype": "float64", "backbone": backbone}
    return build_potential("deeppot_se", config | changes)


class TestContract(PotentialContract):
    def potential(self) -> Potential:
        return small()


@pytest.mark.ci
class TestContractOfTwoLevelsChargeAndSpin(PotentialContract):
    def potential(self) -> Potential:
        return small(levels=["a", "b"], conditions=["total_charge", "spin_multiplicity"], backbone={"embedding": [4, 8, 8, 12]})


@pytest.mark.ci
class TestContractOfDirectForces(PotentialContract):
    def potential(self) -> Potential:
        return small(forces="direct")


@pytest.mark.parametrize("end", [CONFIG.switch, CONFIG.cutoff])
def test_the_switch_and_two_derivatives_are_continuous(end: float) -> None:
    def jet(r: float) -> list[float]:
        x = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        value = switched_inverse(x, CONFIG)
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        (bend,) = torch.autograd.grad(slope, x, create_graph=True)
        return [float(item.detach()) for item in (value, slope, bend)]

    h = 1e-7
    for below, above in zip(jet(end - h), jet(end + h), strict=True):
        assert below == pytest.approx(above, abs=20 * h)


def test_inside_the_switch_it_is_the_inverse_distance() -> None:
    r = torch.tensor([0.3, 0.9], dtype=torch.float64)
    torch.testing.assert_close(switched_inverse(r, CONFIG), 1 / r, rtol=1e-15, atol=0)


def test_descriptor_of_one_neighbour_is_twice_s_squared_times_the_weights() -> None:
    """D = 2 s(r)² g g_<ᵀ / N_c², for every direction: the row (1, x/r, y/r, z/r) has the square 2."""
    backbone = DeepPotSe(CONFIG).double()
    s = torch.zeros(2, 8, dtype=torch.float64)
    for direction in ([1.0, 0, 0], [0.6, 0, -0.8], [0, 0.28, 0.96]):
        r = torch.tensor(2.3, dtype=torch.float64)
        inverse = switched_inverse(r, CONFIG)
        row = inverse * torch.tensor([1.0, *direction], dtype=torch.float64)
        environment = torch.stack([row, torch.zeros(4, dtype=torch.float64)])[None].repeat(2, 1, 1)
        index = torch.tensor([[1, 0], [0, 1]])
        g = backbone.descriptor.weights(s, environment[..., :1], index)
        moments = g.mT @ environment / CONFIG.mean_neighbors
        expected = 2 * inverse**2 * torch.outer(g[0, 0], g[0, 0, :3]) / CONFIG.mean_neighbors**2
        torch.testing.assert_close((moments @ moments[:, :3].mT)[0], expected, rtol=1e-12, atol=1e-15)


def test_node_vectors_turn_with_the_system() -> None:
    potential, turn, s = small(), random_rotation(3, improper=True), rattled(water(), 0.1)
    vectors = []
    for x in (s, s.replace(positions=s.positions @ turn.T)):
        features = potential(collate([x], potential.spec.graphs, torch.float64), ("energy",)).features
        vectors.append(features["node_vector"].value)
    torch.testing.assert_close(vectors[1], torch.einsum("xy,ayc->axc", torch.as_tensor(turn), vectors[0]), rtol=0, atol=1e-12)
