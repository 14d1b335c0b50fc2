"""What the last layer says: the features whose linear map is the energy, and their derivatives, whose linear map is the forces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from mlipfm_interfaces import derivatives
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.errors import PropertyNotAvailableError
from mlipfm_interfaces.potential import Potential, check_elements, device_of
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import find_level
from mlipfm_interfaces.trained_states import check_states
from torch import Tensor

#: Atoms of one batch.
BATCH_ATOMS = 512


@dataclass(frozen=True)
class Observed:
    """Predictions of one batch with what they are linear in, float64 on the CPU.

    Attributes:
        sizes: atoms of each system. energy: [systems] eV. forces: [atoms, 3] eV/Å, or None if not asked.
        energy_features: [systems, channels], mean of the last layer over the atoms: energy per atom is linear in it.
        force_features: [atoms, 3, vectors], minus the derivative of the sums of the last layer (or of the asked combinations) by positions, 1/Å.
    """

    sizes: list[int]
    energy: Tensor
    forces: Tensor | None
    energy_features: Tensor
    force_features: Tensor | None


def check_forces(potential: Potential) -> None:
    """Refuse what has no force features.

    Raises:
        PropertyNotAvailableError: for direct forces, which are no derivative of the last layer.
    """
    if potential.spec.kind != "conservative":
        raise PropertyNotAvailableError(
            "direct forces are no derivative of the last layer, so it says nothing about their uncertainty",
            hint="ask for that of energies alone, or fine-tune the model to conservative forces",
        )


def observe(potential: Potential, structures: Sequence[Structure], *, forces: bool, combine: Tensor | None = None) -> Observed:
    """Predict one batch and look at the last layer.

    Args:
        forces: also forces and force features (one backward pass for each channel, or each row of `combine`).
        combine: [vectors, channels]; force features of these combinations instead of every channel.

    Raises:
        PropertyNotAvailableError: a potential without the feature `last_layer`, or with direct forces if forces are asked.
        UnknownElementError, LevelError: as `mlipfm_interfaces.potential.evaluate`.
    """
    check_elements(potential.spec, structures)
    check_states(potential, structures)
    if forces:
        check_forces(potential)
    training = potential.training
    potential.eval()
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(forces):
            return _observe(potential, _batch(potential, structures), forces, combine)
    finally:
        potential.train(training)


def _observe(potential: Potential, batch: Batch, forces: bool, combine: Tensor | None) -> Observed:
    batch = batch.with_leaves() if forces else batch
    prediction = potential(batch, ("energy",))
    if "last_layer" not in prediction.features:
        raise PropertyNotAvailableError("this potential shows no last layer", hint="use a checkpoint of mlipfm-models")
    layer = prediction.features["last_layer"].value.to(torch.float64)
    means = (batch.sum_per_system(layer) / batch.n_atoms[:, None]).detach().cpu()
    sizes, energy = batch.n_atoms.tolist(), prediction["energy"]
    if not forces:
        return Observed(sizes, energy.detach().cpu(), None, means, None)
    rows = layer if combine is None else layer @ combine.to(layer).T
    # Systems do not interact, so one backward pass serves all systems of the batch.
    slopes = [-_slope(rows[:, k].sum(), batch.positions) for k in range(rows.shape[1])]
    return Observed(sizes, energy.detach().cpu(), derivatives.forces(energy, batch).cpu(), means, torch.stack(slopes, dim=-1).cpu())


def _slope(value: Tensor, positions: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(positions)
    (slope,) = torch.autograd.grad(value, [positions], retain_graph=True, allow_unused=True)
    return torch.zeros_like(positions) if slope is None else slope


def _batch(potential: Potential, structures: Sequence[Structure]) -> Batch:
    known = potential.spec.levels
    asked = [s if find_level(s.level, known) or len(known) != 1 else s.replace(level=None, labels={}, label_std={}) for s in structures]
    return collate(asked, potential.spec.graphs, potential.spec.torch_dtype, device_of(potential))


def in_batches(structures: Iterable[Structure]) -> Iterator[list[Structure]]:
    """Lists of up to `BATCH_ATOMS` atoms (or one structure); nothing is read ahead of need."""
    chunk: list[Structure] = []
    atoms = 0
    for s in structures:
        if chunk and atoms + len(s) > BATCH_ATOMS:
            yield chunk
            chunk, atoms = [], 0
        chunk.append(s)
        atoms += len(s)
    if chunk:
        yield chunk
