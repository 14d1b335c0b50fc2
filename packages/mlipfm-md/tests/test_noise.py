"""Random forces and first velocities: independent between replicas, steps, atoms and axes, and equal where a restart needs them to be."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.structure import Structure
from mlipfm_md.ensembles import Langevin, State, noise
from mlipfm_md.noise import normals, philox
from mlipfm_md.simulation import Settings, simulate
from scipy import stats


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0), [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ],
    ids=["zero", "ones", "pi"],
)
def test_philox_gives_the_published_words(counter, key, words):
    """Known answers of Philox4x32-10 in Random123 1.09 (kat_vectors)."""
    assert philox(np.array(counter, dtype=np.uint64)[:, None], key)[:, 0].tolist() == words


def test_normal_numbers_are_normal_in_their_tails():
    """Kolmogorov-Smirnov on 60,000 numbers; 0.27 % beyond three standard deviations."""
    drawn = normals(5, "md", 3, np.full(20, 3000))
    assert stats.kstest(drawn, stats.norm.cdf).pvalue > 1e-3
    assert (np.abs(drawn) > 3).mean() == pytest.approx(0.0027, abs=4 * (0.0027 / 60000) ** 0.5)


def test_the_numbers_of_a_replica_do_not_depend_on_the_others():
    alone, beside = normals(5, "md", 2**40 + 3, np.array([7])), normals(5, "md", 2**40 + 3, np.array([7, 20, 1]))
    assert np.array_equal(alone, beside[:7])
    for other in (
        normals(6, "md", 2**40 + 3, np.array([7])),
        normals(5, "cell", 2**40 + 3, np.array([7])),
        normals(5, "md", 3, np.array([7])),
    ):
        assert not np.isin(other, alone).any()


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
