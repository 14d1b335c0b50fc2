"""Couplings of real spherical harmonics: invariants of up to three copies of one density, and harmonics times vectors.

A density A [lm] turns with the system like the harmonics. Its invariants of order nu (products of nu entries, summed with fixed coefficients) are

| nu | invariants |
|---|---|
| 1 | A_00 |
| 2 | sum_m A_lm² for each l |
| 3 | sum C(l1 l2 l3) A_l1 A_l2 A_l3 for each l1 <= l2 <= l3 that obey the triangle rule with l1 + l2 + l3 even |

(arXiv:1901.10416, ACE, and arXiv:2206.07697, MACE). Odd sums are no scalars but change sign in a mirror; up to nu = 3 no further coefficients are
needed, because three harmonics couple to a scalar in one way at most. C is the integral of three harmonics over the sphere up to a factor,
and that is arithmetic with fractions: the integral of a monomial.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations_with_replacement, product
from math import prod, sqrt

import torch
from torch import Tensor

from ._harmonics import HARMONICS


def sphere_mean(monomial: str) -> Fraction:
    """Mean over the unit sphere of a product of components such as "xxyy" (1/15): prod (n - 1)!! / (N + 1)!!, zero for an odd power."""
    powers = [monomial.count(axis) for axis in "xyz"]
    if any(n % 2 for n in powers):
        return Fraction(0)
    return Fraction(prod(_double_factorial(n - 1) for n in powers), _double_factorial(len(monomial) + 1))


def _double_factorial(n: int) -> int:
    return prod(range(n, 0, -2))


@lru_cache(maxsize=64)
def _coupling(l1: int, l2: int, l3: int) -> Tensor:
    table = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.float64)
    if (l1 + l2 + l3) % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return table
    for (i, p), (j, q), (k, r) in product(*(enumerate(HARMONICS[ell]) for ell in (l1, l2, l3))):
        terms = product(p.items(), q.items(), r.items())
        table[i, j, k] = sum(a * b * c * float(sphere_mean(u + v + w)) for (u, a), (v, b), (w, c) in terms)
    table[table.abs() < 1e-14] = 0.0
    return table / table.norm()


def coupling(l1: int, l2: int, l3: int) -> Tensor:
    """[2 l1 + 1, 2 l2 + 1, 2 l3 + 1] float64: the invariant tensor of three harmonics, with norm 1 and the sign of the integral of the three.

    The real form of Wigner's 3j symbols; sqrt(2 l3 + 1) times it couples l1 and l2 to l3 (Clebsch-Gordan). Zero if the triangle rule fails, and
    zero for odd l1 + l2 + l3, whose couplings no product of harmonics of one direction has.
    """
    return _coupling(l1, l2, l3).clone()


def triples(degree: int) -> list[tuple[int, int, int]]:
    """Return all (l1, l2, l3) with l1 <= l2 <= l3 <= degree that couple to a scalar: the invariants of order 3."""
    everything = combinations_with_replacement(range(degree + 1), 3)
    return [(a, b, c) for a, b, c in everything if c <= a + b and (a + b + c) % 2 == 0]


def quadrupole_paths(degree: int) -> list[tuple[int, int]]:
    """Return the pairs (l1, l2) whose coupling to l = 2, contracted with A_2, gives all invariants of order 3 without an A_0.

    Every triple of degrees 1 to 3 with an even sum contains a 2, so one vector of five entries per triple is enough.
    """
    pairs = []
    for triple in triples(degree):
        if 0 not in triple:
            rest = list(triple)
            rest.remove(2)
            pairs.append((rest[0], rest[1]))
    return pairs


def quadrupole_table(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return how to make the quadrupoles of `quadrupole_paths` from products of two entries of a density.

    Returns:
        `first` and `second` [products] int64, entries of the density, and `table` [5 paths, products] float64: row 5 p + m is component m of path p,
        so that table @ (A[first] * A[second]) are the quadrupoles. Only products that occur are listed, each once.
    """
    paths = quadrupole_paths(degree)
    found = list(_products(paths))
    table = torch.zeros(5 * len(paths), len(found), dtype=torch.float64)
    for column, (path, _, _, values) in enumerate(found):
        table[5 * path : 5 * path + 5, column] = values
    first, second = ([item[k] for item in found] for k in (1, 2))
    return torch.tensor(first, dtype=torch.int64), torch.tensor(second, dtype=torch.int64), table


def _products(paths: list[tuple[int, int]]) -> Iterator[tuple[int, int, int, Tensor]]:
    """Path, the two entries, and the five coefficients of each product; the products of equal degrees stand for both orders."""
    for path, (a, b) in enumerate(paths):
        tensor = coupling(a, b, 2) * sqrt(5)
        for i in range(2 * a + 1):
            for j in range(i if a == b else 0, 2 * b + 1):
                both = 2.0 if a == b and i != j else 1.0
                if tensor[i, j].any():
                    yield path, a * a + i, b * b + j, both * tensor[i, j]


def vector_paths(degree: int) -> list[tuple[int, int]]:
    """Return the (l, L) with l <= 2 and L <= `degree`, in the order of L, for which harmonics of degree l times a vector have a part of degree L.

    L = l is left out: it does not change its sign in a mirror like a density.
    """
    return [(ell, total) for total in range(degree + 1) for ell in (total - 1, total + 1) if 0 <= ell <= min(degree, 2)]


def vector_table(degree: int) -> Tensor:
    """Return how to couple harmonics and a vector, by `vector_paths`: [rows, 3 (l + 1)²] float64, with l the highest degree of the harmonics.

    Columns are products of a component of the vector and a harmonic, harmonics fastest; rows are the 2 L + 1 components of each path. They have size
    one if those of the vector and the harmonics have; paths that end at the same L share it.
    """
    paths = vector_paths(degree)
    width = (max(ell for ell, _ in paths) + 1) ** 2
    rows = []
    for ell, total in paths:
        share = sum(end == total for _, end in paths)
        table = torch.zeros(2 * total + 1, 3, width, dtype=torch.float64)
        table[:, :, ell**2 : (ell + 1) ** 2] = (coupling(ell, 1, total) * sqrt((2 * total + 1) / share)).permute(2, 1, 0)
        rows.append(table.flatten(1))
    return torch.cat(rows)
