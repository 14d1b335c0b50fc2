"""The mace backbone: contract suite, body order, one neighbour, vectors, symmetric sites, parameter count."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.checkpoint import load_potential, save_potential
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_interfaces.testing.structures import methane, random_rotation, random_structure, rattled, silicon, water
from mlipfm_models import build_potential
from mlipfm_models.backbones.mace import Mace, MaceConfig


def small(**changes: Any) -> Potential:
    backbone = {"channels": 8, "layers": 2, "cutoff": 4.0, "radial": 6} | changes.pop("backbone", {})
    config = {"elements": ["H", "C", "O", "Si"], "levels": ["gfn2-xtb"], "dtype": "float64", "backbone": backbone}
    return build_potential("mace", config | changes)


class TestContract(PotentialContract):
    def potential(self) -> Potential:
        return small()


@pytest.mark.ci
class TestContractOfThreeLayersTwoLevelsChargeAndSpin(PotentialContract):
    def potential(self) -> Potential:
        """A polynomial of degree 8; the densest crystals of the suite have 200 neighbours, and far above the mean it only measures rounding."""
        backbone = {"layers": 3, "degree": 2, "correlation": 2, "mean_neighbors": 40.0}
        return small(levels=["gfn1-xtb", "gfn2-xtb"], conditions=["total_charge", "spin_multiplicity"], scale=1.7, backbone=backbone)


@pytest.mark.ci
class TestContractOfDirectForces(PotentialContract):
    def potential(self) -> Potential:
        return small(forces="direct", backbone={"correlation": 2})


def linear_energy(potential: Any, s: Structure) -> float:
    """Sum over atoms of a fixed linear form of the node scalars."""
    scalars = potential(collate([s], potential.spec.graphs, torch.float64), ("energy",)).features["node_scalar"].value
    weights = torch.linspace(-1.0, 2.0, scalars.shape[1], dtype=torch.float64)
    return float((scalars.detach() @ weights).sum())


def many_body_terms(potential: Any, cluster: Structure) -> dict[int, float]:
    """Size of the k-body energy of all k atoms: sum over subsets of (-1)^(k - |subset|) E(subset), largest over the choices of k atoms."""
    n = len(cluster)
    energy = {
        subset: linear_energy(potential, Structure(cluster.atomic_numbers[list(subset)], cluster.positions[list(subset)]))
        for size in range(1, n + 1)
        for subset in combinations(range(n), size)
    }
    terms: dict[int, float] = {}
    for chosen in energy:
        k = len(chosen)
        term = sum((-1) ** (k - m) * energy[part] for m in range(1, k + 1) for part in combinations(chosen, m))
        terms[k] = max(terms.get(k, 0.0), abs(term))
    return terms


@pytest.mark.parametrize("correlation", [1, 2, 3])
def test_one_layer_of_correlation_nu_has_exactly_body_order_nu_plus_one(correlation: int) -> None:
    potential = small(backbone={"layers": 1, "correlation": correlation})
    terms = many_body_terms(potential, random_structure(4, 6, elements=(1, 6, 8), spread=1.2))
    assert max(terms[k] for k in terms if k > correlation + 1) < 1e-10
    assert min(terms[k] for k in terms if 1 < k <= correlation + 1) > 1e-4


@pytest.mark.parametrize(("hidden_degree", "order"), [(0, 3), (1, 4)])
def test_a_second_layer_of_pairs_sees_three_atoms_and_more(hidden_degree: int, order: int) -> None:
    """nu = 1: the second density holds products of two neighbours' distances, a chain of three atoms. Vectors times an invariant are sums over two
    neighbours of the neighbour: four atoms."""
    backbone = {"correlation": 1, "hidden_degree": hidden_degree}
    terms = many_body_terms(small(backbone=backbone), random_structure(4, 6, elements=(1, 6, 8), spread=1.2))
    assert min(terms[k] for k in range(2, order + 1)) > 1e-4
    assert max(terms[k] for k in range(order + 1, 7)) < 1e-10


def test_layers_of_nu_three_reach_seven_atoms() -> None:
    """Two layers of nu = 3 see many atoms at once: no order up to the seventh is missing."""
    terms = many_body_terms(small(), random_structure(4, 7, elements=(1, 6, 8), spread=1.3))
    assert min(terms[k] for k in range(2, 8)) > 1e-10


def test_one_density_is_blind_to_angles_and_two_are_not() -> None:
    """A bent and a straight molecule of equal bonds, with the ends beyond the cutoff of each other."""
    straight = Structure([8, 6, 8], [[-2.4, 0, 0], [0, 0, 0], [2.4, 0, 0]])
    bent = straight.replace(positions=[[-2.4, 0, 0], [0, 0, 0], [2.4 * np.cos(0.4), 2.4 * np.sin(0.4), 0]])
    for correlation, differs in ((1, False), (2, True), (3, True)):
        potential = small(backbone={"layers": 1, "correlation": correlation})
        gap = abs(linear_energy(potential, straight) - linear_energy(potential, bent))
        assert (gap > 1e-4) is differs
        assert differs or gap < 1e-12


def test_one_neighbour_in_any_direction_gives_the_same_scalars() -> None:
    potential = small(backbone={"layers": 1})
    energies = []
    for seed in range(4):
        direction = random_rotation(seed)[0]
        energies.append(linear_energy(potential, Structure([8, 1], [[0, 0, 0], 1.1 * direction])))
    np.testing.assert_allclose(energies, energies[0], atol=1e-11)


def test_node_vectors_turn_with_the_system() -> None:
    potential, turn, s = small(), random_rotation(3, improper=True), rattled(water(), 0.1)
    vectors = []
    for x in (s, s.replace(positions=s.positions @ turn.T)):
        features = potential(collate([x], potential.spec.graphs, torch.float64), ("energy",)).features
        vectors.append(features["node_vector"].value)
    torch.testing.assert_close(vectors[1], torch.einsum("xy,ayc->axc", torch.as_tensor(turn), vectors[0]), rtol=0, atol=1e-11)
    assert vectors[0].abs().max() > 1e-3


def test_more_capacity_than_needed_changes_nothing() -> None:
    potential, s = small(), rattled(silicon(), 0.05)
    tight = potential(collate([s], potential.spec.graphs, torch.float64), ("energy",))["energy"]
    potential.backbone.graph = GraphSpec(4.0, layout="dense", capacity=40)
    wide = potential(collate([s], (potential.backbone.graph,), torch.float64), ("energy",))["energy"]
    torch.testing.assert_close(wide, tight, rtol=0, atol=1e-10)


def test_hessian_rows_of_tetrahedral_carbon_are_finite_and_isotropic() -> None:
    """At a site of T_d symmetry the block d2E/dr dr of the centre is a multiple of the unit matrix."""
    s = methane().replace(labels={"hessian_rows": np.zeros((3, 5, 3)), "hessian_rows_index": np.array([[0, 0], [0, 1], [0, 2]])})
    block = evaluate(small(), [s], ("hessian_rows",))[0]["hessian_rows"][:, 0]
    assert abs(block[0, 0]) > 1e-3
    np.testing.assert_allclose(block, block[0, 0] * np.eye(3), atol=1e-8 * abs(block[0, 0]) + 1e-10)


def test_hessian_rows_can_be_trained() -> None:
    """A loss on Hessian rows differentiates three times; its gradient equals the slope of the loss along the parameters."""
    potential = small(backbone={"channels": 4})
    s = rattled(water(), 0.1).replace(labels={"hessian_rows": np.zeros((1, 3, 3)), "hessian_rows_index": np.array([[1, 2]])})
    batch = collate([s], potential.spec.graphs, torch.float64)

    def loss() -> torch.Tensor:
        return potential(batch, ("hessian_rows",), create_graph=True)["hessian_rows"].square().sum()

    parameter = potential.backbone.layers[0].mix
    (gradient,) = torch.autograd.grad(loss(), parameter)
    step = torch.zeros_like(parameter)
    step[1, 0, 1] = 1e-4
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * step)
        values.append(float(loss().detach()))
        with torch.no_grad():
            parameter.sub_(sign * step)
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(gradient[1, 0, 1]), rel=1e-6)


def test_information_travels_layers_times_cutoff_and_no_further() -> None:
    """A chain of C with 3 Å spacing, cutoff 4 Å, two layers: the first atom feels the third (6 Å) and not the fourth (9 Å)."""
    potential = small()
    assert potential.spec.interaction_range == 8.0
    chain = Structure([6] * 4, np.arange(4)[:, None] * [3.0, 0, 0])

    def first(positions: np.ndarray) -> float:
        return float(evaluate(potential, [chain.replace(positions=positions)], ("atomic_energies",))[0]["atomic_energies"][0])

    moved = [chain.positions + 0.3 * np.eye(4)[k][:, None] * [0, 1.0, 0] for k in range(4)]
    assert abs(first(moved[2]) - first(chain.positions)) > 1e-10
    assert first(moved[3]) == first(chain.positions)


@pytest.mark.parametrize(("hidden_degree", "differs"), [(0, False), (1, True)])
def test_vectors_tell_cis_from_trans_where_scalars_do_not(hidden_degree: int, differs: bool) -> None:
    """Chains H-O-O-H of which only bonded atoms see each other. Scalars bring an angle of the next atom, vectors where its other bond points."""
    x, y = np.eye(3)[:2] * 1.5
    cos, sin = np.cos(np.deg2rad(110.0)), np.sin(np.deg2rad(110.0))
    energies = []
    for side in (1, -1):
        chain = Structure([1, 8, 8, 1], np.array([cos * x + sin * y, 0 * x, x, x - cos * x + side * sin * y]))
        backbone = {"correlation": 2, "hidden_degree": hidden_degree, "cutoff": 2.2, "mean_neighbors": 2.0}
        energies.append(linear_energy(small(backbone=backbone), chain))
    assert (abs(energies[0] - energies[1]) > 1e-4) is differs
    assert differs or abs(energies[0] - energies[1]) < 1e-12


def test_a_checkpoint_from_before_vectors_opens_without_them(tmp_path: Path) -> None:
    potential = small(backbone={"hidden_degree": 0})
    del potential.config["backbone"]["hidden_degree"]
    save_potential(tmp_path / "old.safetensors", potential)
    opened = load_potential(tmp_path / "old.safetensors")
    assert opened.config["backbone"]["hidden_degree"] == 0
    s = rattled(water(), 0.1)
    np.testing.assert_array_equal(evaluate(opened, [s], ("forces",))[0]["forces"], evaluate(potential, [s], ("forces",))[0]["forces"])


@pytest.mark.parametrize(("channels", "layers", "radial", "invariants"), [(8, 1, 6, 13), (64, 2, 8, 13)])
@pytest.mark.parametrize("hidden_degree", [0, 1])
def test_parameter_count(channels: int, layers: int, radial: int, invariants: int, hidden_degree: int) -> None:
    """Per layer: neighbour, skip, its weights, readout, four mixes; weights and message of each invariant; the filter; three biases.
    Between two layers vectors add the gate with its bias, their map, that to the neighbours, five mixes and a filter."""
    backbone = Mace(MaceConfig(channels=channels, layers=layers, radial=radial, hidden_degree=hidden_degree))
    c = channels
    block = (8 + 2 * invariants) * c * c + (radial + 1) * c + (invariants + 2) * c
    vectors = (7 + invariants) * c * c + (radial + 1) * c + c
    assert sum(p.numel() for p in backbone.parameters()) == layers * block + hidden_degree * (layers - 1) * vectors
    assert len(backbone.roles()) == len(list(backbone.parameters()))
