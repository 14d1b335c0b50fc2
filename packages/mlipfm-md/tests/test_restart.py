"""A run that was killed goes on with the same bits; damaged and foreign folders are refused."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import DamagedFileError, SimulationError
from mlipfm_interfaces.frames import FrameLog
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import Morse, noble_gas
from mlipfm_interfaces.units import BAR
from mlipfm_md.barostat import NPT
from mlipfm_md.ensembles import NVE, Bussi, Ensemble, Langevin, NoseHoover
from mlipfm_md.exchange import ReplicaExchange
from mlipfm_md.initial_state import InitialState
from mlipfm_md.respa import Respa
from mlipfm_md.simulation import Run, Settings, simulate
from mlipfm_md.state import State
from mlipfm_md.trajectory import export_extxyz


def waters() -> list[Structure]:
    one = [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]
    return [Structure([8, 1, 1], one), Structure([8, 1, 1], np.array(one) * 1.02)]


def model():
    return build("painn", {"elements": ["H", "O"], "levels": ["x"], "backbone": {"channels": 8, "layers": 1}, "scale": 0.05})


def settings(steps: int) -> Settings:
    return Settings(dt=0.5, steps=steps, temperature=300, seed=4, every=5, restart_every=20)


def crystals() -> list[Structure]:
    """Argon, fcc with four atoms in a cell that is strained, and one of eight atoms."""
    rng, corners = np.random.default_rng(0), np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    small, large = 5.4 * np.diag([1.0, 0.98, 1.03]), 5.3 * np.diag([2.0, 1, 1])
    doubled = np.concatenate([corners, corners + [1, 0, 0]]) * [0.5, 1, 1]
    return [
        Structure([18] * len(x), x @ cell + 0.05 * rng.normal(size=x.shape), cell, [True] * 3)
        for x, cell in ((corners, small), (doubled, large))
    ]


def copies() -> list[Structure]:
    return crystals()[:1] * 3


def rigid() -> list[InitialState]:
    """Waters that are rigid: three bonds of fixed length each."""
    return [InitialState(s, bonds=np.array([[0, 1], [0, 2], [1, 2]])) for s in waters()]


class Case(NamedTuple):
    """One ensemble on systems that it fits."""

    ensemble: Ensemble
    starts: Callable[[], list[Any]] = crystals
    model: Callable[[], Any] = noble_gas
    inner: Callable[[], Any] | None = None
    dt: float = 4.0

    def run(self, steps: int, out: Path, **options: Any) -> Run:
        settings = Settings(**({"dt": self.dt, "temperature": 60, "seed": 4, "every": 5, "restart_every": 20} | {"steps": steps} | options))
        return simulate(self.model(), self.starts(), self.ensemble, settings, out=out, inner=self.inner and self.inner())


CASES = {
    "nve": Case(NVE()),
    "langevin": Case(Langevin((60.0, 90.0), 0.02)),
    "bussi": Case(Bussi(60.0, 50.0)),
    "nose-hoover": Case(NoseHoover((60.0, 90.0), 50.0)),
    "npt": Case(NPT(60.0, 100 * BAR, 0.02, 200.0)),
    "npt-full": Case(NPT(60.0, 100 * BAR, 0.02, 200.0, full=True)),
    "two-steps": Case(Respa(Langevin(60.0, 0.02), 3), inner=lambda: noble_gas(epsilon=0.012)),
    "exchange": Case(ReplicaExchange((50.0, 60.0, 70.0), every=4), copies),
    "rigid": Case(Langevin(300.0, 0.02), rigid, lambda: Morse(), dt=1.0),
    "learned": Case(Langevin(300.0, 0.02), waters, model, dt=0.5),
}


def same_bits(one: State, two: State) -> bool:
    arrays = ("positions", "velocities", "forces", "energies", "cells", "stress")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays) and all(
        np.array_equal(one.extended[name], two.extended[name]) for name in one.extended
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_stopped_run_continues_with_the_same_bits(tmp_path, case):
    """2 n steps are n steps, a restart and n steps: states, thermostats, recorded values and the bytes of both files."""
    whole = case.run(60, tmp_path / "whole")
    case.run(30, tmp_path / "parts")
    parts = case.run(60, tmp_path / "parts")
    assert same_bits(whole.state, parts.state)
    for name in ("potential", "kinetic", "temperature", "conserved", "volume", "pressure"):
        assert np.array_equal(np.array(getattr(whole, name)), np.array(getattr(parts, name)), equal_nan=True)
    assert whole.steps == parts.steps == list(range(0, 61, 5))
    for name in ("trajectory.frames", "energies.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_run_that_is_told_to_stop_between_two_records_goes_on_with_the_same_bits(tmp_path):
    case = CASES["npt-full"]
    said = iter([False] * 12 + [True])
    settings = Settings(dt=4.0, steps=40, temperature=60, seed=4, every=5, restart_every=20)
    stopped = simulate(noble_gas(), crystals(), case.ensemble, settings, out=tmp_path / "parts", stop=lambda: next(said))
    assert (stopped.status, stopped.reason, stopped.state.step) == ("stopped", "stopped at step 13", 13)
    assert same_bits(case.run(40, tmp_path / "parts").state, case.run(40, tmp_path / "whole").state)


@pytest.mark.parametrize(
    "name", [n if n in ("nve", "npt-full") else pytest.param(n, marks=pytest.mark.full) for n, c in CASES.items() if c.model is noble_gas]
)
def test_results_do_not_depend_on_the_skin_of_the_neighbour_list(tmp_path, name):
    found = [CASES[name].run(40, tmp_path / str(skin), skin=skin).state for skin in (0.0, 0.3, 1.5)]
    for other in found[1:]:
        assert other.positions == pytest.approx(found[0].positions, abs=1e-10)
        assert other.cells == pytest.approx(found[0].cells, abs=1e-10)


_SERVER = """
import os, sys; sys.path.insert(0, {folder!r})
from pathlib import Path
from test_restart import CASES
for line in sys.stdin:
    name, steps, out = line.split()
    child = os.fork()
    if child == 0:
        CASES[name].run(int(steps), Path(out))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def kill_at_random(names: list[str], kills: int, folder: Path, longest: float) -> None:
    """Kill runs at random moments up to `longest` s after their begin until `kills` have hit; each run must end with the bits of one left alone."""
    steps, hits, done, rng = 300, 0, 0, np.random.default_rng(1)
    code = _SERVER.format(folder=str(Path(__file__).parent))
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        while hits < kills or done < len(names):
            name = names[done % len(names)]
            server.stdin.write(f"{name} {steps} {folder / f'killed-{done}'}\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            if hits < kills:
                time.sleep(rng.uniform(0, longest))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            status = int(server.stdout.readline())
            hits += status == -signal.SIGKILL
            assert status in (0, -signal.SIGKILL)
            if status == 0:
                check_same(CASES[name], steps, folder / f"killed-{done}", folder / f"whole-{name}")
                done += 1
        server.stdin.close()


def check_same(case: Case, steps: int, killed: Path, whole: Path) -> None:
    first, again = case.run(steps, whole), case.run(steps, killed)  # what is there already is read
    assert same_bits(first.state, again.state)
    killed_steps, whole_steps = ([d.step for _, d in FrameLog(out / "trajectory.frames")] for out in (killed, whole))
    assert killed_steps == whole_steps
    for name in ("trajectory.frames", "energies.csv", "restart.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.ci
def test_killed_run_continues_with_the_same_bits(tmp_path):
    """kill -9 at random moments, five times; no frame is missing, doubled or torn and the last state has the same bits."""
    kill_at_random(["npt-full"], 5, tmp_path, 0.4)


@pytest.mark.full
def test_a_hundred_kills_change_no_bit(tmp_path):
    """100 kills of runs of every ensemble."""
    kill_at_random([*CASES], 100, tmp_path, 1.0)


def test_folder_of_another_run_is_refused(tmp_path):
    simulate(model(), waters(), NVE(), settings(20), out=tmp_path / "run")
    with pytest.raises(SimulationError, match="another ensemble or other parameters of it: .* there and .* here"):
        simulate(model(), waters(), Langevin(300.0), settings(20), out=tmp_path / "run")
    with pytest.raises(SimulationError, match="other structures"):
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
    with pytest.raises(SimulationError, match="other structures"):
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
