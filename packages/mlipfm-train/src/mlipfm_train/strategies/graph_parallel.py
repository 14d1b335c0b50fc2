"""Graph parallelism: all ranks compute the same batch, each the energies of some of its atoms. For structures that are too large for one rank.

A rank owns a slab of each structure and evaluates it with a halo: all atoms within the interaction range of its own. Energies of atoms of the halo
are those of an incomplete neighbourhood and are left out. Energies, forces and the virial are added over the ranks before the loss, gradients of the
parameters after it, whatever the number of layers. Atoms of the halo are computed by several ranks, `last_split` says how many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mlipfm_interfaces.batch import Batch, GraphSpec, View
from mlipfm_interfaces.errors import RecipeError
from mlipfm_interfaces.neighbors import PairView, dense_from_pairs, pairs_from_pairs, reversal
from mlipfm_interfaces.potential import Potential, Prediction
from numpy.typing import NDArray
from torch import Tensor

from ..step import Step, StepTerms
from ..views import StepBatch
from .process_group import collect, join, leave
from .single import SingleProcess

#: What is added over ranks.
OUTPUTS = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Split:
    """Atoms of a batch that this rank evaluates.

    Attributes:
        atoms: indices into the batch, ascending. own: bool, of these: the others are the halo.
    """

    atoms: NDArray[np.int64]
    own: NDArray[np.bool_]


class GraphParallel(SingleProcess):
    """See the module.

    Args:
        timeout: seconds that a rank waits for another.

    Attributes:
        last_split: atoms that this rank owned and evaluated in the last step.
        waited: seconds of all steps in communication, waiting for slower ranks included.
    """

    def __init__(self, clip: float | None = None, device: str = "cpu", timeout: float = 600.0) -> None:
        super().__init__(clip, device)
        self._joined = join("graph-parallel", timeout, self.device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.last_split, self.waited = (0, 0), 0.0

    @property
    def share(self) -> tuple[int, int]:
        return 0, 1

    def check(self, step: Step) -> None:
        spec = step.potential.spec
        if spec.interaction_range is None or any(graph.kspace is not None for graph in spec.graphs):
            raise RecipeError("every atom of this potential feels every other one: no rank can compute some atoms", hint=_hint())
        if spec.kind == "direct" and "stress" in step.outputs:
            raise RecipeError("a direct stress is a mean over all atoms, which no rank has", hint=_hint())
        for name, objective in step.objectives.items():
            wrong = [key for key in objective.outputs if key not in OUTPUTS]
            if wrong or objective.module is not None or objective.gather or hasattr(objective, "node_input"):
                what = f"its {wrong[0]}" if wrong else "what it needs of all atoms"
                raise RecipeError(f"the objective {name!r} cannot be computed from parts of a structure: {what}", hint=_hint())
        if step.adapter is not None:
            raise RecipeError("low-rank adaptation is not made for parts of a structure", hint=_hint())

    def collect(self, value: Any) -> list[Any]:
        return collect(value, self.world_size)

    def close(self) -> None:
        leave(self._joined)

    def _place(self, step: Step) -> Callable[[StepBatch], StepTerms]:
        step.evaluate = self.evaluate
        return step

    def evaluate(self, potential: Potential, batch: Batch, outputs: Sequence[str], create_graph: bool) -> Prediction:
        """Return energies, forces and stresses of whole structures, the same on all ranks; gradients by parameters are this rank's share.

        Raises:
            RecipeError: ions and open shells, whose electrons are shared out over all atoms.
        """
        charged, open_shell = batch.total_charge != 0, batch.spin_multiplicity > 1
        shared_out = {"total_charge": bool(charged.any()), "spin_multiplicity": bool(open_shell.any())}
        if any(shared_out.get(condition, False) for condition in potential.spec.conditions):
            raise RecipeError(
                "electrons of ions and open shells are shared out over all atoms: no rank can compute some of them", hint=_hint()
            )
        split = split_atoms(batch, potential.spec, self.rank, self.world_size)
        self.last_split = int(split.own.sum()), len(split.atoms)
        here = torch.from_numpy(split.atoms).to(batch.positions.device)
        own = torch.from_numpy(split.own).to(here.device)
        part = _part(batch, split.atoms, here)
        direct = potential.spec.kind == "direct"
        asked = ["atomic_energies", *(["forces"] if direct and "forces" in outputs else [])]
        made = potential(part, asked, create_graph=True).values
        system = batch.system[here]
        energy = torch.zeros(batch.n_systems, dtype=torch.float64, device=here.device)
        energy = energy.index_add(0, system[own], made["atomic_energies"][own])
        values = {"energy": energy}
        if direct and "forces" in outputs:
            values["forces"] = torch.zeros_like(batch.positions).index_add(0, here[own], made["forces"][own])
        elif {"forces", "stress"} & set(outputs):
            leaves = [batch.positions, *([batch.strain] if "stress" in outputs else [])]
            slopes = torch.autograd.grad(energy.sum(), leaves, create_graph=create_graph, allow_unused=True, materialize_grads=True)
            values["forces"] = -slopes[0]
            if "stress" in outputs:
                values["stress"] = (slopes[1] + slopes[1].mT) / 2 / batch.volume[:, None, None]
        return Prediction({key: self._added(values[key]) for key in outputs}, potential.spec.kind, {})

    def _added(self, value: Tensor) -> Tensor:
        begin = time.perf_counter()
        result: Tensor = _Added.apply(value)
        self.waited += time.perf_counter() - begin
        return result

    def _backward(self, loss: Tensor) -> None:
        super()._backward(loss)
        begin = time.perf_counter()
        grads = [p.grad for p in self.module.parameters() if p.requires_grad and p.grad is not None]
        for dtype in dict.fromkeys(grad.dtype for grad in grads):  # in one order on all ranks, which a set has not
            some = [grad for grad in grads if grad.dtype == dtype]
            flat = torch.cat([grad.flatten() for grad in some])
            dist.all_reduce(flat)
            for grad, whole in zip(some, flat.split([grad.numel() for grad in some]), strict=True):
                grad.copy_(whole.view_as(grad))
        self.waited += time.perf_counter() - begin


class _Added(torch.autograd.Function):
    """Sum over ranks. Every rank computes the whole loss, so that the gradient of its part is that of the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def _hint() -> str:
    return "use strategy.name=ddp or fsdp2, where every rank computes whole structures"


def split_atoms(batch: Batch, spec: Any, rank: int, ranks: int) -> Split:
    """Return the atoms of `rank`: of each structure a slab across its longest direction with as many atoms as any other, and its halo."""
    positions, cells = batch.positions.detach().cpu().numpy(), batch.cell.cpu().numpy()
    pbc, ends = batch.pbc.cpu().numpy(), np.cumsum(batch.n_atoms.cpu().numpy())
    own = np.zeros(len(positions), dtype=bool)
    for s, (end, count) in enumerate(zip(ends, batch.n_atoms.tolist(), strict=True)):
        x = positions[end - count : end]
        along = _longest(x, cells[s], pbc[s])
        order = np.argsort(along, kind="stable")
        own[end - count + order[count * rank // ranks : count * (rank + 1) // ranks]] = True
    reach = own.copy()
    for graph in spec.graphs:  # neighbours, neighbours of neighbours, ...
        i, j, _ = batch.views[graph].pairs()
        for _ in range(round(spec.interaction_range / graph.cutoff)):
            reach[j[reach[i]]] = True
    for end, count in zip(ends, batch.n_atoms.tolist(), strict=True):  # a structure cannot be empty
        reach[end - count] |= not reach[end - count : end].any()
    atoms = np.flatnonzero(reach)
    return Split(atoms, own[atoms])


def _longest(x: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Coordinates along the direction that is cut: the longest periodic vector of the cell, in its units and wrapped, or the longest extent."""
    if pbc.any() and np.abs(np.linalg.det(cell)) > 0:
        k = int(np.argmax(np.where(pbc, np.linalg.norm(cell, axis=1), 0.0)))
        fractional: NDArray[np.float64] = np.linalg.solve(cell.T, x.T)[k]
        return fractional % 1.0
    along: NDArray[np.float64] = x[:, int(np.argmax(np.ptp(x, axis=0)))]
    return along


def _part(batch: Batch, atoms: NDArray[np.int64], here: Tensor) -> Batch:
    """The batch of these atoms (twice: as an array and on the device) alone, every structure in its cell, with the neighbours that are among them."""
    place = np.full(len(batch.positions), -1)
    place[atoms] = np.arange(len(atoms))
    views: dict[GraphSpec, View] = {}
    for graph, view in batch.views.items():
        i, j, shift = view.pairs()
        kept = (place[i] >= 0) & (place[j] >= 0)
        pairs = place[i[kept]], place[j[kept]], shift[kept]
        made: View = (
            pairs_from_pairs(*pairs, len(atoms)) if isinstance(view, PairView) else dense_from_pairs(*pairs, reversal(*pairs), len(atoms))
        )
        views[graph] = made.to(here.device)
    return replace(
        batch,
        positions=batch.positions[here],
        atomic_numbers=batch.atomic_numbers[here],
        system=batch.system[here],
        n_atoms=torch.bincount(batch.system[here], minlength=batch.n_systems),
        labels={},
        label_mask={},
        views=views,
    )
