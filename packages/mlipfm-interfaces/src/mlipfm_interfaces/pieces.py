"""Energies, forces and stress of systems that are too large for one call, from pieces of them: memory is bounded by the size of a piece.

The energy of an atom depends on the atoms within the interaction range of the model, which a number of steps along pairs reach. So a piece is a set
of atoms whose energies it gives, and around it all atoms that these depend on. Energies of pieces add up, and so do their derivatives: nothing is
approximated. The surroundings are computed more than once, for small pieces many times, which is why whole systems are taken as long as they fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from .batch import Batch, GraphSpec
from .neighbors import DenseView, PairView
from .potential import Potential, Prediction

__all__ = ["MOST_ATOMS", "predict_in_pieces", "why_in_one_piece"]

#: Atoms of one call. `mace` of 64 channels and 2 layers needs 75 kB for each in copper where kernels are installed, 260 kB where not.
MOST_ATOMS = 40_000
OUTPUTS = frozenset(("energy", "forces", "stress", "atomic_energies"))


def why_in_one_piece(potential: Potential, outputs: Sequence[str]) -> str | None:
    """Return why this can only be predicted for whole systems; None if pieces will do."""
    spec = potential.spec
    if not set(outputs) <= OUTPUTS:
        return f"of {sorted(set(outputs) - OUTPUTS)[0]} there are no parts that add up"
    if spec.kind != "conservative" or "atomic_energies" not in spec.outputs:
        return "its forces are no gradient of energies of atoms"
    if spec.conditions:
        return f"{spec.conditions[0]} acts on all atoms of a system at once"
    if spec.interaction_range is None or len(spec.graphs) != 1 or spec.graphs[0].kspace is not None:
        return "its atoms depend on all atoms of a system"
    return None


def predict_in_pieces(potential: Potential, batch: Batch, outputs: Sequence[str], most: int = MOST_ATOMS) -> Prediction:
    """Predict for a batch, in pieces of `most` atoms or fewer where it has more and the model allows it; detached, without features.

    A piece has at least 1/8 of `most` atoms of its own, however many surround it.

    Raises:
        What the potential raises.
    """
    if len(batch.positions) <= most or why_in_one_piece(potential, outputs) is not None:
        whole: Prediction = potential(batch, outputs)
        return whole
    volume = batch.volume if "stress" in outputs else None
    atomic = torch.zeros(len(batch.positions), dtype=torch.float64, device=batch.positions.device)
    slope, strained = torch.zeros_like(batch.positions), torch.zeros_like(batch.strain)
    graph = potential.spec.graphs[0]
    with torch.inference_mode(False), torch.enable_grad():
        for own, around in _pieces(batch, graph, _steps(potential, graph), most):
            piece = _piece(batch, graph, around).with_leaves(strain=volume is not None)
            energies = potential(piece, ("atomic_energies",))["atomic_energies"][torch.searchsorted(around, own)]
            leaves = [piece.positions] if volume is None else [piece.positions, piece.strain]
            grads = torch.autograd.grad(energies.sum(), leaves, allow_unused=True)
            atomic[own] = energies.detach()
            slope.index_add_(0, around, torch.zeros_like(piece.positions) if grads[0] is None else grads[0])
            if volume is not None and grads[1] is not None:
                strained += grads[1]
    values = {"energy": batch.sum_per_system(atomic), "atomic_energies": atomic, "forces": -slope}
    if volume is not None:
        values["stress"] = (strained + strained.mT) / 2 / volume[:, None, None]
    return Prediction({key: values[key] for key in outputs}, potential.spec.kind)


def _steps(potential: Potential, graph: GraphSpec) -> int:
    """Steps along pairs that reach all atoms on which the energy of an atom depends."""
    assert potential.spec.interaction_range is not None
    return ceil(potential.spec.interaction_range / graph.cutoff - 1e-9)


def _pieces(batch: Batch, graph: GraphSpec, steps: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Atoms in halves along the longest side until they and their surroundings are `most` or fewer: (own, own and surroundings), both ascending."""
    waiting = [torch.arange(len(batch.positions), device=batch.positions.device)]
    while waiting:
        own = waiting.pop()
        around = _surroundings(batch, graph, own, steps) if len(own) <= most else own
        if (len(around) <= most and len(own) <= most) or len(own) <= max(most // 8, 1):
            yield own, around
            continue
        places = _inside(batch, own)
        side = int((places.amax(dim=0) - places.amin(dim=0)).argmax())
        order = places[:, side].argsort(stable=True)
        half = len(own) // 2
        waiting += [own[order[:half]].sort().values, own[order[half:]].sort().values]


def _inside(batch: Batch, own: Tensor) -> Tensor:
    """Positions [atoms, 3] Å of the images inside the cell along periodic directions."""
    places, system = batch.positions[own], batch.system[own]
    periodic = batch.pbc.all(dim=1)[system]
    cell = batch.cell[system[periodic]]
    fractions = torch.linalg.solve(cell.mT, places[periodic][..., None])
    inside = places.clone()
    inside[periodic] = (cell.mT @ (fractions - fractions.floor()))[..., 0]
    return inside


def _surroundings(batch: Batch, graph: GraphSpec, own: Tensor, steps: int) -> Tensor:
    view = batch.views[graph]
    inside = torch.zeros(len(batch.positions), dtype=torch.bool, device=own.device)
    inside[own] = True
    for _ in range(steps):
        if isinstance(view, PairView):
            inside[view.j[inside[view.i]]] = True
        else:
            inside[view.index[inside].flatten()] = True
    return inside.nonzero().flatten()


def _piece(batch: Batch, graph: GraphSpec, atoms: Tensor) -> Batch:
    """Return the batch with these atoms only and the pairs among them. Systems stay, those without atoms too."""
    place = torch.full((len(batch.positions),), -1, device=atoms.device)
    place[atoms] = torch.arange(len(atoms), device=atoms.device)
    whole = batch.views[graph]
    view = _some_pairs(whole, place) if isinstance(whole, PairView) else _some_rows(whole, atoms, place)
    return replace(
        batch,
        positions=batch.positions[atoms],
        atomic_numbers=batch.atomic_numbers[atoms],
        system=batch.system[atoms],
        n_atoms=torch.bincount(batch.system[atoms], minlength=batch.n_systems),
        labels={},
        label_mask={},
        views={graph: view},
    )


def _some_pairs(view: PairView, place: Tensor) -> PairView:
    i, j = place[view.i], place[view.j]
    kept = (i >= 0) & (j >= 0)
    return PairView(i[kept], j[kept], view.shift[kept], view.mask[kept])


def _some_rows(view: DenseView, atoms: Tensor, place: Tensor) -> DenseView:
    width, neighbor = view.index.shape[1], place[view.index[atoms]]
    here = neighbor >= 0
    mask = view.mask[atoms] & here
    row = torch.arange(len(atoms), device=atoms.device)[:, None]
    back = view.reverse[atoms]
    return DenseView(
        index=torch.where(here, neighbor, row),
        shift=torch.where(mask[..., None], view.shift[atoms], 0),
        mask=mask,
        reverse=torch.where(mask, place[back // width] * width + back % width, row * width + torch.arange(width, device=atoms.device)),
    )
