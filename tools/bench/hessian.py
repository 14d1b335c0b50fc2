"""`hessian`: what labels of a teacher's Hessian give a student, at equal structures and at equal cost of the labels.

The labels are those of a distillation with `--hessian-rows` and `--hessian-products`. Students learn all of its structures, or as many as cost with
labels of the Hessian what all cost without; each for the same number of steps. A row or a product costs two labels. Phonons or vibrations are
compared with the teacher's. A line of `hessian.jsonl` is a student; what is there is not trained again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.structure import Structure

#: How a student learns -> labels of the Hessian that it uses.
WAYS: dict[str, tuple[str, ...]] = {
    "energies and forces": (),
    "and rows of the Hessian": ("hessian_rows", "hessian_rows_index"),
    "and its products with random vectors": ("hvp", "hvp_probe"),
}


@dataclass(frozen=True)
class Student:
    """How one learns, from how many structures, with which seed."""

    way: str
    structures: int
    seed: int


def students(structures: int, few: int, seeds: int) -> Iterator[Student]:
    """All, those of a seed side by side."""
    for seed in range(seeds):
        for number in (structures, few):
            for way in WAYS:
                yield Student(way, number, seed)


def run(folder: Path, start: Path, steps: int, seeds: int) -> None:
    """Train and compare every student that `folder`, that of a distillation of `start`, lacks."""
    from mlipfm_distill.on_policy.frequencies import frequencies
    from mlipfm_distill.on_policy.label_folder import Labels
    from mlipfm_distill.on_policy.start_frames import read_starts
    from mlipfm_distill.on_policy.student import force_error
    from mlipfm_distill.on_policy.teacher import DistillationTeacher
    from mlipfm_md.initial_files import FrameOptions

    asked = json.loads((folder / "request.json").read_text())
    wanted = FrameOptions(None, asked["charge"], asked["multiplicity"])
    rest = read_starts(start, wanted, lambda words: None)[0]
    done = [{key: line[key] for key in ("way", "structures", "seed")} for line in lines(folder)]
    with DistillationTeacher(asked["teacher"], level=asked["level"]) as teacher:
        labels = Labels(folder / "labels", teacher)
        known, valid = labels.read("train"), labels.read("valid")
        tested = sorted(path.name for path in (folder / "labels").glob("test-*"))
        each = [len(known[0].labels.get(keys[0], ())) for keys in WAYS.values() if keys]
        if not tested or len(set(each)) > 1 or not each[0]:
            hint = "mlipfm distill --hessian-rows 2 --hessian-products 2 ..., to its end"
            raise MlipfmError("this needs as many rows as products, and test frames", where=str(folder), hint=hint)
        test = labels.read(tested[-1])
        for student in students(len(known), len(known) // (1 + 2 * each[0]), seeds):
            if asdict(student) in done:
                continue
            begin = time.process_time()
            model = _trained(student, known, valid, steps, folder / "hessian")
            line = asdict(student) | {
                "labels": student.structures * (1 + 2 * each[0] * bool(WAYS[student.way])),
                "seconds": round(time.process_time() - begin, 1),
                "steps": steps,
                "force_mae": 1000 * force_error(model, test),
            }
            compared = frequencies(model, teacher, rest, 10**9)
            line |= {key: compared[key] for key in ("kind", "unit", "mae", "reason") if key in compared}
            with (folder / "hessian.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(time.strftime("%H:%M:%S"), line, flush=True)
    shutil.rmtree(folder / "hessian", ignore_errors=True)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The students of a folder."""
    path = folder / "hessian.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _trained(student: Student, known: Sequence[Structure], valid: Sequence[Structure], steps: int, home: Path) -> Path:
    """The model of a student: it sees structures that its seed draws, with the labels of its way."""
    from mlipfm_data.store.writer import StoreWriter
    from mlipfm_distill.on_policy.student import training_recipe
    from mlipfm_train.loop import fit

    others = {key for keys in WAYS.values() for key in keys} - set(WAYS[student.way])
    shutil.rmtree(home, ignore_errors=True)
    picked = np.random.default_rng(student.seed).permutation(len(known))[: student.structures]
    for name, structures in (("train", [known[k] for k in picked]), ("valid", valid)):
        with StoreWriter(home / name, name=name) as writer:
            for s in structures:
                writer.add(replace(s, labels={key: value for key, value in s.labels.items() if key not in others}))
    result = fit(training_recipe("medium", home / "train", home / "valid", steps, None, student.seed), home / "run")
    return result.best or result.last


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """In Markdown: means over seeds with their standard errors."""
    unit = next((line["unit"] for line in found if "unit" in line), "-")
    kind = next((line["kind"] for line in found if "kind" in line), "frequencies")
    out = [f"| learned | structures | labels | force MAE, meV/Å | MAE of {kind}, {unit} | seeds | CPU s |", "|---|---|---|---|---|---|---|"]
    for number in sorted({line["structures"] for line in found}, reverse=True):
        for way in WAYS:
            own = [line for line in found if (line["way"], line["structures"]) == (way, number)]
            if own:
                shown = [_shown([line[key] for line in own if key in line]) for key in ("force_mae", "mae")]
                seconds = np.mean([line["seconds"] for line in own])
                out.append(f"| {way} | {number} | {own[0]['labels']} | {shown[0]} | {shown[1]} | {len(own)} | {seconds:.0f} |")
    return out


def _shown(values: Sequence[float]) -> str:
    if not values:
        return "-"
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.3g}{error}"
