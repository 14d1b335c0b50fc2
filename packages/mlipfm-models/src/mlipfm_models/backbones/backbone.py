"""What the assembly asks of a backbone: initial node scalars and a Batch in, features out. Nothing about energies, forces, levels or units."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mlipfm_interfaces.batch import Batch, GraphSpec
from mlipfm_interfaces.potential import ParameterRole
from torch import Tensor, nn

from ..constants import ExactConstants


class Backbone(ExactConstants, ABC):
    """Base of all backbones.

    Attributes:
        channels: width of the scalars it takes and gives.
        graph: the neighbour view it reads.
        interaction_range: Å, beyond which no information travels; None if unlimited.
        provides: of `scalars`, `vectors`: what heads may ask of it. Without vectors it gives some of no channels, [atoms, 3, 0].
        invariant: False for an unconstrained backbone, whose scalars and vectors turn with the system only approximately.
        element_resolved: whether it is built with (config, elements), because it has parameters for each element.
    """

    channels: int
    graph: GraphSpec
    interaction_range: float | None
    provides: tuple[str, ...] = ("scalars", "vectors")
    invariant: bool = True
    element_resolved: bool = False

    @abstractmethod
    def forward(self, s: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Node scalars [atoms, channels] and equivariant node vectors [atoms, 3, channels] from initial scalars `s` [atoms, channels]."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Modules in order of depth that hold all parameters; each takes and gives tensors only and is called once a forward."""

    @abstractmethod
    def roles(self) -> dict[str, ParameterRole]:
        """Role of every parameter, by its name in this module; depths count the blocks from 1."""
