"""Density: invariants of the smooth density of the neighbours and a small network, on padded blocks [atoms, K]: the fast student.

Around atom i stands the density rho_ic(r) = sum_j w_jc f_c(r_ij) delta(r/r - u_ij): every neighbour j adds to channel c a weight w_jc of its own
scalars (element, charge, level) times a radial function, in its direction u_ij. Its coefficients in real spherical harmonics,
A_iclm = sum_j w_jc f_c(r_ij) Y_lm(u_ij), are one matrix product per atom, [harmonics, K] x [K, channels]. The products sum_m A_lm A'_lm do not
change when the system turns: they are the power spectrum of the smooth overlap of atomic positions (arXiv:1209.3140, equation 28), here between
pairs of learned mixtures of channels instead of all pairs. A network of two layers turns them into new scalars.

Blocks in the order of use: `radial_basis`, `harmonics`, `DensityBlock`, `Density`. Axes: A atoms, K slots, C channels, N radial functions,
M harmonics. In the first layer w_j depends on the kind of the neighbour alone (element, level, electronic state): where compiled code is, sums over
the neighbours of each kind come first, sum_j R_n(r_ij) Y_lm(u_ij), and the channels after them.
Nothing has a corner: densities are sums of smooth functions that vanish with two derivatives at the cutoff, invariants are polynomials in them
(no norm, no square root), so second derivatives are finite and continuous also at symmetric sites. Padded slots lie at twice the cutoff.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.elements import N_ELEMENTS
from mlipfm_interfaces.neighbors import DenseView
from torch import Tensor, nn
from torch.nn.functional import silu

from ..configuration import Cutoff, Distances, Layers, Positive, Radial, Width
from ..parameter_roles import InputLinear
from ._compiled_products import expansion, message, usable
from ._harmonics import harmonics_table
from ._pair_functions import PairFunctions
from .backbone import DenseBackbone, TrainedDistances, envelope

__all__ = ["Density", "DensityConfig"]

#: Fraction of the shortest distance of a pair in the training data below which the network is given none: the product of two densities, each with
#: powers of 1/r, is believed less far outside the data than those of the other backbones (decisions/0019).
NEAREST = 0.95
#: Kinds of neighbours (elements, at different levels, in different electronic states) above which sums for each of them cost more than they save.
MANY_KINDS = 16


@dataclass(frozen=True)
class DensityConfig:
    """Options of the backbone.

    Attributes:
        channels: of the density, and width of the node scalars.
        layers: densities in sequence. One describes the neighbours and the angles between them; in a second one the neighbours' weights come from
            what they saw, at twice the cost.
        cutoff: Å.
        radial: number of Bessel functions.
        degree: highest degree l of the spherical harmonics.
        mean_neighbors: densities are divided by its square root; take the mean of the training data.
        mixed: width of each of the two mixtures of channels whose products are the invariants; None: `channels`. Most of the cost is there: a
            quarter of 64 channels costs half and loses nothing, a quarter of 16 loses a third (decisions/0013). Node vectors are the second mixture
            if it has as many channels, else the density itself, of degree 1.
        shortest_distances: "C-H" -> Å: nearer pairs are given to the network as little nearer than this, see `TrainedDistances`; take the shortest
            of the training data.
    """

    channels: Width = 64
    layers: Layers = 1
    cutoff: Cutoff = 5.0
    radial: Radial = 8
    degree: Literal[1, 2, 3] = 3
    mean_neighbors: Positive = 12.0
    mixed: Width | None = None
    shortest_distances: Distances = field(default_factory=dict)


def radial_basis(r: Tensor, config: DensityConfig) -> Tensor:
    """[A, K, radial + 1] of distances [A, K, 1]: sqrt(2/r_c) sin(n pi r/r_c)/r and a one, all times the envelope / sqrt(mean_neighbors)."""
    x = r / config.cutoff
    n = torch.arange(1, config.radial + 1, dtype=r.dtype, device=r.device)
    bessel = torch.sin(x * (n * math.pi)) * (math.sqrt(2.0 / config.cutoff) / r)
    return torch.cat([bessel, torch.ones_like(r)], dim=-1) * (envelope(x) * config.mean_neighbors**-0.5)


def harmonics(u: Tensor, table: Tensor, degree: int) -> Tensor:
    """[A, K, M] real spherical harmonics up to `degree` of unit vectors [A, K, 3]: few large operations instead of many small ones."""
    powers = [torch.ones_like(u[..., :1]), u]
    for _ in range(degree - 1):
        powers.append((powers[-1].unsqueeze(-1) * u.unsqueeze(-2)).flatten(-2))
    return torch.cat(powers, dim=-1) @ table


class DensityBlock(nn.Module):
    """One density: its coefficients, their invariants, and new scalars."""

    degrees: Tensor

    def __init__(self, config: DensityConfig) -> None:
        super().__init__()
        c, n, m = config.channels, config.degree + 1, config.mixed or config.channels
        self.species = nn.Linear(c, c, bias=False)
        self.filter = InputLinear(config.radial + 1, c, bias=False)
        self.mix = nn.Linear(c, 2 * m, bias=False)
        self.inner = nn.Linear(2 * c + n * m, c)
        self.outer = nn.Linear(c, c)
        ell = torch.arange(n).repeat_interleave(2 * torch.arange(n) + 1)
        self.register_buffer("degrees", (ell == torch.arange(n)[:, None]).double(), persistent=False)

    def forward(self, s: Tensor, *neighbors: Tensor) -> tuple[Tensor, Tensor]:
        """New scalars [A, C] and the vectors [A, 3, C] of the density, its coefficients of degree 1. Tensors in, tensors out.

        `neighbors` are (radial [A, K, N], angular [A, K, M], index [A, K]); for compiled code (functions [N + M, A K], index), see
        `PairFunctions`; or, where neighbours of one kind have the same scalars, (expansion [kinds N, A, M], kinds [kinds]), see `expand`:
        `kinds` are atoms, one of each.
        """
        if len(neighbors) == 3:
            density, spectrum, vectors = self.by_neighbor(s, *neighbors)
        elif neighbors[1].ndim == 2:
            density, spectrum, vectors = self.by_message(s, *neighbors)
        else:
            density, spectrum, vectors = self.by_kind(s, *neighbors)
        seen = torch.cat([s, density, spectrum], dim=1)
        return s + self.outer(silu(self.inner(seen))), vectors

    def by_neighbor(self, s: Tensor, radial: Tensor, angular: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The density of degree 0 [A, C], its spectrum [A, degrees x mixed] and the vectors [A, 3, C]."""
        weight = self.species(s).index_select(0, index.flatten()).unflatten(0, index.shape)
        density = torch.bmm(angular.mT, self.filter(radial) * weight)  # [A, M, C]
        one, two = self.mix(density).chunk(2, dim=-1)
        spectrum = self.degrees @ (one * two)  # [A, degrees, mixed]: sums over m
        vectors = two if two.shape == density.shape else density
        return density[:, 0], spectrum.flatten(1), vectors[:, 1:4]

    def by_message(self, s: Tensor, functions: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same; harmonics come first in all arrays."""
        filters = self.filter(
            torch.eye(len(functions) - self.degrees.shape[1], dtype=s.dtype)
        )  # of the module, whose weights may be elsewhere
        first = torch.arange(len(index) + 1) * index.shape[1]
        density = message(functions, filters, self.species(s), first, index.flatten())  # [M, A, C]
        one, two = self.mix(density).chunk(2, dim=-1)
        spectrum = (self.degrees @ (one * two).flatten(1)).unflatten(1, one.shape[1:])  # [degrees, A, mixed]
        vectors = two if two.shape == density.shape else density
        return density[0], spectrum.transpose(0, 1).flatten(1), vectors[1:4].transpose(0, 1)

    def by_kind(self, s: Tensor, expansion: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same. Sums over neighbours are done, so that all maps of channels are one matrix, and its products with the expansion few and large."""
        rows, atoms, m = expansion.shape
        radial = self.filter(torch.eye(rows // len(kinds), dtype=s.dtype, device=s.device))  # of the module, whose weights may be elsewhere
        maps = (self.species(s.index_select(0, kinds))[:, None] * radial).flatten(0, 1)  # [kinds N, C]
        mixed = self.mix(maps)
        one, two = (mixed.T @ expansion.flatten(1)).unflatten(1, (atoms, m)).chunk(2)  # [mixed, A, M]
        spectrum = (one * two) @ self.degrees.T  # [mixed, A, degrees]: sums over m
        if mixed.shape[1] == 2 * maps.shape[1]:
            vectors = two[..., 1:4]
        else:
            vectors = (maps.T @ expansion[..., 1:4].flatten(1)).unflatten(1, (atoms, 3))
        return expansion[..., 0].T @ maps, spectrum.permute(1, 2, 0).flatten(1), vectors.permute(1, 2, 0)


class Density(DenseBackbone):
    """The backbone: node scalars in, node scalars [A, C] and equivariant node vectors [A, 3, C] out."""

    Config = DensityConfig
    has_kernels = True
    table: Tensor

    def __init__(self, config: DensityConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(DensityBlock(config) for _ in range(config.layers))
        self.functions = PairFunctions(config, even=False)
        self.trained_distances = TrainedDistances(config.shortest_distances, NEAREST)
        self.constant("table", harmonics_table(config.degree))

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features from the initial scalars `s` [A, C]; the geometry is worked out once for all layers."""
        view, d, r = self.geometry(batch)
        if self.trained_distances.active and bool((r < self.trained_distances.of_neighbors(batch.atomic_numbers, view)).any()):
            trained = self.trained_distances(r, batch.atomic_numbers, view)
            d, r = d * (trained / r), trained
        first = self.first_neighbors(s, view, d, batch)
        if first is None or len(self.layers) > 1:
            later = self.later_neighbors(view, d, r)
        for k, block in enumerate(self.layers):
            s, v = block(s, *(first if first is not None and k == 0 else later))
        return s, v

    def later_neighbors(self, view: DenseView, d: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        """Return what every layer can be given, see `DensityBlock`."""
        if usable(d, channels=self.config.channels):
            return self.functions(d.flatten(0, 1)), view.index
        return radial_basis(r, self.config), harmonics(d / r, self.table, self.config.degree), view.index

    def first_neighbors(self, s: Tensor, view: DenseView, d: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Return what the first layer is given where compiled code sums over neighbours by kind, see `DensityBlock`; else None."""
        kinds = kinds_of_atoms(batch) if usable(d) else None
        if kinds is None or len(kinds[1]) > MANY_KINDS or not torch.equal(s, s[kinds[1][kinds[0]]]):  # scalars that somebody else has made
            return None
        kind = torch.where(view.mask, kinds[0][view.index], -1).flatten().to(torch.int32)
        starts = torch.arange(len(view.index) + 1) * view.index.shape[1]
        config, flat = self.config, d.flatten(0, 1)
        made = expansion(
            flat,
            starts,
            kind,
            len(kinds[1]),
            degree=config.degree,
            functions=config.radial + 1,
            cutoff=config.cutoff,
            factor=config.mean_neighbors**-0.5,
            plain=lambda d: expand(d, starts, kind, len(kinds[1]), config, self.table),
        )
        return made, kinds[1]


def expand(d: Tensor, first: Tensor, kind: Tensor, kinds: int, config: DensityConfig, table: Tensor) -> Tensor:
    """[kinds N, A, M]: for each kind of neighbour the sum over the pairs of an atom of radial functions [N] times harmonics [M].

    `d` [P, 3] are the vectors of the pairs, `first` [A + 1] says where those of each atom begin, `kind` [P] is -1 for a pair that does not count.
    """
    r = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    products = radial_basis(r, config)[:, :, None] * harmonics(d / r, table, config.degree)[:, None]
    atoms = len(first) - 1
    place = torch.repeat_interleave(torch.arange(atoms), first.diff()) * (kinds + 1) + kind + 1
    sums = products.new_zeros(atoms * (kinds + 1), *products.shape[1:]).index_add(0, place, products)
    return sums.unflatten(0, (atoms, kinds + 1))[:, 1:].permute(1, 2, 0, 3).flatten(0, 1)


def electronic_states(batch: Batch, conditions: Container[str] = ("total_charge", "spin_multiplicity")) -> tuple[Tensor, Tensor]:
    """Return [systems] the electronic state, and whether it is of one system alone.

    Where systems have the same, atoms of one element have the same initial scalars at one level, whatever the weights. Those of a neutral closed
    shell depend only on which of charge and multiplicity are given, if the model is conditioned on it. Electrons of ions and open shells are shared
    out over the atoms of their system, so that each of these has a state of its own.
    """
    state, own = torch.zeros_like(batch.n_atoms), torch.zeros_like(batch.charge_stated)
    if "total_charge" in conditions:
        state, own = state + batch.charge_stated, own | (batch.total_charge != 0)
    if "spin_multiplicity" in conditions:
        state, own = state + 2 * (batch.spin_multiplicity > 0), own | (batch.spin_multiplicity > 1)
    return torch.where(own, 4 + torch.arange(len(own), device=own.device), state), own


def kinds_of_atoms(batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Return the kind [A] of each atom and one atom [kinds] of each: atoms of a kind have the same initial scalars, whatever the weights.

    None where objectives of pre-training change the scalars of single atoms.
    """
    if batch.node_input is not None:
        return None
    levels = {level: k for k, level in enumerate(dict.fromkeys(batch.levels))}
    state = electronic_states(batch)[0] * len(levels) + torch.tensor([levels[level] for level in batch.levels])
    key = (state[batch.system] * (N_ELEMENTS + 1) + batch.atomic_numbers).numpy()
    _, where, kind = np.unique(key, return_index=True, return_inverse=True)
    return torch.from_numpy(kind.reshape(-1)), torch.from_numpy(where)
