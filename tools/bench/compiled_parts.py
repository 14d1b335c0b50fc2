"""`products`: a training step (forces, their loss, its gradients) and a call of backbones with compiled parts, beside plain torch in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from ase.build import bulk
from mlipfm_data.conformers import conformers
from mlipfm_interfaces.batch import Batch, collate
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_models import build_potential
from mlipfm_models.backbones._compiled_products import plain_torch
from mlipfm_models.speed_table import water_box
from mlipfm_train import load_recipe

from bench.figures import Figure, figure, seconds

RECIPES = ("density-small", "density-medium", "density", "mace")
PEER = "plain torch"


def measure(threads: int, quick: bool) -> Iterator[Figure]:
    """Milliseconds of CPU time."""
    torch.set_num_threads(threads)
    repeats = 8 if quick else 24
    for name in RECIPES:
        options = load_recipe(name).potential.options["backbone"]
        for what, structures in systems().items():
            elements = sorted({int(z) for s in structures for z in s.atomic_numbers})
            potential = build_potential(name.partition("-")[0], {"elements": elements, "levels": ["pbe"], "backbone": options})
            batch = replace(collate(structures, potential.spec.graphs, torch.float32), mask_undefined=True)
            outputs = ("energy", "forces", "stress") if structures[0].pbc.all() else ("energy", "forces")
            actions: dict[str, Callable[[], object]] = {
                "step": _step(potential, batch, outputs),
                "call": partial(potential, batch, outputs),
            }
            for kind, action in actions.items():
                ours, theirs = _in_turns(action, threads, repeats)
                yield figure("products", f"{name}, {kind}, {what}", "ms", ours, threads, PEER, theirs)


def systems() -> dict[str, list[Structure]]:
    """Aspirin once, five times and twenty times, 192 atoms of water, 32 of copper; all displaced by 0.05 Å."""
    rng = np.random.default_rng(0)
    aspirin = conformers("CC(=O)Oc1ccccc1C(=O)O", n=1, seed=0)[0].replace(total_charge=0, spin_multiplicity=1)
    copper = bulk("Cu", cubic=True).repeat(2)
    crystal = Structure(copper.numbers, copper.positions, np.array(copper.cell), np.ones(3, dtype=bool))

    def displaced(s: Structure) -> Structure:
        return s.replace(positions=s.positions + rng.normal(scale=0.05, size=s.positions.shape), labels={}, label_std={}, level="pbe")

    found = {f"{n} molecule{'s' * (n > 1)} of 21 atoms": [aspirin] * n for n in (1, 5, 20)} | {
        "water 192": [water_box(4)],
        "Cu 32": [crystal],
    }
    return {name: [displaced(s) for s in some] for name, some in found.items()}


def _step(potential: Potential, batch: Batch, outputs: tuple[str, ...]) -> Callable[[], None]:
    parameters = list(potential.parameters())

    def step() -> None:
        made = potential(batch.with_leaves(strain="stress" in outputs), outputs, create_graph=True).values
        sum((value.square().mean() for value in made.values()), torch.zeros(())).backward(inputs=parameters)
        for parameter in parameters:
            parameter.grad = None

    return step


def _in_turns(action: Callable[[], object], threads: int, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds with compiled parts and without; the first three of each warm up."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 3):
        for kept, how in zip(found, (nullcontext, plain_torch), strict=True):
            with how():  # type: ignore[operator]  # of both a context manager
                kept.append(1000 * seconds(action, threads))
    return found[0][3:], found[1][3:]
