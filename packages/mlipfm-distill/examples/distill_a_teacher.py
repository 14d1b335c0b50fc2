"""Distill a teacher into a `density` student, with and without rows of its Hessian: `python distill_a_teacher.py`. Under a minute.

The teacher is a closed form (Morse pairs) that stands for a slow model; any checkpoint with conservative forces takes its place.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlipfm_distill import distill_recipe, label_geometries
from mlipfm_interfaces.checkpoint import load_potential, save_potential
from mlipfm_interfaces.potential import Potential, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse
from mlipfm_train.loop import fit

METHANAL = np.array([[0, 0, 0], [0, 0, 1.21], [0, 0.94, -0.54], [0, -0.94, -0.54]])


def geometries(n: int, seed: int) -> list[Structure]:
    """Rattled methanal."""
    rng = np.random.default_rng(seed)
    return [Structure([6, 8, 1, 1], METHANAL + rng.normal(scale=0.08, size=(4, 3))) for _ in range(n)]


def hessian(potential: Potential, s: Structure) -> np.ndarray:
    """All 3N rows, eV/Å²."""
    every_row = np.array([[atom, axis] for atom in range(len(s)) for axis in range(3)], dtype=float)
    probed = s.replace(labels={"hessian_rows": np.zeros((len(every_row), len(s), 3)), "hessian_rows_index": every_row})
    return evaluate(potential, [probed], ("hessian_rows",))[0]["hessian_rows"]


def main(folder: Path, steps: int) -> None:
    teacher = folder / "teacher.safetensors"
    save_potential(teacher, Morse(ClosedFormConfig(elements=(1, 6, 8), cutoff=4.0, switch_on=2.5)))
    report = label_geometries(geometries(6, seed=0), teacher, folder / "labels", rows=4)
    print("\n".join(report.lines()))
    unseen, truth = geometries(6, seed=1), load_potential(teacher)
    print("| Hessian weight | Hessian MAE, eV/Å² | force MAE, meV/Å |\n|---|---|---|")
    for weight in (0.0, 400.0):
        backbone = {"channels": 16, "cutoff": 4.0}
        recipe = distill_recipe(teacher, [folder / "labels"], backbone=backbone, steps=steps, lr=1e-2, hessian_weight=weight)
        student = load_potential(fit(recipe, folder / f"student-{weight:.0f}").last)
        curvature = np.mean([np.abs(hessian(student, s) - hessian(truth, s)).mean() for s in unseen])
        pairs = zip(evaluate(student, unseen), evaluate(truth, unseen), strict=True)
        force = np.mean([np.abs(a["forces"] - b["forces"]).mean() for a, b in pairs])
        print(f"| {weight:.0f} | {curvature:.3f} | {1000 * force:.1f} |")


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        main(Path(scratch), steps=int(sys.argv[1]) if len(sys.argv) > 1 else 400)
