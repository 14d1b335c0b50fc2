"""`3bpa`: every backbone from scratch on 3BPA at 300 K with the same loop, one thread each, beside mace-torch: force errors against CPU time.

450 of the 500 frames train, 50 choose the best model, 1,669 others at 300 K test it. Recipes are those that `mlipfm train --list` shows.
CPU time is that of training with its validations, which other processes lengthen little. Stores and runs lie in the cache folder; what was
interrupted goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mlipfm_interfaces.files import atomic_write, cache_dir
from mlipfm_train import shipped_recipes

from bench import mace_torch

HERE = Path(__file__).resolve().parent
#: Runs of a shipped recipe with changes, by name: `mace` for two hours of one core, and as it was without vectors between its layers.
_LONG = ["steps=180000", "evaluate_every=3600", "checkpoint_every=1800", "optimizer.lr=0.003"]
_SCALARS = ["potential.backbone.hidden_degree=0"]
CHANGED = {"mace-long": ("mace", _LONG), "mace-scalars": ("mace", _SCALARS), "mace-scalars-long": ("mace", [*_LONG, *_SCALARS])}
NAMES = (*(recipe.name for recipe in shipped_recipes() if recipe.name == recipe.backbone), *CHANGED, mace_torch.NAME)
#: Of the 500 frames.
VALID = 50
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def home() -> Path:
    """Where stores and runs lie."""
    folder = cache_dir() / "bench" / "3bpa"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(folder: Path, names: list[str]) -> int:
    """Train and test one after the other, each in a process with its log; 1 if one failed. `folder` holds the files of the set."""
    stores(folder)
    failed = 0
    for name in names or NAMES:
        log = home() / f"{name}.log"
        print(f"{time.strftime('%H:%M:%S')} {name}: {log}", flush=True)
        with log.open("a") as out:
            command = [sys.executable, str(HERE), "3bpa", "one", name]
            environment = os.environ | dict.fromkeys(THREADS, "1")
            status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False).returncode
        print(f"{time.strftime('%H:%M:%S')} {name}: " + ("complete" if status == 0 else f"failed, exit status {status}"), flush=True)
        failed |= status != 0
    return failed


def stores(folder: Path) -> None:
    """`3bpa-train`, `3bpa-valid` and `3bpa-test`, made from the files of the set if they are not there."""
    import numpy as np
    from mlipfm_data.readers.registry import read
    from mlipfm_data.store.writer import StoreWriter
    from mlipfm_interfaces.structure import Structure

    paths = {part: home() / f"3bpa-{part}" for part in ("train", "valid", "test")}
    if all((path / "manifest.json").exists() for path in paths.values()):
        return
    level = "wb97x/6-31g(d)"
    train = [s for s in read(folder / "train_300K.xyz", "extxyz", level=level) if isinstance(s, Structure)]
    test = [s for s in read(folder / "test_300K_nequip.npz", "npz", level=level) if isinstance(s, Structure)]
    order = np.random.default_rng(0).permutation(len(train)).tolist()
    parts = {"train": [train[k] for k in order[VALID:]], "valid": [train[k] for k in order[:VALID]], "test": test}
    for name, structures in parts.items():
        with StoreWriter(paths[name], name=f"3bpa-{name}") as writer:
            for s in structures:
                writer.add(s.replace(total_charge=0, spin_multiplicity=1))


def one(name: str) -> None:
    """Train and test in this process. What is complete is left alone."""
    out = home() / name
    if (out / "result.json").exists():
        return
    if name == mace_torch.NAME:
        result = mace_torch.trained(home(), out)
    else:
        result = _trained(name, out)
    atomic_write(out / "result.json", json.dumps(result).encode())


def _trained(name: str, out: Path) -> dict[str, Any]:
    from mlipfm_data.store.store import Store
    from mlipfm_eval import error_metrics, predict
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_train.loop import fit
    from mlipfm_train.recipe import load_recipe

    os.chdir(home())
    recipe = load_recipe(*CHANGED.get(name, (name, [])), train=["3bpa-train"], valid=["3bpa-valid"])
    curve = Curve(out)
    fitted = fit(recipe, out, listeners=[curve], say=print)
    seconds = curve.seconds()
    with Store(home() / "3bpa-test") as store:
        errors = error_metrics(predict(load_potential(fitted.best or fitted.last), list(store)))
    return {"seconds": seconds, "steps": fitted.steps, "errors": {k: m.as_dict() for k, m in errors.items()}, "curve": curve.points}


class Curve:
    """Listener: force error on the validation frames against CPU seconds, kept beside the run, so that it goes on after an interruption."""

    def __init__(self, out: Path) -> None:
        self._path = out / "curve.json"
        self.points: list[dict[str, float]] = json.loads(self._path.read_text()) if self._path.exists() else []
        self._before = self.points[-1]["seconds"] if self.points else 0.0
        self._begin = time.process_time()

    def seconds(self) -> float:
        """Of CPU, of this process and of those before it up to their last validation."""
        return self._before + time.process_time() - self._begin

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] != "validation":
            return
        values = {metric["name"]: metric["value"] for metric in event["values"]["metrics"]}
        self.points.append({"step": event["step"] + 1, "seconds": self.seconds(), "force MAE": values["force MAE"]})
        atomic_write(self._path, json.dumps(self.points).encode())
        print(f"step {event['step'] + 1}: {values['force MAE']:.1f} meV/A after {self.seconds() / 60:.1f} min of CPU", flush=True)
