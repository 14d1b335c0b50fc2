"""`infer`: milliseconds per energy and forces through ASE, of models with fresh weights, beside GFN2-xTB (tblite) and EMT (ASE)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.potential import Prediction
from mlipfm_md import MlipfmCalculator
from tblite.ase import TBLite

from bench.figures import Figure, clock, figure

MODELS = ("painn", "density")
ELEMENTS, LEVEL = ("H", "C", "O", "Si", "Cu"), "gfn2-xtb"
#: Calls of a slow system are repeated for this long, seconds.
LONGEST, LONGEST_QUICK = 4.0, 1.0


def measure(threads: int, quick: bool) -> Iterator[Figure]:
    """Every call sees new positions: nothing is cached. tblite starts each from the result before, as in dynamics."""
    torch.set_num_threads(threads)
    limit = LONGEST_QUICK if quick else LONGEST
    systems = {"ethanol": ethanol(), "water 96": water(4, 4, 2), "water 192": water(4, 4, 4), "Si 64": silicon(), "Cu 108": copper()}
    peers: dict[str, tuple[str, Any]] = {
        "ethanol": ("GFN2-xTB, tblite", TBLite(method="GFN2-xTB", verbosity=0)),
        "Cu 108": ("EMT, ASE", EMT()),
    }
    theirs = {name: times(systems[name], calculator, threads, limit) for name, (_, calculator) in peers.items()}
    for model in MODELS:
        torch.manual_seed(0)
        potential = build(model, {"elements": ELEMENTS, "levels": [LEVEL]})
        size = sum(p.numel() for p in potential.parameters())
        for name, atoms in systems.items():
            found = times(atoms, MlipfmCalculator(potential, level=LEVEL), threads, limit)
            peer = peers[name][0] if name in peers else None
            what = f"{model} ({size // 1000:,}k parameters, {potential.spec.graphs[0].cutoff:g} Å), {name}"
            yield figure("infer", what, "ms" + (" CPU" if threads == 1 else ""), found, threads, peer, theirs.get(name, ()))
    for name in ("ethanol", "Cu 108"):
        ours, fresh = outside(systems[name], threads)
        unit, peer = "ms" + (" CPU" if threads == 1 else ""), "a list and batch of its own"
        yield figure("infer", f"outside of the model, {name}", unit, ours, threads, peer, fresh)


def outside(atoms: Atoms, threads: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a step of the calculator with a model that costs nothing, and of a structure, neighbour list and batch made for it alone.

    In turns; each value is the mean of 50 steps, because asking for the CPU time costs as much as a step.
    """
    potential, now = build("density", {"elements": ELEMENTS, "levels": [LEVEL]}), clock(threads)
    energy, forces = torch.zeros(1, dtype=torch.float64), torch.zeros(len(atoms), 3, dtype=torch.float64)
    answer = Prediction({"energy": energy, "forces": forces}, "conservative")
    potential.forward = lambda batch, outputs, create_graph=False: answer  # type: ignore[method-assign]  # to time the rest
    atoms, rng, calculator = atoms.copy(), np.random.default_rng(0), MlipfmCalculator(potential, level=LEVEL, engine="torch")
    atoms.calc = calculator
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(9):
        for kind, times_of in enumerate(found):
            begin = now()
            for _ in range(50):
                atoms.positions += rng.normal(scale=1e-3, size=atoms.positions.shape)
                if kind == 0:
                    atoms.get_potential_energy()
                    atoms.get_forces()
                else:
                    collate([calculator.to_structure(atoms)], potential.spec.graphs)
            times_of.append(1000 * (now() - begin) / 50)
    return found


def times(atoms: Atoms, calculator: Any, threads: int, limit: float) -> list[float]:
    """Milliseconds of each of 5 to 50 calls, after two that are not counted; no more than 5 once `limit` seconds are over."""
    atoms, rng, now = atoms.copy(), np.random.default_rng(0), clock(threads)
    atoms.calc = calculator
    found: list[float] = []
    while len(found) < 7 or (len(found) < 52 and sum(found) < 1000 * limit):
        atoms.positions += rng.normal(scale=1e-3, size=atoms.positions.shape)
        begin = now()
        atoms.get_potential_energy()
        atoms.get_forces()
        found.append(1000 * (now() - begin))
    return found[2:]


def ethanol() -> Atoms:
    """One molecule of 9 atoms."""
    return molecule("CH3CH2OH")


def water(*counts: int) -> Atoms:
    """Molecules on a cubic lattice of 3.1 Å (1.0 g/cm³), each turned at random, periodic."""
    rng, box = np.random.default_rng(0), Atoms(cell=3.1 * np.array(counts), pbc=True)
    for place in product(*(range(k) for k in counts)):
        one = molecule("H2O")
        one.euler_rotate(*rng.uniform(0, 360, 3), center="COM")
        one.translate(3.1 * np.array(place) - one.get_center_of_mass())
        box += one
    return box


def silicon() -> Atoms:
    """64 atoms of the diamond structure, displaced by 0.05 Å."""
    return _rattled(bulk("Si", "diamond", 5.43, cubic=True).repeat(2))


def copper() -> Atoms:
    """108 atoms of the fcc structure, displaced by 0.05 Å."""
    return _rattled(bulk("Cu", "fcc", 3.615, cubic=True).repeat(3))


def _rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.05, seed=0)
    return atoms
