"""Runs in the environment of mace-torch: trains its MACE for a given CPU time with its own data and loss; cosine schedule, EMA, best of all epochs.

python mace_torch_trainer.py FOLDER MINUTES     # FOLDER holds train.xyz and valid.xyz; curve.json and model.model come into it
python mace_torch_trainer.py FOLDER steps       # one step for each line that comes in; prints its seconds of CPU
"""

import json
import sys
import time
from collections.abc import Iterator
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mace import data, modules
from mace.tools import AtomicNumberTable, torch_geometric
from torch_ema import ExponentialMovingAverage

CUTOFF, CHANNELS, BATCH, LR, FINAL, DECAY = 5.0, 64, 5, 0.01, 0.01, 0.99


def loaders(folder: Path):
    """Training and validation batches, the table of elements and their mean energies."""
    sets = {}
    for part in ("train", "valid"):
        keys = data.KeySpecification.from_defaults().update({"energy": "REF_energy"}, {"forces": "REF_forces"})
        sets[part] = data.load_from_xyz(str(folder / f"{part}.xyz"), keys)[1]
    table = AtomicNumberTable(sorted({int(z) for config in sets["train"] for z in config.atomic_numbers}))
    energies = data.compute_average_E0s(sets["train"], table)
    atoms = {part: [data.AtomicData.from_config(config, z_table=table, cutoff=CUTOFF) for config in some] for part, some in sets.items()}
    train = torch_geometric.dataloader.DataLoader(atoms["train"], batch_size=BATCH, shuffle=True, drop_last=True)
    valid = torch_geometric.dataloader.DataLoader(atoms["valid"], batch_size=10, shuffle=False, drop_last=False)
    return train, valid, table, np.array([energies[z] for z in table.zs])


def make(train, table, energies):
    """ScaleShiftMACE of its command line's defaults, 64 scalar channels."""
    from e3nn import o3

    mean, rms = modules.compute_mean_rms_energy_forces(train, np.atleast_2d(energies))
    residual = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=residual, interaction_cls_first=residual,
        num_interactions=2, num_elements=len(table), hidden_irreps=o3.Irreps(f"{CHANNELS}x0e"), MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=energies, avg_num_neighbors=modules.compute_avg_num_neighbors(train), atomic_numbers=table.zs, correlation=3,
        gate=torch.nn.functional.silu, atomic_inter_scale=rms, atomic_inter_shift=mean,
    )  # fmt: skip


def force_mae(model, valid):
    """meV/Å over all components."""
    errors = []
    for batch in valid:
        found = model(batch.to_dict(), training=False, compute_force=True)
        errors.append((found["forces"] - batch.forces).detach().abs().flatten())
    return 1e3 * float(torch.cat(errors).mean())


class Training:
    """Model, loss, optimizer and moving average."""

    def __init__(self, train, table, energies) -> None:
        self.model = make(train, table, energies)
        self.loss = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR, amsgrad=True)
        self.ema = ExponentialMovingAverage(self.model.parameters(), decay=DECAY)

    def step(self, batch) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(pred=self.model(batch.to_dict(), training=True, compute_force=True), ref=batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.optimizer.step()
        self.ema.update()


def steps(folder: Path) -> None:
    """One step for each line of the standard input."""
    torch.set_num_threads(1)
    train, _, table, energies = loaders(folder)
    training = Training(train, table, energies)
    batches: Iterator[Any] = iter(())
    for _ in sys.stdin:
        batch = next(batches, None)
        if batch is None:
            batches = iter(train)
            batch = next(batches)
        begin = time.process_time()
        training.step(batch)
        print("step", time.process_time() - begin, flush=True)


def main(folder: Path, seconds: float) -> None:
    """Train for so many seconds of CPU."""
    train, valid, table, energies = loaders(folder)
    training = Training(train, table, energies)
    points, best, step = [], float("inf"), 0
    begin = time.process_time()
    while (spent := time.process_time() - begin) < seconds:
        for batch in train:
            done = min(1.0, (time.process_time() - begin) / seconds)
            for group in training.optimizer.param_groups:
                group["lr"] = LR * (FINAL + (1 - FINAL) * (1 + cos(pi * done)) / 2)
            training.step(batch)
            step += 1
        with training.ema.average_parameters():
            error = force_mae(training.model, valid)
            if error < best:
                best = error
                torch.save(training.model, folder / "model.model")
        spent = time.process_time() - begin
        points.append({"step": step, "seconds": spent, "force MAE": error})
        (folder / "curve.json").write_text(json.dumps(points))
        print(f"step {step}: {error:.1f} meV/A after {spent / 60:.1f} min of CPU", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    if sys.argv[2] == "steps":
        steps(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), 60 * float(sys.argv[2]))
