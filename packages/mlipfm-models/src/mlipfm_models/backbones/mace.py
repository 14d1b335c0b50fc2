"""MACE: the atomic cluster expansion in message passing layers, many-body messages from one density (arXiv:2206.07697).

Blocks in the order of use: `PairFunctions`, `Invariants`, `VectorMessages`, `MaceBlock`, `Mace`.
Axes: A atoms, K neighbours, P = A K slots, M harmonics, C channels.
Each layer sums the neighbours' scalars and vectors, weighted by radial functions and spherical harmonics, to a density A_lm; mixes its channels for
each l; forms all invariants of up to `correlation` densities (a complete basis for each channel, see `coupling`); and weights them by the atom.
One layer is of body order correlation + 1, polynomial without exception: there is no other nonlinearity in this file.

What differs from the paper, for speed on a processor and so that second derivatives exist everywhere:
- vectors that pass to the next layer are A_1m times an invariant of the atom, and no products of A_1m with other degrees.
- Of harmonics times vectors those of degrees l <= 2 are taken, which reach every degree up to 3. They are coupled after the sum over neighbours.
- The vectors that come out of the last layer are its density's.
- One radial function serves all degrees of a channel, linear in the basis. The mixing of channels per degree gives each l its own again, but on
  atoms and not on pairs, of which there are twenty times more.
- The weights that depend on the element there are a linear map of the initial scalars here (scaled to size one): element, level of theory,
  charge and spin at once.
- The readout of each layer is a linear map, and their sum is what comes out: the head gets every layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from mlipfm_interfaces.batch import Batch
from torch import Tensor, nn

from ..configuration import Cutoff, Distances, Layers, Positive, Radial, Width
from ..parameter_roles import InputLinear, VectorLinear
from ._compiled_products import Polynomial, message, usable
from ._coupling import quadrupole_paths, quadrupole_table, vector_paths, vector_table
from ._harmonics import degrees
from ._pair_functions import PairFunctions
from .backbone import DenseBackbone, ExactConstants, TrainedDistances

__all__ = ["Mace", "MaceConfig"]

#: The two parts of an update have variance one at first. Scalars that grew in each layer would be cubed in the next.
DAMPING = 0.5**0.5


@dataclass(frozen=True)
class MaceConfig:
    """Options of the backbone.

    Attributes:
        channels: width of the node scalars and of the density.
        layers: message passing steps; atoms further apart than layers x cutoff cannot feel each other. Energies are polynomials of degree
            correlation^layers in the densities ((correlation + 1)^layers with vectors), so that more than two layers of correlation 3 grow steeply
            where neighbours crowd.
        hidden_degree: highest degree of what passes from layer to layer, max_L of mace-torch: 0 for scalars, 1 for scalars and vectors.
        cutoff: Å.
        radial: number of Bessel functions.
        degree: highest degree l of the density.
        correlation: nu, how many densities are multiplied: one layer is of body order nu + 1.
        mean_neighbors: densities are divided by its square root; take the mean of the training data.
        shortest_distances: "C-H" -> Å: nearer pairs are given to the network as little nearer than this, see `TrainedDistances`; take the shortest
            of the training data.
    """

    channels: Width = 64
    layers: Layers = 2
    hidden_degree: Literal[0, 1] = 1
    cutoff: Cutoff = 5.0
    radial: Radial = 8
    degree: Literal[1, 2, 3] = 3
    correlation: Literal[1, 2, 3] = 3
    mean_neighbors: Positive = 12.0
    shortest_distances: Distances = field(default_factory=dict)


class Invariants(ExactConstants):
    """All invariants of up to `correlation` densities of one channel, in the order of `coupling`; no parameters."""

    same: Tensor
    first: Tensor
    second: Tensor
    quadrupoles: Tensor

    def __init__(self, degree: int, correlation: int) -> None:
        super().__init__()
        self.correlation, self.paths = correlation, len(quadrupole_paths(degree)) if correlation > 2 else 0
        self._polynomial: Polynomial | None = None
        self.count = 1 + (degree + 1) * (correlation - 1) + self.paths
        ell = degrees(degree)
        same = (ell == torch.arange(degree + 1)[:, None]).double() / (2 * ell + 1).double().sqrt()
        first, second, table = quadrupole_table(degree)
        pick = torch.eye(len(ell), dtype=torch.float64)  # picking rows by a matrix product: its derivatives need no scatter
        for name, value in {"same": same, "first": pick[first], "second": pick[second], "quadrupoles": table / math.sqrt(5.0)}.items():
            self.constant(name, value)

    def forward(self, density: Tensor) -> Tensor:
        """[count, A C] of a density [M, A C]."""
        if self.correlation == 1 or not usable(density):
            return self.plain(density)
        if self._polynomial is None:
            self._polynomial = Polynomial(self._terms(), len(density), self.count, self.plain)
        return self._polynomial(density)

    def _terms(self) -> dict[tuple[int, int, int, int], float]:
        """Return what `plain` does: {(invariant, i, j, k): factor of the product of these rows of the density}, where row M is one."""
        same, pick_first, pick_second, table = (self._exact[name] for name in ("same", "first", "second", "quadrupoles"))
        rows, squares = same.shape[1], len(same)
        terms: dict[tuple[int, int, int, int], float] = defaultdict(float)
        terms[0, 0, rows, rows] = 1.0
        for ell, i in same.nonzero().tolist():
            terms[1 + ell, i, i, rows] = float(same[ell, i])
            if self.correlation > 2:
                terms[1 + squares + ell, 0, i, i] = float(same[ell, i])
        if self.paths:
            first, second = pick_first.argmax(dim=1).tolist(), pick_second.argmax(dim=1).tolist()
            for row, column in table.nonzero().tolist():
                path, m = divmod(row, 5)
                i, j, k = sorted((first[column], second[column], 4 + m))
                terms[1 + 2 * squares + path, i, j, k] += float(table[row, column])
        return terms

    def plain(self, density: Tensor) -> Tensor:
        """Return the same in plain torch."""
        found = [density[:1]]
        if self.correlation > 1:
            found.append(self.same @ (density * density))
        if self.correlation > 2:
            found.append(density[:1] * found[1])
        if self.paths:
            quadrupoles = (self.quadrupoles @ ((self.first @ density) * (self.second @ density))).unflatten(0, (self.paths, 5))
            found.append((quadrupoles * density[4:9]).sum(dim=1))
        return torch.cat(found)


def sum_over_neighbors(weights: Tensor, s: Tensor, functions: Tensor, index: Tensor) -> Tensor:
    """[M, A, C]: harmonics times radial functions, mixed by weights [N, C], times what the neighbours send, s [A, C]; `functions` [N + M, P]."""
    if usable(s, functions, channels=s.shape[1]):
        first = torch.arange(len(index) + 1) * index.shape[1]
        return message(functions, weights, s, first, index.flatten())
    radial, angular = functions.split([len(weights), len(functions) - len(weights)])
    amplitude = ((radial.T @ weights) * s.index_select(0, index.flatten())).unflatten(0, index.shape)
    return torch.bmm(angular.unflatten(1, index.shape).transpose(0, 1), amplitude).transpose(0, 1)


class Filter(InputLinear):
    """Radial functions of each channel from N radial functions of all."""

    def matrix(self) -> Tensor:
        """[N, C]: asked of the module, whose weights may be elsewhere (sharded, adapted)."""
        filtered: Tensor = self(torch.eye(self.in_features, dtype=self.weight.dtype, device=self.weight.device))
        return filtered


class VectorMessages(ExactConstants):
    """What vectors of the neighbours add to a density: their products with harmonics, summed over neighbours, coupled, and mixed for each path."""

    table: Tensor
    path: Tensor
    row: Tensor

    def __init__(self, config: MaceConfig) -> None:
        super().__init__()
        c, paths = config.channels, vector_paths(config.degree)
        self.harmonics = (min(config.degree, 2) + 1) ** 2
        self.neighbor = VectorLinear(c, c, bias=False)
        self.filter = Filter(config.radial + 1, c, bias=False)
        self.mix = nn.Parameter(torch.zeros(len(paths), c, c))
        self.constant("table", vector_table(config.degree))
        self.register_buffer(
            "path", torch.tensor([p for p, (_, total) in enumerate(paths) for _ in range(2 * total + 1)]), persistent=False
        )
        self.register_buffer("row", torch.cat([torch.arange(total**2, (total + 1) ** 2) for _, total in paths]), persistent=False)

    def forward(self, v: Tensor, density: Tensor, functions: Tensor, index: Tensor) -> Tensor:
        """The density [M, A, C] with what the vectors v [A, 3, C] add."""
        atoms, _, c = v.shape
        weights = self.filter.matrix()
        functions = functions[: len(weights) + self.harmonics]
        products = sum_over_neighbors(weights.repeat(1, 3), self.neighbor(v).flatten(1), functions, index)  # [M, A, 3 C]
        products = products.unflatten(2, (3, c)).permute(2, 0, 1, 3).reshape(-1, atoms * c)
        coupled = torch.bmm((self.table @ products).unflatten(1, (atoms, c)), self.mix.index_select(0, self.path).mT)
        return density.index_add(0, self.row, coupled)


class MaceBlock(nn.Module):
    """One layer: density, invariants, update, readout. `takes` vectors from the layer before, `gives` some to the next."""

    ell: Tensor

    def __init__(self, config: MaceConfig, *, takes: bool, gives: bool) -> None:
        super().__init__()
        c = config.channels
        self.invariants = Invariants(config.degree, config.correlation)
        self.neighbor = nn.Linear(c, c, bias=False)
        self.filter = Filter(config.radial + 1, c, bias=False)
        self.mix = nn.Parameter(torch.zeros(config.degree + 1, c, c))
        self.weights = nn.Linear(c, self.invariants.count * c)
        self.message = nn.Linear(self.invariants.count * c, c)
        self.skip = nn.Linear(c, c, bias=False)
        self.skip_weights = nn.Linear(c, c)
        self.readout = nn.Linear(c, c, bias=False)
        self.vector_messages = VectorMessages(config) if takes else None
        self.gate = nn.Linear(self.invariants.count * c, c) if gives else None
        self.vector = VectorLinear(c, c, bias=False) if gives else None
        self.register_buffer("ell", degrees(config.degree), persistent=False)

    def forward(self, s: Tensor, v: Tensor, initial: Tensor, functions: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New scalars [A, C], what is read out of them [A, C] and new vectors [A, 3, C], of the `PairFunctions`. Tensors in, tensors out."""
        atoms, c = s.shape
        density = sum_over_neighbors(self.filter.matrix(), self.neighbor(s), functions, index)
        density = torch.bmm(density, self.mix.index_select(0, self.ell).mT)  # [M, A, C]
        if self.vector_messages is not None:
            density = DAMPING * self.vector_messages(v, density, functions, index)
        found = self.invariants(density.flatten(1)).unflatten(1, (atoms, c)).transpose(0, 1).flatten(1) * self.weights(initial)
        s = DAMPING * (self.message(found) + self.skip(s) * self.skip_weights(initial))
        v = density[1:4].transpose(0, 1)
        if self.gate is not None and self.vector is not None:
            v = self.vector(v * self.gate(found).unsqueeze(1))
        return s, self.readout(s), v


class Mace(DenseBackbone):
    """The backbone: node scalars in, node scalars [A, C] and equivariant node vectors [A, 3, C] out."""

    Config = MaceConfig
    before: ClassVar = {"hidden_degree": 0}

    def __init__(self, config: MaceConfig) -> None:
        super().__init__(config)
        vectors, last = config.hidden_degree > 0, config.layers - 1
        self.layers = nn.ModuleList(MaceBlock(config, takes=vectors and k > 0, gives=vectors and k < last) for k in range(config.layers))
        self.functions = PairFunctions(config, even=True)
        self.trained_distances = TrainedDistances(config.shortest_distances)

    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features from the initial scalars `s` [A, C]; the geometry is worked out once for all layers."""
        view, d, r = self.geometry(batch)
        if self.trained_distances.active:
            d = d * (self.trained_distances(r, batch.atomic_numbers, view) / r)
        s = initial = s * (s.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()  # of one size, however many conditions are added up in it
        functions = self.functions(d.flatten(0, 1))
        total, v = torch.zeros_like(s), s.new_zeros(len(s), 3, 0)
        for block in self.layers:
            s, read, v = block(s, v, initial, functions, view.index)
            total = total + read
        return total, v
