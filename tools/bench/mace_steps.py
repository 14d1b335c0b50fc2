"""`mace-torch`: training steps of `mace` 64 x 2 beside those of mace-torch, 64 scalar channels and two layers, on the same molecules and in turns.

200 molecules of about 22 atoms with GFN2-xTB labels, batches of about five, one thread each, CPU time: a step of ours is what `mlipfm train` does
(batch, neighbours, forces, both backward passes, AdamW, moving average, log), theirs is its training loop with batches that it has prepared.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from mlipfm_data import Store, StoreWriter
from mlipfm_data.conformers import conformers
from mlipfm_data.readers.extxyz import export_extxyz
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.foreign_environment import environment
from mlipfm_train import fit, load_recipe
from mlipfm_train.events import Event

from bench.figures import Figure, figure
from bench.mace_torch import HERE, NAME, REQUIREMENTS

MOLECULES = ("CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CC(=O)Nc1ccc(O)cc1", "CC(C)CC(N)C(=O)O", "NCCc1ccc(O)c(O)c1")
#: `data.budget` of the recipe that makes batches of about five such molecules, and the same number in the peer's batches.
BUDGET, BATCH = 330.0, 5


def measure(steps: int, copies: int = 40) -> Iterator[Figure]:
    """Structures per second of both; the first steps of each warm up and are left out."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        store = _molecules(home / "store", copies)
        with Store(store) as read:
            for part in ("train", "valid"):
                export_extxyz(read, home / f"{part}.xyz")
        command = [str(environment("mace-torch", REQUIREMENTS)), "-W", "ignore", str(HERE / "mace_torch_trainer.py"), str(home), "steps"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            ours, theirs = _in_turns(peer, store, home / "run", steps)
            assert peer.stdin is not None
            peer.stdin.close()
    yield figure(
        "mace-torch", f"mace 64 x 2, {len(MOLECULES)} molecules of 20 to 24 atoms, training", "structures/s", ours, 1, NAME, theirs
    )


def _in_turns(peer: subprocess.Popen[str], store: Path, out: Path, steps: int) -> tuple[list[float], list[float]]:
    """Structures per second of CPU time, of each step."""
    ends, ours, theirs = [time.process_time()], list[float](), list[float]()

    def listen(event: Event) -> None:
        if event["kind"] != "step":
            return
        ours.append(int(event["values"]["systems"]) / (time.process_time() - ends[-1]))
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write("step\n")
        peer.stdin.flush()
        theirs.append(BATCH / _seconds(peer.stdout))
        ends.append(time.process_time())

    changes = [f"steps={steps}", f"data.budget={BUDGET}", f"evaluate_every={steps}", f"checkpoint_every={steps}"]
    fit(load_recipe("mace", changes, train=[store]), out, listeners=[listen])
    warm = min(5, steps // 3)
    return ours[warm:], theirs[warm:]


def _seconds(output: IO[str]) -> float:
    """What the peer prints after a step; before its first one its libraries print remarks."""
    for line in output:
        if line.startswith("step "):
            return float(line.split()[1])
    raise RuntimeError("the process of mace-torch ended before its steps did")


def _molecules(folder: Path, copies: int) -> Path:
    """A store of conformers displaced by 0.05 Å with GFN2-xTB labels."""
    rng, labeler = np.random.default_rng(0), TbliteLabeler()
    with StoreWriter(folder, name="bench") as writer:
        for smiles in MOLECULES:
            start = conformers(smiles, n=1, seed=0)[0]
            for _ in range(copies):
                writer.add(labeler.label(start.replace(positions=start.positions + rng.normal(scale=0.05, size=start.positions.shape))))
    return folder
