"""Disguises of structures, to measure how many duplicates a search finds: the same geometry, written differently, and near misses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from mlipfm_data.duplicates.superimpose import Floats
from mlipfm_interfaces.structure import Structure

#: Å, noise of planted duplicates: uniform within it on each coordinate.
NOISE = 0.0099
#: Strain of a near miss.
STRAIN = 0.005
#: Atoms of a planted supercell at most.
LARGEST = 400

Disguise = Callable[[Structure, np.random.Generator], Structure]


def disguise(structure: Structure, kind: str, rng: np.random.Generator) -> Structure:
    """`structure` without labels, of another source, disguised by one of `KINDS`, `MIRROR` or `NEAR_MISSES`."""
    made = (KINDS | MIRROR | NEAR_MISSES)[kind](structure.replace(labels={}, label_std={}), rng)
    return made.replace(provenance=replace(structure.provenance, source=f"planted: {kind}", group=None))


def possible(structure: Structure, kinds: Sequence[str]) -> list[str]:
    """Those of `kinds` that make sense for it."""
    periodic = bool(structure.pbc.any())
    condition = {
        "supercell": periodic and len(structure) * 2 ** int(structure.pbc.sum()) <= LARGEST,
        "cell": int(structure.pbc.sum()) >= 2,
        "wrapped": periodic,
        "strained": periodic,
        "volume": periodic,
        "displaced": len(structure) > 3,  # of two or three atoms, a step across a bond is a turn of the whole
    }
    return [kind for kind in kinds if condition.get(kind, True)]


def _moved(s: Structure, rotation: Floats, shift: Floats | float = 0.0) -> Structure:
    return s.replace(positions=s.positions @ rotation + shift, cell=s.cell @ rotation)


def _rotated(s: Structure, rng: np.random.Generator) -> Structure:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return _moved(s, q * np.linalg.det(q), rng.normal(scale=5.0, size=3))


def _permuted(s: Structure, rng: np.random.Generator) -> Structure:
    order = rng.permutation(len(s))
    return s.replace(atomic_numbers=s.atomic_numbers[order], positions=s.positions[order])


def _shifted(s: Structure, rng: np.random.Generator) -> Structure:
    return s.replace(positions=s.positions + rng.normal(scale=5.0, size=3))


def _noisy(s: Structure, rng: np.random.Generator) -> Structure:
    return s.replace(positions=s.positions + rng.uniform(-NOISE, NOISE, size=s.positions.shape))


def _wrapped(s: Structure, rng: np.random.Generator) -> Structure:
    steps = rng.integers(-2, 3, size=(len(s), 3)) * s.pbc
    return s.replace(positions=s.positions + steps @ s.cell)


def _other_cell(s: Structure, rng: np.random.Generator) -> Structure:
    transform = np.eye(3)
    for _ in range(3):
        i, j = rng.choice(np.flatnonzero(s.pbc), 2, replace=False)
        transform[i] += rng.choice([-1, 1]) * transform[j]
    return s.replace(cell=transform @ s.cell)


def _supercell(s: Structure, rng: np.random.Generator) -> Structure:
    times = np.where(s.pbc, 2, 1)
    steps = np.array(list(np.ndindex(*times.tolist())))
    positions = (s.positions[None] + (steps @ s.cell)[:, None]).reshape(-1, 3)
    return s.replace(
        atomic_numbers=np.tile(s.atomic_numbers, len(steps)),
        positions=positions,
        cell=times[:, None] * s.cell,
        total_charge=None,
        spin_multiplicity=None,
    )


def _everything(s: Structure, rng: np.random.Generator) -> Structure:
    if possible(s, ["supercell"]):
        s = _supercell(s, rng)
    if s.pbc.sum() >= 2:
        s = _wrapped(_other_cell(s, rng), rng)
    return _permuted(_rotated(_noisy(s, rng), rng), rng)


def _mirrored(s: Structure, rng: np.random.Generator) -> Structure:
    return _rotated(_moved(s, np.diag([1.0, 1.0, -1.0])), rng)


def _strained(s: Structure, rng: np.random.Generator) -> Structure:
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    return _moved(s, np.eye(3) + STRAIN * np.outer(axis, axis))


def _swollen(s: Structure, rng: np.random.Generator) -> Structure:
    return _moved(s, np.eye(3) * (1 + STRAIN))


def _displaced(s: Structure, rng: np.random.Generator) -> Structure:
    """One atom 0.15 Å away from where it was, and where no motion of the whole brings it back."""
    positions = s.positions.copy()
    step = rng.normal(size=3)
    positions[rng.integers(len(s))] += 0.15 * step / np.linalg.norm(step)
    return s.replace(positions=positions)


KINDS: dict[str, Disguise] = {
    "rotated": _rotated,
    "permuted": _permuted,
    "shifted": _shifted,
    "noisy": _noisy,
    "wrapped": _wrapped,
    "cell": _other_cell,
    "supercell": _supercell,
    "everything": _everything,
}
NEAR_MISSES: dict[str, Disguise] = {"strained": _strained, "volume": _swollen, "displaced": _displaced}
MIRROR: dict[str, Disguise] = {"mirrored": _mirrored}
