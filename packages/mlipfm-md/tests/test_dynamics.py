"""Dynamics against closed forms: harmonic motion, its energy error in dt, a curl field that heats, canonical averages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import ACCELERATION, KB
from mlipfm_md.ensembles import NVE, Langevin, maxwell_boltzmann
from mlipfm_md.simulation import Settings, simulate, simulate_frames


class Field:
    """F = -k r + c (-y, x, 0) on every atom: harmonic for c = 0, not conservative otherwise. k, c in eV/Å²."""

    outputs = ("energy", "forces")

    def __init__(self, k: float = 1.0, c: float = 0.0) -> None:
        self.k, self.c = k, c

    def evaluate(self, structures, outputs):
        rows = []
        for s in structures:
            r = s.positions
            curl = self.c * np.stack([-r[:, 1], r[:, 0], np.zeros(len(r))], axis=1)
            rows.append({"energy": np.array(0.5 * self.k * (r**2).sum()), "forces": -self.k * r + curl})
        return rows


def test_velocity_verlet_energy_error_is_second_order_in_dt():
    """Halving dt divides the spread of the total energy by four (METHODS B2.3)."""

    def spread(dt: float) -> float:
        run = simulate(
            Field(), [Structure([6, 6], [[0.1, 0, 0], [3.0, 0, 0.2]])], NVE(), Settings(dt=dt, steps=int(400 / dt), temperature=0, every=1)
        )
        return float(run.total.std())

    assert spread(2.0) / spread(1.0) == pytest.approx(4.0, abs=0.1)


def test_oscillation_period_of_a_carbon_atom_is_2_pi_sqrt_m_over_k():
    run, frames = simulate_frames(Field(k=2.0), Structure([6], [[0.3, 0, 0]]), NVE(), Settings(dt=0.05, steps=6000, temperature=0, every=1))
    x = np.array([0.3] + [positions[0, 0] for _, positions in frames])
    crossings = np.flatnonzero((x[:-1] > 0) & (x[1:] <= 0)) * 0.05
    assert np.diff(crossings).mean() == pytest.approx(2 * math.pi * math.sqrt(12.011 / (2.0 * ACCELERATION)), rel=1e-3)
    assert run.status == "ok"


def test_curl_field_heats_exponentially_at_the_known_rate():
    """E(t) = E0 exp(c t / omega) on the co-rotating orbit, with k = m omega^2 and the curl of strength c k (METHODS B2.3)."""
    mass = 12.011
    omega = math.sqrt(1.0 * ACCELERATION / mass)
    model = Field(k=1.0, c=0.02)
    radius = 0.5
    start = Structure([6], [[radius, 0, 0]])
    settings = Settings(dt=0.1, steps=4000, temperature=0, every=4000)

    first = maxwell_boltzmann(np.array([mass]), 0, stream(0, "velocities", 0))
    assert not first.any()
    run = _with_velocity(model, start, np.array([[0, omega * radius, 0]]), settings)
    grown = run.total[-1, 0] / run.total[0, 0]
    assert grown == pytest.approx(math.exp(0.02 * ACCELERATION / mass / omega * 400.0), rel=2e-3)


def _with_velocity(model, start, velocity, settings):
    from mlipfm_md.ensembles import State
    from mlipfm_md.forces import TeacherForces
    from mlipfm_md.simulation import Run

    forces = TeacherForces(model, [start])
    energy, force = forces(start.positions.copy())
    state = State(start.positions.copy(), velocity.astype(float), force, energy, np.array([12.011]), forces.first)
    run = Run(np.array([1]), state, settings.dt)
    run.record(state)
    for _ in range(settings.steps):
        NVE().step(state, forces, settings.dt, 0)
    run.record(state)
    return run


def test_langevin_samples_the_canonical_distribution_of_an_oscillator():
    """<x^2> = kT/k and <E_kin> = 3/2 kT per atom, within four standard errors over independent atoms."""
    n, temperature, k = 400, 300.0, 0.5
    start = Structure([6] * n, np.arange(3 * n).reshape(n, 3) * 0.0 + np.arange(n)[:, None] * [1e-3, 0, 0])
    settings = Settings(dt=2.0, steps=1200, temperature=temperature, seed=3, every=1200)
    run, frames = simulate_frames(Field(k), start, Langevin(temperature, 0.02), settings)
    x2 = (frames[-1][1] ** 2).mean()
    expected = KB * temperature / k
    standard_error = expected * math.sqrt(2 / (3 * n))
    assert abs(x2 - expected) < 4 * standard_error + 0.02 * expected
    kinetic = run.kinetic[-1][0] / n
    assert kinetic == pytest.approx(1.5 * KB * temperature, rel=4 * math.sqrt(2 / (3 * n)))


def test_first_velocities_have_the_temperature_and_no_drift():
    masses = np.array([12.011, 1.008] * 2000)
    v = maxwell_boltzmann(masses, 500.0, np.random.default_rng(0))
    assert np.abs((masses[:, None] * v).sum(axis=0)).max() < 1e-9
    assert (masses[:, None] * v**2).mean() / ACCELERATION / KB == pytest.approx(500.0, rel=0.05)


def test_noise_depends_on_seed_replica_and_step_only():
    from mlipfm_md.ensembles import State, noise

    def at(step: int, sizes: list[int]) -> np.ndarray:
        n = sum(sizes)
        first = np.concatenate([[0], np.cumsum(sizes)])
        return noise(State(np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 3)), np.zeros(len(sizes)), np.ones(n), first, step), 7)

    assert np.array_equal(at(5, [2, 3])[:2], at(5, [2, 9])[:2])
    assert not np.array_equal(at(5, [2]), at(6, [2]))


def test_nan_forces_stop_the_run_at_the_last_good_state():
    class Poisoned(Field):
        calls = 0

        def evaluate(self, structures, outputs):
            self.calls += 1
            rows = super().evaluate(structures, outputs)
            if self.calls > 20:
                rows[0]["forces"] = rows[0]["forces"] * np.nan
            return rows

    run = simulate(Poisoned(), [Structure([6], [[0.3, 0, 0]])], NVE(), Settings(dt=1.0, steps=100, every=1))
    assert run.status == "unstable"
    assert "not finite" in (run.reason or "")
    assert np.isfinite(run.state.positions).all()
    assert run.state.step == 19


def test_exploding_temperature_is_unstable_not_ok():
    run = simulate(Field(k=-5.0), [Structure([1], [[0.3, 0, 0]])], NVE(), Settings(dt=1.0, steps=5000, every=100))
    assert run.status == "unstable"
    assert "K passed" in (run.reason or "")


def test_atoms_that_fall_together_are_unstable_not_an_error():
    from mlipfm_interfaces.errors import DensityError

    class Collapse(Field):
        def evaluate(self, structures, outputs):
            if abs(structures[0].positions).max() < 0.2:
                raise DensityError("26 atoms are within 0.5 Angstrom")
            return super().evaluate(structures, outputs)

    run = simulate(Collapse(k=2.0), [Structure([6], [[0.3, 0, 0]])], NVE(), Settings(dt=1.0, steps=200, temperature=0))
    assert run.status == "unstable"
    assert "atoms met" in (run.reason or "")


@pytest.mark.parametrize(
    "bad",
    [{"dt": 0.0}, {"dt": -1.0}, {"dt": 20.0}, {"dt": float("nan")}, {"temperature": -1.0}, {"every": 0}, {"skin": -1.0}, {"seed": -1}],
)
def test_absurd_settings_are_refused(bad):
    with pytest.raises(SimulationError, match=r"time step|temperature|every|skin|seed"):
        Settings(**bad)


def test_negative_friction_is_refused():
    with pytest.raises(SimulationError, match="friction must be positive"):
        Langevin(300.0, -0.1)
