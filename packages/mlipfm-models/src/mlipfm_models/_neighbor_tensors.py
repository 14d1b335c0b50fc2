"""The tensors of the neighbours of an atom, made of the graph alone: what tensor heads know of strains that leave every vector zero."""

from __future__ import annotations

from mlipfm_interfaces.batch import Batch, GraphSpec
from mlipfm_interfaces.neighbors import PairView
from torch import Tensor

from .backbones.backbone import bessel, envelope

#: Radial functions.
SHAPES = 4


def neighbor_shapes(batch: Batch, graph: GraphSpec) -> Tensor:
    """[atoms, SHAPES, 3, 3]: sum over neighbours of b_k(r) u u^T / 4, u the direction and b_k Bessel functions under the envelope.

    Zero for an atom without neighbours, and smooth where one passes the cutoff.
    """
    d = batch.displacements(graph)
    r = (d * d).sum(dim=-1, keepdim=True).sqrt()
    u = d / r
    radial = bessel(r, SHAPES, graph.cutoff) * (envelope(r / graph.cutoff) / 4)
    tensors = radial[..., None, None] * (u.unsqueeze(-1) * u.unsqueeze(-2)).unsqueeze(-3)
    view = batch.views[graph]
    if not isinstance(view, PairView):
        return tensors.sum(dim=1)
    return tensors.new_zeros(len(batch.positions), SHAPES, 3, 3).index_add(0, view.i, tensors)
