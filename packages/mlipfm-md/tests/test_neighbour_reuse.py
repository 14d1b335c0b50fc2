"""A neighbour list that is reused gives what a fresh list gives, also where atoms come from beyond its reach, and after a restart.

The oracle is the potential itself on each recorded frame, with a list of its own; a collision of equal masses has a closed form besides.
"""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import load_checkpoint
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_md.ensembles import NVE, Langevin
from mlipfm_md.forces import PotentialForces
from mlipfm_md.simulation import Settings, simulate
from mlipfm_md.starts import Start
from mlipfm_md.trajectory import RESTART_KIND


@pytest.fixture(scope="module")
def argon():
    return noble_gas()


def collision(distance: float, speed: float = 0.02) -> Start:
    """Two argon atoms that fly at each other along x, Å and Å/fs."""
    return Start(Structure([18, 18], [[0, 0, 0], [distance, 0, 0]]), np.array([[speed, 0, 0], [-speed, 0, 0]]))


def liquid() -> Structure:
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) * 3.9
    return Structure([18] * 27, grid + np.random.default_rng(0).normal(0, 0.05, (27, 3)), np.eye(3) * 11.7, True)


def errors(model, structures, ensemble, settings, **options) -> tuple[float, float, float]:
    """Largest differences (eV, eV/Å) between energies and forces in the run and those of fresh lists, and the largest |energy| (eV)."""
    worst = [0.0, 0.0, 0.0]
    plain = [s.structure if isinstance(s, Start) else s for s in structures]

    def compare(state):
        for k, (a, b) in enumerate(zip(state.first[:-1], state.first[1:], strict=True)):
            fresh = evaluate(model, [plain[k].replace(positions=state.positions[a:b])], ("energy", "forces"))[0]
            worst[0] = max(worst[0], abs(float(fresh["energy"]) - state.energies[k]))
            worst[1] = max(worst[1], np.abs(fresh["forces"] - state.forces[a:b]).max())
            worst[2] = max(worst[2], abs(state.energies[k]))

    simulate(model, structures, ensemble, settings, on_record=compare, **options)
    return worst[0], worst[1], worst[2]


@pytest.mark.parametrize("skin", [0.3, 1.0, 2.0])
def test_atoms_that_come_from_beyond_the_list_are_seen_in_time(argon, skin):
    """They start just outside cutoff + skin and both move: half the skin each is all that the list may miss."""
    energy, force, depth = errors(argon, [collision(8.5 + skin + 0.01)], NVE(), Settings(dt=4.0, steps=80, every=1, skin=skin))
    assert depth > 1e-4
    assert energy < 1e-12
    assert force < 1e-12


def test_atoms_of_equal_mass_exchange_velocities_in_a_collision(argon):
    run = simulate(argon, [collision(12.0)], NVE(), Settings(dt=4.0, steps=220, skin=1.0))
    assert run.state.positions[1, 0] - run.state.positions[0, 0] > 9
    assert run.state.velocities[:, 0] == pytest.approx([-0.02, 0.02], rel=1e-4)


def test_a_hot_liquid_has_the_energies_and_forces_of_a_fresh_list(argon):
    settings = Settings(dt=5.0, steps=120, every=5, temperature=3000.0, skin=1.0, seed=2)
    energy, force, _ = errors(argon, [liquid()], Langevin(3000.0, 0.01), settings)
    assert energy < 1e-10
    assert force < 1e-10


def test_list_is_built_anew_when_an_atom_has_moved_by_half_the_skin(argon):
    s = Structure([18, 18], [[0, 0, 0], [5.0, 0, 0]])
    forces = PotentialForces(argon, [s], skin=1.0)
    for moved, rebuilds in ((0.49, 1), (0.51, 2), (1.0, 2), (1.02, 3)):
        forces(s.positions + [[moved, 0, 0], [0, 0, 0]])
        assert forces.rebuilds == rebuilds


def test_a_restart_builds_the_list_where_it_was_built_and_sees_the_atoms_that_are_there(argon, tmp_path, monkeypatch):
    """The reference in the restart is neither the start nor the present: the atoms have left the one and are within half the skin of the other."""
    start, settings = collision(12.0), {"dt": 4.0, "every": 5, "skin": 1.0}
    whole = simulate(argon, [start], NVE(), Settings(steps=120, **settings), out=tmp_path / "whole")
    first = simulate(argon, [start], NVE(), Settings(steps=65, **settings), out=tmp_path / "parts")
    _, tensors = load_checkpoint(tmp_path / "parts" / "restart.safetensors", kind=RESTART_KIND)
    reference, built = tensors["reference"].numpy(), []
    assert np.abs(reference - start.structure.positions).max() > 0.5
    assert 0 < np.abs(reference - first.state.positions).max() <= 0.5
    collate = PotentialForces._collate
    monkeypatch.setattr(PotentialForces, "_collate", lambda self, positions: built.append(positions.copy()) or collate(self, positions))
    energy, force, depth = errors(argon, [start], NVE(), Settings(steps=120, **settings), out=tmp_path / "parts")
    assert np.array_equal(built[0], reference)
    assert depth > 1e-3
    assert max(energy, force) < 1e-12
    again = simulate(argon, [start], NVE(), Settings(steps=120, **settings), out=tmp_path / "parts")
    assert np.array_equal(again.state.positions, whole.state.positions)
    assert np.array_equal(again.total, whole.total)


def test_momentum_and_angular_momentum_are_kept_and_time_runs_back(argon):
    """An open cluster at constant energy; velocities turned round lead back to the start (velocity Verlet is time reversible)."""
    s = Structure([18] * 27, liquid().positions)
    settings = Settings(dt=5.0, steps=100, temperature=60.0, seed=1)
    there = simulate(argon, [s], NVE(), settings)
    v0 = simulate(argon, [s], NVE(), Settings(dt=5.0, steps=0, temperature=60.0, seed=1)).state.velocities
    v = there.state.velocities
    assert np.abs(v.sum(axis=0)).max() < 1e-13
    assert np.cross(there.state.positions, v).sum(axis=0) == pytest.approx(np.cross(s.positions, v0).sum(axis=0), rel=1e-9, abs=1e-12)
    back = simulate(argon, [Start(s.replace(positions=there.state.positions), -v)], NVE(), settings)
    assert back.state.positions == pytest.approx(s.positions, abs=1e-9)
