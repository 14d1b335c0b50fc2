"""Random forces and first velocities: independent between replicas, steps, atoms and axes, and equal where a restart needs them to be."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.structure import Structure
from mlipfm_md.ensembles import Langevin, State, noise
from mlipfm_md.simulation import Settings, simulate


def at(step: int, replicas: int, atoms: int) -> State:
    n = replicas * atoms
    first = np.arange(replicas + 1) * atoms
    return State(np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 3)), np.zeros(replicas), np.ones(n), first, step)


def test_noise_of_replicas_steps_atoms_and_axes_is_independent():
    """Correlations of 3,000 numbers are within 4.5 / sqrt(3000); the noise has mean 0 and variance 1."""
    drawn = np.stack([noise(at(step, 40, 25), 3) for step in range(3)]).reshape(3, 40, 25, 3)
    assert abs(drawn.mean()) < 4.5 / drawn.size**0.5
    assert abs((drawn**2).mean() - 1) < 4.5 * (2 / drawn.size) ** 0.5
    for axis in range(4):
        shifted = np.roll(drawn, 1, axis=axis)
        correlation = (drawn * shifted).mean()
        assert abs(correlation) < 4.5 / drawn.size**0.5
    assert np.array_equal(noise(at(2, 40, 25), 3), drawn[2].reshape(-1, 3))
    assert not np.array_equal(noise(at(2, 40, 25), 4), drawn[2].reshape(-1, 3))


def test_copies_of_one_structure_go_ways_of_their_own():
    class Free:
        outputs = ("energy", "forces")

        def evaluate(self, structures, outputs):
            return [{"energy": np.array(0.0), "forces": np.zeros((len(s), 3))} for s in structures]

    argon = Structure([18, 18], [[0.0, 0, 0], [5.0, 0, 0]])
    settings = Settings(dt=1.0, steps=20, temperature=300.0, every=20, seed=1)
    still = Settings(dt=1.0, steps=20, temperature=0.0, every=20, seed=1)
    for chosen in (settings, still):
        run = simulate(Free(), [argon, argon, argon], Langevin(300.0, 0.01), chosen)
        assert len(np.unique(np.round(run.kinetic[-1], 9))) == 3
