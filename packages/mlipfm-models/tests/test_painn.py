"""The backbone: radial functions in closed form, equivariance, smoothness, parameter count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import Batch, GraphSpec, collate
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.structures import methane, random_rotation, rattled, silicon, supercell, water
from mlipfm_models.backbones.backbone import envelope
from mlipfm_models.backbones.painn import Message, Painn, PainnConfig, radial_basis


def test_envelope_is_the_polynomial_of_dimenet() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    dimenet = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8  # arXiv:2003.03123, p = 6
    torch.testing.assert_close(envelope(x), dimenet, rtol=0, atol=1e-13)


def test_envelope_and_two_derivatives_vanish_at_the_cutoff_and_beyond() -> None:
    x = torch.tensor([1.0, 1.0 + 1e-12, 1.5, 2.0], dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert value.tolist() == slope.tolist() == bend.tolist() == [0.0] * 4


def test_bessel_functions_are_orthonormal_in_the_sphere() -> None:
    r = torch.linspace(1e-6, 5.0, 200_001, dtype=torch.float64)[:, None]
    config = PainnConfig(cutoff=5.0, radial=4, mean_neighbors=1.0)
    window = envelope(r / 5.0)
    inside = (window > 1e-6).squeeze(1)
    bessel = torch.zeros(len(r), 4, dtype=torch.float64)
    bessel[inside] = radial_basis(r[inside], config)[:, :4] / window[inside]
    overlap = torch.trapezoid(bessel[:, :, None] * bessel[:, None, :] * r[:, :, None] ** 2, r[:, 0], dim=0)
    torch.testing.assert_close(overlap, torch.eye(4, dtype=torch.float64), rtol=0, atol=2e-3)  # the last 1 % of the sphere is left out


def test_filter_is_cut_off_after_its_bias() -> None:
    """The map without bias of the enveloped basis is (linear map with bias) x envelope: it vanishes at the cutoff whatever the bias."""
    config = PainnConfig(channels=4, cutoff=5.0, radial=6, mean_neighbors=9.0)
    message = Message(config, first=True).double()
    r = torch.tensor([[0.9], [3.0], [4.999], [5.0], [6.0]], dtype=torch.float64)
    weight, bias = message.filter_scalar.weight[:, :6], message.filter_scalar.weight[:, 6]
    n = torch.arange(1, 7, dtype=torch.float64)
    bessel = (2 / 5.0) ** 0.5 * torch.sin(n * torch.pi * r / 5.0) / r
    expected = (bessel @ weight.T + bias) * envelope(r / 5.0) / 3.0
    torch.testing.assert_close(message.filter_scalar(radial_basis(r, config)), expected)
    assert expected[3:].abs().max() == 0


def batch_of(structures: list[Structure], spec: GraphSpec, positions: Any = None) -> Batch:
    batch = collate(structures, [spec], torch.float64)
    return batch if positions is None else replace(batch, positions=torch.as_tensor(positions))


@pytest.mark.parametrize("improper", [False, True])
def test_node_vectors_turn_with_the_system_and_scalars_do_not(small: Any, improper: bool) -> None:
    potential, turn = small(), random_rotation(3, improper=improper)
    s = rattled(water(), 0.1)
    for first, second in ((s, s.replace(positions=s.positions @ turn.T)),):
        one, two = (potential(batch_of([x], potential.spec.graphs[0]), ("energy",)).features for x in (first, second))
    torch.testing.assert_close(two["node_scalar"].value, one["node_scalar"].value, rtol=0, atol=1e-12)
    expected = torch.einsum("xy,ayc->axc", torch.as_tensor(turn), one["node_vector"].value)
    torch.testing.assert_close(two["node_vector"].value, expected, rtol=0, atol=1e-12)
    assert one["node_vector"].value.abs().max() > 1e-2
    assert one["node_vector"].irreps == "1o"


def test_vectors_of_the_methane_carbon_cancel(small: Any) -> None:
    potential = small()
    vectors = potential(batch_of([methane()], potential.spec.graphs[0]), ("energy",)).features["node_vector"].value
    assert vectors[0].abs().max() < 1e-12
    assert vectors[1].abs().max() > 1e-2


def test_padding_pairs_contribute_exactly_nothing(small: Any) -> None:
    potential = small()
    spec = potential.spec.graphs[0]
    padded = replace(spec, capacity=64)
    batch = collate([rattled(water(), 0.1), methane()], [spec, padded], torch.float64)
    potential.backbone.graph = padded
    got = potential(batch, ("energy", "forces"))
    potential.backbone.graph = spec
    want = potential(batch, ("energy", "forces"))
    assert len(batch.views[padded].mask) == 64 > int(batch.views[padded].mask.sum())
    for key in ("energy", "forces"):
        torch.testing.assert_close(got[key], want[key], rtol=0, atol=1e-14)


def test_messages_do_not_depend_on_the_number_of_other_neighbours() -> None:
    """Sums over neighbours are additive (constant normalisation): the message of two neighbours is the sum of the two messages."""
    message = Message(PainnConfig(channels=4, radial=5), first=True).double()
    torch.manual_seed(0)
    s, radial, direction = torch.randn(3, 4).double(), torch.randn(2, 6).double(), torch.randn(2, 3, 1).double()
    i, j = torch.tensor([0, 0]), torch.tensor([1, 2])
    both = message(s, None, radial, direction, i, j)
    single = [message(s, None, radial[k : k + 1], direction[k : k + 1], i[k : k + 1], j[k : k + 1]) for k in range(2)]
    for part in range(2):
        torch.testing.assert_close(both[part], single[0][part] + single[1][part])


@pytest.mark.parametrize("h", [1e-3, 3e-3])
def test_hessian_at_a_symmetric_site_is_what_vibrations_see(small: Any, h: float) -> None:
    """A smaller norm_epsilon than the default makes the norms of the vanishing vectors a cone: 1e-8 gives a Hessian 1,000 times too stiff."""
    potential = small(backbone={"channels": 16, "layers": 2, "radial": 6})
    octahedron = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)]) * 1.4
    s = Structure([6, *[1] * 6], octahedron)
    row = s.replace(labels={"hessian_rows": np.zeros((1, 7, 3)), "hessian_rows_index": np.array([[0, 0]])})
    exact = evaluate(potential, [row], ("hessian_rows",))[0]["hessian_rows"][0]
    step = np.zeros((7, 3))
    step[0, 0] = h
    plus, minus = (a["forces"] for a in evaluate(potential, [s.replace(positions=octahedron + d) for d in (step, -step)], ("forces",)))
    np.testing.assert_allclose(-(plus - minus) / (2 * h), exact, rtol=0, atol=0.05 * np.abs(exact).max())


def test_information_travels_layers_times_cutoff_and_no_further(small: Any) -> None:
    """A chain of C with 3 Å spacing, cutoff 4 Å, two layers: the first atom feels the third (6 Å) and not the fourth (9 Å)."""
    potential = small()
    assert potential.spec.interaction_range == 8.0
    chain = Structure([6] * 4, np.arange(4)[:, None] * [3.0, 0, 0])

    def first(positions: np.ndarray) -> float:
        return float(evaluate(potential, [chain.replace(positions=positions)], ("atomic_energies",))[0]["atomic_energies"][0])

    moved = [chain.positions + 0.3 * np.eye(4)[k][:, None] * [0, 1.0, 0] for k in range(4)]
    assert abs(first(moved[2]) - first(chain.positions)) > 1e-10
    assert first(moved[3]) == first(chain.positions)


def test_vectors_of_a_perfect_crystal_vanish_and_forces_with_them(small: Any) -> None:
    potential = small(elements=["Si"])
    forces = evaluate(potential, [supercell(silicon(), (2, 1, 1))], ("forces",))[0]["forces"]
    assert np.abs(forces).max() < 1e-10


def parameters_of(channels: int, layers: int, radial: int) -> int:
    """First block: 2 parts of phi and 2 filters; others 3. See the table of the README."""
    c, rows = channels, radial + 1
    blocks = [(8 + k) * c * c + (5 + k) * c + k * rows * c for k in [2] + [3] * (layers - 1)]
    return sum(blocks)


@pytest.mark.parametrize(("channels", "layers", "radial"), [(8, 1, 6), (64, 3, 16), (32, 2, 20)])
def test_parameter_count(channels: int, layers: int, radial: int) -> None:
    backbone = Painn(PainnConfig(channels=channels, layers=layers, radial=radial))
    assert sum(p.numel() for p in backbone.parameters()) == parameters_of(channels, layers, radial)
    assert len(backbone.roles()) == len(list(backbone.parameters()))
