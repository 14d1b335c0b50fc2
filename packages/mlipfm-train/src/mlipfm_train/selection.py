"""Some systems of a Batch and of its Prediction, as a Batch and Prediction of their own: what one objective gets of a step."""

from __future__ import annotations

from dataclasses import replace

import torch
from mlipfm_interfaces.batch import Batch, GraphSpec, View
from mlipfm_interfaces.neighbors import DenseView, PairView
from mlipfm_interfaces.potential import Prediction
from mlipfm_interfaces.quantities import QUANTITIES
from torch import Tensor

_COMPANIONS = {q.companion for q in QUANTITIES.values() if q.companion}


def select(prediction: Prediction, batch: Batch, systems: Tensor) -> tuple[Prediction, Batch]:
    """Prediction and Batch of `systems` [k] int64, in that order; both unchanged if that is all systems in their order.

    Positions of a real selection carry no graph to the prediction: whoever differentiates with respect to them gets torch's error and not a
    silent zero. Derivatives are outputs of the potential (`hessian_rows`, `hvp`), made before the selection.
    """
    if len(systems) == batch.n_systems and bool((systems == torch.arange(batch.n_systems, device=systems.device)).all()):
        return prediction, batch
    atoms, first = _atoms_of(batch, systems)
    new_atom = torch.full((len(batch.positions),), -1, dtype=torch.int64, device=atoms.device)
    new_atom[atoms] = torch.arange(len(atoms), device=atoms.device)
    views, kept = {}, {}
    for spec, view in batch.views.items():
        views[spec], kept[spec] = _view(view, atoms, new_atom)
    return _prediction(prediction, batch, systems, atoms, kept), _batch(batch, systems, atoms, first, new_atom, views)


def _atoms_of(batch: Batch, systems: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the atoms of `systems`, system by system, and the old first atom of each system."""
    ends = torch.cumsum(batch.n_atoms, 0)
    first = ends - batch.n_atoms
    counts = batch.n_atoms[systems]
    start = torch.cumsum(counts, 0) - counts
    within = torch.arange(int(counts.sum()), device=systems.device) - torch.repeat_interleave(start, counts)
    return torch.repeat_interleave(first[systems], counts) + within, first


def _batch(batch: Batch, systems: Tensor, atoms: Tensor, first: Tensor, new_atom: Tensor, views: dict[GraphSpec, View]) -> Batch:
    counts = batch.n_atoms[systems]
    picked = systems.tolist()
    labels = {key: _label(key, value, systems, atoms, new_atom) for key, value in batch.labels.items()}
    masks = {key: mask[:, systems] if QUANTITIES[key].layout == "probe" else mask[systems] for key, mask in batch.label_mask.items()}
    return replace(
        batch,
        positions=batch.positions.detach()[atoms],
        atomic_numbers=batch.atomic_numbers[atoms],
        system=torch.repeat_interleave(torch.arange(len(systems), device=atoms.device), counts),
        n_atoms=counts,
        cell=batch.cell[systems],
        pbc=batch.pbc[systems],
        total_charge=batch.total_charge[systems],
        charge_stated=batch.charge_stated[systems],
        spin_multiplicity=batch.spin_multiplicity[systems],
        external_field=batch.external_field.detach()[systems],
        levels=tuple(batch.levels[k] for k in picked),
        keys=tuple(batch.keys[k] for k in picked),
        labels=labels,
        label_mask=masks,
        views=views,
        kspace={},
        strain=batch.strain.detach()[systems],
        node_input=None,
    )


def _label(key: str, value: Tensor, systems: Tensor, atoms: Tensor, new_atom: Tensor) -> Tensor:
    if key == "hessian_rows_index":
        index = value[:, systems]
        return torch.stack([new_atom[index[..., 0]], index[..., 1]], dim=-1)
    layout = "probe" if key in _COMPANIONS else QUANTITIES[key].layout
    return value[systems] if layout == "system" else value[atoms] if layout in ("atom", "pair") else value[:, atoms]


def _prediction(prediction: Prediction, batch: Batch, systems: Tensor, atoms: Tensor, kept: dict[GraphSpec, Tensor]) -> Prediction:
    values = {}
    for key, value in prediction.values.items():
        layout = QUANTITIES[key].layout
        if layout != "pair":
            values[key] = value[systems] if layout == "system" else value[atoms] if layout == "atom" else value[:, atoms]
    features = {}
    pairs = next(iter(kept.values())) if len(kept) == 1 else None
    for name, feature in prediction.features.items():
        if feature.layout == "atom":
            features[name] = replace(feature, value=feature.value[atoms])
        elif pairs is not None:
            features[name] = replace(feature, value=feature.value[pairs])
    return replace(prediction, values=values, features=features)


def _view(view: View, atoms: Tensor, new_atom: Tensor) -> tuple[View, Tensor]:
    """Return the view with atoms renumbered, and the rows of the old view (pairs, or atoms of a dense block) that it keeps."""
    if isinstance(view, PairView):
        found = (new_atom[view.i] >= 0).nonzero().flatten()
        rows = found[torch.argsort(new_atom[view.i[found]], stable=True)]
        return PairView(new_atom[view.i[rows]], new_atom[view.j[rows]], view.shift[rows], view.mask[rows]), rows
    width = view.index.shape[1]
    reverse = view.reverse[atoms]
    renumbered = new_atom[reverse // width] * width + reverse % width
    return DenseView(new_atom[view.index[atoms]], view.shift[atoms], view.mask[atoms], renumbered), atoms
