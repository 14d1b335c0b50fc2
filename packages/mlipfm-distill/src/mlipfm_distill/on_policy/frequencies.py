"""Phonons of a crystal at rest, or vibrations of a molecule, of student and teacher: the second derivatives that no force error shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.potential import Potential
from mlipfm_interfaces.structure import Structure
from mlipfm_md import InitialState, phonons, relax, supercell_for, vibrations
from mlipfm_md.atoms_and_models import ForeignCalculator, atoms_of, open_calculator

from .start_frames import vacuum
from .teacher import DistillationTeacher

#: Steps in which a molecule is relaxed, and forces, eV/Å: to which it is, above which a crystal is not at rest.
STEPS, RELAXED, AT_REST = 60, 0.001, 0.01
#: Displacement of atoms, Å: a teacher in float32 loses its digits in a smaller one.
DISPLACEMENT = 0.03
#: One of so many wave vectors of the path is kept for the chart.
KEPT = 5


class _TooMany(Exception):
    """Raised from within phonopy's displacements: these cost more than is left."""


def frequencies(student: Path, teacher: DistillationTeacher, start: Structure, labels: int) -> dict[str, Any]:
    """Return what was compared: `kind`, `unit`, `mae`, `largest` and `lowest` frequency of both, and the `labels` it cost; or the `reason` why not.

    Phonons on the path of the Brillouin zone for a start that is periodic in three directions, THz; vibrations at the minimum of each model
    for a molecule, cm⁻¹; imaginary frequencies count as negative ones.

    Args:
        labels: of the teacher for the start, that this may cost.
    """
    empty = vacuum(start)
    crystal = bool(start.pbc.all()) and not any(empty)
    if all(empty):  # a molecule, also in a box
        start = start.replace(cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))
    elif not crystal:
        return {"reason": "a slab or chain has vibrations of its substrate, which are not compared"}
    try:
        return _phonons(student, teacher, start, labels) if crystal else _vibrations(student, teacher, start, labels)
    except _TooMany as error:
        return {"reason": str(error)}
    except MlipfmError as error:
        return {"reason": error.what}


def _phonons(student: Path, teacher: DistillationTeacher, start: Structure, labels: int) -> dict[str, Any]:
    first, second = _atoms(start, student), _atoms(start, teacher)
    larger = int(np.prod(supercell_for(first)))
    if larger > labels:
        raise _TooMany(f"forces of a supercell cost as much as {larger} labels, and {labels} are left of the budget")

    cost = 0

    def limited(done: int, total: int, words: str) -> None:
        nonlocal cost
        cost = total * larger
        if cost > labels:
            raise _TooMany(f"{total} displacements in a supercell cost as much as {cost} labels, and {labels} are left of the budget")

    theirs = phonons(second, displacement=DISPLACEMENT, fmax=AT_REST, on_step=limited)
    ours = phonons(first, displacement=DISPLACEMENT, fmax=AT_REST)
    rows = [np.concatenate([f for _, f in found.paths]) for found in (ours, theirs)]
    distances = np.concatenate([d for d, _ in theirs.paths])
    narrow = larger > 1
    return _compared("phonons", "THz", *rows) | {
        "note": "waves longer than the cell of the start were in no label: a larger cell teaches them" if narrow else None,
        "labels": cost,
        "distances": distances[::KEPT].tolist(),
        "student": rows[0][::KEPT].tolist(),
        "teacher": rows[1][::KEPT].tolist(),
    }


def _vibrations(student: Path, teacher: DistillationTeacher, start: Structure, labels: int) -> dict[str, Any]:
    cost = STEPS + 6 * len(start)
    if cost > labels:
        raise _TooMany(f"a minimum and a Hessian of the teacher cost about {cost} labels, and {labels} are left of the budget")
    near = relax(_atoms(start, student), fmax=RELAXED, steps=10 * STEPS).atoms
    found = []
    for model in (student, teacher):
        atoms = _atoms(start, model)
        atoms.positions = near.positions
        found.append(vibrations(relax(atoms, fmax=RELAXED, steps=STEPS if model is teacher else 10 * STEPS).atoms).frequencies)
    return _compared("vibrations", "cm-1", *found) | {"labels": cost, "student": found[0].tolist(), "teacher": found[1].tolist()}


def _compared(kind: str, unit: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    if ours.shape != theirs.shape:
        return {
            "reason": "student and teacher do not have the same number of frequencies: the molecule is linear for one and bent for the other"
        }
    ends = {"student": ours, "teacher": theirs}
    return {
        "kind": kind,
        "unit": unit,
        "mae": float(np.abs(ours - theirs).mean()),
        "largest": {name: float(values.max()) for name, values in ends.items()},
        "lowest": {name: float(values.min()) for name, values in ends.items()},
    }


def _atoms(start: Structure, model: Path | DistillationTeacher) -> Any:
    """Return ASE's Atoms of the start with the calculator of a model."""
    atoms = atoms_of(InitialState(start))
    if isinstance(model, Path):
        atoms.calc = open_calculator(load_potential(model))
    elif isinstance(model.model, Potential):
        atoms.calc = open_calculator(model.model, level=model.level)
    else:
        atoms.calc = ForeignCalculator(model.model)
    return atoms
