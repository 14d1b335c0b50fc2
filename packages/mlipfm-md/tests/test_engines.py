"""LAMMPS and i-PI run our models: energies, forces and virials are ours, and constant-energy dynamics go the same way as in our driver.

`MLIPFM_LAMMPS_PYTHON`: a Python with the packages lammps, mpich and mlipfm-md. `MLIPFM_IPI`: the program i-pi.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import build, save_potential
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.units import BAR, GPA
from mlipfm_md import NVE, InitialState, Settings, maxwell_boltzmann, simulate
from mlipfm_md.engine_forces import EngineForces, open_model
from mlipfm_md.initial_files import FrameOptions, read_initial_states
from mlipfm_md.ipi_engine import export_ipi, parse_address
from mlipfm_md.lammps_engine import attach, export_lammps
from mlipfm_md.observables import TrajectoryData, read_run, read_trajectory

lammps_python, ipi = os.environ.get("MLIPFM_LAMMPS_PYTHON"), os.environ.get("MLIPFM_IPI")
with_lammps = pytest.mark.skipif(lammps_python is None, reason="MLIPFM_LAMMPS_PYTHON names no Python with lammps")
with_ipi = pytest.mark.skipif(ipi is None, reason="MLIPFM_IPI names no program")

STEPS, EVERY, DT = 60, 5, 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of H and O, a triclinic crystal of it with velocities, and a molecule."""
    path = tmp_path_factory.mktemp("engines")
    options = {"elements": ["H", "O"], "levels": ["x"], "backbone": {"channels": 8, "layers": 1}, "scale": 0.3}
    save_potential(path / "model.safetensors", build("painn", options))
    rng = np.random.default_rng(0)
    cell = np.array([[6.0, 0.5, -0.3], [1.5, 6.2, 0.4], [-1.0, 0.8, 6.4]])
    numbers = np.array([8, 1, 1] * 8)
    corner = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    positions = ((corner + 0.25) / 2 @ cell + water).reshape(-1, 3)
    masses = np.where(numbers == 8, 15.999, 1.008)
    velocities = maxwell_boltzmann(masses, 100.0, rng)
    _write(path / "crystal.xyz", numbers, positions, velocities, cell)
    _write(path / "molecule.xyz", numbers[:3], positions[:3], velocities[:3] - velocities[:3].mean(axis=0), None)
    return path


def _write(path: Path, numbers, positions, velocities, cell) -> None:
    head = "" if cell is None else f'Lattice="{" ".join(map(repr, cell.ravel().tolist()))}" pbc="T T T" '
    rows = [
        f"{'OH'[int(z == 1)]} {' '.join(map(repr, [*x, *v]))}"
        for z, x, v in zip(numbers, positions.tolist(), velocities.tolist(), strict=True)
    ]
    path.write_text("\n".join([str(len(rows)), head + "Properties=species:S:1:pos:R:3:velo:R:3", *rows, ""]))


def ours(folder: Path, name: str, out: Path) -> TrajectoryData:
    start = read_initial_states(folder / name)[0][0]
    simulate(open_model(str(folder / "model.safetensors")), [start], NVE(), Settings(dt=DT, steps=STEPS, every=EVERY), out=out)
    return read_run(out)


@pytest.mark.full
@with_lammps
@pytest.mark.parametrize("name", ["crystal.xyz", "molecule.xyz"])
def test_lammps_goes_the_same_way_as_our_driver(folder, name, tmp_path):
    export_lammps(str(folder / "model.safetensors"), folder / name, tmp_path / "lmp", dt=DT, steps=STEPS, every=EVERY)
    done = subprocess.run([str(lammps_python), "run.py"], cwd=tmp_path / "lmp", capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = np.array(
        [[float(word) for word in line.split()] for line in done.stdout.splitlines() if re.match(r"\s+\d+\s+[\d.e-]+\s+-?\d", line)]
    )
    expected = ours(folder, name, tmp_path / "run")
    assert rows[:, 0] == pytest.approx(np.arange(0, STEPS + 1, EVERY))
    # the model is float32
    assert rows[:, 2] == pytest.approx(expected.energies, abs=2e-4)
    assert rows[:, 3] == pytest.approx(expected.kinetic, abs=2e-4)
    frames = read_trajectory(tmp_path / "lmp" / "dump.lammpstrj", DT * EVERY)
    theirs, mine = (_distances(data) for data in (frames, expected))
    assert np.abs(theirs - mine).max() < 2e-3
    if name == "crystal.xyz":
        forces = EngineForces(str(folder / "model.safetensors"), read_initial_states(folder / name)[0][0])
        virials = np.array([np.trace(forces(x, cell)[2]) for x, cell in zip(expected.positions, expected.cells, strict=True)])
        volume = expected.volumes[0]
        pressure = (2 * expected.kinetic + virials) / (3 * volume)
        assert rows[:, 5] == pytest.approx(pressure / BAR, abs=20 + 2e-4 * np.abs(pressure / BAR).max())


@pytest.mark.full
@with_ipi
@pytest.mark.parametrize("address", ["unix:mlipfm-test", "localhost:31417"])
def test_ipi_goes_the_same_way_as_our_driver(folder, address, tmp_path):
    model, start = str(folder / "model.safetensors"), folder / "crystal.xyz"
    export_ipi(model, start, tmp_path / "ipi", dt=DT, steps=STEPS, every=EVERY, address=address)
    server = subprocess.Popen([str(ipi), "input.xml"], cwd=tmp_path / "ipi", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = [
        sys.executable,
        "-c",
        "from mlipfm_interfaces.cli import main; main()",
        "md",
        "serve-ipi",
        model,
        str(start),
        "--address",
        address,
    ]
    try:
        done = subprocess.run([*line, "--patience", "200"], capture_output=True, text=True, timeout=400, check=False)
        said, _ = server.communicate(timeout=100)
    finally:
        server.kill()
    assert done.returncode == 0, done.stderr
    assert server.returncode == 0, said
    assert int(done.stdout.split()[0]) >= STEPS + 1
    rows = np.loadtxt(tmp_path / "ipi" / "ipi.out")
    expected = ours(folder, "crystal.xyz", tmp_path / "run")
    assert rows[:, 0] == pytest.approx(np.arange(0, STEPS + 1, EVERY))
    assert rows[:, 5] == pytest.approx(expected.energies, abs=2e-4)
    assert rows[:, 4] == pytest.approx(expected.kinetic, abs=2e-4)
    forces = EngineForces(model, read_initial_states(start)[0][0])
    virials = np.array([np.trace(forces(x, cell)[2]) for x, cell in zip(expected.positions, expected.cells, strict=True)])
    pressure = (2 * expected.kinetic + virials) / (3 * expected.volumes)
    assert rows[:, 6] / 1000 == pytest.approx(pressure / GPA, abs=2e-3)


def _distances(data: TrajectoryData) -> np.ndarray:
    """[F, pairs] Å between continuous positions: the same in any orientation."""
    i, j = np.triu_indices(len(data.atomic_numbers), 1)
    first = data.positions[0]
    steps = data.positions - first
    return np.linalg.norm(steps[:, i] - steps[:, j], axis=2)


def test_wrapped_positions_give_the_same_forces_and_virial_as_given_ones(folder):
    start = read_initial_states(folder / "crystal.xyz")[0][0]
    s = start.structure
    forces = EngineForces(str(folder / "model.safetensors"), start)
    energy, found, virial = forces(s.positions, s.cell)
    moved = s.positions + np.random.default_rng(1).integers(-2, 3, s.positions.shape) @ s.cell
    again = forces(moved, s.cell)
    assert again[0] == pytest.approx(energy, abs=1e-9)
    assert again[1] == pytest.approx(found, abs=1e-6)
    assert again[2] == pytest.approx(virial, abs=1e-6)


def test_virial_is_minus_the_derivative_of_the_energy_by_strain(folder):
    start = read_initial_states(folder / "crystal.xyz")[0][0]
    s = start.structure
    forces = EngineForces(str(folder / "model.safetensors"), start)
    virial, h = forces(s.positions, s.cell)[2], 1e-3
    energies = [forces(s.positions * (1 + e), s.cell * (1 + e))[0] for e in (h, -h)]
    assert np.trace(virial) == pytest.approx(-(energies[0] - energies[1]) / (2 * h), rel=2e-2, abs=5e-3)


def test_turned_cell_and_velocities_of_the_ipi_input_are_a_rotation(folder, tmp_path):
    """i-PI wants an upper triangular cell: lengths, angles and distances stay."""
    export_ipi(str(folder / "model.safetensors"), folder / "crystal.xyz", tmp_path / "ipi")
    lines = (tmp_path / "ipi" / "init.xyz").read_text().splitlines()
    cell = read_initial_states(folder / "crystal.xyz")[0][0].structure.cell
    lengths = [float(word) for word in lines[1].split()[2:5]]
    assert lengths == pytest.approx(np.linalg.norm(cell, axis=1))
    text = (tmp_path / "ipi" / "input.xml").read_text()
    speeds = np.array([float(x) for x in re.search(r'mode="manual" units="atomic_unit"> \[ (.*) \]', text)[1].split(",")]).reshape(-1, 3)
    given = read_initial_states(folder / "crystal.xyz")[0][0].velocities
    assert np.linalg.norm(speeds, axis=1) == pytest.approx(np.linalg.norm(given, axis=1) / 21.8769126364)


def test_what_an_engine_cannot_do_is_refused(folder, tmp_path):
    model = str(folder / "model.safetensors")
    fixed = tmp_path / "fixed.xyz"
    fixed.write_text("3\nProperties=species:S:1:pos:R:3:move_mask:L:1\nO 0 0 0 F\nH 0.96 0 0 T\nH -0.24 0.93 0 T\n")
    for export in (export_lammps, export_ipi):
        with pytest.raises(SimulationError, match="fixed atoms and bonds"):
            export(model, fixed, tmp_path / "x")
    slab = tmp_path / "slab.xyz"
    slab.write_text('1\nLattice="4 0 0 0 4 0 0 0 20" pbc="T T F" Properties=species:S:1:pos:R:3\nO 0 0 0\n')
    for export in (export_lammps, export_ipi):
        with pytest.raises(SimulationError, match="periodic along one or two axes"):
            export(model, slab, tmp_path / "x")
    with pytest.raises(SimulationError, match="is no address"):
        parse_address("localhost")
    assert not (tmp_path / "x").exists()
    with pytest.raises(SimulationError, match="files already"):
        export_lammps(model, folder / "molecule.xyz", tmp_path)  # an export never takes the place of results


@pytest.mark.parametrize(
    ("export", "file", "drawn"), [(export_lammps, "in.lammps", "velocity all create 450 "), (export_ipi, "input.xml", " 450")]
)
def test_a_temperature_is_that_of_drawn_velocities_and_refused_where_none_are_drawn(folder, export, file, drawn, tmp_path):
    model, start = str(folder / "model.safetensors"), folder / "molecule.xyz"
    with pytest.raises(SimulationError, match="the velocities of the file are taken, so --temperature has no effect"):
        export(model, start, tmp_path / "kept", temperature=450)
    export(model, start, tmp_path / "new", temperature=450, wanted=FrameOptions(new_velocities=True))
    assert drawn in (tmp_path / "new" / file).read_text()
    export(model, start, tmp_path / "kept")
    assert "velocity all create" not in (tmp_path / "kept" / file).read_text()


class Engine:
    """What `attach` asks of LAMMPS before it connects."""

    def __init__(self, processes: int = 1, atoms: int = 3, units: str = "metal") -> None:
        self.processes, self.atoms, self.units = processes, atoms, units

    def extract_setting(self, name):
        return self.processes

    def get_natoms(self):
        return self.atoms

    def extract_global(self, name):
        return self.units


@pytest.mark.parametrize(
    ("engine", "said"),
    [(Engine(processes=2), "one MPI process"), (Engine(atoms=4), "4 atoms and the structure 3"), (Engine(units="real"), "real")],
)
def test_lammps_that_cannot_be_served_is_refused(folder, engine, said):
    start = read_initial_states(folder / "molecule.xyz")[0][0]
    assert isinstance(start, InitialState)
    with pytest.raises(SimulationError, match=said):
        attach(engine, str(folder / "model.safetensors"), start)
