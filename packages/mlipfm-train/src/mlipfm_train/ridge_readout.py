"""The last layer of the energy by ridge regression: energies and forces are linear in it, so that the best one solves one linear system."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from mlipfm_interfaces import derivatives
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.errors import MissingLabelsError, PropertyNotAvailableError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from torch import Tensor

from .objectives.losses import counted, entry_weights

#: Atoms of one batch.
BATCH_ATOMS = 256


def fit_readout(
    potential: Potential, structures: Sequence[Structure], *, energy: float = 1.0, forces: float = 1.0, ridge: float = 1e-6
) -> Tensor:
    """Change the weights of the last layer of the energy to the minimum of

        energy sum_s (dE_s / n_s)^2 + forces sum_i |dF_i|^2 / 3 n + ridge mean(diagonal) |change|^2

    and return the change [channels]. Each sum is a mean over the structures that have the label, each times its weight (labels `weight` and
    `forces_weight`, see `objectives.losses`); one level of theory.

    Raises:
        PropertyNotAvailableError: a potential whose last layer cannot be reached. MissingLabelsError: neither energies nor forces.
    """
    readout = getattr(potential, "energy_readout", None)
    levels = {s.level for s in structures}
    if readout is None or len(levels) != 1 or potential.spec.kind != "conservative":
        raise PropertyNotAvailableError(
            "the last layer is solved for conservative models of mlipfm-models, at one level of theory",
            hint="choose another mode of `adapt`",
        )
    weight, scale = readout(next(iter(levels)))
    gram = torch.zeros(len(weight), len(weight), dtype=torch.float64)
    right, counts = torch.zeros(len(weight), dtype=torch.float64), dict.fromkeys(("energy", "forces"), 0)
    parts: dict[str, tuple[Tensor, Tensor]] = {key: (gram.clone(), right.clone()) for key in counts}
    for key, rows, error in _rows(potential, structures, scale, energy > 0, forces > 0):
        parts[key] = (parts[key][0] + rows.T @ rows, parts[key][1] + rows.T @ error)
        counts[key] += len(error)
    if not sum(counts.values()):
        raise MissingLabelsError("no structure has a label that the last layer could be fitted to", hint="give energies or forces")
    for key, factor in (("energy", energy), ("forces", forces)):
        if counts[key]:
            gram += factor * parts[key][0] / counts[key]
            right += factor * parts[key][1] / counts[key]
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    change = torch.linalg.solve(gram, right)
    with torch.no_grad():
        weight += change.to(weight)
    return change


def _rows(
    potential: Potential, structures: Sequence[Structure], scale: float, energies: bool, forces: bool
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Features [rows, channels] and errors [rows] of energies per atom and of force components, batch by batch."""
    for chunk in _chunks(structures):
        batch = collate(chunk, potential.spec.graphs, potential.spec.torch_dtype).with_leaves()
        with torch.enable_grad():
            prediction = potential(batch, ("energy",), create_graph=True)
            layer = prediction.features["last_layer"].value.to(torch.float64)
        if energies and "energy" in batch.labels:
            mask, root = counted("energy", batch), _root_weights("energy", batch)
            error = root * (batch.labels["energy"] - prediction["energy"].detach()) / batch.n_atoms
            yield "energy", (root[:, None] * scale * batch.sum_per_system(layer.detach()) / batch.n_atoms[:, None])[mask], error[mask]
        if forces and "forces" in batch.labels:
            mask, root = counted("forces", batch), _root_weights("forces", batch)[:, None]
            slopes = [
                -torch.autograd.grad(layer[:, k].sum(), [batch.positions], retain_graph=True)[0].mul(root)[mask].reshape(-1)
                for k in range(layer.shape[1])
            ]
            error = (root * (batch.labels["forces"] - derivatives.forces(prediction["energy"], batch).detach()))[mask]
            yield "forces", scale * torch.stack(slopes, dim=1), error.reshape(-1)


def _root_weights(key: str, batch: Batch) -> Tensor:
    """Square roots of the weights of the entries, by which the rows of a weighted regression are multiplied."""
    weights = entry_weights(key, batch)
    return torch.ones(len(batch.labels[key]), dtype=torch.float64) if weights is None else weights.to(torch.float64).sqrt()


def _chunks(structures: Sequence[Structure]) -> Iterator[list[Structure]]:
    chunk: list[Structure] = []
    for s in structures:
        if chunk and sum(map(len, chunk)) + len(s) > BATCH_ATOMS:
            yield chunk
            chunk = []
        chunk.append(s)
    yield chunk
