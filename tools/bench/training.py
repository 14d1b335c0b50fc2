"""`train`: steps and structures per second of the one training loop on GFN2-xTB labels, beside the bare forward and backward of the same model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from mlipfm_data.conformers import conformers
from mlipfm_data.store.store import StoreWriter
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.batch import Batch
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_train.events import Event
from mlipfm_train.loop import fit
from mlipfm_train.open_run import open_run
from mlipfm_train.recipe import Recipe, make_recipe

from bench.figures import Figure, clock, figure, seconds

MODELS = ("painn", "density")
MOLECULES = ("CCO", "CC(=O)O", "NC=O", "CC#N", "COC=O", "CC(N)=O", "CC=C", "CN")
BUDGET = 500.0
FLOOR = "bare forward + backward of the same batches"


def measure(threads: int, quick: bool) -> Iterator[Figure]:
    """A step is: batch planned and read, views, neighbours, forward, forces, backward, clipping, AdamW, moving average, log."""
    torch.set_num_threads(threads)
    copies, steps = (4, 14) if quick else (16, 62)
    with tempfile.TemporaryDirectory() as folder:
        labelled = molecules(copies)
        with StoreWriter(Path(folder) / "store", name="bench") as writer:
            for item in labelled:
                writer.add(item)
        for model in MODELS:
            recipe = make_recipe(
                {
                    "potential": {"name": model},
                    "data": {"train": [str(Path(folder) / "store")], "budget": BUDGET},
                    "steps": steps,
                    "evaluate_every": steps,
                    "checkpoint_every": steps,
                }
            )
            loop, sizes = _loop(recipe, Path(folder) / model, threads)
            bare = _bare(recipe, Path(folder) / f"{model}-bare", threads)
            what = f"{model}, {len(labelled)} molecules of {np.mean([len(s) for s in labelled]):.1f} atoms, {np.mean(sizes):.0f} a step"
            yield figure("train", what, "steps/s", loop, threads, FLOOR, bare)
            pairs = [[rate * size for rate, size in zip(rates, sizes, strict=True)] for rates in (loop, bare)]
            yield figure("train", what, "structures/s", pairs[0], threads, FLOOR, pairs[1])


def molecules(copies: int) -> list[Structure]:
    """Conformers displaced by 0.05 Å, labelled by GFN2-xTB."""
    rng, labeler = np.random.default_rng(0), TbliteLabeler()
    found = []
    for smiles in MOLECULES:
        start = conformers(smiles, n=1, seed=0)[0]
        for _ in range(copies):
            found.append(labeler.label(start.replace(positions=start.positions + rng.normal(scale=0.05, size=start.positions.shape))))
    return found


def _loop(recipe: Recipe, out: Path, threads: int) -> tuple[list[float], list[int]]:
    """Steps per second of `fit`, from the log entry of one step to that of the next, and the number of structures of each."""
    now, ends, sizes = clock(threads), list[float](), list[int]()

    def listen(event: Event) -> None:
        if event["kind"] == "step":
            ends.append(now())
            sizes.append(int(event["values"]["systems"]))

    fit(recipe, out, listeners=[listen])
    return [1 / (b - a) for a, b in pairwise(ends)][1:], sizes[2:]


def _bare(recipe: Recipe, out: Path, threads: int) -> list[float]:
    """Forward and backward passes per second of the model that `fit` begins with, on the batches that it sees, already collated."""
    rates = []
    with open_run(recipe, out) as run:
        for step in range(recipe.steps):
            batch = run.collate(run.source.next_batch(None), step).batch
            rates.append(1 / seconds(partial(_forward_backward, run.step.potential, batch), threads))
            run.step.zero_grad(set_to_none=True)
    return rates[2:]


def _forward_backward(potential: Potential, batch: Batch) -> None:
    answer = potential(batch.with_leaves(), ("energy", "forces"), create_graph=True).values
    sum(((answer[key] - batch.labels[key]) ** 2).mean() for key in ("energy", "forces")).backward()
