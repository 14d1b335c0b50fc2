"""Single steps of the dynamics against what their equations give by hand: noise of inner steps, what an exchange exchanges, pressure, momentum."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.units import ACCELERATION, KB
from mlipfm_md._first_velocities import temperatures_of
from mlipfm_md.compiled_forces import CompiledForces
from mlipfm_md.ensembles import NVE, Bussi, Langevin, NoseHoover
from mlipfm_md.exchange import ReplicaExchange
from mlipfm_md.forces import PotentialForces, SplitForces, TeacherForces
from mlipfm_md.initial_state import InitialState, bond_vectors
from mlipfm_md.noise import uniforms
from mlipfm_md.respa import Respa
from mlipfm_md.simulation import Settings, simulate
from mlipfm_md.state import State
from mlipfm_md.uncertainty_gate import UncertaintyGate


class Springs:
    """E = k r² / 2 of every atom about the origin; k = 0: an ideal gas. `inner`: the same, as the cheap model."""

    def __init__(self, systems: int, k: float) -> None:
        self.systems, self.k = systems, k
        self.inner = self

    def __call__(self, positions):
        return 0.5 * self.k * (positions.reshape(self.systems, -1) ** 2).sum(axis=1), -self.k * positions


def gas(systems: int, atoms: int, forces: Springs, *, centre: bool = False) -> State:
    rng = np.random.default_rng(0)
    positions, velocities = rng.normal(size=(2, systems * atoms, 3))
    energies, on_atoms = forces(positions)
    cells, fixed = np.tile(5.0 * np.eye(3), (systems, 1, 1)), np.full((systems, 3), centre)
    first, masses = np.arange(systems + 1) * atoms, np.tile(np.arange(1.0, atoms + 1), systems)
    return State(positions, 0.01 * velocities, on_atoms, energies, masses, first, cells=cells, centre=fixed)


def test_inner_steps_have_the_noise_of_steps_of_their_own():
    """Without forces, 3 large steps of 4 inner ones are 12 steps."""
    forces, states = Springs(1, 0.0), [gas(1, 2, Springs(1, 0.0)) for _ in range(2)]
    for _ in range(3):
        Respa(Langevin(300.0, 0.1), 4).step(states[0], forces, 4.0, 7)
    for _ in range(12):
        Langevin(300.0, 0.1).step(states[1], forces, 1.0, 7)
    assert states[0].velocities == pytest.approx(states[1].velocities, abs=1e-14)


def test_pairs_of_replicas_take_turns():
    """Without forces every exchange is accepted: 1-2 at the first attempt, 0-1 at the second."""
    forces = Springs(3, 0.0)
    state, ensemble = gas(3, 1, forces), ReplicaExchange((100.0, 200.0, 400.0), every=2)
    ensemble.begin(state)
    walkers = []
    for _ in range(4):
        ensemble.step(state, forces, 1.0, 0)
        walkers.append(state.extended["walker"].tolist())
    assert walkers == [[0, 1, 2], [0, 2, 1], [0, 2, 1], [2, 0, 1]]
    assert state.extended["attempted"].tolist() == state.extended["accepted"].tolist() == [1, 1, 0]


def test_an_exchange_takes_energies_and_forces_along_and_scales_velocities_by_the_root_of_the_temperatures():
    forces = Springs(2, 0.5)
    state, ensemble = gas(2, 3, forces), ReplicaExchange((100.0, 400.0))
    ensemble.begin(state)
    before = state.copy()
    ensemble._swap(state, 0)
    energies, on_atoms = forces(state.positions)
    assert state.positions == pytest.approx(np.concatenate([before.positions[3:], before.positions[:3]]))
    assert state.energies == pytest.approx(energies)
    assert state.forces == pytest.approx(on_atoms)
    assert state.velocities == pytest.approx(np.concatenate([before.velocities[3:] / 2, before.velocities[:3] * 2]))


def test_an_exchange_that_brings_the_lower_energy_to_the_colder_replica_is_always_accepted():
    forces = Springs(2, 0.5)
    for hot_is_lower in (True, False):
        state, ensemble = gas(2, 3, forces), ReplicaExchange((100.0, 101.0))
        ensemble.begin(state)
        state.energies = np.array([1e3, 0.0] if hot_is_lower else [0.0, 1e3])
        state.step = 2 * ensemble.every  # the turn of 0-1
        ensemble._exchange(state, 0)
        assert state.extended["accepted"].tolist() == [int(hot_is_lower), 0]


def test_every_replica_keeps_a_bath_and_starts_at_its_own_temperature():
    temperatures = (100.0, 300.0, 900.0)
    assert temperatures_of(ReplicaExchange(temperatures), Settings(temperature=50.0), 3) == list(temperatures)
    assert temperatures_of(Langevin(temperatures), Settings(temperature=50.0), 3) == list(temperatures)
    assert temperatures_of(Langevin(300.0), Settings(temperature=50.0), 3) == [50.0] * 3


def test_uniform_numbers_of_steps_and_replicas_differ():
    drawn = np.array([uniforms(1, "exchange", step, 4) for step in (0, 1, 2**32)])
    assert len(np.unique(drawn)) == drawn.size


def test_pressure_of_an_ideal_gas_is_n_k_t_over_v_and_its_virial_is_taken_off():
    state = gas(2, 4, Springs(2, 0.0))
    state.stress = np.zeros((2, 3, 3))
    expected = 4 * KB * state.temperature() / 125.0
    assert state.pressure() == pytest.approx(expected)
    state.stress = np.tile(-0.1 * np.eye(3), (2, 1, 1))  # compressed
    assert state.pressure() == pytest.approx(expected + 0.1)


@pytest.mark.parametrize("ensemble", [Bussi(300.0, 5.0), NoseHoover(300.0, 5.0)], ids=["bussi", "nose-hoover"])
def test_thermostats_that_scale_velocities_keep_the_momentum(ensemble):
    forces = Springs(2, 0.0)
    state = gas(2, 3, forces, centre=True)
    ensemble.begin(state)
    momentum = state.per_system(state.masses[:, None] * state.velocities)
    for _ in range(20):
        ensemble.step(state, forces, 1.0, 3)
    assert state.per_system(state.masses[:, None] * state.velocities) == pytest.approx(momentum, rel=1e-9)
    assert not np.allclose(state.thermal(), gas(2, 3, forces, centre=True).thermal())


def test_kinetic_energy_of_the_centre_of_mass_is_that_of_its_momentum():
    state = gas(1, 3, Springs(1, 0.0), centre=True)
    momentum = (state.masses[:, None] * state.velocities).sum(axis=0)
    drift = (momentum**2).sum() / (2 * state.masses.sum() * ACCELERATION)
    assert state.kinetic() - state.thermal() == pytest.approx([drift])


def pair(length: float = 1.0) -> Structure:
    return Structure([6, 6], [[0.1, 0, 0], [0.1 + length, 0, 0]])


def test_a_bond_across_the_boundary_of_a_skewed_cell_joins_the_nearest_images():
    """The nearest image lies on the side of negative multiples of the reduced vectors too."""
    rng = np.random.default_rng(0)
    cell = np.array([[6.0, 0, 0], [2.9, 6, 0], [-2.9, 2.9, 6]])
    for _ in range(50):
        s = Structure([6, 6], rng.random((2, 3)) @ cell, cell, [True] * 3)
        vector, shift = (part[0] for part in bond_vectors(s, np.array([[0, 1]])))
        shifts = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
        images = s.positions[1] - s.positions[0] + shifts
        assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(images, axis=1).min())
        assert s.positions[1] + shift - s.positions[0] == pytest.approx(vector)


class ByCell:
    """A teacher whose energy is the volume of the cell."""

    uri, outputs = "test:cell", ("energy", "forces", "stress")

    def evaluate(self, structures, outputs):
        return [{"energy": abs(np.linalg.det(s.cell)), "forces": np.zeros((len(s), 3)), "stress": np.eye(3)} for s in structures]


def test_a_foreign_model_is_asked_in_the_cells_of_the_state():
    s = Structure([6], [[0.0, 0, 0]], 3.0 * np.eye(3), [True] * 3)
    energies, _, _ = TeacherForces(ByCell(), [s, s]).with_stress(np.zeros((2, 3)), np.stack([4.0 * np.eye(3), 5.0 * np.eye(3)]))
    assert energies == pytest.approx([64.0, 125.0])


def test_both_models_of_multiple_time_steps_get_their_neighbours_back():
    outer, inner = (PotentialForces(Morse(), [pair()], reference=np.full((2, 3), at) + np.eye(2, 3)) for at in (0.0, 0.1))
    memory = SplitForces(outer, inner).memory()
    assert memory["reference"] == pytest.approx(outer.moving.reference)
    assert memory["inner_reference"] == pytest.approx(inner.moving.reference)
    assert not np.allclose(memory["reference"], memory["inner_reference"])


def test_bonds_of_fixed_length_are_kept_by_python():
    forces, state = Springs(1, 0.0), gas(1, 2, Springs(1, 0.0))
    assert forces.k == 0
    assert CompiledForces.can_advance(SimpleNamespace(), state, NVE())  # type: ignore[arg-type]  # nothing of it is read
    state.bonds = object()  # type: ignore[assignment]
    assert not CompiledForces.can_advance(SimpleNamespace(), state, NVE())  # type: ignore[arg-type]
    assert not CompiledForces.can_advance(SimpleNamespace(), gas(1, 2, forces), Respa())  # type: ignore[arg-type]


def test_a_structure_is_as_uncertain_as_its_worst_atom():
    s = pair()
    seen = SimpleNamespace(atom_sigma=np.array([0.1, 0.9]))
    uncertainty = SimpleNamespace(quantities=("energy", "forces"), predict=lambda model, structures: [seen for _ in structures])
    gate = UncertaintyGate(Morse(), uncertainty, stop_above=0.5)  # type: ignore[arg-type]
    sigma = gate.sigma([s], gas(1, 2, Springs(1, 0.0)))
    assert sigma == pytest.approx([0.9])
    assert "uncertain by 0.9" in str(gate.reason(sigma, 3))


def test_velocities_of_rigid_bonds_follow_the_way_that_the_atoms_went():
    """v = (x(t + dt) - x(t)) / dt plus the half kicks: without forces a rotor keeps its energy to the second order."""
    start = InitialState(pair(), velocities=np.array([[0, 0.02, 0], [0, -0.02, 0.0]]), bonds=np.array([[0, 1]]))
    run = simulate(Morse(), [start], NVE(), Settings(dt=1.0, steps=50, every=1))
    assert np.ptp([k[0] for k in run.kinetic]) < 1e-4 * run.kinetic[0][0]
