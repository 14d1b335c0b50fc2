"""Views: what the potential gets of the structures of a step, as systems of one Batch, and which systems belong to which objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mlipfm_interfaces.batch import Batch, GraphSpec, collate
from mlipfm_interfaces.protocols import Objective
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from torch import Tensor


@dataclass(frozen=True)
class StepBatch:
    """What one step is computed from.

    Attributes:
        batch: all views of all objectives as systems, collated once.
        groups: objective -> [k] int64, its systems, in the order of structures and, within one, of its views.
    """

    batch: Batch
    groups: Mapping[str, Tensor]


def make_views(
    objectives: Mapping[str, Objective], structures: Sequence[Structure], seed: int, epoch: int
) -> tuple[list[Structure], dict[str, list[int]]]:
    """Views of all objectives and, for each objective, the positions of its own among them.

    A view that several objectives return unchanged (the very same object, normally the structure itself) is one system. The random numbers of
    a view depend on seed, objective, epoch and structure only: not on ranks, batches or workers.
    """
    views: list[Structure] = []
    groups: dict[str, list[int]] = {name: [] for name in objectives}
    for structure in structures:
        seen: dict[int, int] = {}
        for name, objective in objectives.items():
            plain = not getattr(objective, "has_views", True)
            for view in [structure] if plain else objective.views(structure, stream(seed, "views", name, epoch, structure.key)):
                if id(view) not in seen:
                    seen[id(view)] = len(views)
                    views.append(view)  # keeps it alive, so that its id stays its own
                groups[name].append(seen[id(view)])
    return views, groups


def collate_step(
    objectives: Mapping[str, Objective],
    structures: Sequence[Structure],
    graphs: Sequence[GraphSpec],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    epoch: int,
) -> StepBatch:
    """Return the views of `structures`, collated. Raises what `collate` raises."""
    views, groups = make_views(objectives, structures, seed, epoch)
    batch = collate(views, graphs, dtype, device)
    return StepBatch(batch, {name: torch.tensor(systems, dtype=torch.int64, device=device) for name, systems in groups.items()})
