"""Observables and properties in cases that are computed by hand: few frames, one atom, one mode."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.units import KB
from mlipfm_md.crystal_elasticity import equation_of_state
from mlipfm_md.crystal_phonons import _forces
from mlipfm_md.harmonic_vibrations import thermochemistry, vibrations
from mlipfm_md.observables import TrajectoryData, heat_capacity, mean_square_displacement, radial_distribution
from mlipfm_md.observables.estimates import Blocks, jackknife_error, time_blocks_of
from mlipfm_md.observables.spectra import _segments


def test_each_frame_of_g_is_normalised_by_its_own_volume():
    """One pair at 1.55 Å in cells of 5 and 8 Å: counts of 1 in the bin from 1.5 to 1.6 Å, times V / shell, averaged."""
    positions = np.array([[[0, 0, 0], [1.55, 0, 0]]] * 2, dtype=float)
    cells = np.stack([5.0 * np.eye(3), 8.0 * np.eye(3)])
    data = TrajectoryData(np.arange(2.0), np.array([1, 8]), positions, cells, np.ones(3, dtype=bool))
    g = radial_distribution(data, "H", "O", r_max=2.0, bins=20)
    shell = 4 / 3 * np.pi * (1.6**3 - 1.5**3)
    assert g.values[15] == pytest.approx((125 + 512) / 2 / shell)
    uneven = TrajectoryData(np.arange(2.0), np.array([1, 8]), positions * 1.0, cells, np.ones(3, dtype=bool))
    uneven.positions[1, 1, 0] = 1.05
    g = radial_distribution(uneven, "H", "O", r_max=2.0, bins=20)
    assert g.values[15] == pytest.approx(125 / 2 / shell)


def test_the_centre_of_mass_is_weighted_by_the_masses():
    """A heavy atom at rest and a light one that moves: the centre moves by the light one's share of the mass."""
    positions = np.zeros((40, 2, 3))
    positions[:, 1, 0] = 0.1 * np.arange(40)
    data = TrajectoryData(np.arange(40.0), np.array([92, 1]), positions)
    share = MASSES[1] / (MASSES[1] + MASSES[92])
    msd = mean_square_displacement(data, longest=4.0)
    assert msd.centre_of_mass == pytest.approx((share * 0.1 * msd.lags) ** 2)
    removed = mean_square_displacement(data, "U", longest=4.0, remove_centre_of_mass=True)
    assert removed.values == pytest.approx((share * 0.1 * msd.lags) ** 2)


def test_power_of_a_constant_signal_is_its_square():
    """The integral of the one-sided power is the mean square, that at zero included."""
    data = TrajectoryData(np.arange(4000.0), np.array([1]), np.zeros((4000, 1, 3)))
    power, grid, _ = _segments(np.full((4000, 1, 3), 2.0), data, 60.0)
    assert power.sum(axis=(1, 2)) * grid[1] == pytest.approx(np.full(len(power), 3 * 4.0))


def test_heat_capacity_at_constant_pressure_is_of_the_fluctuations_of_the_enthalpy():
    rng, frames = np.random.default_rng(0), 200
    lengths = 10 + 0.05 * rng.standard_normal(frames)
    velocities = 0.01 * rng.standard_normal((frames, 2, 3))
    cells = lengths[:, None, None] * np.eye(3)
    data = TrajectoryData(
        np.arange(frames) * 1.0, np.array([18, 18]), np.zeros((frames, 2, 3)) + [[[0, 0, 0], [3, 0, 0]]], cells, np.ones(3, dtype=bool),
        velocities=velocities, energies=rng.standard_normal(frames), ensemble="npt", pressure=0.02,
    )  # fmt: skip
    enthalpy = data.energies + data.kinetic + 0.02 * lengths**3
    expected = enthalpy.var() / (KB * data.temperatures.mean() ** 2) * units._e * units._Nav
    assert heat_capacity(data).value == pytest.approx(expected, rel=1e-6)


def test_errors_of_five_means_by_hand():
    """The jackknife of a mean is the standard error; blocks of one correlation time are widened by the root of two."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 5.0])
    left_out = (values.sum() - values) / 4
    assert jackknife_error(left_out) == pytest.approx(values.std(ddof=1) / np.sqrt(5))
    assert Blocks(np.array([0, 4, 8]), 2.0).widening == pytest.approx(np.sqrt(2))
    assert Blocks(np.array([0, 4, 8]), 0.0).widening == 1.0


def test_blocks_are_two_correlation_times_long():
    """An autoregressive series of tau = (1 + phi) / (1 - phi) / 2 = 9.5 frames; a correlation time is two of them."""
    rng, phi, x = np.random.default_rng(0), 0.9, np.zeros(600)
    for k in range(1, len(x)):
        x[k] = phi * x[k - 1] + rng.standard_normal()
    blocks = time_blocks_of(x)
    assert blocks is not None
    assert blocks.sizes.mean() >= 4 * blocks.correlation_time * 0.98
    assert blocks.correlation_time > 4


def test_the_best_cell_of_an_equation_of_state_has_the_volume_of_the_minimum():
    atoms = bulk("Ar", "fcc", 5.3)
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=8.0, smooth=True)
    found = equation_of_state(atoms, strain=0.05, points=7)
    assert found.atoms.get_volume() == pytest.approx(found.volume)
    assert abs(found.volume / atoms.get_volume() - 1) > 0.01


def test_an_electron_spin_adds_its_entropy():
    """k ln(2 S + 1): k ln 3 of a triplet over a singlet."""
    found = []
    for multiplicity in (1, 3):
        atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], calculator=MorsePotential(epsilon=9.0, r0=1.1, rho0=2.5, rcut1=8.0, rcut2=9.0))
        atoms.info["spin"] = multiplicity
        found.append(thermochemistry(atoms, vibrations(atoms))["entropy"])
    assert found[1] - found[0] == pytest.approx(units.kB * np.log(3))


class OfCharge(Calculator):
    """Forces that are the charge of the system."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.full((len(atoms), 3), float(atoms.info.get("charge", 0)))}


def test_supercells_of_phonons_have_the_charge_of_the_cell():
    atoms = bulk("Cu")
    atoms.info["charge"], atoms.calc = 2, OfCharge()
    phonopy = pytest.importorskip("phonopy.structure.atoms")
    cell = phonopy.PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions())
    assert (_forces(atoms, [cell], None) == 2).all()
