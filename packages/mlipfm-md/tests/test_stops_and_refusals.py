"""Simulations that go wrong stop within a step at the last good state; settings that cannot work are refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import PropertyNotAvailableError, SimulationError, UnitError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_interfaces.uncertainty import Uncertain
from mlipfm_interfaces.units import BAR, GPA
from mlipfm_md._chosen_ensemble import chosen_ensemble, temperatures
from mlipfm_md.barostat import NPT, pressure_with_unit
from mlipfm_md.ensembles import NVE, Bussi, Langevin, NoseHoover
from mlipfm_md.exchange import ReplicaExchange
from mlipfm_md.respa import Respa
from mlipfm_md.simulation import Settings, simulate
from mlipfm_md.trajectory import LAST_GOOD
from mlipfm_md.uncertainty_gate import UncertaintyGate

CUBE = Structure([18] * 4, 5.4 * np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]), 5.4 * np.eye(3), [True] * 3)
ATOM = Structure([18], [[0.0, 0, 0]])


class Pressed:
    """No forces, and a stress: minus the pressure, eV/Å³, in all directions."""

    outputs = ("energy", "forces", "stress")

    def __init__(self, pressure: float) -> None:
        self.pressure = pressure

    def evaluate(self, structures, outputs):
        return [{"energy": np.array(0.0), "forces": np.zeros((len(s), 3)), "stress": -self.pressure * np.eye(3)} for s in structures]


@pytest.mark.parametrize(("pressure", "word"), [(0.05, "burst"), (-0.05, "collapsed")])
@pytest.mark.parametrize("full", [False, True], ids=["isotropic", "full"])
def test_a_cell_that_grows_or_shrinks_without_bound_stops_the_run(tmp_path, pressure, word, full):
    run = simulate(Pressed(pressure), [CUBE], NPT(300.0, 0.0, 0.01, 500.0, full), Settings(dt=5.0, steps=4000), out=tmp_path)
    assert run.status == "unstable"
    assert word in (run.reason or "")
    ratio = run.state.volume()[0] / 5.4**3
    assert 0.25 <= ratio <= 4
    assert str(run.state.step + 1) in (run.reason or "")
    assert (tmp_path / LAST_GOOD).exists()


def test_a_cell_without_a_shape_stops_the_run():
    """A gas resists no shear, so that its full cell loses its shape at constant volume on average."""
    run = simulate(Pressed(0.0), [CUBE], NPT(300.0, 2e-4, 0.01, 50.0, full=True), Settings(dt=5.0, steps=2000, max_expansion=3.0))
    assert run.status == "unstable"
    assert "lost its shape" in (run.reason or "") or "times that of the start" in (run.reason or "")
    stretches = np.linalg.svd(np.linalg.solve(CUBE.cell, run.state.cells[0]), compute_uv=False)
    assert stretches[0] < 3.0 * stretches[2]


def test_stress_that_is_no_number_stops_the_run():
    class Poisoned(Pressed):
        calls = 0

        def evaluate(self, structures, outputs):
            self.calls += 1
            return [row | {"stress": row["stress"] * (np.nan if self.calls > 6 else 1)} for row in super().evaluate(structures, outputs)]

    run = simulate(Poisoned(0.0), [CUBE], NPT(300.0), Settings(dt=1.0, steps=100))
    assert (run.status, run.state.step) == ("unstable", 5)
    assert np.isfinite(run.state.stress).all()


def test_the_last_good_state_has_the_thermostat_of_its_step():
    """A run that stops at an explosion leaves what a run of fewer steps leaves."""

    class Later(Pressed):
        calls = 0

        def evaluate(self, structures, outputs):
            self.calls += 1
            return [row | {"energy": row["energy"] * (np.nan if self.calls > 11 else 1)} for row in super().evaluate(structures, outputs)]

    broken = simulate(Later(0.0), [CUBE], NoseHoover(300.0, 20.0), Settings(dt=1.0, steps=50)).state
    short = simulate(Pressed(0.0), [CUBE], NoseHoover(300.0, 20.0), Settings(dt=1.0, steps=10)).state
    assert np.array_equal(broken.extended["chain_velocity"], short.extended["chain_velocity"])
    assert np.array_equal(broken.velocities, short.velocities)


REFUSED = [
    (lambda: simulate(Pressed(0.0), [ATOM], NPT(300.0), Settings()), "needs three periodic directions; structure 0 is open along a, b, c"),
    (
        lambda: simulate(Pressed(0.0), [CUBE], NPT(300.0, relaxation_time=5.0), Settings(dt=1.0)),
        "barostat, 5 fs, must be at least 10 time steps",
    ),
    (lambda: simulate(Pressed(0.0), [CUBE], Bussi(300.0, 1.0), Settings(dt=1.0)), "thermostat, 1 fs, must be at least 2 time steps"),
    (lambda: simulate(Pressed(0.0), [CUBE], NoseHoover(300.0, -1.0), Settings()), "must be above 0"),
    (lambda: simulate(Pressed(0.0), [CUBE] * 2, Langevin((300.0, 400.0, 500.0)), Settings()), "3 temperatures were given for 2 systems"),
    (lambda: simulate(Pressed(0.0), [CUBE], Bussi(300.0), Settings(temperature=0.0)), "at rest: scaling"),
    (lambda: simulate(Pressed(0.0), [CUBE], NVE(), Settings(), inner=Pressed(0.0)), "used by multiple time stepping alone"),
    (lambda: simulate(Pressed(0.0), [CUBE], Respa(), Settings()), "needs a second model"),
    (lambda: simulate(Pressed(0.0), [CUBE] * 3, ReplicaExchange((300.0, 400.0)), Settings()), "3 systems for 2 temperatures"),
    (lambda: simulate(Pressed(0.0), [CUBE, ATOM], ReplicaExchange((300.0, 400.0)), Settings()), "must be copies of one system"),
    (lambda: Respa(NPT(300.0)), "keeps the cell"),
    (lambda: Respa(NVE(), 0), "1 to 100 inner steps"),
    (lambda: ReplicaExchange((400.0, 300.0)), "ascending order"),
    (lambda: ReplicaExchange((300.0, 400.0), every=0), "every 1 or more"),
    (lambda: NPT(300.0, 300.0), "the pressure must be within"),
    (lambda: NPT(0.0), "above 0 to 20,000 K"),
    (lambda: NoseHoover(300.0, chain=0), "1 to 20 thermostats"),
    (lambda: Settings(max_expansion=0.5), "must be above 1"),
    (lambda: chosen_ensemble("npt", 300.0), "needs a pressure"),
    (lambda: chosen_ensemble("npt", 300.0, pressure="1"), "is no pressure with a unit"),
    (lambda: chosen_ensemble("nve", 300.0, 0.01), "has no friction; for langevin, npt, npt-full"),
    (lambda: chosen_ensemble("bussi", 300.0, barostat_time=100.0), "has no barostat time"),
    (lambda: temperatures("warm"), "no list of temperatures"),
]


@pytest.mark.parametrize(("refused", "said"), REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_settings_that_cannot_work_are_refused_with_the_reason(refused, said):
    with pytest.raises(SimulationError) as caught:
        refused()
    assert said in str(caught.value)


def test_pressures_have_units():
    assert pressure_with_unit("1bar") == pytest.approx(BAR)
    assert pressure_with_unit(" -0.5 GPa ") == pytest.approx(-0.5 * GPA)
    assert pressure_with_unit("1e5Pa") == pytest.approx(BAR)
    with pytest.raises(UnitError, match="psi"):
        pressure_with_unit("14.7psi")


def test_constant_pressure_of_a_model_without_stress_is_refused():
    class Plain(Pressed):
        def evaluate(self, structures, outputs):
            return [{key: row[key] for key in ("energy", "forces")} for row in super().evaluate(structures, outputs)]

    with pytest.raises(SimulationError, match="constant pressure needs the stress"):
        simulate(Plain(0.0), [CUBE], NPT(300.0), Settings(steps=1))


class Guess:
    """An uncertainty of forces that grows with the distance of the first atom from the origin, eV/Å."""

    quantities: tuple[str, ...] = ("energy", "forces")

    def predict(self, potential, structures):
        for s in structures:
            sigma = np.zeros((len(s), 3))
            sigma[0, 0] = np.linalg.norm(s.positions[0])
            yield Uncertain(s, 0.0, 0.0, np.zeros((len(s), 3)), sigma)


def test_a_run_stops_where_its_model_is_uncertain_and_does_not_go_on(tmp_path):
    model = noble_gas()
    settings = Settings(dt=4.0, steps=400, temperature=60, every=5)
    gate = UncertaintyGate(model, Guess(), stop_above=0.15)
    free = simulate(model, [CUBE], Langevin(60.0), settings, gate=UncertaintyGate(model, Guess(), collect_above=0.15))
    above = np.array(free.uncertainty)[:, 0] > 0.15
    assert above.any()
    run = simulate(model, [CUBE], Langevin(60.0), settings, gate=gate, out=tmp_path)
    assert run.status == "uncertain"
    assert run.state.step == free.steps[int(np.argmax(above))]
    assert "above 0.15 eV/Å" in (run.reason or "")
    again = simulate(model, [CUBE], Langevin(60.0), settings, gate=gate, out=tmp_path)
    assert (again.status, again.state.step) == ("uncertain", run.state.step)
    on = simulate(model, [CUBE], Langevin(60.0), settings, gate=UncertaintyGate(model, Guess(), stop_above=1e3), out=tmp_path)
    assert np.array_equal(on.state.positions, free.state.positions)


def test_limits_of_the_uncertainty_are_checked():
    with pytest.raises(SimulationError, match="must be positive"):
        UncertaintyGate(noble_gas(), Guess(), stop_above=-1.0)
    only_energies = Guess()
    only_energies.quantities = ("energy",)
    with pytest.raises(PropertyNotAvailableError, match="energies alone"):
        UncertaintyGate(noble_gas(), only_energies, stop_above=1.0)


def test_multiple_time_steps_are_the_dynamics_of_the_outer_model():
    """Equal models: as velocity Verlet with the small step. Another inner model: the energy of the outer one is kept to second order."""
    model, start = noble_gas(), CUBE.replace(positions=CUBE.positions + 0.05 * np.random.default_rng(0).normal(size=(4, 3)))
    small = simulate(model, [start], NVE(), Settings(dt=2.0, steps=60, temperature=60))
    same = simulate(model, [start], Respa(NVE(), 3), Settings(dt=6.0, steps=20, temperature=60), inner=noble_gas())
    assert same.state.positions == pytest.approx(small.state.positions, abs=1e-10)

    def spread(dt: float) -> float:
        settings = Settings(dt=dt, steps=int(240 / dt), temperature=60, every=1)
        return float(simulate(model, [start], Respa(NVE(), 4), settings, inner=noble_gas(epsilon=0.009)).total.std())

    assert spread(8.0) / spread(4.0) == pytest.approx(4.0, rel=0.3)


def test_direct_forces_as_the_inner_model_keep_the_energy_of_the_outer_one():
    """Forces that no energy has would heat the system alone; corrected by a conservative model they do not."""
    config = {"elements": [18], "levels": ["x"], "forces": "direct", "dtype": "float64", "backbone": {"channels": 8, "layers": 1}}
    direct = build("painn", config)
    run = simulate(noble_gas(), [CUBE], Respa(NVE(), 2), Settings(dt=2.0, steps=200, temperature=60, every=1), inner=direct)
    assert direct.spec.kind == "direct"
    assert np.ptp(run.total) < 0.02 * run.kinetic[0][0]
