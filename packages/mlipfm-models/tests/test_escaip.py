"""The escaip backbone: angular logits in closed form, the contract suite, smoothness of every piece, symmetric sites, parameter count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.errors import CapacityExceeded, RecipeError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_interfaces.testing.structures import methane, random_rotation, rattled, silicon, water
from mlipfm_models import build_potential
from mlipfm_models.backbones._attention import log_envelope
from mlipfm_models.backbones._harmonics import HARMONICS
from mlipfm_models.backbones.backbone import envelope
from mlipfm_models.backbones.escaip import Attention, Escaip, EscaipConfig, bond_order, legendre

SMALL = {"channels": 16, "layers": 2, "cutoff": 4.0, "radial": 6, "degree": 3, "heads": 2, "expansion": 1}


def small(**changes: Any) -> Potential:
    backbone = SMALL | changes.pop("backbone", {})
    return build_potential(
        "escaip", {"elements": ["H", "C", "O", "Si"], "levels": ["gfn2-xtb"], "dtype": "float64", "backbone": backbone} | changes
    )


class TestContract(PotentialContract):
    def potential(self) -> Potential:
        return small()


@pytest.mark.ci
class TestContractOfThreeLayersTwoLevelsChargeAndSpin(PotentialContract):
    def potential(self) -> Potential:
        conditions = ["total_charge", "spin_multiplicity"]
        return small(levels=["gfn1-xtb", "gfn2-xtb"], conditions=conditions, scale=1.7, backbone={"layers": 3, "degree": 1})


@pytest.mark.ci
class TestContractOfDirectForces(PotentialContract):
    def potential(self) -> Potential:
        return small(forces="direct")


def unit_vectors(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)


def harmonic(u: torch.Tensor, ell: int) -> torch.Tensor:
    """[..., 2l + 1] real harmonics written out."""
    rows = [
        sum(c * torch.stack([u[..., "xyz".index(a)] for a in m] or [torch.ones_like(u[..., 0])]).prod(0) for m, c in y.items())
        for y in HARMONICS[ell]
    ]
    return torch.stack(rows, dim=-1)


def test_logits_are_queries_and_keys_encoded_by_harmonics() -> None:
    """Every channel of degree l of queries and keys times the 2l + 1 harmonics of its neighbour, then one scalar product: METHODS of the paper."""
    config = EscaipConfig(channels=24, heads=2, degree=3)
    attention, u = Attention(config, last=False), unit_vectors(3, 5)
    q, k = torch.randn(2, 3, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = attention.logits(q, k, legendre(u, 3))
    for head in range(2):
        q_h, k_h = (x[:, 1:].unflatten(-1, (4, 2, 3))[:, :, :, head] for x in (q, k))  # [A, K, degree, 3]
        encoded = [
            torch.cat([(x[:, :, ell, :, None] * harmonic(u, ell)[:, :, None]).flatten(2) for ell in range(4)], -1) for x in (q_h, k_h)
        ]
        torch.testing.assert_close(logits[:, head, 1:, 1:], encoded[0] @ encoded[1].mT / 2 / 12**0.5, rtol=0, atol=1e-13)


def test_the_atom_itself_sees_all_channels_without_angles() -> None:
    attention = Attention(EscaipConfig(channels=16, heads=1, degree=3), last=False)
    q, k = torch.randn(2, 2, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    logits = attention.logits(q, k, legendre(unit_vectors(2, 3), 3))
    torch.testing.assert_close(logits[:, 0, 0], torch.einsum("ac,akc->ak", q[:, 0], k) / 2 / 4)


def test_polynomials_are_those_of_legendre() -> None:
    u = unit_vectors(1, 40)
    cosine = (u @ u.mT).numpy()
    for ell, p in enumerate(legendre(u, 6), start=1):
        np.testing.assert_allclose(p[:, 1:, 1:], np.polynomial.legendre.legval(cosine, np.eye(7)[ell]), atol=1e-13)
        assert (p[:, 0] == 1).all()
    assert legendre(u, 0) == []


def test_bond_order_of_a_cube_vanishes_in_degrees_one_to_three_and_that_of_a_line_does_not() -> None:
    """Steinhardt's Q_4 of the octahedron is sqrt(7/12); Q_1 to Q_3 vanish. Two opposite neighbours have Q_2 = 1."""
    cube = torch.cat([torch.eye(3), -torch.eye(3)]).double()[None]
    order = bond_order(torch.nn.functional.pad(torch.ones(1, 6, dtype=torch.float64), (1, 0)), legendre(cube, 4))
    expected = torch.tensor([[1.0, 0.0, 0.0, 0.0, 7 / 12]]).double() * (6 / 7) ** 2
    torch.testing.assert_close(order.square() - 1e-2, expected)
    line = bond_order(torch.tensor([[0.0, 1.0, 1.0]]).double(), legendre(torch.tensor([[[0, 0, 1.0], [0, 0, -1.0]]]).double(), 2))
    torch.testing.assert_close(line.square() - 1e-2, torch.tensor([[4 / 9, 0.0, 4 / 9]]).double())


def test_bond_order_fades_with_the_envelope_of_the_last_neighbour() -> None:
    """A mean over a hard list would stay at 1 until the neighbour leaves, and then be 0."""
    weights = envelope(torch.tensor([0.9, 0.99, 0.999, 1.0], dtype=torch.float64))
    order = bond_order(torch.nn.functional.pad(weights[:, None], (1, 0)), legendre(unit_vectors(4, 1), 1))
    assert (order[:, 1].square() - 1e-2).tolist() == pytest.approx(((weights / (1 + weights)) ** 2).tolist(), abs=1e-15)


def test_weights_of_attention_vanish_with_two_derivatives_at_the_cutoff() -> None:
    x = torch.tensor([[0.5, 0.9999999, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    weights = torch.softmax(torch.nn.functional.pad(log_envelope(envelope(x)), (1, 0)), dim=-1)[0, 1:]
    slope = [torch.autograd.grad(w, x, create_graph=True)[0][0, k] for k, w in enumerate(weights)]
    bend = [torch.autograd.grad(s, x, retain_graph=True)[0][0, k] for k, s in enumerate(slope)]
    for values in (weights.tolist(), [s.item() for s in slope], [b.item() for b in bend]):
        assert values[2:] == [0.0, 0.0]
    assert abs(bend[1].item()) < 1e-4 < abs(bend[0].item())


def test_node_vectors_turn_with_the_system_and_scalars_do_not() -> None:
    potential, turn, s = small(), random_rotation(3, improper=True), rattled(water(), 0.1)
    turned = s.replace(positions=s.positions @ turn.T)
    one, two = (potential(collate([x], potential.spec.graphs, torch.float64), ("energy",)).features for x in (s, turned))
    torch.testing.assert_close(two["node_scalar"].value, one["node_scalar"].value, rtol=0, atol=1e-12)
    expected = torch.einsum("xy,ayc->axc", torch.as_tensor(turn), one["node_vector"].value)
    torch.testing.assert_close(two["node_vector"].value, expected, rtol=0, atol=1e-12)
    assert one["node_vector"].value.abs().max() > 1e-3


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_every_parameter_of_the_backbone_learns_from_forces(forces: str) -> None:
    potential = small(forces=forces)
    batch = collate([rattled(methane(), 0.1), rattled(silicon(), 0.1)], potential.spec.graphs, torch.float64)
    potential(batch, ("energy", "forces"), create_graph=True)["forces"].square().sum().backward()
    still = [name for name, p in potential.backbone.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # Direct forces do not read the scalars of the energy, but their gates do.
    assert still == []


def test_hessian_rows_can_be_trained_at_a_symmetric_site() -> None:
    potential = small()
    rows = {"hessian_rows": np.zeros((3, 5, 3)), "hessian_rows_index": np.array([[0, 0], [0, 1], [0, 2]])}
    batch = collate([methane().replace(labels=rows)], potential.spec.graphs, torch.float64)
    hessian = potential(batch, ("hessian_rows",), create_graph=True)["hessian_rows"]
    hessian.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in potential.parameters() if p.grad is not None)
    block = hessian[:, 0].detach()
    assert abs(block[0, 0]) > 1e-3
    torch.testing.assert_close(block, block[0, 0] * torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_an_atom_without_neighbours_has_the_energy_of_its_element_alone() -> None:
    potential, s = small(), water()
    far = evaluate(potential, [s.replace(positions=s.positions * 100.0)], ("energy", "forces"))[0]
    singles = [evaluate(potential, [Structure([int(z)], np.zeros((1, 3)))], ("energy",))[0]["energy"] for z in s.atomic_numbers]
    assert far["energy"] == pytest.approx(sum(singles), abs=1e-12)
    assert np.abs(far["forces"]).max() == 0


def test_more_neighbours_than_the_capacity_are_refused() -> None:
    with pytest.raises(CapacityExceeded, match="capacity"):
        collate([silicon()], [GraphSpec(4.0, layout="dense", capacity=5)], torch.float64)


def test_information_travels_one_cutoff_more_than_there_are_layers() -> None:
    """A chain of C with 3 Å spacing, cutoff 4 Å, two layers: the first atom feels the third neighbour (9 Å, by bond order), not the fourth."""
    potential = small()
    assert potential.spec.interaction_range == 12.0
    chain = Structure([6] * 5, np.arange(5)[:, None] * [3.0, 0, 0])

    def first(moved: int) -> float:
        positions = chain.positions + 0.3 * np.eye(5)[moved][:, None] * [0, 1.0, 0]
        return float(evaluate(potential, [chain.replace(positions=positions)], ("atomic_energies",))[0]["atomic_energies"][0])

    still = float(evaluate(potential, [chain], ("atomic_energies",))[0]["atomic_energies"][0])
    assert abs(first(3) - still) > 1e-12
    assert first(4) == still


def parameters_of(c: int, layers: int, radial: int, degree: int, expansion: int) -> int:
    """See the table of the README."""
    network = 2 * expansion * c * c + (expansion + 1) * c
    first = 3 * c * c + 2 * c + (radial + degree + 1) * c
    return first + layers * (9 * c * c + 7 * c + network) + (layers - 1) * network


@pytest.mark.parametrize("config", [EscaipConfig(), EscaipConfig(channels=24, layers=3, radial=5, degree=2, heads=2, expansion=1)])
def test_parameter_count(config: EscaipConfig) -> None:
    backbone = Escaip(config)
    expected = parameters_of(config.channels, config.layers, config.radial, config.degree, config.expansion)
    assert sum(p.numel() for p in backbone.parameters()) == expected
    assert replace(config, channels=2 * config.channels).channels == 2 * backbone.channels


def test_channels_must_fit_heads_and_degrees() -> None:
    with pytest.raises(RecipeError, match=r"multiple of heads x \(degree \+ 1\) = 12"):
        small(backbone={"channels": 16, "heads": 3})
