"""Bonds of fixed length: kept to the last digits, without work, as ASE keeps them; and files that give them."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixBondLength, FixBondLengths
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_interfaces.units import KB
from mlipfm_md.barostat import NPT
from mlipfm_md.ensembles import NVE, Bussi, Langevin
from mlipfm_md.initial_files import FrameOptions, read_initial_states
from mlipfm_md.initial_state import InitialState
from mlipfm_md.simulation import Settings, simulate

TRIANGLE = np.array([[0, 1], [0, 2], [1, 2]])


def water(shift=0.0, cell=None) -> Structure:
    positions = np.array([[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]) + shift
    return Structure([8, 1, 1], positions, np.zeros((3, 3)) if cell is None else cell, [cell is not None] * 3)


def chain(n: int) -> InitialState:
    """Carbon atoms in a zigzag with all bonds fixed: constraints that share atoms."""
    positions = np.stack([1.25 * np.arange(n), 0.4 * (np.arange(n) % 2), np.zeros(n)], axis=1)
    return InitialState(Structure([6] * n, positions), bonds=np.stack([np.arange(n - 1), np.arange(1, n)], axis=1))


def lengths(start: InitialState, positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[start.bonds[:, 1]] - positions[start.bonds[:, 0]], axis=1)


@pytest.mark.parametrize("ensemble", [NVE(), Langevin(400.0, 0.02), Bussi(400.0, 50.0)], ids=lambda e: type(e).__name__)
def test_bond_lengths_stay_to_ten_digits(ensemble):
    rigid, long = InitialState(water(), bonds=TRIANGLE), chain(7)
    run = simulate(Morse(), [rigid, long], ensemble, Settings(dt=1.0, steps=100, temperature=400, seed=2))
    assert run.status == "ok"
    assert lengths(rigid, run.state.positions[:3]) == pytest.approx(rigid.bond_lengths, rel=1e-10)
    assert lengths(long, run.state.positions[3:]) == pytest.approx(long.bond_lengths, rel=1e-10)
    assert run.state.degrees_of_freedom().tolist() == [6 - 3 + 3 * (not ensemble.keeps_momentum), 21 - 6 - 3 * ensemble.keeps_momentum]


def test_constraints_do_no_work():
    """The energy error at constant energy is of second order in dt, as without them."""

    def spread(dt: float) -> float:
        run = simulate(Morse(), [chain(6)], NVE(), Settings(dt=dt, steps=int(300 / dt), temperature=300, every=1))
        return float(run.total.std())

    assert spread(4.0) / spread(2.0) == pytest.approx(4.0, rel=0.15)


def test_a_rigid_rotor_turns_at_its_frequency():
    """N2 that spins freely: the bond vector comes back after 2 pi r / v."""
    speed = 0.02
    start = InitialState(
        Structure([7, 7], [[-0.55, 0, 0], [0.55, 0, 0]]), np.array([[0, -speed, 0], [0, speed, 0]]), bonds=np.array([[0, 1]])
    )
    period = 2 * np.pi * 0.55 / speed
    run = simulate(_Free(), [start], NVE(), Settings(dt=period / 400, steps=400))
    assert run.state.positions[1] == pytest.approx([0.55, 0, 0], abs=2e-4)
    assert run.state.degrees_of_freedom().tolist() == [2]


class _Free:
    outputs = ("energy", "forces")

    def evaluate(self, structures, outputs):
        return [{"energy": np.array(0.0), "forces": np.zeros((len(s), 3))} for s in structures]


def test_equipartition_holds_for_rigid_molecules():
    """Langevin dynamics of rigid triangles: the kinetic energy is k T / 2 for each of six degrees of freedom, within four standard errors."""
    n = 300
    run = simulate(_Free(), [InitialState(water(), bonds=TRIANGLE)] * n, Langevin(300.0, 0.1), Settings(dt=2.0, steps=30, every=30))
    assert run.kinetic[-1].mean() == pytest.approx(3 * KB * 300, rel=4 * np.sqrt(2 / (6 * n)))


def test_ase_and_the_driver_move_constrained_molecules_alike(tmp_path):
    """Velocity Verlet with FixBondLengths of ASE, from the same file; one bond crosses the boundary of the cell."""
    from ase.md.verlet import VelocityVerlet
    from mlipfm_md import MlipfmCalculator

    atoms = Atoms("OH2", water().positions + [0, 0, 0.3], cell=np.diag([7.0, 8, 9]), pbc=True)
    atoms.set_constraint(FixBondLengths([[0, 1], [0, 2]], tolerance=1e-12))
    rng = np.random.default_rng(2)
    atoms.set_velocities(0.02 * rng.normal(size=(3, 3)))
    atoms.wrap()
    ase.io.write(tmp_path / "start.traj", atoms)
    there = ase.io.read(tmp_path / "start.traj")
    there.constraints[0].tolerance = 1e-12
    there.calc = MlipfmCalculator(Morse())
    VelocityVerlet(there, 0.5 * units.fs).run(40)
    ((start, said),) = read_initial_states(tmp_path / "start.traj")
    run = simulate(Morse(), [start], NVE(), Settings(dt=0.5, steps=40))
    assert "2 bonds of fixed length: 0-1, 0-2 (FixBondLengths)" in said.taken
    assert np.ptp(atoms.positions, axis=0).max() > 5  # the molecule is cut by the boundary
    assert np.abs(run.state.positions - atoms.positions).max() > 0.05
    assert run.state.positions == pytest.approx(there.positions, abs=2e-4)


def test_lengths_that_the_constraint_gives_are_taken(tmp_path):
    atoms = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]])
    constraint = FixBondLength(0, 1)
    constraint.bondlengths = np.array([1.12])
    start = InitialState(Structure([7, 7], atoms.positions), bonds=constraint.pairs, bond_lengths=constraint.bondlengths)
    run = simulate(Morse(), [start], NVE(), Settings(steps=5))
    assert lengths(start, run.state.positions) == pytest.approx([1.12], rel=1e-10)


def test_bonds_of_a_file_can_be_ignored(tmp_path):
    atoms = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], constraint=FixBondLength(0, 1))
    ase.io.write(tmp_path / "start.json", atoms)
    assert read_initial_states(tmp_path / "start.json")[0][0].bonds.tolist() == [[0, 1]]
    ((start, said),) = read_initial_states(tmp_path / "start.json", FrameOptions(free_all=True))
    assert start.bonds is None
    assert "ignored" in said.taken[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bonds": [[0, 3]]}, "must join two of the 3 atoms"),
        ({"bonds": [[1, 1]]}, "must join two of the 3 atoms"),
        ({"bonds": [[0, 1]], "bond_lengths": [2.0]}, "are not those of the structure"),
        ({"bonds": [[0, 1], [0, 1]]}, "depend on each other"),
    ],
)
def test_bonds_that_cannot_be_are_refused(options, said):
    with pytest.raises(SimulationError, match=said):
        simulate(Morse(), [InitialState(water(), **options)], NVE(), Settings(steps=1))


def test_constant_pressure_refuses_bonds_and_fixed_atoms():
    cell = np.diag([9.0, 9, 9])
    for start in (InitialState(water(0.0, cell), bonds=TRIANGLE), InitialState(water(0.0, cell), fixed=np.eye(3, dtype=bool))):
        with pytest.raises(SimulationError, match="do not follow the cell"):
            simulate(Morse(), [start], NPT(300.0), Settings(steps=1))


def test_a_hydrogen_with_a_fixed_bond_allows_a_longer_step():
    with pytest.raises(SimulationError, match=r"too long for H of 1.008 amu.*about 3.0 fs"):
        simulate(Morse(), [water()], NVE(), Settings(dt=4.0, steps=1))
    simulate(Morse(), [InitialState(water(), bonds=TRIANGLE)], NVE(), Settings(dt=4.0, steps=1))
