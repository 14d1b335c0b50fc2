"""Coupling tables: against e3nn, against rotations, and the number of invariants against group theory."""

from __future__ import annotations

import warnings
from itertools import product
from math import pi

import numpy as np
import pytest
import torch
from mlipfm_interfaces.testing.structures import random_rotation
from mlipfm_models.backbones._coupling import (
    coupling,
    quadrupole_paths,
    quadrupole_table,
    sphere_mean,
    triples,
    vector_paths,
    vector_table,
)
from mlipfm_models.backbones._harmonics import degrees, harmonics_table
from mlipfm_models.backbones._pair_functions import PairFunctions
from mlipfm_models.backbones.mace import Invariants, MaceConfig

EVEN = [t for t in product(range(4), repeat=3) if abs(t[0] - t[1]) <= t[2] <= t[0] + t[1] and sum(t) % 2 == 0]


def harmonics(u: np.ndarray) -> torch.Tensor:
    """[P, 16] of unit vectors [P, 3], through the table."""
    x = torch.as_tensor(u)
    powers = [torch.ones(len(x), 1, dtype=torch.float64), x]
    for _ in range(2):
        powers.append((powers[-1][:, :, None] * x[:, None]).flatten(1))
    return torch.cat(powers, dim=1) @ harmonics_table(3)


def directions(n: int, seed: int) -> np.ndarray:
    u = np.random.default_rng(seed).normal(size=(n, 3))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def representation(turn: np.ndarray, ell: int) -> torch.Tensor:
    """The matrix that turns harmonics of degree l: Y(R u) = D Y(u), from more directions than unknowns."""
    u, part = directions(40, 1), slice(ell**2, (ell + 1) ** 2)
    return torch.linalg.lstsq(harmonics(u)[:, part], harmonics(u @ turn.T)[:, part]).solution.T


def test_means_over_the_sphere_are_those_of_the_textbook() -> None:
    assert [str(sphere_mean(m)) for m in ("", "xx", "xxxx", "xxyy", "xxyyzz", "xy", "zzz")] == [
        "1",
        "1/3",
        "1/5",
        "1/15",
        "1/105",
        "0",
        "0",
    ]


@pytest.mark.parametrize("ells", EVEN)
def test_couplings_are_invariant_under_rotations_and_have_norm_one(ells: tuple[int, int, int]) -> None:
    tensor, d = coupling(*ells), [representation(random_rotation(5, improper=True), ell) for ell in ells]
    turned = torch.einsum("ai,bj,ck,ijk->abc", *d, tensor)
    torch.testing.assert_close(turned, tensor, rtol=0, atol=1e-12)
    assert float(tensor.norm()) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(("l1", "l2"), list(product(range(4), repeat=2)))
def test_clebsch_gordan_of_one_pair_are_orthonormal(l1: int, l2: int) -> None:
    rows = torch.cat([coupling(l1, l2, ell).permute(2, 0, 1).flatten(1) * (2 * ell + 1) ** 0.5 for ell in range(4)])
    rows = rows[rows.norm(dim=1) > 0]
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), rtol=0, atol=1e-13)


def test_couplings_that_break_the_triangle_rule_or_the_mirror_are_zero() -> None:
    for ells in ((0, 0, 1), (1, 1, 3), (0, 2, 3), (1, 1, 1), (1, 2, 2), (2, 2, 3)):
        assert not coupling(*ells).any()


def test_couplings_and_harmonics_are_those_of_e3nn_up_to_sign_and_axes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e3nn loads its constants through torch.jit
        o3 = pytest.importorskip("e3nn.o3")
    u = directions(60, 2)
    mine = harmonics(u)
    basis = {}
    for ell in range(4):
        theirs = o3.spherical_harmonics(ell, torch.as_tensor(u), normalize=True, normalization="norm")
        part = mine[:, ell**2 : (ell + 1) ** 2]
        basis[ell] = torch.linalg.lstsq(part, theirs).solution.T  # theirs = basis @ mine, exactly, with an orthogonal basis
        torch.testing.assert_close(part @ basis[ell].T, theirs, rtol=0, atol=1e-12)
        torch.testing.assert_close(basis[ell] @ basis[ell].T, torch.eye(2 * ell + 1, dtype=torch.float64), rtol=0, atol=1e-12)
    for ells in EVEN:
        turned = torch.einsum("ai,bj,ck,ijk->abc", *(basis[ell] for ell in ells), coupling(*ells))
        wigner = o3.wigner_3j(*ells, dtype=torch.float64)
        assert abs(float((turned * wigner).sum())) == pytest.approx(1.0, abs=1e-9)  # both have norm one


def molien(nu: int, degree: int) -> int:
    """Invariants of order nu of one density under rotations and mirrors, from characters: the mean over the group of that of the symmetric power."""
    angle = (np.arange(4000) + 0.5) * pi / 4000
    weight = (1 - np.cos(angle)) / 4000

    def power_sum(k: int, parity: int) -> np.ndarray:
        characters = [sum(np.cos(m * k * angle) for m in range(-ell, ell + 1)) * parity ** (ell * k) for ell in range(degree + 1)]
        return np.asarray(sum(characters))

    total = 0.0
    for parity in (1, -1):
        p1, p2, p3 = (power_sum(k, parity) for k in (1, 2, 3))
        symmetric = {1: p1, 2: (p1**2 + p2) / 2, 3: (p1**3 + 3 * p1 * p2 + 2 * p3) / 6}[nu]
        total += float((weight * symmetric).sum()) / 2
    assert total == pytest.approx(round(total), abs=1e-6)
    return round(total)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_number_of_invariants_is_that_of_group_theory(degree: int) -> None:
    counts = [molien(nu, degree) for nu in (1, 2, 3)]
    assert counts[:2] == [1, degree + 1]
    assert len(triples(degree)) == counts[2]
    assert [Invariants(degree, nu).count for nu in (1, 2, 3)] == list(np.cumsum(counts))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_invariants_are_independent_and_invariant(degree: int) -> None:
    """As many independent functions of random densities as there are invariants, and none changes when the densities turn."""
    table, size = Invariants(degree, 3).double(), (degree + 1) ** 2
    density = torch.randn(size, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    d = torch.block_diag(*(representation(random_rotation(7, improper=True), ell) for ell in range(degree + 1)))
    found = table(density)
    torch.testing.assert_close(table(d @ density), found, rtol=0, atol=1e-10)
    assert int(torch.linalg.matrix_rank(found)) == table.count


def test_invariants_of_order_three_are_the_couplings_of_three_densities() -> None:
    density = torch.randn(16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    part = [density[ell**2 : (ell + 1) ** 2] for ell in range(4)]
    found = Invariants(3, 3).double()(density)[9:]
    for row, (l1, l2) in zip(found, quadrupole_paths(3), strict=True):
        expected = torch.einsum("ijk,in,jn,kn->n", coupling(l1, l2, 2), part[l1], part[l2], part[2])
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)


def test_each_product_of_the_quadrupole_table_is_used() -> None:
    first, second, table = quadrupole_table(3)
    assert len(first) == len(second) == table.shape[1]
    assert table.any(dim=0).all()
    assert set(quadrupole_paths(3)) == {(1, 1), (1, 3), (2, 2), (3, 3)}


def test_harmonics_times_a_vector_are_coupled_to_what_turns_like_the_degree() -> None:
    """For a vector along the direction the path l -> L gives a multiple of Y_L, L = l +- 1, and for any other it turns with both, mirrors too."""
    u, v = directions(1, 1)[0], directions(1, 2)[0]
    assert vector_paths(3) == [(1, 0), (0, 1), (2, 1), (1, 2), (2, 3)]
    assert vector_paths(1) == [(1, 0), (0, 1)]
    table, turn = vector_table(3), random_rotation(5, improper=True)

    def coupled(u: np.ndarray, v: np.ndarray) -> torch.Tensor:
        y = harmonics(u[None])[0, :9] * (2 * degrees(2) + 1).double().sqrt()
        return table @ torch.outer(torch.as_tensor(v), y).flatten()

    position = 0
    for _, total in vector_paths(3):
        rows = slice(position, position + 2 * total + 1)
        position += 2 * total + 1
        own = harmonics(u[None])[0, total**2 : (total + 1) ** 2]
        along = coupled(u, u)[rows]
        torch.testing.assert_close(along, own * (along @ own), rtol=0, atol=1e-12)
        assert abs(float(along @ own)) > 0.5
        turned = coupled(turn @ u, turn @ v)[rows]
        torch.testing.assert_close(turned, representation(turn, total) @ coupled(u, v)[rows], rtol=0, atol=1e-11)
    assert position == len(table) == 19
    # to a vector from a scalar and a vector: the vector itself, by half of the variance; and to a scalar: the product of directions
    torch.testing.assert_close(coupled(u, v)[1:4], torch.as_tensor(v) / np.sqrt(2), rtol=0, atol=1e-12)
    assert float(coupled(u, v)[0]) == pytest.approx(float(u @ v), abs=1e-12)


def test_coupled_components_have_the_size_of_the_factors() -> None:
    """Independent factors of variance one: so has each component, where two paths share a degree their sum has."""
    table = vector_table(3)
    variance = table.square().sum(dim=1)
    shares = [1.0] + [0.5] * 6 + [1.0] * 12
    torch.testing.assert_close(variance, torch.tensor(shares).double(), rtol=0, atol=1e-12)


def test_geometry_of_the_backbone_has_the_harmonics_and_the_padding_vanishes() -> None:
    config = MaceConfig(cutoff=4.0, radial=5, mean_neighbors=9.0)
    u = directions(6, 3)
    d = torch.as_tensor(u.reshape(2, 3, 3)) * torch.tensor([[0.9, 2.0, 8.0], [3.9, 4.0, 1.0]]).double()[..., None]
    functions = PairFunctions(config, even=True).double()
    radial, angular = functions.plain(d.flatten(0, 1)).split([6, 16])
    torch.testing.assert_close(angular.T, harmonics(u) * (2 * degrees(3) + 1).double().sqrt(), rtol=0, atol=1e-12)
    assert radial.shape == (6, 6)
    assert radial[:, [2, 4]].abs().max() == 0
    assert (radial[:, [0, 1, 3, 5]].abs().max(dim=0).values > 1e-9).all()
