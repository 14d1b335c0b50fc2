"""Born charges and the response to a field, for dipoles and energies that are known in closed form."""

from __future__ import annotations

import numpy as np
import torch
from mlipfm_interfaces.batch import GraphSpec, collate
from mlipfm_interfaces.derivatives import born_charges, field_response
from mlipfm_interfaces.structure import Structure

MIX = torch.tensor([[1.0, 0.4, -0.2], [0.1, 0.7, 0.3], [-0.5, 0.2, 1.1]], dtype=torch.float64)  # not symmetric
CHARGES = torch.tensor([-0.8, 0.4, 0.4, 0.5, -0.5], dtype=torch.float64)
MOMENT = torch.tensor([[0.3, -0.2, 0.5], [0.0, 0.7, -0.1]], dtype=torch.float64)
ALPHA = torch.tensor([[1.5, 0.2, 0.1], [0.2, 1.1, -0.3], [0.1, -0.3, 0.9]], dtype=torch.float64)


def two_molecules():
    field = np.array([0.1, -0.2, 0.3])
    first = Structure([8, 1, 1], [[0.0, 0, 0], [0.9, 0, 0], [0, 0.9, 0]], external_field=field)
    second = Structure([9, 1], [[0.0, 0, 0], [0, 0, 1.0]], external_field=-2 * field)
    return collate([first, second], [GraphSpec(2.0)], torch.float64)


def test_born_charges_have_the_direction_of_the_dipole_first():
    """mu_a = sum_i q_i A_ab r_ib: Z*_i = q_i A, of each system apart."""
    batch = two_molecules().with_leaves()
    dipole = batch.sum_per_system(CHARGES[:, None] * (batch.positions @ MIX.T))
    torch.testing.assert_close(born_charges(dipole, batch.positions), CHARGES[:, None, None] * MIX)


def test_the_response_to_a_field_is_dipole_and_polarizability_with_plus_sign():
    """E = -mu F - F alpha F / 2: the dipole is mu + alpha F, the polarizability alpha."""
    batch = two_molecules().with_leaves(field=True)
    f, factor = batch.external_field, torch.tensor([1.0, 3.0], dtype=torch.float64)
    energy = -(MOMENT * f).sum(1) - factor * torch.einsum("sa,ab,sb->s", f, ALPHA, f) / 2
    dipole, polarizability = field_response(energy, batch)
    torch.testing.assert_close(dipole, MOMENT + factor[:, None] * f.detach() @ ALPHA)
    torch.testing.assert_close(polarizability, factor[:, None, None] * ALPHA.expand(2, 3, 3))
