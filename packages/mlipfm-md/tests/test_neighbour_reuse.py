"""A neighbour list that is used again gives the answers of a fresh one, whoever moves and however far."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_md.forces import PotentialForces


@pytest.mark.parametrize("skin", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("both", [True, False])
def test_atoms_that_come_from_beyond_the_cutoff_are_seen_in_time(skin, both):
    """Argon from 7 to 3.2 Å in steps of 0.1; the cutoff is 5 Å. With two that move, each has gone half the way."""
    pair, other = Structure([18, 18], [[0.0, 0, 0], [7.0, 0, 0]]), Structure([18, 18], [[0.0, 0, 0], [0, 3.9, 0]])
    forces = PotentialForces(Morse(), [other, pair], skin=skin)
    start = np.concatenate([other.positions, pair.positions])
    for gone in np.arange(0.0, 3.85, 0.1):
        positions = start.copy()
        positions[3, 0] -= gone / 2 if both else gone
        positions[2, 0] += gone / 2 if both else 0.0
        energies, found = forces(positions)
        fresh = evaluate(Morse(), [other, pair.replace(positions=positions[2:])])
        np.testing.assert_allclose(energies, [float(row["energy"]) for row in fresh], atol=1e-12)
        np.testing.assert_allclose(found, np.concatenate([row["forces"] for row in fresh]), atol=1e-12)
    assert forces.rebuilds < 30 or skin == 0.0
