"""Real spherical harmonics up to degree 3 as homogeneous polynomials of a unit vector: the table that backbones share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_S3, _S38, _S58, _S15 = math.sqrt(3), math.sqrt(3 / 8), math.sqrt(5 / 8), math.sqrt(15)

#: Real spherical harmonics as homogeneous polynomials: degree -> one {monomial: coefficient} for each m. Degree 1 is x, y, z.
#: Normalised so that sum_m Y_lm(u) Y_lm(v) = P_l(u v), the Legendre polynomial (addition theorem).
HARMONICS: tuple[tuple[dict[str, float], ...], ...] = (
    ({"": 1.0},),
    ({"x": 1.0}, {"y": 1.0}, {"z": 1.0}),
    ({"xy": _S3}, {"yz": _S3}, {"zz": 1.0, "xx": -0.5, "yy": -0.5}, {"xz": _S3}, {"xx": _S3 / 2, "yy": -_S3 / 2}),
    (
        {"xxy": 3 * _S58, "yyy": -_S58},
        {"xyz": _S15},
        {"yzz": 4 * _S38, "xxy": -_S38, "yyy": -_S38},
        {"zzz": 1.0, "xxz": -1.5, "yyz": -1.5},
        {"xzz": 4 * _S38, "xxx": -_S38, "xyy": -_S38},
        {"xxz": _S15 / 2, "yyz": -_S15 / 2},
        {"xxx": _S58, "xyy": -3 * _S58},
    ),
)


def harmonics_table(degree: int) -> Tensor:
    """[(3^(degree+1) - 1)/2, (degree+1)²] float64: from the products 1, u, u u, u u u of components to spherical harmonics."""
    products = [""]
    for _ in range(degree):
        products += [left + axis for left in products[-(3 ** len(products[-1])) :] for axis in "xyz"]
    rows = {"".join(product): k for k, product in enumerate(products)}  # "xy" names one of the two equal products x y and y x
    table = torch.zeros(len(products), (degree + 1) ** 2, dtype=torch.float64)
    for column, polynomial in enumerate(p for ell in HARMONICS[: degree + 1] for p in ell):
        for monomial, coefficient in polynomial.items():
            table[rows[monomial], column] = coefficient
    return table


def degrees(degree: int) -> Tensor:
    """[(degree+1)²] int64: the degree l of each spherical harmonic, in the order of the table."""
    ell = torch.arange(degree + 1)
    return ell.repeat_interleave(2 * ell + 1)
