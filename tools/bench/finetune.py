"""`finetune`: which mode of fine-tuning wins with 10, 50 and 500 labels, beside training from scratch for the same CPU time.

Three sets of which the released model has seen nothing, at levels of theory that it does not know: two molecules at 300 K, and one that breaks.
Recipes are those that `mlipfm finetune` and `mlipfm train FILE` write. Of the n labels a tenth chooses the best model, two at least; 300 other
frames test it. Time is that of the steps: neither validation nor preflight counts. Cells (a set, n, a mode, a seed, a time) are trained one after
the other in one process; each is a line of a JSON file, and what is there is not trained again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from mlipfm_interfaces.files import cache_dir

from bench.front import results

#: The model that fine-tuning starts from, and the shipped recipe of its backbone.
MODEL, SCRATCH = "mlipfm-mol-medium", "mol-medium"
MODES = ("scratch", "naive", "layerwise", "frozen", "heads", "lora")
SIZES, TESTED = (10, 50, 500), 300
#: CPU seconds of training that the number of steps is chosen for: where a gate decides, and in the table of all modes.
DECIDED, COMPARED = 60.0, 20.0
#: Steps that are timed for it, and how many of them come first.
TIMED, WARM = 25, 5


@dataclass(frozen=True)
class Source:
    """A file of a set with the level of theory of its labels; `test` is another file of test frames, else they are taken from the first."""

    file: str
    reader: str
    level: str
    test: str | None = None


SETS = {
    "3bpa": Source("3bpa/train_300K.xyz", "extxyz", "wb97x/6-31g(d)", "3bpa/test_300K_nequip.npz"),
    "acetylacetone": Source("acetylacetone/train_300K.xyz", "extxyz", "pbe-d3", "acetylacetone/test_MD_300K.xyz"),
    "h2coo": Source("h2coo_caspt2/h2coo-caspt2_5162.npz", "npz", "caspt2/aug-cc-pvtz"),
}


@dataclass(frozen=True)
class Cell:
    """One training; `budget` in CPU seconds."""

    set: str
    n: int
    mode: str
    seed: int
    budget: float


def grid() -> list[Cell]:
    """Cells, the most informative first."""
    decide = [Cell("3bpa", n, mode, seed, DECIDED) for seed in range(3) for n in (50, 500) for mode in ("scratch", "naive")]
    return decide + [Cell(name, n, mode, 0, COMPARED) for name in SETS for n in SIZES for mode in MODES]


def run(folder: Path, out: Path) -> None:
    """Train every cell that `out` lacks. `folder` holds the unpacked sets `3bpa`, `acetylacetone` and `h2coo_caspt2`."""
    done = {Cell(*(line[key] for key in ("set", "n", "mode", "seed", "budget"))) for line in results(out)}
    for cell in grid():
        if cell in done:
            continue
        line = trained(cell, folder)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        told = f"{line['force_rmse']:.1f} meV/Å after {line['steps']} steps in {line['seconds']:.0f} s"
        print(time.strftime("%H:%M:%S"), cell, told, flush=True)


def trained(cell: Cell, folder: Path) -> dict[str, Any]:
    """Errors on the test frames of the model that was trained, with steps and CPU seconds of training."""
    from mlipfm_eval import error_metrics, predict
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_train.loop import fit

    home = cache_dir() / "bench" / "finetune"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    chosen, test = frames(cell, folder)
    recipe, request = _recipe(cell, home, chosen)
    if cell.mode != "heads":
        from mlipfm.own_file.recipe import with_steps

        seconds = step_seconds(recipe, home / "timed")
        steps = max(20, round(cell.budget / seconds))
        recipe = with_steps(recipe, replace(request, steps=steps), seconds, held_out(cell.n) / 5)
    clock = Clock()
    fitted = fit(recipe.model_copy(update={"checkpoint_every": recipe.steps}), home / "run", listeners=[clock])
    errors = error_metrics(predict(load_potential(fitted.best or fitted.last), test))
    found = {key: round(errors[key].as_dict()["value"], 3) for key in ("force_rmse", "force_mae", "energy_mae")}
    return vars(cell) | found | {"steps": fitted.steps, "seconds": round(sum(clock.steps), 1)}


class Clock:
    """A listener of `fit`: CPU seconds of every step, without what lies between a validation and the step before it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._last = time.process_time()

    def __call__(self, event: Mapping[str, Any]) -> None:
        now = time.process_time()
        if event["kind"] == "step":
            self.steps.append(now - self._last)
        self._last = now


def frames(cell: Cell, folder: Path) -> tuple[list[Any], list[Any]]:
    """The n structures of a cell and those that test it, which are the same for all cells of a set."""
    source = SETS[cell.set]
    pool = _read(folder / source.file, source)
    order = np.random.default_rng(0).permutation(len(pool))
    if source.test is None:
        test, pool = [pool[k] for k in order[:TESTED]], [pool[k] for k in order[TESTED:]]
    else:
        others = _read(folder / source.test, replace(source, reader="npz" if source.test.endswith("npz") else "extxyz"))
        test = [others[k] for k in np.random.default_rng(0).permutation(len(others))[:TESTED]]
    picks = np.random.default_rng([cell.seed, 1]).permutation(len(pool))[: cell.n]
    return [pool[k] for k in picks], test


def held_out(n: int) -> int:
    """How many of n structures choose the best model."""
    return max(2, n // 10)


def _read(path: Path, source: Source) -> list[Any]:
    from mlipfm_data.readers.registry import read
    from mlipfm_interfaces.structure import Structure

    found = [s for s in read(path, source.reader, level=source.level) if isinstance(s, Structure)]
    return [s.replace(total_charge=0, spin_multiplicity=1) for s in found]


def _recipe(cell: Cell, home: Path, chosen: list[Any]) -> tuple[Any, Any]:
    """What `mlipfm finetune` or `mlipfm train FILE` write for these structures."""
    from mlipfm.own_file.parts import Parts
    from mlipfm.own_file.recipe import recipe_of
    from mlipfm.own_file.request import Request
    from mlipfm.own_file.start import start_from_model
    from mlipfm_data.store.writer import StoreWriter

    scratch, level = cell.mode == "scratch", SETS[cell.set].level
    few = held_out(len(chosen))
    for name, structures in (("valid", chosen[:few]), ("train", chosen[few:])):
        with StoreWriter(home / name, name=name) as writer:
            for s in structures:
                writer.add(s)
    labels = {"energy": len(chosen), "forces": len(chosen)}
    parts = Parts(home / "train", home / "valid", home / "valid", level, "by random", {}, labels, [])
    mode = "naive" if scratch else cell.mode
    request = Request(
        home / "train", home, model=None if scratch else MODEL, backbone=SCRATCH if scratch else None, mode=mode, seed=cell.seed
    )
    start = {} if scratch else start_from_model(request, chosen[few:], level).keys
    return recipe_of(request, parts, start).model_copy(update={"patience": None}), request


def step_seconds(recipe: Any, out: Path) -> float:
    """CPU seconds of a step of `fit`."""
    from mlipfm_train.loop import fit

    clock = Clock()
    short = {"steps": TIMED, "evaluate_every": TIMED, "checkpoint_every": TIMED}
    fit(recipe.model_copy(update=short | {"schedule": recipe.schedule.model_copy(update={"warmup": 1})}), out, listeners=[clock])
    return mean(clock.steps[WARM:])


def table(out: Path) -> list[str]:
    """Force RMSE in meV/Å by mode, in Markdown; the mean of the seeds with their range where there are several. The best is bold."""
    lines = results(out)
    rows = [f"| set | n | CPU s | {' | '.join(MODES)} |", "|---|---|---|" + "---|" * len(MODES)]
    for name, n, budget in dict.fromkeys((cell.set, cell.n, cell.budget) for cell in grid()):
        cells = [x for x in lines if (x["set"], x["n"], x["budget"]) == (name, n, budget)]
        found = {mode: [x["force_rmse"] for x in cells if x["mode"] == mode] for mode in MODES}
        best = min((mean(values) for values in found.values() if values), default=None)
        if best is not None:
            rows.append(f"| {name} | {n} | {budget:g} | {' | '.join(_entry(found[mode], best) for mode in MODES)} |")
    return rows


def _entry(values: list[float], best: float) -> str:
    if not values:
        return "-"
    shown = f"{mean(values):.1f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")
    return f"**{shown}**" if mean(values) == best else shown
