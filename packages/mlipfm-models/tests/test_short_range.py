"""The screened repulsion: values of the published formula, where it ends, and what it does for atoms that nothing was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.elements import COVALENT_RADII
from mlipfm_interfaces.errors import MlipfmError, RecipeError
from mlipfm_interfaces.neighbors import PairView
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.contract_suites import PotentialContract
from mlipfm_models import build_potential
from mlipfm_models.assembly import Repulsion, screened
from mlipfm_models.backbones.backbone import TrainedDistances, envelope

SMALL = {"channels": 8, "layers": 1}


def dimer(z: int, r: float) -> Structure:
    return Structure(np.array([z, z]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, r]]))


def test_nuclei_that_nearly_touch_repel_as_bare_charges() -> None:
    r = torch.tensor([1e-6], dtype=torch.float64)
    z = torch.tensor([14])
    assert float(screened(r, z, z)) == pytest.approx(14.39964547 * 14 * 14 / 1e-6, rel=1e-4)


def test_two_silicon_atoms_an_angstrom_apart_repel_with_the_value_of_the_formula() -> None:
    """Written out once by hand: a = 0.8854 * 0.529177 / (2 * 14**0.23) = 0.12766 Å."""
    x = 1.0 / (0.8854 * 0.529177210903 / (2 * 14**0.23))
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x) + 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    z = torch.tensor([14])
    assert float(screened(torch.ones(1, dtype=torch.float64), z, z)) == pytest.approx(14.3996454784 * 196 * phi, rel=1e-7)


@pytest.mark.parametrize("layout", ["pairs", "dense"])
def test_carbon_and_hydrogen_half_an_angstrom_apart_share_the_repulsion_of_both_nuclei_once(layout: str) -> None:
    """E = e²/(4 pi eps0 r) Z_i Z_j phi(r / a) envelope², written out."""
    spec, r = GraphSpec(5.0, layout), 0.5  # type: ignore[arg-type]
    x = r / (0.8854 * 0.529177210903 / (6**0.23 + 1))
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x) + 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    part = torch.tensor(r / float(COVALENT_RADII[6] + COVALENT_RADII[1]), dtype=torch.float64)
    expected = 14.3996454784 / r * 6 * phi * float(envelope(part)) ** 2
    pair = Structure(np.array([6, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, r]]))
    carbon, hydrogen = Repulsion()(collate([pair], (spec,), torch.float64), spec).tolist()
    assert carbon + hydrogen == pytest.approx(expected, rel=1e-6)
    assert carbon == pytest.approx(hydrogen, rel=1e-12)


@pytest.mark.parametrize("layout", ["pairs", "dense"])
def test_it_ends_at_the_sum_of_covalent_radii(layout: str) -> None:
    spec = GraphSpec(5.0, layout)  # type: ignore[arg-type]
    reach = 2 * float(COVALENT_RADII[6])
    inside, outside = (Repulsion()(collate([dimer(6, r)], (spec,), torch.float64), spec) for r in (0.98 * reach, 1.001 * reach))
    assert float(outside.abs().sum()) == 0.0
    assert 0.0 < float(inside.sum()) < 0.05


@pytest.mark.parametrize("backbone", ["painn", "density"])
def test_atoms_pushed_into_each_other_repel_ever_more(backbone: str) -> None:
    for z, name in ((1, "H"), (6, "C"), (29, "Cu")):
        potential = build_potential(
            backbone, {"elements": [name], "levels": ["any"], "short_range": "zbl", "dtype": "float64", "scale": 0.1}
        )
        distances = np.linspace(0.4, 0.6, 26) * 2 * float(COVALENT_RADII[z])  # nearer, an untrained painn says anything
        rows = evaluate(potential, [dimer(z, r) for r in distances])
        energies = np.array([row["energy"] for row in rows])
        pushes = np.array([row["forces"][1, 2] for row in rows])
        assert (np.diff(energies) < 0).all(), name
        assert (pushes > 0).all(), name


def test_direct_forces_do_not_take_it() -> None:
    with pytest.raises(RecipeError, match="use conservative forces"):
        build_potential("painn", {"elements": ["H"], "levels": ["any"], "short_range": "zbl", "forces": "direct"})


@pytest.mark.ci
class TestPainnWithRepulsion(PotentialContract):
    def potential(self) -> Potential:
        backbone = SMALL | {"shortest_distances": {"H-O": 1.2, "H-H": 1.8}}  # longer than in the structures: both parts act
        return build_potential(
            "painn", {"elements": ["H", "O"], "levels": ["any"], "dtype": "float64", "short_range": "zbl", "backbone": backbone}
        )


@pytest.mark.ci
class TestDensityWithRepulsion(PotentialContract):
    def potential(self) -> Potential:
        backbone = SMALL | {"shortest_distances": {"H-O": 1.2, "H-H": 1.8}}
        return build_potential(
            "density", {"elements": ["H", "O"], "levels": ["any"], "dtype": "float64", "short_range": "zbl", "backbone": backbone}
        )


# Distances that a network has been trained for


def two_atoms(r: torch.Tensor, z: tuple[int, int] = (1, 6)) -> tuple[torch.Tensor, torch.Tensor, PairView]:
    """Distances [n, 1], atomic numbers [2] and a view in which every pair is of the same two atoms."""
    i = torch.zeros(len(r), dtype=torch.int64)
    return r[:, None], torch.tensor(z), PairView(i, i + 1, torch.zeros(len(r), 3, dtype=torch.int64), i == 0)


def test_distances_of_the_training_data_are_left_to_the_bit_and_nearer_ones_end_at_seven_tenths() -> None:
    trained = TrainedDistances({"H-C": 1.05}).double()
    r = torch.linspace(0.01, 4.0, 4000, dtype=torch.float64)
    given = trained(*two_atoms(r)).squeeze(1)
    far = r >= 1.05
    assert torch.equal(given[far], r[far])
    assert bool((given[~far] >= r[~far]).all())
    assert bool((given.diff() > 0).all())
    assert 0.7 * 1.05 < float(given[0]) < 0.7 * 1.05 * 1.005
    tenth_below = float(trained(*two_atoms(torch.tensor([0.9 * 1.05], dtype=torch.float64))))
    assert tenth_below == pytest.approx(1.05 * (1 - 0.1 * (1 + 3.0**-4) ** -0.25), abs=1e-12)  # 0.9003 of it
    assert torch.equal(trained(*two_atoms(r, (6, 1))).squeeze(1), given)
    nearer = TrainedDistances({"H-C": 1.05}, nearest=0.95).double()(*two_atoms(r)).squeeze(1)
    assert torch.equal(nearer[far], r[far])
    assert 0.95 * 1.05 < float(nearer[0]) < 0.951 * 1.05


def test_given_distances_have_four_continuous_derivatives_at_the_shortest_distance_of_the_data() -> None:
    trained = TrainedDistances({"H-C": 1.05}).double()
    r = torch.tensor([1.05 * (1 - 1e-6), 1.05 * (1 + 1e-6)], dtype=torch.float64, requires_grad=True)
    value = trained(*two_atoms(r)).squeeze(1)
    for expected in (1.0, 0.0, 0.0, 0.0):
        (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
        torch.testing.assert_close(
            value.detach(), torch.full_like(r, expected).detach(), rtol=0, atol=1e-2
        )  # the fourth is 3e-3 at this distance


def test_pairs_that_the_data_lack_end_below_nine_tenths_of_the_sum_of_their_radii_and_without_data_nothing_ends() -> None:
    r = torch.linspace(0.1, 3.0, 300, dtype=torch.float64)
    given = TrainedDistances({"H-C": 1.05}).double()(*two_atoms(r, (8, 14))).squeeze(1)
    reach = 0.9 * float(COVALENT_RADII[8] + COVALENT_RADII[14])
    assert torch.equal(given[r >= reach], r[r >= reach])
    assert bool((given[r < reach] > 0.7 * reach).all())
    assert torch.equal(TrainedDistances({})(*two_atoms(r)).squeeze(1), r)


@pytest.mark.parametrize("pair", ["C", "C-H-O", "C-Xx"])
def test_key_that_is_no_pair_of_elements_is_refused(pair: str) -> None:
    with pytest.raises(MlipfmError, match=r"no pair of elements|Xx"):
        TrainedDistances({pair: 1.0})


def hydrogen_beside_carbon(r: float) -> Structure:
    return Structure([6, 1], [[0.0, 0, 0], [r, 0, 0]], level="pbe")


@pytest.mark.parametrize("name", ["mace", "painn"])
def test_energy_of_atoms_that_crowd_is_bounded_and_forces_are_still_its_gradient(name: str) -> None:
    options = {"elements": ["H", "C"], "levels": ["pbe"], "dtype": "float64", "short_range": "none", "seed": 3}
    as_is, given = (
        build_potential(name, options | {"backbone": {"channels": 8} | more}) for more in ({}, {"shortest_distances": {"H-C": 1.4}})
    )
    assert (
        evaluate(as_is, [far := hydrogen_beside_carbon(1.5)], ("energy",))[0]["energy"] == evaluate(given, [far], ("energy",))[0]["energy"]
    )
    curves = [
        np.array([evaluate(p, [hydrogen_beside_carbon(r)], ("energy",))[0]["energy"] for r in (0.12, 0.2, 0.4, 1.0)])
        for p in (as_is, given)
    ]
    assert np.ptp(curves[1]) < 0.2 * np.ptp(curves[0])
    low, high = (evaluate(given, [hydrogen_beside_carbon(1.1 + h)], ("energy",))[0]["energy"] for h in (-1e-4, 1e-4))
    force = evaluate(given, [hydrogen_beside_carbon(1.1)], ("forces",))[0]["forces"][1, 0]
    assert force == pytest.approx(-(high - low) / 2e-4, abs=1e-6)
