"""Langevin dynamics against closed forms: relaxation, noise, diffusion, the averages of BAOAB at a finite time step, independence of the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import ACCELERATION, KB
from mlipfm_md.ensembles import Langevin, State, noise
from mlipfm_md.initial_state import InitialState
from mlipfm_md.simulation import Settings, simulate

N, T, MASS = 3000, 300.0, 39.948
THERMAL = KB * T * ACCELERATION / MASS  # k T / m in Å²/fs²
ARGON = Structure([18] * N, np.arange(3 * N).reshape(N, 3) * 10.0)


class Springs:
    """E = k (r - r0)²/2 for every atom; no force for k = 0."""

    outputs = ("energy", "forces")

    def __init__(self, k: float = 0.0) -> None:
        self.k = k

    def evaluate(self, structures, outputs):
        rows = []
        for s in structures:
            away = s.positions - ARGON.positions[: len(s)]
            rows.append({"energy": np.array(0.5 * self.k * (away**2).sum()), "forces": -self.k * away})
        return rows


def dynamics(friction, dt, steps, k=0.0, velocities=None, structure=ARGON):
    """States after every step: positions away from the start and velocities, [steps, N, 3]."""
    away, moving = [], []

    def keep(state):
        away.append(state.positions - structure.positions)
        moving.append(state.velocities.copy())

    start = InitialState(structure, velocities)
    simulate(Springs(k), [start], Langevin(T, friction), Settings(dt=dt, steps=steps, temperature=T, seed=5), on_step=keep)
    return np.array(away), np.array(moving)


ERROR = 4 * math.sqrt(2 / (3 * N))  # four standard errors of a mean square of 3 N normal numbers, relative


@pytest.mark.parametrize(("friction", "dt"), [(0.01, 5.0), (0.5, 2.0)])
def test_noise_heats_a_cold_gas_as_in_closed_form(friction, dt):
    """From rest <v²> = kT/m (1 - exp(-2 gamma t)) for each axis, at any time step (an Ornstein-Uhlenbeck process)."""
    _, v = dynamics(friction, dt, 12, velocities=np.zeros((N, 3)))
    for step in (1, 3, 12):
        assert (v[step - 1] ** 2).mean() == pytest.approx(THERMAL * (1 - math.exp(-2 * friction * dt * step)), rel=ERROR)


def test_velocities_forget_at_the_rate_of_the_friction():
    """<v(0) v(t)> / <v²> = exp(-gamma t)."""
    friction, dt = 0.02, 5.0
    _, v = dynamics(friction, dt, 21)
    for steps in (5, 10, 20):
        correlation = (v[0] * v[steps]).mean() / THERMAL
        assert correlation == pytest.approx(math.exp(-friction * dt * steps), abs=4 / math.sqrt(3 * N))


def test_diffusion_is_kT_over_m_gamma():
    """<x²> = 2 D (t - (1 - exp(-gamma t)) / gamma) with D = kT / (m gamma); the friction cannot be seen in the temperature."""
    friction, dt, steps = 0.05, 2.0, 200
    x, _ = dynamics(friction, dt, steps)
    time = dt * steps
    expected = 2 * THERMAL / friction * (time - (1 - math.exp(-friction * time)) / friction)
    assert (x[-1] ** 2).mean() == pytest.approx(expected, rel=ERROR + 0.005)


def test_baoab_samples_positions_of_an_oscillator_exactly_and_velocities_to_second_order():
    """<x²> = kT/k and <v²> = kT/m (1 - (omega dt)²/4) at any time step (Leimkuhler and Matthews 2013, doi:10.1063/1.4802990)."""
    dt = 10.0
    k = (0.9 / dt) ** 2 * MASS / ACCELERATION  # omega dt = 0.9
    x, v = dynamics(0.05, dt, 150, k)
    assert (x[-1] ** 2).mean() == pytest.approx(KB * T / k, rel=ERROR)
    assert (v[-1] ** 2).mean() == pytest.approx(THERMAL * (1 - 0.9**2 / 4), rel=ERROR)


def test_noise_is_independent_over_replicas_atoms_axes_and_steps():
    """Correlations of 2,400 or more pairs of normal numbers stay below five standard errors; variance 1, mean 0."""
    replicas, atoms, steps = 8, 10, 80
    first = np.arange(replicas + 1) * atoms
    n = replicas * atoms
    draws = np.array(
        [
            noise(State(np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 3)), np.zeros(replicas), np.ones(n), first, k), 3)
            for k in range(steps)
        ]
    ).reshape(steps, replicas, atoms, 3)
    assert draws.mean() == pytest.approx(0, abs=5 / math.sqrt(draws.size))
    assert draws.var() == pytest.approx(1, abs=5 * math.sqrt(2 / draws.size))
    for axis in range(4):
        rows = np.moveaxis(draws, axis, 0).reshape(draws.shape[axis], -1)
        found = np.corrcoef(rows)
        assert np.abs(found - np.eye(len(found))).max() < 5 / math.sqrt(rows.shape[1])


def test_equal_starts_go_their_own_ways():
    """Two replicas of one structure at rest: after a step their velocities are not related."""
    structure = Structure([18] * 500, ARGON.positions[:500])
    start = InitialState(structure, np.zeros((500, 3)))
    run = simulate(Springs(), [start, start], Langevin(T, 0.05), Settings(dt=1.0, steps=1))
    one, two = run.state.velocities[:500].reshape(-1), run.state.velocities[500:].reshape(-1)
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / math.sqrt(1500)


def test_velocities_that_are_drawn_for_copies_of_one_structure_are_not_related():
    structure = Structure([18] * 500, ARGON.positions[:500])
    run = simulate(Springs(), [structure, structure], Langevin(T, 1e-9), Settings(dt=1.0, steps=1, temperature=T))
    one, two = run.state.velocities[:500].reshape(-1), run.state.velocities[500:].reshape(-1)
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / math.sqrt(1500)
