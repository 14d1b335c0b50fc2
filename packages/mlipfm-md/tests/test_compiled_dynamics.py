"""Compiled dynamics are those of the driver: the same trajectory where nothing is random, the right distributions where something is, and the same
bits after a restart."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import ACCELERATION, KB
from mlipfm_md import NVE, Bussi, Langevin, NoseHoover, Settings, simulate
from mlipfm_md.barostat import NPT
from mlipfm_md.ensembles import Ensemble
from mlipfm_md.initial_state import InitialState

kernels = pytest.importorskip("mlipfm_kernels", reason="mlipfm-kernels is not built here: tools/setup builds it where a C++ compiler is")


def density(dtype: str = "float64") -> Potential:
    config = {"channels": 16, "cutoff": 3.5, "radial": 5, "degree": 2}
    return build("density", {"elements": ["H", "O"], "levels": ["any"], "dtype": dtype, "seed": 4, "scale": 3.0, "backbone": config})


def crystal(side: int = 2, seed: int = 0) -> Structure:
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2.2
    positions = grid + np.random.default_rng(seed).normal(0, 0.05, grid.shape)
    return Structure(np.tile([8, 1], len(grid))[: len(grid)], positions, 2.2 * side * np.eye(3), np.ones(3, dtype=bool), level="any")


def molecule() -> Structure:
    positions = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    return Structure(np.array([8, 1, 1]), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), level="any")


@pytest.mark.parametrize("ensemble", [NVE(), NoseHoover(300.0, 50.0)], ids=lambda e: type(e).__name__)
def test_deterministic_dynamics_equal_those_of_the_driver(ensemble: Ensemble) -> None:
    systems = [crystal(), molecule(), crystal(seed=1)]
    runs = [simulate(density(), systems, ensemble, Settings(dt=0.5, steps=60, seed=3, engine=engine)) for engine in ("kernel", "torch")]  # type: ignore[arg-type]
    assert np.abs(runs[0].state.positions - runs[1].state.positions).max() < 1e-9
    assert np.abs(runs[0].state.velocities - runs[1].state.velocities).max() < 1e-10
    assert np.abs(np.array(runs[0].conserved) - np.array(runs[1].conserved)).max() < 1e-9


def test_a_centre_of_mass_that_moves_is_not_scaled_by_the_chain_of_thermostats() -> None:
    """Equal to the driver, from velocities with a drift of 0.02 Å/fs, ten times those of heat."""
    start = InitialState(molecule(), velocities=np.random.default_rng(2).normal(0, 0.002, (3, 3)) + [0.02, 0, 0])
    settings = [Settings(dt=0.5, steps=60, seed=3, engine=engine) for engine in ("kernel", "torch")]  # type: ignore[arg-type]
    runs = [simulate(density(), [start], NoseHoover(300.0, 30.0), chosen) for chosen in settings]
    assert np.abs(runs[0].state.velocities - runs[1].state.velocities).max() < 1e-10
    momentum = [run.state.masses @ run.state.velocities / run.state.masses.sum() for run in runs]
    assert momentum[0] == pytest.approx(start.amu @ start.velocities / start.amu.sum(), abs=1e-12)


def test_friction_slows_a_fast_atom_at_its_rate() -> None:
    """v(t) = v(0) e^(-γt), from a velocity of which the noise is a thousandth."""
    start = InitialState(molecule().replace(atomic_numbers=np.array([8]), positions=np.zeros((1, 3))), velocities=np.array([[1.0, 0, 0]]))
    settings = Settings(dt=1.0, steps=50, seed=3, engine="kernel", max_temperature=1e9)
    run = simulate(density(), [start], Langevin(0.1, 0.02), settings)
    assert run.state.velocities[0, 0] == pytest.approx(np.exp(-1.0), rel=1e-3)


@pytest.mark.parametrize("name", ["bussi", "npt"])
def test_what_a_bath_gives_is_taken_off_the_conserved_energy(name: str) -> None:
    """The energy itself changes a hundred times more."""
    run = simulate(density(), [crystal()], ALL[name](), Settings(dt=0.25, steps=400, temperature=600.0, seed=3, every=10, engine="kernel"))
    energies, conserved = run.total, np.array(run.conserved)
    assert np.ptp(conserved) < 0.01 * np.ptp(energies), (np.ptp(conserved), np.ptp(energies))


@pytest.mark.parametrize("full", [False, True])
def test_barostat_equals_that_of_the_driver_where_noise_is_small(full: bool) -> None:
    """At 0.001 K with slow baths the noise of the cell is 1e-6 of its motion under 50 GPa."""
    ensemble = NPT(1e-3, pressure=0.3, friction=1e-9, relaxation_time=2e5, full=full)
    runs = [
        simulate(density(), [crystal()], ensemble, Settings(dt=0.5, steps=60, temperature=1e-3, seed=3, engine=e))
        for e in ("kernel", "torch")
    ]  # type: ignore[arg-type]
    first = np.linalg.det(crystal().cell)
    moved = [abs(np.linalg.det(run.state.cells[0])) / first - 1 for run in runs]
    assert abs(moved[1]) > 0.01, "the cell should have moved"
    assert abs(moved[0] - moved[1]) < 1e-4 * abs(moved[1])
    assert np.abs(runs[0].state.cells - runs[1].state.cells).max() < 1e-4
    assert np.abs(runs[0].state.stress - runs[1].state.stress).max() < 1e-4


ALL: dict[str, Callable[[], Ensemble]] = {
    "nve": NVE,
    "langevin": lambda: Langevin(300.0, 0.02),
    "bussi": lambda: Bussi(300.0, 30.0),
    "nose-hoover": lambda: NoseHoover(300.0, 30.0),
    "npt": lambda: NPT(300.0, 0.001, relaxation_time=100.0),
    "npt-full": lambda: NPT(300.0, 0.001, relaxation_time=100.0, full=True),
}


@pytest.mark.parametrize("name", ALL)
def test_restart_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    """40 steps at once, and 20 + 20; atoms move far enough for the list of neighbours to be made anew."""
    systems, model = [crystal(), crystal(seed=1)], density("float32")

    def run(folder: str, steps: int) -> Any:
        settings = Settings(
            dt=2.0, steps=steps, temperature=900.0, seed=5, every=10, restart_every=20, skin=0.3, engine="kernel", max_temperature=1e5
        )
        return simulate(model, systems, ALL[name](), settings, out=tmp_path / folder)

    whole = run("whole", 40)
    run("parts", 20)
    parts = run("parts", 40)
    assert whole.status == "ok"
    for field in ("positions", "velocities", "forces", "energies", "cells"):
        assert np.array_equal(getattr(whole.state, field), getattr(parts.state, field)), field
    assert (tmp_path / "whole" / "trajectory.frames").read_bytes() == (tmp_path / "parts" / "trajectory.frames").read_bytes()


def test_explosion_keeps_the_last_good_state(tmp_path: Path) -> None:
    settings = Settings(dt=3.0, steps=3000, temperature=1000.0, seed=1, every=1, engine="kernel", max_temperature=1500.0)
    run = simulate(density(), [crystal()], NVE(), settings, out=tmp_path / "run")
    assert run.status == "unstable"
    assert run.reason is not None
    assert np.isfinite(run.state.positions).all()
    assert run.state.temperature()[0] <= 1500.0
    assert (tmp_path / "run" / "last_good.xyz").exists()


def test_a_cell_that_loses_its_shape_is_stopped_by_its_stretches() -> None:
    start, limit = crystal(), 1.05
    skewed = start.replace(cell=start.cell @ (np.eye(3) + 0.2 * np.diag([1.0, 1.0], 1)))
    settings = Settings(dt=0.5, steps=4000, seed=1, max_expansion=limit, engine="kernel")
    run = simulate(density(), [skewed], NPT(800.0, 0.0, 0.02, 20.0, full=True), settings)
    assert run.status == "unstable"
    assert "the cell of system 0 lost its shape" in (run.reason or "")
    (beyond,) = re.findall(r"stretched ([0-9.]+) times", run.reason or "")
    stretches = np.linalg.svd(np.linalg.solve(skewed.cell, run.state.cells[0]), compute_uv=False)
    assert stretches[0] / stretches[2] <= limit < float(beyond) + 0.005  # the last good state, and the one that was refused
    assert stretches[0] / stretches[2] > 1 + 0.9 * (limit - 1)


def test_fixed_atoms_stay_and_kernel_is_refused_for_models_without_one() -> None:
    held = crystal().replace(labels={"fixed": np.array([True] * 2 + [False] * 6)})
    run = simulate(density(), [held], Langevin(300.0), Settings(steps=20, engine="kernel"))
    assert np.array_equal(run.state.positions[:2], held.positions[:2])
    assert not np.array_equal(run.state.positions[2:], held.positions[2:])
    painn = build("painn", {"elements": ["H", "O"], "levels": ["any"], "backbone": {"channels": 8}})
    with pytest.raises(SimulationError, match="painn"):
        simulate(painn, [crystal()], NVE(), Settings(engine="kernel"))


# Distributions, on closed forms: atoms on springs and free atoms, in the compiled code itself.


def sampled(
    kind: str, *, atoms: int, systems: int, steps: int, dt: float, stiffness: float, every: int = 5, **options: Any
) -> dict[str, np.ndarray]:
    """Potential energy, kinetic energy and volume of `systems` copies, every few steps after the first fifth."""
    rng, kelvin = np.random.default_rng(7), 300.0
    places = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1).reshape(-1, 3)[: atoms * systems] * 1.0
    mass = np.full(atoms * systems, 20.0)
    box = np.tile(np.eye(3) * 60.0, (systems, 1, 1))
    periodic = np.full((systems, 3), kind == "npt")
    code = kernels.Systems(
        kernels.ClosedForm(stiffness, places), np.arange(systems + 1) * atoms, np.zeros(atoms * systems, dtype=int), box, periodic
    )
    velocity = rng.standard_normal((atoms * systems, 3)) * np.sqrt(KB * kelvin * ACCELERATION / 20.0)
    centre = np.full((systems, 3), kind in ("bussi", "nose-hoover") and stiffness == 0)
    state = {
        "positions": places.copy(),
        "velocities": velocity,
        "forces": np.zeros_like(places),
        "energies": np.zeros(systems),
        "masses": mass,
        "movable": np.ones((atoms * systems, 3), dtype=bool),
        "centre": centre,
        "cells": box.copy(),
        "stress": np.zeros((systems, 3, 3)),
        "heat": np.zeros(systems),
        "cell_velocity": np.zeros((systems, 3, 3)),
        "chain_position": np.zeros((systems, 3)),
        "chain_velocity": np.zeros((systems, 3)),
    }
    ensemble = {"kind": kind, "dt": dt, "seed": 11, "friction": 0.02, "time": 50.0, "chain": 3, "full": False, "acceleration": ACCELERATION,
                "boltzmann": KB, "temperature": np.full(systems, kelvin), "pressure": np.zeros(systems), "hottest": 1e9, "expansion": 1e9,
                "start_cells": 60.0 * np.tile(np.eye(3), (systems, 1, 1))} | options  # fmt: skip
    found: dict[str, list[np.ndarray]] = {"potential": [], "kinetic": [], "volume": []}
    for step in range(0, steps, every):
        reached, trouble = code.advance(state, ensemble, step, step + every)
        assert trouble is None
        assert reached == step + every
        if step > steps // 5:
            kinetic = 0.5 / ACCELERATION * 20.0 * (state["velocities"].reshape(systems, -1) ** 2).sum(axis=1)
            found["potential"].append(state["energies"].copy())
            found["kinetic"].append(kinetic)
            found["volume"].append(np.linalg.det(state["cells"]))
    return {key: np.array(value) for key, value in found.items()}


KT = KB * 300.0


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["langevin", "bussi"])
def test_springs_have_the_canonical_distribution(kind: str) -> None:
    """n/2 kT in either energy and a variance of n/2 (kT)², of 400 copies of 4 atoms (n = 12); means within 1 %, variances within 6 %."""
    seen = sampled(kind, atoms=4, systems=400, steps=6000, dt=2.0, stiffness=0.5, every=20)
    for key in ("potential", "kinetic"):
        assert abs(seen[key].mean() / (6 * KT) - 1) < 0.01, key
        assert abs(seen[key].var() / (6 * KT**2) - 1) < 0.06, key


@pytest.mark.ci
def test_volume_of_free_atoms_has_the_density_of_the_ideal_gas() -> None:
    """V^N exp(-P V/kT) with N = 8 atoms: mean (N + 1) kT/P, variance (N + 1) (kT/P)²; without the kinetic share of the barostat N."""
    pressure = 9 * KT / 216000.0
    seen = sampled("npt", atoms=8, systems=200, steps=4000, dt=8.0, stiffness=0.0, every=40, pressure=np.full(200, pressure), time=200.0)
    volumes = seen["volume"] * pressure / KT
    assert abs(volumes.mean() - 9) < 0.4
    assert abs(volumes.var() - 9) < 2.5


def test_noise_is_normal_and_of_its_key_alone() -> None:
    a = kernels.normals(1, 1, 0, 5, 100_000)
    assert abs(a.mean()) < 0.01
    assert abs(a.var() - 1) < 0.015
    assert abs((a**4).mean() - 3) < 0.1
    assert np.array_equal(a[:99], kernels.normals(1, 1, 0, 5, 99))
    others = [kernels.normals(*key, 1000) for key in ((2, 1, 0, 5), (1, 2, 0, 5), (1, 1, 1, 5), (1, 1, 0, 6), (1, 1, 0, 5 + 2**32))]
    assert all(abs(np.corrcoef(a[:1000], b)[0, 1]) < 0.12 for b in others)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_more_than_the_last_digits(threads: int) -> None:
    runs = [simulate(density(), [crystal(3)], NVE(), Settings(steps=30, engine="kernel", threads=n)) for n in (1, threads)]
    assert np.abs(runs[0].state.positions - runs[1].state.positions).max() < 1e-10


def test_two_runs_have_the_same_bits() -> None:
    runs = [simulate(density("float32"), [crystal(3)], Langevin(300.0), Settings(steps=30, engine="kernel", threads=2)) for _ in range(2)]
    assert np.array_equal(runs[0].state.positions, runs[1].state.positions)


def test_trajectory_does_not_depend_on_the_skin() -> None:
    runs = [simulate(density(), [crystal(3)], NVE(), Settings(dt=1.0, steps=100, engine="kernel", skin=skin)) for skin in (0.0, 0.2, 1.5)]
    for other in runs[1:]:
        assert np.abs(runs[0].state.positions - other.state.positions).max() < 1e-9
