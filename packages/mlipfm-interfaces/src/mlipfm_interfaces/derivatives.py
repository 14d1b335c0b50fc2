"""The one place where energies are differentiated: forces, stress, Hessian rows, Hessian-vector products, Born charges, response to a field.

All functions use `torch.autograd.grad` and keep a graph only when asked. Signs: F = -dE/dr; stress = +(1/V) dE/dstrain; Hessian = +d2E/dr dr,
so that a Hessian row is minus a row of the force Jacobian.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import Batch
from .errors import PropertyNotAvailableError, ShapeError


def forces_and_stress(energy: Tensor, batch: Batch, *, stress: bool = False, create_graph: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return forces [atoms, 3] eV/Å and, if asked, stress [systems, 3, 3] eV/Å³ from energies [systems], in one backward pass.

    `batch` must come from `Batch.with_leaves(strain=stress)`, and `energy` must have been computed from it. The stress is symmetric and
    negative when the crystal is compressed.

    Raises:
        PropertyNotAvailableError: for the stress of a system without three periodic directions, and inside `torch.no_grad()`.
    """
    volume = batch.volume if stress else None
    leaves = [batch.positions, batch.strain] if stress else [batch.positions]
    grads = _grad(energy.sum(), leaves, create_graph)
    if volume is None:
        return -grads[0], None
    return -grads[0], (grads[1] + grads[1].mT) / 2 / volume[:, None, None]


def forces(energy: Tensor, batch: Batch, *, create_graph: bool = False) -> Tensor:
    """Return forces F = -dE/dr, [atoms, 3] eV/Å; see `forces_and_stress`."""
    return forces_and_stress(energy, batch, create_graph=create_graph)[0]


def hessian_rows(forces: Tensor, positions: Tensor, index: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return rows of the Hessian of each system, [rows, atoms, 3] eV/Å²: row p of system s is d2E/(d r_(atom, axis) d r).

    Args:
        forces: [atoms, 3], with the graph to `positions`.
        index: [rows, systems, 2] int64: atom (of the batch) and axis of row p in each system. Atoms of different systems do not interact,
            so one vector-Jacobian product serves row p of all systems.

    For direct forces this is minus the Jacobian's row, which a Hessian only is if the Jacobian is symmetric.

    Raises:
        ShapeError: if `index` has another shape.
    """
    if index.ndim != 3 or index.shape[-1] != 2:
        raise ShapeError(f"`index` must have shape [rows, systems, 2], got {list(index.shape)}")
    rows = []
    for p in range(len(index)):
        pick = torch.zeros_like(forces)
        pick[index[p, :, 0], index[p, :, 1]] = 1.0
        rows.append(-_vjp(forces, positions, pick, create_graph, retain=True))
    return torch.stack(rows)


def hvp(forces: Tensor, positions: Tensor, probe: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return Hessian-vector products H v, [probes, atoms, 3] eV/Å² for `probe` [probes, atoms, 3].

    For gradient forces H is symmetric and v H = H v. For direct forces this is -J^T v.

    Raises:
        ShapeError: if `probe` does not fit `forces`.
    """
    if probe.shape[1:] != forces.shape:
        raise ShapeError(f"`probe` must have shape [probes, {len(forces)}, 3], got {list(probe.shape)}")
    return torch.stack([-_vjp(forces, positions, v.to(forces.dtype), create_graph, retain=True) for v in probe])


def hessian(forces: Tensor, positions: Tensor) -> Tensor:
    """Return the whole matrix [3 atoms, 3 atoms] eV/Å² of a batch, row by row; for tests and small systems."""
    eye = torch.eye(forces.numel(), dtype=forces.dtype, device=forces.device).reshape(-1, *forces.shape)
    return hvp(forces, positions, eye).reshape(forces.numel(), -1)


def jacobian_asymmetry(forces: Tensor, positions: Tensor) -> float:
    """Return ||J - J^T|| / (2 ||J||) (Frobenius) of the force Jacobian: 0 for gradient forces, 0.707 for a random matrix (arXiv:2412.11569)."""
    jacobian = -hessian(forces, positions)
    return float((jacobian - jacobian.T).norm() / 2 / jacobian.norm().clamp_min(1e-300))


def born_charges(dipole: Tensor, positions: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return Z*[a, b] = d dipole_a / d r_b of each atom, [atoms, 3, 3] e, from dipoles [systems, 3] with the graph to `positions` [atoms, 3].

    Systems do not interact, so three vector-Jacobian products serve all of them. Over the atoms of a system they add up to its charge times
    the unit matrix if the dipole is one about a fixed point, and to zero if it moves with the atoms (`readouts.dipole`) or the system is neutral.
    """
    rows = []
    for axis in range(3):
        pick = torch.zeros_like(dipole)
        pick[:, axis] = 1.0
        rows.append(_vjp(dipole, positions, pick, create_graph, retain=True))
    return torch.stack(rows, dim=1)


def field_response(energy: Tensor, batch: Batch, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Return dipole -dE/dF [systems, 3] e Å and polarizability -d2E/dF dF [systems, 3, 3] e² Å²/eV of energies [systems] in the field F.

    `batch` must come from `Batch.with_leaves(field=True)`, and `energy` must have been computed from it.
    """
    (slope,) = _grad(energy.sum(), [batch.external_field], True)
    rows = []
    for axis in range(3):
        pick = torch.zeros_like(slope)
        pick[:, axis] = -1.0
        rows.append(_vjp(slope, batch.external_field, pick, create_graph, retain=True))
    polarizability = torch.stack(rows, dim=1)
    return (-slope, polarizability) if create_graph else (-slope.detach(), polarizability)


def _grad(value: Tensor, leaves: list[Tensor], create_graph: bool) -> list[Tensor]:
    """Gradients; zero where a leaf does not enter (an isolated atom has no pairs)."""
    if not torch.is_grad_enabled():
        # Everything would look constant, and forces would be silently zero.
        raise PropertyNotAvailableError(
            "derivatives of an energy computed inside torch.no_grad()", hint="compute it under torch.enable_grad()"
        )
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    grads = torch.autograd.grad(value, leaves, create_graph=create_graph, retain_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)]


def _vjp(value: Tensor, leaf: Tensor, vector: Tensor, create_graph: bool, retain: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    # As a scalar: `grad_outputs` would import sympy, which takes a second or more once per process.
    (grad,) = torch.autograd.grad((value * vector).sum(), leaf, create_graph=create_graph, retain_graph=retain, allow_unused=True)
    return torch.zeros_like(leaf) if grad is None else grad
