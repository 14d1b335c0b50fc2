"""A run that was killed goes on with the same bits; damaged and foreign folders are refused."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import DamagedFileError, SimulationError
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.structure import Structure
from mlipfm_md.ensembles import NVE, Langevin
from mlipfm_md.simulation import Settings, simulate
from mlipfm_md.trajectory import export_extxyz


def waters() -> list[Structure]:
    one = [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]
    return [Structure([8, 1, 1], one), Structure([8, 1, 1], np.array(one) * 1.02)]


def model():
    return build("painn", {"elements": ["H", "O"], "levels": ["x"], "backbone": {"channels": 8, "layers": 1}, "scale": 0.05})


def settings(steps: int) -> Settings:
    return Settings(dt=0.5, steps=steps, temperature=300, seed=4, every=5, restart_every=20)


@pytest.mark.parametrize("ensemble", [NVE(), Langevin(300.0, 0.02)], ids=["nve", "langevin"])
def test_stopped_run_continues_with_the_same_bits(tmp_path, ensemble):
    whole = simulate(model(), waters(), ensemble, settings(100), out=tmp_path / "whole")
    simulate(model(), waters(), ensemble, settings(50), out=tmp_path / "parts")
    parts = simulate(model(), waters(), ensemble, settings(100), out=tmp_path / "parts")
    assert np.array_equal(whole.state.positions, parts.state.positions)
    assert np.array_equal(whole.state.velocities, parts.state.velocities)
    assert np.array_equal(whole.total, parts.total)
    assert whole.steps == parts.steps == list(range(0, 101, 5))


@pytest.mark.ci
def test_killed_run_continues_with_the_same_bits(tmp_path):
    """kill -9 at a random moment, three times; no frame is missing or doubled and the last state is bitwise equal."""
    whole = simulate(model(), waters(), Langevin(300.0, 0.02), settings(300), out=tmp_path / "whole")
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_restart import *
import torch; torch.set_num_threads({_threads()})
print('ready', flush=True)
simulate(model(), waters(), Langevin(300.0, 0.02), settings(300), out=Path({str(tmp_path / "killed")!r}))
"""
    rng = np.random.default_rng(1)
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.6))
        child.kill()
        child.wait()
        child.stdout.close()
    again = simulate(model(), waters(), Langevin(300.0, 0.02), settings(300), out=tmp_path / "killed")
    assert np.array_equal(whole.state.positions, again.state.positions)
    assert np.array_equal(whole.total, again.total)
    killed_steps, whole_steps = ([d.step for _, d in FrameLog(tmp_path / name / "trajectory.frames")] for name in ("killed", "whole"))
    assert killed_steps == whole_steps


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def test_folder_of_another_run_is_refused(tmp_path):
    simulate(model(), waters(), NVE(), settings(20), out=tmp_path / "run")
    with pytest.raises(SimulationError, match="another ensemble"):
        simulate(model(), waters(), Langevin(300.0), settings(20), out=tmp_path / "run")
    with pytest.raises(SimulationError, match="another structures"):
        simulate(model(), waters()[:1], NVE(), settings(20), out=tmp_path / "run")


class Spring:
    """E = k r²/2 on every atom, under an address."""

    outputs = ("energy", "forces")

    def __init__(self, k: float) -> None:
        self.k, self.uri = k, f"spring:{k}"

    def evaluate(self, structures, outputs):
        return [{"energy": np.array(0.5 * self.k * (s.positions**2).sum()), "forces": -self.k * s.positions} for s in structures]


def test_run_of_another_model_or_level_is_not_continued(tmp_path):
    simulate(Spring(1.0), waters(), NVE(), settings(20), out=tmp_path / "run")
    with pytest.raises(SimulationError, match="another model"):
        simulate(Spring(2.0), waters(), NVE(), settings(40), out=tmp_path / "run")
    with pytest.raises(SimulationError, match="another structures"):
        simulate(Spring(1.0), [s.replace(level="pbe") for s in waters()], NVE(), settings(40), out=tmp_path / "run")


def test_frames_of_a_run_that_broke_off_early_are_not_overwritten_by_another(tmp_path):
    """Before the first restart file there are frames already: they are evidence, and another run must not cut them off."""
    run = simulate(Spring(-50.0), waters(), NVE(), settings(400), out=tmp_path / "run")
    assert run.status == "unstable"
    before = (tmp_path / "run" / "trajectory.frames").read_bytes()
    with pytest.raises(SimulationError, match="another model"):
        simulate(Spring(1.0), waters(), NVE(), settings(20), out=tmp_path / "run")
    assert (tmp_path / "run" / "trajectory.frames").read_bytes() == before


def test_log_is_free_again_after_a_failure(tmp_path):
    class Broken(Spring):
        def evaluate(self, structures, outputs):
            raise RuntimeError("no")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            simulate(Broken(1.0), waters(), NVE(), settings(20), out=tmp_path / "run")


def test_lost_frames_are_noticed(tmp_path):
    simulate(model(), waters(), NVE(), settings(20), out=tmp_path / "run")
    (tmp_path / "run" / "trajectory.frames").unlink()
    with pytest.raises(DamagedFileError, match="0 frames, 10 when the restart was written"):
        simulate(model(), waters(), NVE(), settings(40), out=tmp_path / "run")


def test_a_start_alone_runs_as_it_does_beside_others():
    both = simulate(Spring(1.0), waters(), NVE(), settings(20))
    alone = simulate(Spring(1.0), waters()[1:], NVE(), settings(20))
    assert np.array_equal(both.state.positions[3:], alone.state.positions)


def test_flipped_bit_in_the_restart_is_detected(tmp_path):
    simulate(model(), waters(), NVE(), settings(20), out=tmp_path / "run")
    path = tmp_path / "run" / "restart.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedFileError, match="damaged"):
        simulate(model(), waters(), NVE(), settings(40), out=tmp_path / "run")


def test_exported_trajectory_opens_in_ase_with_energies_and_velocities(tmp_path):
    import ase.io
    from ase.units import fs

    run = simulate(model(), waters(), NVE(), settings(20), out=tmp_path / "run")
    assert export_extxyz(tmp_path / "run", tmp_path / "run.xyz") == 10
    frames = ase.io.read(tmp_path / "run.xyz", ":")
    assert [f.get_potential_energy() for f in frames[::2]] == pytest.approx([e[0] for e in run.potential], abs=1e-6)
    last = frames[-2].get_velocities() * fs
    assert last == pytest.approx(run.state.velocities[:3], abs=1e-6)


def test_reused_neighbours_give_the_result_of_a_fresh_list(tmp_path):
    """Skin > 0 equals skin = 0 (float64): pairs beyond the cutoff contribute exactly nothing."""
    double = build(
        "painn", {"elements": ["H", "O"], "levels": ["x"], "dtype": "float64", "backbone": {"channels": 8, "layers": 1}, "scale": 0.05}
    )
    short = {"dt": 0.5, "steps": 60, "temperature": 600, "every": 60}
    with_skin = simulate(double, waters(), NVE(), Settings(**short, skin=0.8))
    without = simulate(double, waters(), NVE(), Settings(**short, skin=0.0))
    assert with_skin.state.positions == pytest.approx(without.state.positions, abs=1e-10)
