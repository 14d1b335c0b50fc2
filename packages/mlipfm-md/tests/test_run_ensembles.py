"""`mlipfm md run` and `md exchange`: the command, Python and the files of the run have the same numbers; what is printed, refused and collected."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from mlipfm_interfaces.checkpoint import build, load_potential, save_potential
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import noble_gas
from mlipfm_interfaces.units import BAR, GPA
from mlipfm_md.barostat import NPT
from mlipfm_md.ensembles import NVE, Bussi, Langevin, NoseHoover
from mlipfm_md.exchange import ReplicaExchange
from mlipfm_md.initial_files import read_initial_states
from mlipfm_md.initial_state import InitialState
from mlipfm_md.respa import Respa
from mlipfm_md.simulation import Settings, simulate


def md(capsys, *words: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `mlipfm md`."""
    with pytest.raises(SystemExit) as stop:
        main(["md", *map(str, words)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensembles")
    config = {"elements": ["Cu", "H", "O"], "levels": ["x"], "backbone": {"channels": 8, "layers": 1, "cutoff": 3.5}, "scale": 0.02}
    for name, seed in (("model", 0), ("cheap", 1)):
        save_potential(path / f"{name}.safetensors", build("painn", config | {"seed": seed}))
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=0)
    two = copper.copy()
    two.set_cell(copper.cell * 1.02, scale_atoms=True)
    ase.io.write(path / "copper.xyz", [copper, two])
    water = molecule("H2O")
    ase.io.write(path / "water.xyz", water, columns=["symbols", "positions"])
    return path


CASES = {
    "nve": ((), NVE()),
    "langevin": (("--temperature", "300,400", "--friction", 0.02), Langevin((300.0, 400.0), 0.02)),
    "bussi": (("--thermostat-time", 50), Bussi(300.0, 50.0)),
    "nose-hoover": (("--thermostat-time", 50), NoseHoover(300.0, 50.0)),
    "npt": (("--pressure", "100bar", "--barostat-time", 400), NPT(300.0, 100 * BAR, relaxation_time=400.0)),
    "npt-full": (("--pressure", "0.1GPa", "--friction", 0.05), NPT(300.0, 0.1 * GPA, 0.05, full=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_command_python_and_files_have_the_same_numbers(folder, tmp_path, capsys, name):
    words, ensemble = CASES[name]
    tail = ("--ensemble", name, "--dt", 2, "--steps", 20, "--every", 5, "--seed", 3, "--out", tmp_path / "command")
    status, out, err = md(capsys, "run", folder / "model.safetensors", folder / "copper.xyz", *words, *tail)
    assert status == 0, err
    assert "velocities drawn at 300 K" in out
    starts = [start for start, _ in read_initial_states(folder / "copper.xyz")]
    settings = Settings(dt=2.0, steps=20, every=5, seed=3)
    run = simulate(load_potential(folder / "model.safetensors"), starts, ensemble, settings, out=tmp_path / "python")
    for file in ("trajectory.frames", "energies.csv", "restart.safetensors", "run.json"):
        assert (tmp_path / "command" / file).read_bytes() == (tmp_path / "python" / file).read_bytes()
    frames = list(FrameLog(tmp_path / "command" / "trajectory.frames"))
    assert np.array_equal(np.concatenate([frame.positions for frame, _ in frames[-2:]]), run.state.positions)
    rows = list(csv.DictReader((tmp_path / "command" / "energies.csv").read_text().splitlines()))
    columns = {"temperature/K": run.temperature, "potential/eV": run.potential, "conserved/eV": run.conserved, "pressure/GPa": run.pressure}
    for column, values in columns.items():
        unit = GPA if column == "pressure/GPa" else 1.0
        found = np.array([float(row[column] or "nan") for row in rows]).reshape(-1, 2)
        assert np.array_equal(found, np.array(values) / unit, equal_nan=True)
    record = json.loads((tmp_path / "command" / "summary.json").read_text())
    assert record["systems"][1]["mean_temperature_K"] == np.mean(run.temperature, axis=0)[1]
    assert (record["systems"][0]["mean_volume_A3"] is None) is False
    cells = np.array([frame.cell for frame, _ in frames])
    assert (np.ptp(cells[::2], axis=0) > 0).any() == ensemble.changes_cell
    if name == "npt-full":
        assert (np.abs(cells[-1] - np.diag(np.diag(cells[-1]))) > 0).any()


def test_exchange_writes_a_trajectory_for_each_temperature(folder, tmp_path, capsys):
    words = ("--temperatures", "300,320", "--steps", 20, "--every", 5, "--exchange-every", 2, "--dt", 2, "--frame", 1)
    status, out, err = md(capsys, "exchange", folder / "model.safetensors", folder / "copper.xyz", *words, "--out", tmp_path / "command")
    assert status == 0, err
    assert "300 - 320 K:" in out
    assert "of 5 exchanges accepted" in out
    starts = [start for start, _ in read_initial_states(folder / "copper.xyz")][1:] * 2
    settings = Settings(dt=2.0, steps=20, every=5)
    run = simulate(load_potential(folder / "model.safetensors"), starts, ReplicaExchange((300.0, 320.0), 2), settings)
    for k, name in enumerate(("300K.xyz", "320K.xyz")):
        frames = ase.io.read(tmp_path / "command" / name, ":")
        assert len(frames) == 5
        assert np.array_equal(frames[-1].positions, run.state.positions[4 * k : 4 * k + 4])
    record = json.loads((tmp_path / "command" / "summary.json").read_text())
    assert record["exchanges"][0]["attempted"] == 5
    assert record["exchanges"][0]["accepted"] == run.state.extended["accepted"][0]


def test_a_cheap_model_steps_in_between(folder, tmp_path, capsys):
    words = ("--inner", folder / "cheap.safetensors", "--inner-steps", 2, "--steps", 10, "--dt", 2, "--out", tmp_path / "run")
    status, _, err = md(capsys, "run", folder / "model.safetensors", folder / "copper.xyz", *words)
    assert status == 0, err
    starts = [start for start, _ in read_initial_states(folder / "copper.xyz")]
    models = [load_potential(folder / f"{name}.safetensors") for name in ("model", "cheap")]
    run = simulate(models[0], starts, Respa(NVE(), 2), Settings(dt=2.0, steps=10), inner=models[1])
    last = [frame for frame, _ in FrameLog(tmp_path / "run" / "trajectory.frames")][-2:]
    assert np.array_equal(np.concatenate([frame.positions for frame in last]), run.state.positions)
    status, _, err = md(capsys, "run", folder / "model.safetensors", folder / "copper.xyz", *words[2:], "--steps", 20)
    assert status == 2
    assert "inner steps need a cheap model" in err


def test_json_is_the_record_alone(folder, tmp_path, capsys):
    status, out, _ = md(
        capsys, "run", folder / "model.safetensors", folder / "copper.xyz", "--steps", 4, "--dt", 2, "--json", "--out", tmp_path / "run"
    )
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ensemble", "npt"), "needs a pressure"),
        (("--ensemble", "npt", "--pressure", "1"), "no pressure with a unit"),
        (("--ensemble", "npt", "--pressure", "20psi"), "'psi' is not known"),
        (("--ensemble", "npt", "--pressure", "1bar", "--barostat-time", 3), "at least 10 time steps"),
        (("--ensemble", "nve", "--thermostat-time", 3), "has no thermostat time; for bussi, nose-hoover"),
        (("--ensemble", "bussi", "--temperature", "300,400,500"), "3 temperatures were given for 2 systems"),
        (("--stop-above", 1), "needs an uncertainty"),
        (("--temperature", "hot"), "no list of temperatures"),
    ],
)
def test_refusals_are_one_line_and_exit_2(folder, tmp_path, capsys, words, said):
    status, out, err = md(capsys, "run", folder / "model.safetensors", folder / "copper.xyz", *words, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_constant_pressure_of_a_molecule_is_refused(folder, tmp_path, capsys):
    words = ("--ensemble", "npt", "--pressure", "1bar", "--out", tmp_path / "run")
    status, _, err = md(capsys, "run", folder / "model.safetensors", folder / "water.xyz", *words)
    assert status == 2
    assert "open along a, b, c" in err


def test_a_start_at_a_minimum_says_where_half_of_its_temperature_went(tmp_path, capsys):
    """32 copper atoms at rest in their crystal: equipartition gives half of the kinetic energy to the vibrations."""
    crystal = bulk("Cu", cubic=True) * (2, 2, 2)
    ase.io.write(tmp_path / "crystal.xyz", crystal)
    status, out, _ = md(capsys, "run", "emt:", tmp_path / "crystal.xyz", "--steps", 60, "--every", 2, "--dt", 5, "--out", tmp_path / "run")
    assert status == 0
    assert "K of the first velocities" in out
    assert "went into potential energy, because the start is near a minimum" in out


@pytest.mark.ci
def test_uncertain_frames_are_collected_and_stop_a_run(folder, tmp_path, capsys):
    """With a LLPR uncertainty fitted to a few structures of the start; the command finds the frames that Python finds."""
    from mlipfm_interfaces.checkpoint import load_model
    from mlipfm_interfaces.structure import Structure
    from mlipfm_models.uncertainty.llpr import Llpr

    potential, manifest = load_model(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    (start, _), *_ = read_initial_states(folder / "copper.xyz")
    near = [
        start.structure.replace(
            positions=start.structure.positions + 0.05 * rng.normal(size=(4, 3)),
            labels={"energy": 0.1 * rng.normal(), "forces": 0.1 * rng.normal(size=(4, 3))},
        )
        for _ in range(24)
    ]
    assert isinstance(near[0], Structure)
    Llpr.fit(potential, manifest["digest"], near[:12], near[12:]).save(tmp_path / "sure.safetensors")
    tail = ("--frame", 0, "--dt", 2, "--steps", 40, "--every", 5, "--temperature", 1000, "--uncertainty", tmp_path / "sure.safetensors")
    command = ("run", folder / "model.safetensors", folder / "copper.xyz", *tail)
    status, out, err = md(capsys, *command, "--collect-above", 1e-6, "--out", tmp_path / "all")
    assert status == 0, err
    assert "9 frames above 1e-06 eV/Å written to" in out
    rows = list(csv.DictReader((tmp_path / "all" / "energies.csv").read_text().splitlines()))
    sigma = np.array([float(row["sigma_forces/(eV/A)"]) for row in rows])
    limit = float(np.sort(sigma)[4])
    first = int(np.argmax(sigma > limit))
    status, out, _ = md(capsys, *command, "--collect-above", limit, "--out", tmp_path / "some")
    assert len(ase.io.read(tmp_path / "some" / "uncertain.xyz", ":")) == (sigma > limit).sum() == 4
    status, out, err = md(capsys, *command, "--stop-above", limit, "--out", tmp_path / "stopped")
    assert status == 2
    assert f"at step {5 * first}, above" in err
    assert len(list(FrameLog(tmp_path / "stopped" / "trajectory.frames"))) == first + 1


def test_pressure_of_atoms_that_do_not_meet_is_that_of_an_ideal_gas_at_constant_volume(tmp_path):
    """P V = 2/3 of the kinetic energy; it is in energies.csv and in the frames, and the dynamics do not change by it."""
    gas = Structure(np.full(4, 18), [[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]], 20.0 * np.eye(3), True)
    settings = Settings(dt=1.0, steps=20, temperature=300, every=10, record_pressure=True)
    for ensemble in (NVE(), Langevin(300.0)):
        out = tmp_path / type(ensemble).__name__
        run = simulate(noble_gas(cutoff=6.0), [gas], ensemble, settings, out=out)
        assert np.array(run.pressure) == pytest.approx(2 * np.array(run.kinetic) / 3 / 8000.0)
        rows = list(csv.DictReader((out / "energies.csv").read_text().splitlines()))
        assert [float(row["pressure/GPa"]) for row in rows] == pytest.approx(np.array(run.pressure)[:, 0] / GPA)
        plain = simulate(noble_gas(cutoff=6.0), [gas], ensemble, replace(settings, record_pressure=False))
        assert np.isnan(plain.pressure).all()
        assert plain.state.positions == pytest.approx(run.state.positions)
        longer = simulate(noble_gas(cutoff=6.0), [gas], ensemble, replace(settings, steps=40), out=out)  # goes on
        assert np.array(longer.pressure) == pytest.approx(2 * np.array(longer.kinetic) / 3 / 8000.0)


def test_a_pressure_without_a_cell_is_refused():
    pair = Structure(np.full(2, 18), [[0, 0, 0], [3.8, 0, 0.0]])
    with pytest.raises(SimulationError, match="a pressure needs a cell in three directions"):
        simulate(noble_gas(cutoff=6.0), [pair], NVE(), Settings(steps=1, record_pressure=True))


def test_scaled_velocities_have_exactly_the_temperature_and_given_ones_stay():
    """The average over draws has it without: four atoms of one draw are tens of kelvin off."""
    gas = Structure(np.full(4, 18), [[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]], 20.0 * np.eye(3), True)
    given = InitialState(gas, velocities=np.full((4, 3), 1e-3) * [[1], [-1], [1], [-1]])
    for scale in (True, False):
        settings = Settings(steps=0, temperature=300, scale_velocities=scale)
        run = simulate(noble_gas(cutoff=6.0), [gas, given], NVE(), settings)
        assert (abs(run.temperature[0][0] - 300.0) < 1e-9) == scale
        assert run.state.velocities[4:] == pytest.approx(given.velocities)
