"""Degrees of freedom: what the temperature counts, and that drawn velocities have the asked temperature by that count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mlipfm_interfaces.elements import MASSES
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import ACCELERATION, KB
from mlipfm_md.ensembles import NVE, Langevin
from mlipfm_md.initial_state import InitialState
from mlipfm_md.simulation import Settings, simulate

N2 = Structure([7, 7], [[0, 0, 0], [0, 0, 1.1]])
WATER = Structure([8, 1, 1], [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])
ATOM = Structure([18], [[0, 0, 0]])
HELD = Structure([29] * 3, np.eye(3) * 3, labels={"fixed": [1.0, 0.0, 0.0]})
IN_A_PLANE = InitialState(N2, fixed=np.tile([False, False, True], (2, 1)))
HALF_HELD = InitialState(N2, fixed=np.array([[False, False, True], [False, False, False]]))


class Free:
    """No forces."""

    outputs = ("energy", "forces")

    def evaluate(self, structures, outputs):
        return [{"energy": np.array(0.0), "forces": np.zeros((len(s), 3))} for s in structures]


@pytest.mark.parametrize(
    ("start", "constant_energy", "langevin"),
    [(N2, 3, 6), (WATER, 6, 9), (ATOM, 3, 3), (HELD, 6, 6), (IN_A_PLANE, 2, 4), (HALF_HELD, 3, 5)],
    ids=["N2", "water", "one atom", "one of three atoms fixed", "two atoms in a plane", "one atom in a plane"],
)
def test_degrees_of_freedom_and_the_mean_temperature_of_drawn_velocities(start, constant_energy, langevin):
    """Over n draws the mean of T has the standard error T sqrt(2 / (f n)) (a chi-squared variable with f degrees of freedom)."""
    n = 600
    for ensemble, expected in ((NVE(), constant_energy), (Langevin(300.0), langevin)):
        run = simulate(Free(), [start] * n, ensemble, Settings(dt=0.5, steps=1, every=1, temperature=300.0))
        assert set(run.state.degrees_of_freedom().tolist()) == {expected}
        for temperatures in run.temperature:
            assert temperatures.mean() == pytest.approx(300.0, abs=4 * 300 * math.sqrt(2 / (expected * n)))


def test_langevin_keeps_the_temperature_of_a_diatomic_molecule():
    """The thermostat feeds the centre of mass: after many relaxation times T is still that of the bath by the same count."""
    run = simulate(Free(), [N2] * 300, Langevin(300.0, 0.2), Settings(dt=2.0, steps=15, every=15))
    assert run.temperature[-1].mean() == pytest.approx(300.0, abs=4 * 300 * math.sqrt(2 / (6 * 300)))


def test_motion_of_the_centre_of_mass_is_no_heat_at_constant_energy():
    velocities = np.full((2, 3), 0.01)
    drifting = simulate(Free(), [InitialState(N2, velocities)], NVE(), Settings(steps=0))
    assert drifting.temperature[0][0] == pytest.approx(0.0, abs=1e-9)
    assert drifting.kinetic[0][0] == pytest.approx(0.5 * 2 * MASSES[7] * 3e-4 / ACCELERATION)
    coupled = simulate(Free(), [InitialState(N2, velocities)], Langevin(300.0), Settings(steps=0))
    assert coupled.temperature[0][0] == pytest.approx(2 * drifting.kinetic[0][0] / (6 * KB))


def test_drawn_velocities_have_no_drift_at_constant_energy_along_axes_where_nothing_is_fixed():
    for start in (N2, IN_A_PLANE):
        v = simulate(Free(), [start], NVE(), Settings(steps=0)).state.velocities
        assert v.sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-15)
    v = simulate(Free(), [HALF_HELD], NVE(), Settings(steps=0)).state.velocities
    assert v.sum(axis=0)[:2] == pytest.approx(np.zeros(2), abs=1e-15)
    assert v[0, 2] == 0
    assert v[1, 2] != 0


def test_rotation_is_heat():
    """N2 that spins about x with the velocity v of each atom: E = m v², T = 2 E / (3 k)."""
    velocities = np.array([[0, 0.005, 0], [0, -0.005, 0]])
    run = simulate(Free(), [InitialState(N2, velocities)], NVE(), Settings(steps=0))
    assert run.temperature[0][0] == pytest.approx(2 * MASSES[7] * 0.005**2 / ACCELERATION / (3 * KB))
