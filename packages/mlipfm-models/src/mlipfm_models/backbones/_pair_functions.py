"""Radial functions and spherical harmonics of the vectors to neighbours, once for all layers of a backbone."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ._compiled_products import pair_functions, usable
from ._harmonics import degrees, harmonics_table
from .backbone import ExactConstants, envelope

__all__ = ["PairFunctions"]


class Radial(Protocol):
    """What the functions are made of; see the configurations of `density` and `mace`."""

    @property
    def radial(self) -> int: ...
    @property
    def degree(self) -> int: ...
    @property
    def cutoff(self) -> float: ...
    @property
    def mean_neighbors(self) -> float: ...


class PairFunctions(ExactConstants):
    """[N + M, P] of vectors [P, 3]: N radial functions and below them M spherical harmonics, in long rows, which a processor likes.

    The radial functions are sqrt(2/r_c) sin(n pi r/r_c)/r and a one, all times the envelope / sqrt(mean_neighbors) (arXiv:2003.03123).

    Args:
        even: whether entries of all degrees have the same size, harmonics of degree l the squared norm 2 l + 1, and not one.
    """

    table: Tensor

    def __init__(self, config: Radial, *, even: bool) -> None:
        super().__init__()
        self.config, self.radial = config, config.radial + 1
        size = (2 * degrees(config.degree) + 1).double().sqrt() if even else torch.ones((config.degree + 1) ** 2, dtype=torch.float64)
        self.constant("table", (harmonics_table(config.degree) * size).T.contiguous())
        self._factors = [config.mean_neighbors**-0.5] * self.radial + size.tolist()

    def forward(self, d: Tensor) -> Tensor:
        if not usable(d):
            return self.plain(d)
        c = self.config
        return pair_functions(d, self._factors, degree=c.degree, functions=self.radial, cutoff=c.cutoff, plain=self.plain)

    def plain(self, d: Tensor) -> Tensor:
        """Return the same in plain torch."""
        r = (d * d).sum(dim=1).sqrt()
        u, x, c = d.T / r, r / self.config.cutoff, self.config
        n = torch.arange(1, self.radial, dtype=d.dtype, device=d.device)[:, None]
        waves = torch.sin(n * math.pi * x) * (math.sqrt(2.0 / c.cutoff) / r)
        basis = torch.cat([waves, torch.ones_like(r)[None]]) * (envelope(x) * c.mean_neighbors**-0.5)
        powers = [torch.ones_like(u[:1]), u]
        for _ in range(c.degree - 1):
            powers.append((powers[-1][:, None] * u).flatten(0, 1))
        return torch.cat([basis, self.table.to(d) @ torch.cat(powers)])
