"""Train a small potential on labels of a closed form, interrupt it, continue it, and look at what is left behind."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlipfm_data import StoreWriter
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.testing.closed_forms import Morse
from mlipfm_train import fit, make_recipe, read_events

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


def write_store(path: Path, n: int, seed: int) -> str:
    """Distorted water molecules with energies and forces of a Morse potential."""
    rng = np.random.default_rng(seed)
    bare = [
        Structure([8, 1, 1], WATER + rng.normal(scale=0.05, size=(3, 3)), level="morse", provenance=Provenance(source="example", index=k))
        for k in range(n)
    ]
    answers = evaluate(Morse(), bare, level="closed-form")
    with StoreWriter(path, name=path.name) as writer:
        for structure, labels in zip(bare, answers, strict=True):
            writer.add(structure.replace(labels=labels))
    return str(path)


class Interrupted(Exception):
    """Somebody pressed Ctrl-C."""


def interrupt_at_step_30(event: dict) -> None:
    if (event["kind"], event["step"]) == ("step", 30):
        raise Interrupted


with TemporaryDirectory() as folder:
    root = Path(folder)
    recipe = make_recipe(
        {
            "potential": {"name": "painn", "backbone": {"channels": 16, "layers": 2, "cutoff": 3.0}},
            "data": {"train": [write_store(root / "train", 40, 0)], "valid": [write_store(root / "valid", 20, 1)], "budget": 40},
            "optimizer": {"lr": 5e-3},
            "steps": 80,
            "evaluate_every": 40,
            "checkpoint_every": 20,
        }
    )
    try:
        fit(recipe, root / "run", listeners=[interrupt_at_step_30], say=print)
    except Interrupted:
        print("interrupted at step 30; continuing from the state of step 20")
    result = fit(recipe, root / "run")
    steps = [event["step"] for event in read_events(root / "run" / "events.jsonl") if event["kind"] == "step"]
    print(f"steps in the log: {len(steps)}, each once: {steps == list(range(80))}")
    for metric in result.metrics:
        print(metric)
