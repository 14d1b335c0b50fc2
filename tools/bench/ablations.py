"""`ablations`: what parts of supervised training do, on 3BPA, three seeds each, effects with intervals; a part that does nothing is printed as such.

`rotations`: PET with and without new orientations in each epoch. `curl`: direct PaiNN with and without the curl penalty. Both for equal steps.
`direct-first`: PaiNN with conservative forces, and with direct forces for half of the time before, for equal CPU seconds.
A line of `ablations.jsonl` is a run; what is there is not made again. The first variant is what others are compared with.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import MlipfmError

from bench.pretraining import ENERGY_FORCE, data_of, fitted, stored, task_structures, test_error

#: Structures to train on, steps of runs of equal steps, CPU seconds of runs of equal time, seeds.
LABELS, STEPS, SECONDS, SEEDS = 450, 2000, 120.0, 3
PAINN = {"name": "painn", "backbone": {"channels": 48, "layers": 2, "cutoff": 5.0, "mean_neighbors": 14.0}}
PET = {"name": "pet", "backbone": {"channels": 48, "layers": 2, "cutoff": 5.0}}


@dataclass(frozen=True)
class Variant:
    """Potential and objectives; `direct_first`: half of the time with direct forces, then conservative ones."""

    potential: dict[str, Any]
    objectives: tuple[dict[str, Any], ...] = (ENERGY_FORCE,)
    timed: bool = False
    direct_first: bool = False


ABLATIONS = {
    "rotations": {
        "as given": Variant(PET),
        "rotated": Variant(PET, (ENERGY_FORCE | {"augment": "rotations"},)),
    },
    "curl": {
        "no penalty": Variant(PAINN | {"forces": "direct"}),
        **{
            f"weight {weight:g}": Variant(PAINN | {"forces": "direct"}, (ENERGY_FORCE, {"name": "curl", "weight": weight}))
            for weight in (1e-4, 1e-3, 1e-2)
        },
    },
    "direct-first": {
        "conservative": Variant(PAINN, timed=True),
        "direct, then conservative": Variant(PAINN, timed=True, direct_first=True),
    },
}


@dataclass(frozen=True)
class Run:
    """One training."""

    ablation: str
    variant: str
    seed: int


def run(folder: Path, sets: Path, names: Sequence[str]) -> None:
    """Make every run of these ablations that `folder` lacks."""
    if unknown := [name for name in names if name not in ABLATIONS]:
        raise MlipfmError(f"{unknown[0]!r} is unknown", where="ablations", hint=f"known: {', '.join(ABLATIONS)}")
    folder.mkdir(parents=True, exist_ok=True)
    train, test = task_structures("3bpa", sets)
    done = {tuple(line[key] for key in ("ablation", "variant", "seed")) for line in lines(folder)}
    for seed in range(SEEDS):
        for name in names:
            for variant in ABLATIONS[name]:
                if (name, variant, seed) not in done:
                    line = _made(Run(name, variant, seed), train, test, folder / "work")
                    with (folder / "ablations.jsonl").open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(time.strftime("%H:%M:%S"), *line.values(), flush=True)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The runs of a folder."""
    path = folder / "ablations.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _made(asked: Run, train: Sequence[Any], test: Sequence[Any], home: Path) -> dict[str, Any]:
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_train.loop import fit
    from mlipfm_train.recipe import make_recipe
    from mlipfm_train.scaling.learned_symmetries import learned_symmetries

    variant = ABLATIONS[asked.ablation][asked.variant]
    shutil.rmtree(home, ignore_errors=True)
    picked = np.random.default_rng(asked.seed).permutation(len(train))
    few = len(train) - LABELS
    stores = stored({"valid": [train[k] for k in picked[:few]], "train": [train[k] for k in picked[few:]]}, home)
    recipe: dict[str, Any] = {
        "objectives": list(variant.objectives),
        "optimizer": {"lr": 3e-3, "weight_decay": 0.0},
        "weight_rule": {"name": "ema", "decay": 0.99},
        "seed": asked.seed,
        "data": data_of(stores["train"], stores["valid"]),
        "potential": variant.potential,
    }
    if variant.direct_first:
        first, steps_before, _ = fitted(recipe | {"potential": variant.potential | {"forces": "direct"}}, home / "direct", SECONDS / 2)
        recipe |= {"init_from": str(first), "potential": {"forces": "conservative"}}
        model, steps, _ = fitted(recipe, home, SECONDS / 2)
        steps += steps_before
    elif variant.timed:
        model, steps, _ = fitted(recipe, home, SECONDS)
    else:
        steps = STEPS
        planned = {"steps": STEPS, "evaluate_every": STEPS // 10, "checkpoint_every": STEPS, "schedule": {"name": "cosine", "warmup": 100}}
        found = fit(make_recipe(recipe | planned), home / "run")
        model = found.best or found.last
    figures = {"force MAE (meV/A)": 1000 * test_error(model, test, "forces")["error"]}
    figures |= learned_symmetries(load_potential(model), test)
    shutil.rmtree(home)
    return asdict(asked) | {"steps": steps} | figures


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """In Markdown: means over seeds, and by how much a variant differs from the first, with a 95 % interval of paired seeds."""
    out = []
    for name, variants in ABLATIONS.items():
        own = [line for line in found if line["ablation"] == name]
        measures = list(dict.fromkeys(key for line in own for key in line if key not in ("ablation", "variant", "seed", "steps")))
        if not own:
            continue
        out += ["", f"| {name} | steps | {' | '.join(measures)} |", "|---" * (len(measures) + 2) + "|"]
        first = {line["seed"]: line for line in own if line["variant"] == next(iter(variants))}
        for variant in variants:
            rows = [line for line in own if line["variant"] == variant]
            if rows:
                cells = [_cell([(line[key], first.get(line["seed"], {}).get(key)) for line in rows if key in line]) for key in measures]
                out.append(f"| {variant} | {round(np.mean([line['steps'] for line in rows]))} | {' | '.join(cells)} |")
    return out[1:]


def _cell(pairs: Sequence[tuple[float, float | None]]) -> str:
    """Mean, and the mean relative difference in percent with the interval of Student's t."""
    from scipy.stats import t

    mean = f"{np.mean([value for value, _ in pairs]):.3g}" if pairs else "-"
    changes = np.array([100 * (value / before - 1) for value, before in pairs if before is not None])
    if len(changes) < 2 or not changes.any():
        return mean
    half = float(t.ppf(0.975, len(changes) - 1) * changes.std(ddof=1) / np.sqrt(len(changes)))
    middle = float(changes.mean())
    return f"{mean} ({middle:+.1f} % [{middle - half:+.1f}, {middle + half:+.1f}]{', no effect seen' if abs(middle) < half else ''})"
