"""`pretraining`: does pre-training help? Objectives at equal compute, fine-tuned on ten tasks with 50 and 500 labels, beside training from scratch.

Every arm trains the same PaiNN for the same CPU minutes on the same molecules, with labels that the arm needs (computed once, for all arms, by tblite
or the released model; their seconds are in `labels.jsonl`). It is then fine-tuned on n structures of a task for equal minutes; the arm `none` has
no pre-training and gets both times, `none-brief` that of fine-tuning only: what a user spends who finds a pre-trained model. A cell is an arm,
a task, n and a seed: one line of `results.jsonl`, and what is there is not trained again.
`plan` writes the settings into the folder, `run` follows them, `report` is in `pretraining_report`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import MlipfmError, RecipeError
from mlipfm_interfaces.files import atomic_write

from bench.finetune import TIMED, WARM, Clock, held_out

#: Test structures of a task at most, and structures of the pre-training set (of at most so many atoms).
TESTED, POOL, LARGEST = 200, 1500, 20
#: Share of the test structures whose elements a model must have seen; the others are left out for all arms alike.
KNOWN = 0.9
ENERGY_FORCE = {"name": "energy-force", "energy_weight": 1.0, "forces_weight": 10.0}
RICH_HEADS = ("charges", "dipole", "homo", "lumo", "band_gap")


@dataclass(frozen=True)
class Arm:
    """A way to pre-train: objectives, the labels they need (a key of `LABELS`, or none), and changes of the potential."""

    objectives: list[dict[str, Any]]
    labels: str = "geometries"
    potential: dict[str, Any] = field(default_factory=dict)


ARMS: dict[str, Arm | None] = {
    "none": None,
    "none-brief": None,
    "denoise": Arm([{"name": "denoise", "sigma": 0.05, "predict": "noise"}], potential={"heads": {"noise": {}}}),
    "dens": Arm([ENERGY_FORCE, {"name": "dens", "sigma": 0.1}], "gfn2"),
    "masked": Arm([{"name": "masked"}]),
    "twins": Arm([{"name": "twins", "dimensions": 64}]),
    "replacement": Arm([{"name": "replacement"}]),
    "pair-distances": Arm([{"name": "pair-distances"}]),
    "synthetic": Arm([ENERGY_FORCE], "synthetic"),
    "gfn1": Arm([ENERGY_FORCE], "gfn1"),
    "gfn2-direct": Arm([ENERGY_FORCE], "gfn2", {"forces": "direct"}),
    "rich": Arm(
        [
            {
                "name": "quantities",
                "weights": dict.fromkeys(RICH_HEADS, 1.0),
                "scales": {"charges": 0.05, "dipole": 0.05, "homo": 0.5, "lumo": 0.5, "band_gap": 0.5},
            },
            {"name": "bond-orders", "weight": 5.0},
        ],
        "rich",
        {"conditions": ["total_charge"], "heads": {key: {} for key in RICH_HEADS}},
    ),
}


@dataclass(frozen=True)
class Task:
    """A file of a set (or a pattern of files), how it is read, and what is tested: `forces` (with energies), or a property.

    `test` is another file of test structures; `column` says in which column of which array of the file the labels are, where it has several.
    """

    file: str
    level: str
    tested: str = "forces"
    reader: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    test: str | None = None
    column: tuple[str, int] | None = None


TASKS = {
    "3bpa": Task("3bpa/train_300K.xyz", "wb97x/6-31g(d)", test="3bpa/test_300K_nequip.npz"),
    "acetylacetone": Task("acetylacetone/train_300K.xyz", "pbe-d3", test="acetylacetone/test_MD_300K.xyz"),
    "reaction": Task("h2coo_caspt2/h2coo-caspt2_5162.npz", "caspt2/aug-cc-pvtz", reader="npz"),
    "water": Task("water_dpmd", "pbe0-ts"),
    "copper": Task("mlearn/Cu_all_alignn_id_prop.json", "pbe"),
    "oxide": Task("hfo2_pwdata/init_*", "pbe", reader="pwdata"),
    "gap": Task("unlabelled_qm9/qm9_10k.csv.gz", "b3lyp/6-31g(2df,p)", "band_gap"),
    "perovskite-gap": Task("prop_perov5/val.csv", "gllb-sc", "band_gap"),
    "polarizability": Task(
        "prop_polarizability/qm7x_reduced_100_CHNO.xyz",
        "pbe0",
        "polarizability",
        options={"keys": {"polarizability": "alpha"}, "polarizability_unit": "bohr^3"},
    ),
    # Two columns without a name, which differ by 0.49 ppm of H, 4.3 of C, 13.3 of N and 17.7 of O (root of the mean square): the errors that the
    # authors publish for their model (ShiftML, Nat. Commun. 9, 4501). The first spreads wider, as the reference does beside a regression.
    "shieldings": Task("prop_nmr_csd500/CSD-500.xyz", "gipaw-pbe", "shieldings", column=("CS", 0)),
}


@dataclass(frozen=True)
class Plan:
    """What is run: arms, tasks, labels of a task, seeds, CPU minutes of pre-training and of fine-tuning, and the folder of the unpacked sets."""

    sets: str
    arms: tuple[str, ...] = tuple(ARMS)
    tasks: tuple[str, ...] = tuple(TASKS)
    sizes: tuple[int, ...] = (50, 500)
    seeds: tuple[int, ...] = (0, 1, 2)
    pretrain_minutes: float = 10.0
    minutes: float = 3.0

    def __post_init__(self) -> None:
        """Refuse what is unknown or absurd."""
        for given, known in ((self.arms, ARMS), (self.tasks, TASKS)):
            if wrong := [name for name in given if name not in known]:
                raise MlipfmError(f"{wrong[0]!r} is unknown", where="pretraining plan", hint=f"known: {', '.join(known)}")
        if "none" not in self.arms:
            raise MlipfmError("without the arm `none` there is nothing to compare with", where="pretraining plan", hint="--arm none")
        if not 0 < self.minutes <= 10_000 or not 0 < self.pretrain_minutes <= 10_000 or min(self.sizes) < 10 or min(self.seeds) < 0:
            raise MlipfmError("minutes above 0, at least 10 labels, seeds from 0", where="pretraining plan")

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of a folder."""
        path = folder / "plan.json"
        if not path.exists():
            raise MlipfmError("the folder has no plan", where=str(folder), hint="tools/bench pretraining plan FOLDER --sets SETS")
        values: dict[str, Any] = json.loads(path.read_text())
        values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**values)

    def write(self, folder: Path) -> None:
        """Keep it in a folder. Raises `MlipfmError` if another plan has results there."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "results.jsonl").exists() and Plan.read(folder) != self:
            raise MlipfmError("another plan has results in this folder", where=str(folder), hint="choose another folder")
        atomic_write(folder / "plan.json", json.dumps(asdict(self), indent=1).encode())

    def cells(self) -> list[Cell]:
        """All cells, those of one seed and task side by side: a comparison is complete early."""
        return [Cell(arm, task, n, seed) for seed in self.seeds for task in self.tasks for n in self.sizes for arm in self.arms]

    def lines(self) -> list[str]:
        """For people: what it costs."""
        pretrained = sum(ARMS[arm] is not None for arm in self.arms) * len(self.seeds)
        cells = len(self.cells())
        both = sum(cell.arm == "none" for cell in self.cells())
        hours = (pretrained * self.pretrain_minutes + cells * self.minutes + both * self.pretrain_minutes) / 60
        sizes = ", ".join(map(str, self.sizes))
        return [
            f"{len(self.arms)} arms x {len(self.tasks)} tasks x n = {sizes} x {len(self.seeds)} seeds: {cells} fine-tunings",
            f"{pretrained} pre-trainings of {self.pretrain_minutes:g} min, fine-tunings of {self.minutes:g} min (`none`: both)",
            f"{hours:.1f} h of one core, and the labels of {POOL} molecules",
        ]


@dataclass(frozen=True)
class Cell:
    """One fine-tuning."""

    arm: str
    task: str
    n: int
    seed: int


def results(folder: Path) -> list[dict[str, Any]]:
    """The complete cells of a folder."""
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(folder: Path, seeds: Sequence[int] | None = None) -> None:
    """Train every cell that the folder lacks, or those of some seeds: processes with different seeds may share a folder."""
    plan = Plan.read(folder)
    for cell in plan.cells():
        done = {tuple(line[key] for key in ("arm", "task", "n", "seed")) for line in results(folder)}  # of other processes, too
        if tuple(asdict(cell).values()) in done or (seeds is not None and cell.seed not in seeds):
            continue
        line = trained(cell, plan, folder)
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        told = line.get("skipped") or f"{line['error']:.4g} {line['unit']} after {line['steps']} steps in {line['seconds']:.0f} s"
        print(time.strftime("%H:%M:%S"), *asdict(cell).values(), told, flush=True)


def trained(cell: Cell, plan: Plan, folder: Path) -> dict[str, Any]:
    """The record of a cell: error on test structures with its unit, steps and CPU seconds; or why it was left out."""
    task, (train, test) = TASKS[cell.task], task_structures(cell.task, Path(plan.sets))
    n = min(cell.n, len(train))
    if n < cell.n and cell.n == min(plan.sizes):
        return asdict(cell) | {"skipped": f"the set has {n} structures to train on"}
    picks = np.random.default_rng([cell.seed, 1]).permutation(len(train))[:n]
    few = held_out(n)
    learned = {z for k in picks[few:] for z in train[k].atomic_numbers.tolist()}
    valid, known = ([s for s in part if set(s.atomic_numbers.tolist()) <= learned] for part in ([train[k] for k in picks[:few]], test))
    if not valid or len(known) < KNOWN * len(test):
        return asdict(cell) | {
            "skipped": f"{len(test) - len(known)} of {len(test)} test structures have elements that {n - few} to train on lack"
        }
    test = known
    start = None if ARMS[cell.arm] is None else pretrained(cell.arm, cell.seed, plan, folder)
    minutes = plan.minutes + (plan.pretrain_minutes if cell.arm == "none" else 0.0)
    recipe = _task_recipe(task, cell.seed, start)
    home = folder / "work" / "-".join(map(str, asdict(cell).values()))
    stores = stored({"valid": valid, "train": [train[k] for k in picks[few:]]}, home)
    try:
        model, steps, seconds = fitted(recipe | {"data": data_of(stores["train"], stores["valid"])}, home, 60 * minutes)
    except RecipeError as error:  # a head of the same name that was shifted to other labels
        return asdict(cell) | {"skipped": error.what}
    figure = test_error(model, test, task.tested)
    shutil.rmtree(home)
    return asdict(cell) | figure | {"labels": n, "steps": steps, "seconds": round(seconds, 1), "tested": len(test)}


def pretrained(arm: str, seed: int, plan: Plan, folder: Path) -> Path:
    """The model of an arm and seed, trained if it is not there."""
    out, chosen = folder / "pretrained" / f"{arm}-{seed}.safetensors", ARMS[arm]
    assert chosen is not None
    if not out.exists():
        home = folder / "work" / f"pretrain-{arm}-{seed}"
        potential = _potential() | chosen.potential
        recipe = _recipe(chosen.objectives, seed) | {"potential": potential, "data": data_of(_labels(chosen.labels, plan, folder))}
        model, steps, seconds = fitted(recipe, home, 60 * plan.pretrain_minutes)
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, model.read_bytes())
        shutil.rmtree(home)
        with (folder / "pretrained.jsonl").open("a") as file:
            file.write(json.dumps({"arm": arm, "seed": seed, "steps": steps, "seconds": round(seconds, 1)}) + "\n")
    return out


def task_structures(name: str, sets: Path) -> tuple[list[Any], list[Any]]:
    """Structures to train on and those that test, of a task, each in one random order: of one file at most a third tests."""
    task = TASKS[name]
    pool = _shuffled(task, sets, task.file, task.reader)
    if task.test is not None:
        return pool, _shuffled(task, sets, task.test, None)[:TESTED]
    few = min(TESTED, len(pool) // 3)
    return pool[few:], pool[:few]


def _shuffled(task: Task, sets: Path, pattern: str, reader: str | None) -> list[Any]:
    """The structures that have what is tested, at the level of the task. Charges of molecules are 0. Raises `MlipfmError` without such a file."""
    from mlipfm_data.readers.registry import read
    from mlipfm_interfaces.structure import Structure

    wanted, found = ("energy", "forces") if task.tested == "forces" else (task.tested,), []
    paths = sorted(sets.glob(pattern))
    if not paths:
        raise MlipfmError(f"there is no {pattern}", where=str(sets), hint="unpack the sets of the plan there")
    reader = reader or ("npz" if pattern.endswith(".npz") else None)
    for s in _column(paths, task) if task.column else (s for path in paths for s in read(path, reader, level=task.level, **task.options)):
        if isinstance(s, Structure) and all(key in s.labels for key in wanted):
            labels = {key: s.labels[key] for key in wanted}
            found.append(s.replace(labels=labels, label_std={}, level=task.level, total_charge=0, spin_multiplicity=None))
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))]


def _column(paths: Sequence[Path], task: Task) -> Iterator[Any]:
    """The structures of files whose labels are one column of an array."""
    import ase.io
    from mlipfm_data.readers.ase import from_ase

    assert task.column is not None
    name, column = task.column
    for atoms in (atoms for path in paths for atoms in ase.io.iread(path)):
        atoms.set_array(task.tested, atoms.arrays[name][:, column].copy())
        yield from_ase(atoms, level=task.level, keys={task.tested: task.tested})


def _labels(kind: str, plan: Plan, folder: Path) -> Path:
    """The pre-training store of a kind of labels, made if it is not there; its seconds are kept beside it."""
    from mlipfm_data.labeling import label_all
    from mlipfm_interfaces import plugins

    out = folder / "labels" / kind
    if (out / "manifest.json").exists():
        return out
    begin, structures = _cpu_seconds(), _molecules(Path(plan.sets))
    if kind == "geometries":
        stored({kind: [s.replace(level="none") for s in structures]}, out.parent)
    elif kind == "synthetic":
        from mlipfm_interfaces.checkpoint import load_potential
        from mlipfm_interfaces.potential import evaluate

        teacher = load_potential("mlipfm-mol-small")
        level = teacher.spec.levels[0]
        labelled = evaluate(teacher, [s.replace(level=level) for s in structures], ("energy", "forces"))
        stored({kind: [s.replace(level=level, labels=found) for s, found in zip(structures, labelled, strict=True)]}, out.parent)
    else:
        name = {"gfn1": "gfn1-xtb", "gfn2": "gfn2-xtb", "rich": "gfn2-xtb-rich"}[kind]
        label_all(structures, plugins.load("labelers", name)(), out, workers=1, progress=False)
    with (folder / "labels.jsonl").open("a") as file:
        file.write(json.dumps({"labels": kind, "structures": len(structures), "seconds": round(_cpu_seconds() - begin, 1)}) + "\n")
    return out


def _cpu_seconds() -> float:
    """Of this process and of those that it has ended."""
    return sum(os.times()[:4])


def _molecules(sets: Path) -> list[Any]:
    """Neutral closed-shell molecules of the QM9 sample, of the elements that the released model knows, displaced by 0.1 Å: off equilibrium, and the
    same for all arms. The molecules that test the gaps are none of them."""
    from mlipfm_data.readers.registry import read
    from mlipfm_interfaces.structure import Structure

    rng, found = np.random.default_rng(1), []
    tested = {s.positions.tobytes() for s in task_structures("gap", sets)[1]}
    for s in read(sets / "unlabelled_qm9/qm9_10k.csv.gz"):
        if not isinstance(s, Structure) or s.positions.tobytes() in tested:
            continue
        if len(s) <= LARGEST and set(s.atomic_numbers.tolist()) <= {1, 6, 7, 8, 9, 16, 17}:
            moved = s.positions + rng.normal(scale=0.1, size=s.positions.shape)
            found.append(s.replace(positions=moved, labels={}, label_std={}, level=None, total_charge=0, spin_multiplicity=1))
        if len(found) == POOL:
            break
    return found


def stored(parts: Mapping[str, Sequence[Any]], home: Path) -> dict[str, Path]:
    """Stores of structures, by name, in a folder; those that are there are replaced."""
    from mlipfm_data.store.writer import StoreWriter

    home.mkdir(parents=True, exist_ok=True)
    for name, structures in parts.items():
        shutil.rmtree(home / name, ignore_errors=True)
        with StoreWriter(home / name, name=name) as writer:
            for s in structures:
                writer.add(s)
    return {name: home / name for name in parts}


def _potential() -> dict[str, Any]:
    return {"name": "painn", "backbone": {"channels": 48, "layers": 2, "cutoff": 5.0, "mean_neighbors": 14.0}}


def data_of(train: Path, valid: Path | None = None) -> dict[str, Any]:
    """The part `data` of a recipe."""
    return {"train": [str(train)], "valid": [] if valid is None else [str(valid)], "budget": 250}


def _recipe(objectives: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    optimizer = {"lr": 3e-3, "weight_decay": 0.0}
    return {"objectives": objectives, "optimizer": optimizer, "weight_rule": {"name": "ema", "decay": 0.99}, "seed": seed}


def _task_recipe(task: Task, seed: int, start: Path | None) -> dict[str, Any]:
    """Fine-tuning of a model, or from random weights. Heads of pre-training are dropped; a property brings its own."""
    forces = task.tested == "forces"
    recipe = _recipe([ENERGY_FORCE if forces else {"name": "quantities", "weights": {task.tested: 1.0}}], seed)
    changes = {"heads": {} if forces else {task.tested: {}}, "forces": "conservative"}
    return recipe | ({"potential": _potential() | changes} if start is None else {"init_from": str(start), "potential": changes})


def fitted(recipe: Mapping[str, Any], home: Path, seconds: float) -> tuple[Path, int, float]:
    """The model after so many CPU seconds of steps, their number, and their seconds: steps are timed first."""
    from mlipfm_train.loop import fit
    from mlipfm_train.recipe import make_recipe

    for name in ("timed", "run"):
        shutil.rmtree(home / name, ignore_errors=True)
    clock, short = Clock(), {"steps": TIMED, "evaluate_every": TIMED, "checkpoint_every": TIMED}
    fit(make_recipe(dict(recipe) | short), home / "timed", listeners=[clock])
    steps = max(20, round(seconds / float(np.mean(clock.steps[WARM:]))))
    every = {"steps": steps, "evaluate_every": max(1, steps // 10), "checkpoint_every": steps}
    warm = {"schedule": {"name": "cosine", "warmup": min(100, steps // 10)}}
    clock = Clock()
    done = fit(make_recipe(dict(recipe) | every | warm), home / "run", listeners=[clock])
    return done.best or done.last, done.steps, sum(clock.steps)


def test_error(model: Path, test: Sequence[Any], key: str) -> dict[str, Any]:
    """Mean absolute error of a quantity over its components, with its unit."""
    from mlipfm_interfaces.checkpoint import load_potential
    from mlipfm_interfaces.potential import evaluate
    from mlipfm_interfaces.quantities import quantity

    potential, errors = load_potential(model), []
    for s in test:
        predicted = evaluate(potential, [s], (key,))[0][key]
        errors.append(float(np.abs(predicted - s.labels[key]).mean()))
    return {"error": float(np.mean(errors)), "unit": quantity(key).unit}
