"""The first frames that the teacher labels: those of the user's file, displaced at random, and in strained cells where there is a crystal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from mlipfm_interfaces.errors import SimulationError
from mlipfm_interfaces.structure import Structure
from mlipfm_md.atoms_and_models import start_words
from mlipfm_md.initial_files import FrameOptions, ranges, read_initial_states

#: Standard deviations of the displacements of atoms, Å: the smallest, and the largest at 300 K (it grows with the root of the temperature).
SMALLEST, AT_300 = 0.02, 0.09
#: Largest displacement of light atoms beside that of others: bonds to hydrogen are short and stiff.
OF_HYDROGEN = 0.6
#: Largest strain of a cell: each element of the tensor, and what all lengths share in addition, so that equations of state are interpolated.
STRAIN, SCALE = 0.02, 0.03
#: Å without atoms along a lattice vector from which on it is taken for vacuum: such a cell is not strained along it.
VACUUM = 6.0


def read_starts(path: Path, options: FrameOptions, say: Callable[[str], None]) -> list[Structure]:
    """Return the structures of the file, with a label `fixed` where atoms are, and say what was taken from it and what was not.

    Raises:
        SimulationError: atoms that are fixed along some axes and free along others, or bonds of fixed length. What reading the file raises.
    """
    structures, groups = [], dict[str, list[int]]()
    for k, (start, said) in enumerate(read_initial_states(path, options)):
        fixed = start.axes_fixed.all(axis=1)
        if start.axes_fixed.any(axis=1).sum() > fixed.sum() or start.bonds is not None:
            raise SimulationError(
                "atoms that are fixed along some axes only, and bonds of fixed length, are not kept in the dynamics of a distillation",
                where=f"{path}, structure {k}",
                hint="remove these constraints from the file, or fix whole atoms",
            )
        kept = {"fixed": fixed.astype(float)} if fixed.any() else {}
        structures.append(start.structure.replace(labels=kept, label_std={}))
        groups.setdefault("; ".join(start_words(start, said)), []).append(k)
    for words, members in groups.items():
        if words:
            say(f"structure{'s' if len(members) > 1 else ''} {ranges(members)}: {words}")
    return structures


def rattled(starts: Sequence[Structure], count: int, kelvin: float, seed: int) -> list[Structure]:
    """Return the starts, then displaced copies by turns, `count` in all; every second copy of a crystal has a strained cell.

    Args:
        kelvin: highest temperature of the dynamics to come. seed: of the displacements.
    """
    rng = np.random.default_rng(seed)
    frames = [_named(s, f"start-{k}", "start") for k, s in enumerate(starts)][:count]
    largest = min(AT_300 * (kelvin / 300) ** 0.5, 0.25)
    while len(frames) < count:
        k = len(frames) % len(starts)
        frames.append(
            _named(_displaced(starts[k], largest, len(frames) // len(starts) % 2 == 0, rng), f"rattled-{k}", "random displacements")
        )
    return frames


def _displaced(start: Structure, largest: float, strained: bool, rng: np.random.Generator) -> Structure:
    sigma = rng.uniform(SMALLEST, largest)
    scale = np.where(start.atomic_numbers == 1, OF_HYDROGEN, 1.0)[:, None]
    moved = start.positions + sigma * scale * rng.normal(size=start.positions.shape)
    moved = np.where(fixed_atoms(start)[:, None], start.positions, moved)
    if not (strained and start.pbc.all()):
        return start.replace(positions=moved, labels={}, label_std={})
    tensor = rng.uniform(-STRAIN, STRAIN, size=(3, 3)) + rng.uniform(-SCALE, SCALE) * np.eye(3)
    return strain(start.replace(positions=moved, labels={}, label_std={}), tensor)


def strain(s: Structure, tensor: np.ndarray) -> Structure:
    """Return the structure in a cell strained by the symmetric part of `tensor` [3, 3]; not along lattice vectors with vacuum."""
    tensor = (tensor + tensor.T) / 2
    solid = np.diag([0.0 if empty else 1.0 for empty in vacuum(s)])
    directions = np.linalg.solve(s.cell, solid @ s.cell)  # acts on rows: what lies along lattice vectors with matter
    map_ = np.eye(3) + directions @ tensor @ directions
    return s.replace(positions=s.positions @ map_, cell=s.cell @ map_)


def vacuum(s: Structure) -> list[bool]:
    """Return whether there is more than `VACUUM` Å without atoms along each lattice vector; True along directions that are not periodic."""
    found = []
    for axis in range(3):
        if not s.pbc[axis]:
            found.append(True)
            continue
        height = abs(np.linalg.det(s.cell)) / np.linalg.norm(np.cross(s.cell[(axis + 1) % 3], s.cell[(axis + 2) % 3]))
        along = np.sort((s.positions @ np.linalg.inv(s.cell))[:, axis] % 1.0)
        gaps = np.diff(np.append(along, along[0] + 1.0)) * height
        found.append(bool(gaps.max() > VACUUM))
    return found


def fixed_atoms(s: Structure) -> np.ndarray:
    """[N] bool: atoms that the file fixes."""
    return np.asarray(s.labels.get("fixed", np.zeros(len(s)))) > 0


def _named(s: Structure, group: str, sampling: str) -> Structure:
    return s.replace(labels={}, label_std={}, provenance=replace(s.provenance, group=group, sampling=sampling))
