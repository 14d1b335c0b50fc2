"""The Behler-Parrinello backbone: closed forms of its symmetry functions, what the cosine cutoff costs, element networks, the contract suite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_models import build_potential
from mlipfm_models.backbones._element_linear import ElementLinear, grouped
from mlipfm_models.backbones.behler_parrinello import BehlerParrinello, BehlerParrinelloConfig, angular_functions, cutoff_function

COSINE = BehlerParrinelloConfig(cutoff=6.0, cutoff_function="cosine", zetas=(1,), widths=(1e-12,))


def small(**changes: Any) -> Potential:
    backbone = {"channels": 8, "shells": 5, "zetas": [1, 4], "widths": [0.05], "cutoff": 4.0} | changes.pop("backbone", {})
    config = {"elements": ["H", "O", "Si"], "levels": ["a"], "dtype": "float64", "backbone": backbone}
    return build_potential("behler_parrinello", config | changes)


class TestContract(PotentialContract):
    def potential(self) -> Potential:
        return small()


@pytest.mark.ci
class TestContractOfTwoLevelsChargeAndSpin(PotentialContract):
    def potential(self) -> Potential:
        return small(levels=["a", "b"], conditions=["total_charge", "spin_multiplicity"], backbone={"cutoff": 5.0})


def neighbours(*vectors: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    d = torch.tensor([vectors], dtype=torch.float64)
    return d, torch.linalg.vector_norm(d, dim=-1), torch.ones(1, len(vectors), dtype=torch.bool)


def g4(*vectors: list[float]) -> tuple[float, float]:
    """Sum over unordered pairs of neighbours, for lambda = 1 and -1, zeta = 1, eta = 0."""
    terms = angular_functions(*neighbours(*vectors), COSINE)[0].sum(dim=(0, 1)) / 2
    return float(terms[0]), float(terms[1])


def test_a_neighbour_at_half_the_cutoff_counts_one_half() -> None:
    assert float(cutoff_function(torch.tensor(3.0, dtype=torch.float64), COSINE)) == pytest.approx(0.5, abs=1e-15)


def test_angular_function_of_an_equilateral_trimer() -> None:
    """G4 = (1 + cos 60°) f_c(a)³ = 1.5 f_c(a)³ with each pair counted once."""
    a = 2.0
    f = 0.5 * (math.cos(math.pi * a / 6.0) + 1)
    plus, minus = g4([a, 0, 0], [a / 2, a * math.sqrt(3) / 2, 0])
    assert plus == pytest.approx(1.5 * f**3, abs=1e-9)
    assert plus + minus == pytest.approx(2 * f**3, abs=1e-9)


def test_the_centre_of_a_linear_trimer_has_no_angle_of_the_cosine_kind() -> None:
    plus, minus = g4([1.5, 0, 0], [-1.5, 0, 0])
    assert plus == pytest.approx(0.0, abs=1e-15)
    assert minus > 0.1


def test_only_the_polynomial_cutoff_has_a_continuous_second_derivative() -> None:
    def curvature(kind: str) -> float:
        r = torch.tensor(5.9999, dtype=torch.float64, requires_grad=True)
        config = BehlerParrinelloConfig(cutoff=6.0, cutoff_function=kind)  # type: ignore[arg-type]
        (slope,) = torch.autograd.grad(cutoff_function(r, config), r, create_graph=True)
        return float(torch.autograd.grad(slope, r)[0])

    assert curvature("cosine") == pytest.approx(math.pi**2 / (2 * 36), rel=1e-4)
    assert abs(curvature("polynomial")) < 1e-2 * curvature("cosine")


@pytest.mark.parametrize("n", [1, 2, 4, 10])
def test_the_number_of_functions_grows_with_the_square_of_the_number_of_elements(n: int) -> None:
    config = BehlerParrinelloConfig()
    backbone = BehlerParrinello(config, tuple(range(1, n + 1)))
    assert backbone.network.first.weight.shape == (n, config.channels, 16 * n + 12 * n * (n + 1) // 2)


def test_each_row_is_multiplied_with_the_matrix_of_its_element() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = ElementLinear(4, 3, 2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    element, x = torch.tensor([2, 0, 2, 1, 0, 2]), torch.randn(6, 3, dtype=torch.float64, generator=generator)
    y = layer(x, grouped(element, 4))
    for k, e in enumerate(element.tolist()):
        torch.testing.assert_close(y[k], layer.weight[e] @ x[k] + layer.bias[e])
    y.sum().backward()
    assert layer.weight.grad is not None
    assert float(layer.weight.grad[3].abs().sum()) == 0.0  # the element that is not there


def test_elements_of_neighbours_are_told_apart() -> None:
    potential = small(elements=["H", "O"])
    positions = np.array([[0.0, 0, 0], [1.1, 0, 0], [-0.3, 1.0, 0]])
    answers = evaluate(potential, [Structure(np.array(z), positions) for z in ([8, 1, 8], [8, 8, 1])], ["atomic_energies"])
    one, other = (answer["atomic_energies"] for answer in answers)
    assert abs(one[0] - other[0]) > 1e-6


def test_direct_forces_are_refused_because_there_are_no_vectors() -> None:
    with pytest.raises(RecipeError, match="vectors"):
        small(forces="direct")


def test_other_elements_cannot_be_learned_on_top() -> None:
    with pytest.raises(RecipeError, match="cannot learn others than H, O, Si"):
        small(elements=["H", "O", "Si", "C"]).load_from(small())
