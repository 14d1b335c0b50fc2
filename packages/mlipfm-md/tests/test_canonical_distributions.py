"""Ensembles by the distributions that they must sample, in systems with closed forms; wrong versions of each are noticed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from mlipfm_interfaces.units import ACCELERATION, KB
from mlipfm_md import ensembles
from mlipfm_md.barostat import NPT
from mlipfm_md.ensembles import NVE, Bussi, Langevin, NoseHoover
from mlipfm_md.exchange import ReplicaExchange
from mlipfm_md.noise import normals
from mlipfm_md.state import State
from scipy import stats

T, MASS = 300.0, 39.948
KT = KB * T
THERMAL = KT * ACCELERATION / MASS  # k T / m in Å²/fs²

#: A right distribution has such a p value once in 2,000 seeds, a wrong one here always a smaller one.
LEAST_P = 5e-4


class Gas:
    """No forces: an ideal gas."""

    def __init__(self, systems: int) -> None:
        self.systems = systems

    def __call__(self, positions):
        return np.zeros(self.systems), np.zeros_like(positions)

    def with_stress(self, positions, cells):
        return *self(positions), np.zeros((self.systems, 3, 3))


class Network(Gas):
    """E = 1/4 sum k_ij (r_i - r_j)²: four atoms that springs of no length join; U/kT is Gamma(9/2), the Laplacian of U is 6 sum_i<j k_ij."""

    k = np.array([[0, 0.2, 0.5, 0.3], [0.2, 0, 0.9, 0.4], [0.5, 0.9, 0, 0.7], [0.3, 0.4, 0.7, 0]])

    def __call__(self, positions):
        r = positions.reshape(self.systems, 4, 3)
        forces = self.k @ r - self.k.sum(axis=1)[:, None] * r
        return -0.5 * (forces * r).sum(axis=(1, 2)), forces.reshape(-1, 3)


class SpringCell(Gas):
    """E = k/2 (a² + b² + c²) of the lattice vectors: one atom is bound to its own images, others are free. For two atoms the density of cells is
    exp(-E/kT), so that 2E/kT is chi-squared with 9 degrees of freedom: nine normal components, or one length with the same weight."""

    k = KT / 30

    def with_stress(self, positions, cells):
        volume = np.linalg.det(cells)[:, None, None]
        return 0.5 * self.k * (cells**2).sum(axis=(1, 2)), np.zeros_like(positions), self.k * cells.transpose(0, 2, 1) @ cells / volume


def sample(ensemble, forces, atoms, dt, steps, every, skip=0, length=10.0):
    """Thermal, potential and conserved energies (eV), volumes (Å³) and temperatures of configurations, [instants, systems].

    Equal systems of argon in cubes start with all atoms in one place and with velocities at T.
    """
    systems, rng = forces.systems, np.random.default_rng(0)
    velocities = rng.standard_normal((systems, atoms, 3)) * np.sqrt(THERMAL)
    velocities -= velocities.mean(axis=1, keepdims=True) * (ensemble.keeps_momentum and atoms > 1)
    centre = np.full((systems, 3), ensemble.keeps_momentum and atoms > 1)
    state = State(
        rng.standard_normal((systems * atoms, 3)) * 0.1, velocities.reshape(-1, 3), np.zeros((systems * atoms, 3)), np.zeros(systems),
        np.full(systems * atoms, MASS), np.arange(systems + 1) * atoms, cells=np.tile(np.eye(3) * length, (systems, 1, 1)), centre=centre,
    )  # fmt: skip
    if ensemble.changes_cell:
        state.energies, state.forces, state.stress = forces.with_stress(state.positions, state.cells)
    else:
        state.energies, state.forces = forces(state.positions)
    ensemble.begin(state)
    found = {name: [] for name in ("kinetic", "potential", "conserved", "volume", "gradient²")}
    for step in range(1, skip + steps + 1):
        ensemble.step(state, forces, dt, 7)
        if step > skip and step % every == 0:
            values = (
                state.thermal(),
                state.energies,
                ensemble.conserved(state),
                state.volume(),
                state.per_system((state.forces**2).sum(axis=1)),
            )
            for name, value in zip(found, values, strict=True):
                found[name].append(value.copy())
    return {name: np.array(values) for name, values in found.items()}


def p_of(values, distribution) -> float:
    """p value of the Kolmogorov-Smirnov test."""
    return float(stats.kstest(np.ravel(values), distribution.cdf).pvalue)


def kinetic_p(ensemble, free: int, **options) -> float:
    """Of the kinetic energies of an ideal gas of four atoms, which are Gamma(f/2) in kT."""
    chosen = {"dt": 2.0, "steps": 480, "every": 60, "skip": 120} | options
    return p_of(sample(ensemble, Gas(60), 4, **chosen)["kinetic"] / KT, stats.gamma(free / 2))


def test_kinetic_energies_of_a_gas_are_canonical():
    assert kinetic_p(Bussi(T, 20.0), 9) > LEAST_P
    assert kinetic_p(Langevin(T, 0.05), 12) > LEAST_P


@pytest.mark.parametrize(
    "ensemble",
    [
        pytest.param(NoseHoover(T, 30.0), marks=pytest.mark.ci, id="three"),
        pytest.param(NoseHoover(T, 30.0, chain=5), marks=pytest.mark.full, id="five"),
    ],
)
def test_nose_hoover_chains_sample_kinetic_and_potential_energies_of_springs(ensemble):
    """Kinetic temperature, potential energies as Gamma(9/2), and the temperature of configurations <grad U²>/<lap U>."""
    found = sample(ensemble, Network(100), 4, dt=2.0, steps=4000, every=400, skip=2000)
    assert p_of(found["kinetic"] / KT, stats.gamma(4.5)) > LEAST_P
    assert p_of(found["potential"] / KT, stats.gamma(4.5)) > LEAST_P
    laplacian = 3 * Network.k.sum()
    assert found["gradient²"].mean() / laplacian == pytest.approx(KT, rel=4 * np.sqrt(2 / (9 * found["kinetic"].size)))
    assert np.ptp(found["conserved"], axis=0).max() < 0.02 * KT


@pytest.mark.parametrize("ensemble", [Bussi(T, 30.0), Langevin(T, 0.02)], ids=["bussi", "langevin"])
def test_thermostats_sample_potential_energies_of_springs(ensemble):
    free = 4.5
    found = sample(ensemble, Network(40), 4, dt=2.0, steps=800, every=100, skip=400)
    assert p_of(found["potential"] / KT, stats.gamma(free)) > LEAST_P


def test_the_energy_that_bussi_conserves_is_as_constant_as_that_of_verlet():
    """The thermostat is exact, so what remains is the error of velocity Verlet."""
    verlet = sample(NVE(), Network(10), 4, dt=2.0, steps=300, every=1)["conserved"]
    bussi = sample(Bussi(T, 50.0), Network(10), 4, dt=2.0, steps=300, every=1)["conserved"]
    assert bussi.std(axis=0).mean() < 3 * verlet.std(axis=0).mean() < 0.02 * KT


@dataclass(frozen=True)
class BussiOfAllAxes(Bussi):
    """Counts the centre of mass, which the scaling does not move."""

    def _drawn(self, kinetic, state, dt, seed):
        return super()._drawn(kinetic, replace(state, centre=np.zeros_like(state.centre)), dt, seed)


@dataclass(frozen=True)
class Berendsen(Bussi):
    """The mean alone, without fluctuation."""

    def _drawn(self, kinetic, state, dt, seed):
        keep = np.exp(-dt / self.relaxation_time)
        return keep * kinetic + (1 - keep) * state.degrees_of_freedom() * KT / 2


@pytest.mark.parametrize("wrong", [BussiOfAllAxes(T, 20.0), Berendsen(T, 20.0)], ids=lambda e: type(e).__name__)
def test_wrong_velocity_rescaling_is_noticed(wrong):
    assert kinetic_p(wrong, 9) < LEAST_P


def test_noise_of_the_first_order_is_noticed(monkeypatch):
    """sqrt(2 gamma dt) instead of sqrt(1 - exp(-2 gamma dt)): too hot at a friction of 0.2/fs and 2 fs."""
    assert kinetic_p(Langevin(T, 0.2), 12, steps=240) > LEAST_P

    def wrong(state, exponent, temperature, seed):
        state.velocities *= np.exp(-exponent)
        state.velocities += np.sqrt(2 * exponent * THERMAL) * ensembles.noise(state, seed)

    monkeypatch.setattr(ensembles, "friction_and_noise", wrong)
    assert kinetic_p(Langevin(T, 0.2), 12, steps=240) < LEAST_P


def memory(friction: float) -> float:
    """Correlation of velocities with those 40 fs before, in a gas with a friction of 0.02/fs: exp(-0.8)."""
    gas, ensemble, rng = Gas(1), Langevin(T, friction), np.random.default_rng(1)
    n = 4000
    v = rng.standard_normal((n, 3)) * np.sqrt(THERMAL)
    state = State(np.zeros((n, 3)), v.copy(), np.zeros((n, 3)), np.zeros(1), np.full(n, MASS), np.array([0, n]))
    for _ in range(20):
        ensemble.step(state, gas, 2.0, 3)
    return float((v * state.velocities).mean() / THERMAL)


def test_friction_that_is_halved_is_noticed():
    error = 4 / np.sqrt(12000)
    assert memory(0.02) == pytest.approx(np.exp(-0.8), abs=error)
    assert memory(0.01) != pytest.approx(np.exp(-0.8), abs=error)


def replica_correlation() -> float:
    """Of the velocities of two gases that start alike and at rest."""
    state = State(
        np.zeros((2000, 3)), np.zeros((2000, 3)), np.zeros((2000, 3)), np.zeros(2), np.full(2000, MASS), np.array([0, 1000, 2000])
    )
    for _ in range(5):
        Langevin(T, 0.05).step(state, Gas(2), 2.0, 3)
    one, two = np.split(state.velocities.ravel(), 2)
    return float(np.corrcoef(one, two)[0, 1])


def test_one_noise_for_all_replicas_is_noticed(monkeypatch):
    assert abs(replica_correlation()) < 5 / np.sqrt(3000)
    monkeypatch.setattr(
        ensembles, "normals", lambda seed, name, step, counts: np.concatenate([normals(seed, name, step, [n]) for n in counts])
    )
    assert abs(replica_correlation()) > 0.99


def volumes(ensemble, systems=40, steps=800):
    """P V / kT of an ideal gas of two atoms, which is Gamma(N + 1)."""
    found = sample(ensemble, Gas(systems), 2, dt=5.0, steps=steps, every=50, skip=100, length=11.0)
    return found["volume"] * ensemble.pressure / KT


def cell_p(full: bool, systems=40, steps=800) -> float:
    """Of the energies of a cell of springs."""
    found = sample(NPT(T, 0.0, 0.02, 60.0, full), SpringCell(systems), 2, dt=5.0, steps=steps, every=50, skip=100, length=7.0)
    return p_of(2 * found["potential"] / KT, stats.chi2(9))


GAS = NPT(T, 2 * KT / 1000, 0.02, 60.0)


@dataclass(frozen=True)
class WithoutJacobian(NPT):
    """Without the term sum(p²/m)/n: the density of volumes has V^(N-1)."""

    def _kick_cell(self, state, dt):
        super()._kick_cell(state, dt)
        share = 2 * state.kinetic() / (3 * state.n_atoms) * dt / self._mass(state)
        state.extended["cell_velocity"] = state.extended["cell_velocity"] - share[:, None, None] * np.eye(3)


@pytest.mark.ci
def test_volumes_of_an_ideal_gas_have_the_density_of_constant_pressure():
    assert p_of(volumes(GAS), stats.gamma(3)) > LEAST_P
    wrong = volumes(WithoutJacobian(T, 2 * KT / 1000, 0.02, 60.0))
    assert p_of(wrong, stats.gamma(3)) < LEAST_P
    assert p_of(wrong, stats.gamma(2)) > LEAST_P  # and exactly so wrong


@pytest.mark.ci
@pytest.mark.parametrize("full", [False, True], ids=["isotropic", "full"])
def test_cells_of_a_spring_crystal_have_the_density_of_constant_pressure(full):
    assert cell_p(full) > LEAST_P


@pytest.mark.full
@pytest.mark.parametrize("full", [False, True], ids=["isotropic", "full"])
def test_volumes_and_cells_have_the_density_of_constant_pressure_in_large_samples(full):
    """6,000 volumes and as many cells: a mean that is wrong by 2 % is noticed. A gas has no shape: its full cells are followed for 2 ps only."""
    assert p_of(volumes(replace(GAS, full=full), systems=200, steps=400 if full else 1500), stats.gamma(3)) > LEAST_P
    assert cell_p(full, systems=200, steps=1500) > LEAST_P


@pytest.mark.full
@pytest.mark.parametrize(("ensemble", "free"), [(Bussi(T, 20.0), 9), (Langevin(T, 0.05), 12)], ids=["bussi", "langevin"])
def test_energies_are_canonical_in_large_samples(ensemble, free):
    """10,000 kinetic and potential energies."""
    found = sample(ensemble, Network(200), 4, dt=2.0, steps=5000, every=100, skip=400)
    assert p_of(found["kinetic"] / KT, stats.gamma(free / 2)) > LEAST_P
    assert p_of(found["potential"] / KT, stats.gamma(4.5)) > LEAST_P


def test_the_enthalpy_with_the_baths_heat_is_conserved_to_second_order():
    """Halving dt divides the spread by about four; the noise of different steps is not the same."""

    def spread(dt: float) -> float:
        found = sample(NPT(T, 0.0, 0.001, 300.0, full=True), SpringCell(4), 2, dt=dt, steps=int(400 / dt), every=1, length=7.0)
        return float(found["conserved"].std(axis=0).mean())

    assert 3 < spread(8.0) / spread(4.0) < 6


def test_the_enthalpy_of_a_gas_holds_the_work_against_the_pressure():
    """P V wanders by kT, the enthalpy with the heat of the baths by a hundredth of that."""
    ensemble = NPT(T, 2 * KT / 1000, 0.001, 300.0)
    found = sample(ensemble, Gas(4), 2, dt=2.0, steps=400, every=4, length=11.0)
    assert np.ptp(ensemble.pressure * found["volume"], axis=0).min() > 0.1 * KT
    assert np.ptp(found["conserved"], axis=0).max() < 0.01 * KT


def test_systems_have_the_temperatures_that_they_were_given():
    """Three temperatures in one batch, by each thermostat."""
    kelvin = (100.0, 300.0, 900.0)
    for ensemble in (Langevin(kelvin, 0.05), Bussi(kelvin, 10.0)):
        n, rng = 400, np.random.default_rng(2)
        v = rng.standard_normal((3 * n, 3)) * np.sqrt(THERMAL)
        state = State(np.zeros((3 * n, 3)), v, np.zeros((3 * n, 3)), np.zeros(3), np.full(3 * n, MASS), np.arange(4) * n)
        ensemble.begin(state)
        for _ in range(60):
            ensemble.step(state, Gas(3), 2.0, 3)
        assert state.temperature() == pytest.approx(np.array(kelvin), rel=4 * np.sqrt(2 / (3 * n)))


@pytest.mark.ci
def test_replica_exchange_keeps_the_distribution_of_every_temperature():
    """Potential energies of springs at 100, 200 and 400 K; the acceptance rate is that of the overlap of their densities."""
    kelvin = (100.0, 200.0, 400.0)
    ensemble = ReplicaExchange(kelvin, every=5, friction=0.05)
    rng, forces = np.random.default_rng(3), Network(3)
    state = State(rng.standard_normal((12, 3)), np.zeros((12, 3)), np.zeros((12, 3)), np.zeros(3), np.full(12, MASS), np.arange(4) * 4)
    state.energies, state.forces = forces(state.positions)
    ensemble.begin(state)
    found = []
    for step in range(6000):
        ensemble.step(state, forces, 4.0, 5)
        if step % 50 == 49:
            found.append(state.energies.copy())
    for k, t in enumerate(kelvin):
        assert p_of(np.array(found)[:, k] / (KB * t), stats.gamma(4.5)) > LEAST_P
    a, b = stats.gamma(4.5).rvs((2, 100_000), random_state=4)
    expected = np.minimum(1, np.exp((1 - 0.5) * (a - 2 * b))).mean()  # of neighbours whose temperatures differ by a factor of two
    rate = state.extended["accepted"][:2] / state.extended["attempted"][:2]
    assert rate == pytest.approx(expected, abs=0.08)
    assert sorted(state.extended["walker"].tolist()) == [0, 1, 2]
