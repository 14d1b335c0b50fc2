"""The base of backbones: initial node scalars and a Batch in, features out. Nothing about energies, forces, levels or units.

A backbone derives from `PairBackbone` (neighbours as a list of pairs) or `DenseBackbone` (blocks [atoms, K]), names its `Config`, makes its
modules in `__init__` and its features in `forward`. What the assembly and training ask besides follows from these. Declared in the
entry-point group `mlipfm.backbones`, it is built by its name like those of this package. Below the classes stand the functions of the distance that
backbones share: the envelope that ends every interaction smoothly, and a radial basis.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from mlipfm_interfaces.batch import Batch, GraphSpec
from mlipfm_interfaces.elements import COVALENT_RADII, number
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.neighbors import DenseView, PairView
from mlipfm_interfaces.potential import ParameterRole
from torch import Tensor, nn

from ..parameter_roles import roles_of
from ._compiled_products import displacements, usable

if TYPE_CHECKING:
    from ..assembly import AssembledPotential

__all__ = ["Backbone", "DenseBackbone", "ExactConstants", "PairBackbone", "TrainedDistances", "bessel", "envelope"]


class ExactConstants(nn.Module):
    """Module whose constants are kept in float64 and rounded anew by every change of dtype or device.

    A plain buffer keeps the rounding of the narrowest dtype that it ever had: `model.float().double()` then computes in float64 with tables of
    seven digits, and its energies turn with the system by 1e-7. Constants are not part of the state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def constant(self, name: str, value: Tensor) -> None:
        """Add the constant `name`; a floating `value` must be float64, and the module's own dtype decides what `self.name` is."""
        self._exact[name] = value.clone()
        self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactConstants:
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            setattr(self, name, exact.to(getattr(self, name)))
        return self


class Backbone(ExactConstants, ABC):
    """Base of all backbones.

    Attributes:
        Config: dataclass of its options; `channels` (width of the scalars it takes and gives) and `cutoff` (Å) must be among them.
        layout: of the neighbours it reads.
        provides: of `scalars`, `vectors`: what heads may ask of it. Without vectors it gives some of no channels, [atoms, 3, 0].
        invariant: False for an unconstrained backbone, whose scalars and vectors turn with the system only approximately.
        element_resolved: whether it is built with (config, elements), because it has parameters for each element.
        has_kernels: whether `density_kernel` has compiled code for it.
        before: option -> what checkpoints have that were written before there was this option.
    """

    Config: ClassVar[type]
    layout: ClassVar[Literal["pairs", "dense"]]
    provides: ClassVar[tuple[str, ...]] = ("scalars", "vectors")
    invariant: ClassVar[bool] = True
    element_resolved: ClassVar[bool] = False
    has_kernels: ClassVar[bool] = False
    before: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.channels: int = config.channels
        self.graph = GraphSpec(config.cutoff, layout=self.layout)

    @abstractmethod
    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return node scalars [atoms, channels] and equivariant node vectors [atoms, 3, channels]; `s` [atoms, channels] are the initial scalars."""

    def blocks(self) -> list[nn.Module]:
        """Return the modules that hold all parameters, in order of depth: the children, each entry of a `ModuleList` by itself.

        Each must take and give tensors only, and be called once a forward: strategies shard them and fine-tuning freezes them.
        """
        children = [block for child in self.children() for block in (child if isinstance(child, nn.ModuleList) else [child])]
        return [block for block in children if any(True for _ in block.parameters())]

    @property
    def interaction_range(self) -> float | None:
        """Å, beyond which no information travels: one cutoff for each block, which is all that a block that sums over neighbours once can do.

        A backbone whose blocks reach further overrides it; None is unlimited.
        """
        return float(len(self.blocks()) * self.config.cutoff)

    def roles(self) -> dict[str, ParameterRole]:
        """Return the role of every parameter by its name in this module, from the types of modules (see `parameter_roles`)."""
        return roles_of(self, self.blocks())

    @classmethod
    def assemble(cls, name: str, config: Mapping[str, Any], *, initial: bool = True) -> AssembledPotential:
        """Build the potential around this backbone, which is the plug-in `name`; see `assembly.assemble`."""
        from ..assembly import assemble

        return assemble(name, cls, config, initial=initial)


class PairBackbone(Backbone):
    """Base of backbones that read neighbours as a list of pairs, sorted by the first atom."""

    layout = "pairs"

    def geometry(self, batch: Batch) -> tuple[PairView, Tensor, Tensor]:
        """Return the pairs (atoms `i` and `j` [P]), the vectors d [P, 3] from i to j and their lengths r [P, 1], both in Å; no length is zero."""
        view, d = batch.views[self.graph], batch.displacements(self.graph)
        assert isinstance(view, PairView)
        return view, d, _lengths(d)


class DenseBackbone(Backbone):
    """Base of backbones that read the neighbours of each atom as a padded block of K slots."""

    layout = "dense"

    def geometry(self, batch: Batch) -> tuple[DenseView, Tensor, Tensor]:
        """Return the blocks (`index`, `mask`, `reverse` [A, K]), the vectors d [A, K, 3] to the neighbours and their lengths r [A, K, 1], in Å.

        Empty slots lie at twice the cutoff, where every envelope is zero; no length is zero.
        """
        view = batch.views[self.graph]
        assert isinstance(view, DenseView)
        compiled = usable(batch.positions.new_empty(0, dtype=batch.dtype))
        d = displacements(batch, self.graph) if compiled else batch.displacements(self.graph)
        return view, d, _lengths(d)


class TrainedDistances(ExactConstants):
    """Distances that a network has been trained for: r itself, and for two atoms nearer than any such pair of the training data, a little less than
    the shortest of these. Polynomials of the density grow without limit where atoms crowd: what a network says there must not outweigh the
    repulsion (decisions/0017).

    Args:
        shortest: "C-H" -> Å, shortest distance of the pair in the training data. Other pairs: 0.9 of the sum of covalent radii. Without any entry
            all distances are left as they are.
        nearest: fraction of it below which none is given.

    Raises:
        RecipeError: for a key that is no pair of elements. UnknownElementError: for an element that does not exist.
    """

    table: Tensor

    def __init__(self, shortest: Mapping[str, float], nearest: float = 0.7) -> None:
        super().__init__()
        self.active, self.rest = bool(shortest), 1.0 - nearest
        radii = torch.tensor(COVALENT_RADII, dtype=torch.float64)
        table = 0.9 * (radii[:, None] + radii)
        for pair, value in shortest.items():
            names = pair.split("-")
            if len(names) != 2:
                raise RecipeError(f"{pair!r} is no pair of elements", where="backbone.shortest_distances", hint="write it as C-H")
            i, j = (number(name) for name in names)
            table[i, j] = table[j, i] = value
        self.constant("table", table)

    def forward(self, r: Tensor, z: Tensor, view: PairView | DenseView) -> Tensor:
        """Return distances in Å of the distances `r` [P, 1] or [A, K, 1] of the neighbours in `view`; `z` [A] are the atomic numbers.

        With a the shortest trained distance, e = 1 - nearest (0.3 by default) and x = (1 - r/a)/e: r for r >= a, else
        a (1 - e x/(1 + x⁴)^(1/4)), never below `nearest` a. Four derivatives are continuous at a, and r = 0.9 a becomes 0.9003 a.
        """
        if not self.active:
            return r
        a = self.of_neighbors(z, view)
        x = ((1.0 - r / a) / self.rest).clamp_min(0.0)
        return r + self.rest * a * (x - x * (1.0 + x**4) ** -0.25)

    def of_neighbors(self, z: Tensor, view: PairView | DenseView) -> Tensor:
        """Return the shortest distances [P, 1] or [A, K, 1] in Å of the atoms and neighbours in `view`."""
        i, j = (view.i, view.j) if isinstance(view, PairView) else (torch.arange(len(z), device=z.device)[:, None], view.index)
        return self.table[z[i], z[j]].unsqueeze(-1)

    def of_pairs(self, z: Tensor) -> Tensor:
        """Return the shortest distances [n, n] in Å, float64, of atoms with the atomic numbers `z` [n]."""
        return self._exact["table"][z[:, None], z]


def _lengths(d: Tensor) -> Tensor:
    return (d * d).sum(dim=-1, keepdim=True).sqrt()


def envelope(x: Tensor) -> Tensor:
    """Return (1 - x)³ (1 + 3x + 6x² + 10x³ + 15x⁴ + 21x⁵) for x < 1, exactly 0 beyond: twice continuously differentiable at x = 1, flat at 0.

    This is the polynomial of arXiv:2003.03123 (DimeNet, p = 6), factored so that nothing cancels near the cutoff.
    """
    rest = (1.0 - x).clamp_min(0.0)
    series = 1.0 + x * (3.0 + x * (6.0 + x * (10.0 + x * (15.0 + x * 21.0))))
    return rest * rest * rest * series


def bessel(r: Tensor, count: int, cutoff: float) -> Tensor:
    """Return sqrt(2/r_c) sin(n pi r/r_c)/r for n = 1..count, [..., count], of distances r [..., 1] in Å (arXiv:2003.03123, eq. 7). No envelope."""
    n = torch.arange(1, count + 1, dtype=r.dtype, device=r.device)
    return torch.sin(r / cutoff * (n * math.pi)) * (math.sqrt(2.0 / cutoff) / r)
