"""Forces that do not belong to the geometry beside them: in another order, another orientation, or of another frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.superposition import best_rotation

from .comparison import Comparison, compare
from .geometry import BONDED, NONMETALS, neighbors_of, unknown_forces, with_forces
from .pair_potential import explained_forces
from .sample import FamilyKey, Frame, LevelSample, mean_torque, subsample

#: Part of |r||F| that may turn a free molecule: grids leave 1e-3; forces of other atoms give 0.05 and more.
TURNS = 0.03
#: Correlation of forces with a potential fitted to half of them, below which they have nothing to do with the geometry.
UNRELATED = 0.15
#: Curvature (`Comparison.curvature`) of forces that are those of other frames; -1 around a minimum.
FLAT = -0.35
#: Agreement of the signs of dE and work (`Comparison.signs`) of forces that are those of the frames. Right ones of relaxations at surfaces, whose
#: steps are long, give 0.77, and 0.56 with the forces of the frame before.
SAME_SIGNS = 0.7
#: Part of the square of forces that changes from frame to frame, below which they repeat; thermal motion and relaxations leave 0.9 and more.
REPEATED = 0.5
#: Å of vacuum around a molecule in a box; atoms of the largest molecule that is looked at.
VACUUM, LARGE = 4.0, 300


@dataclass(frozen=True)
class ForceAssignment:
    """Code, words and the figures behind them."""

    code: str
    words: str
    figures: dict[str, float | int | str]


def orders(numbers: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Usual ways in which per-atom rows get lost, each as the index that puts them back."""
    n = len(numbers)
    names = np.array([symbol(int(z)) for z in numbers])
    first = {z: k for k, z in reversed(list(enumerate(numbers.tolist())))}
    appearance = np.array([first[z] for z in numbers.tolist()])
    sorts = {
        "sorted by atomic number": np.argsort(numbers, kind="stable"),
        "sorted by atomic number, heavy first": np.argsort(-numbers, kind="stable"),
        "sorted by symbol": np.argsort(names, kind="stable"),
        "sorted by element as they appear": np.argsort(appearance, kind="stable"),
    }
    for words, order in sorts.items():
        if not np.array_equal(order, np.arange(n)):
            back = np.empty(n, dtype=np.int64)
            back[order] = np.arange(n)
            yield words, back
            yield f"put back from being {words}", order
    yield "in reverse", np.arange(n)[::-1]
    yield "one row too far", np.roll(np.arange(n), 1)
    yield "one row too near", np.roll(np.arange(n), -1)


def _is_free(structure: Structure) -> bool:
    """Return whether nothing else is near: no periodicity, or `VACUUM` on every side."""
    if not structure.pbc.any():
        return True
    near = neighbors_of(structure, VACUUM)
    return near is not None and not near.shift.any() and len(near.i) > 0


def _free_molecules(sample: LevelSample) -> dict[FamilyKey, list[Frame]]:
    """Groups of molecules in vacuum, also in a box of it, with forces, of three atoms and more."""
    found = {}
    for key, frames in sample.with_labels("forces"):
        mine = [
            f
            for f in frames
            if 2 < len(f.structure) <= LARGE
            and not unknown_forces(f.structure).any()
            and _is_free(f.structure)
            and f.structure.external_field is None
            and np.abs(f.structure.labels["forces"]).max() > 0.05
        ]
        if mine:
            found[key] = mine
    return found


def misplaced_in_molecules(sample: LevelSample) -> ForceAssignment | None:
    """Check by the torque, which is zero for a molecule in vacuum."""
    families = _free_molecules(sample)
    frames = [frame for family in families.values() for frame in family]
    if len(frames) < 3:
        return None
    torque = float(np.median([mean_torque(f.structure.positions, f.structure.labels["forces"]) for f in frames]))
    net = float(np.median([_net(f.structure.labels["forces"]) for f in frames]))
    if torque < TURNS or net > 0.05:
        return None
    figures: dict[str, float | int | str] = {"torque": torque, "net_force": net, "frames": len(frames)}
    chosen = frames[:: max(1, len(frames) // 60)]
    best = _best_order(chosen)
    if best is not None and best[1] < 0.1 * torque:
        return ForceAssignment(
            "forces-atom-order",
            f"forces fit the geometry once their rows, {best[0]}, are put in the order of the atoms",
            figures | {"torque_corrected": best[1]},
        )
    found, asked = _matches(families)
    if asked >= 4 and found > 0.4 * asked:
        words = f"forces turn their own molecules, and fit the geometry of another frame in {found} of {asked} cases"
        return ForceAssignment("forces-other-frame", words, figures | {"matched": found, "asked": asked})
    turned = _turned(frames)
    if turned is not None:
        return ForceAssignment(
            "forces-rotated",
            "forces fit the geometry after a rotation of each frame: positions were reoriented without them",
            figures | {"along_bonds": turned[0], "after_rotation": turned[1]},
        )
    words = "forces turn free molecules: they belong to other geometries, or to other atoms"
    if all(abs(np.linalg.det(f.structure.cell)) > 1.0 and not f.structure.pbc.any() for f in frames):
        words += "; or the frames are crystals: they have a cell, and are not periodic (pbc is F F F)"
    return ForceAssignment("forces-misplaced", words, figures)


def _net(forces: np.ndarray) -> float:
    return float(np.linalg.norm(forces.sum(axis=0)) / max(float(np.linalg.norm(forces, axis=1).sum()), 1e-300))


def _best_order(frames: list[Frame]) -> tuple[str, float] | None:
    values: dict[str, list[float]] = {}
    for frame in frames:
        s = frame.structure
        for words, index in orders(s.atomic_numbers):
            values.setdefault(words, []).append(mean_torque(s.positions, s.labels["forces"][index]))
    asked = len(frames)
    means = {words: float(np.median(v)) for words, v in values.items() if len(v) > 0.6 * asked}
    best = min(means, key=lambda words: means[words], default=None)
    return None if best is None else (best, means[best])


def _matches(families: dict[FamilyKey, list[Frame]]) -> tuple[int, int]:
    """(frames for which the forces of another frame of the family give no torque, frames asked)."""
    found = asked = 0
    for frames in families.values():
        if len(frames) < 4 or asked > 150:
            continue
        arms = np.stack([f.structure.positions - f.structure.positions.mean(axis=0) for f in frames])
        forces = np.stack([f.structure.labels["forces"] for f in frames])
        moment = np.linalg.norm(np.einsum("abc,fnb,gnc->fga", _LEVI, arms, forces), axis=2)
        size = np.einsum("fn,gn->fg", np.linalg.norm(arms, axis=2), np.linalg.norm(forces, axis=2))
        ratio = moment / size
        own = np.diag(ratio).copy()
        np.fill_diagonal(ratio, np.inf)
        asked += len(frames)
        found += int(((ratio.min(axis=1) < 0.004) & (own > 0.01)).sum())
    return found, asked


_LEVI = np.zeros((3, 3, 3))
for _a, _b, _c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _LEVI[_a, _b, _c], _LEVI[_a, _c, _b] = 1.0, -1.0


def _turned(frames: list[Frame]) -> tuple[float, float] | None:
    """(|cos| between force and only bond of terminal atoms: as given, after the best rotation of each frame), if the rotation explains them."""
    given, turned, shuffled = [], [], []
    rng = np.random.default_rng(0)
    stretch = _bond_means(frames)
    for frame in frames[:60]:
        pulls = _expected(frame, stretch)
        if pulls is None or len(pulls[0]) < 3:
            continue
        forces, expected = pulls
        given.append(cosine(forces, expected))
        turned.append(cosine(forces @ best_rotation(forces, expected), expected))
        mixed = rng.permutation(forces)
        shuffled.append(cosine(mixed @ best_rotation(mixed, expected), expected))
    if len(given) < 5:
        return None
    a, b, c = (float(np.mean(v)) for v in (given, turned, shuffled))
    return (a, b) if b > 0.45 and b > c + 0.1 and b > a + 0.25 else None


def _bond_means(frames: list[Frame]) -> dict[tuple[int, int], float]:
    lengths: dict[tuple[int, int], list[float]] = {}
    for frame in frames[:60]:
        for kind, _, _, length in _terminal(frame):
            lengths.setdefault(kind, []).append(length)
    return {kind: float(np.median(v)) for kind, v in lengths.items()}


def _terminal(frame: Frame) -> list[tuple[tuple[int, int], int, np.ndarray, float]]:
    """(elements, atom, unit vector to its only neighbour, length) of the terminal atoms."""
    s = frame.structure
    near = neighbors_of(s, 3.0)
    if near is None:
        return []
    bonded = near.relative < BONDED
    only = bonded & (np.bincount(near.i[bonded], minlength=len(s))[near.i] == 1)
    z = s.atomic_numbers
    return [
        ((int(z[near.i[k]]), int(z[near.j[k]])), int(near.i[k]), near.vectors[k] / near.distance[k], float(near.distance[k]))
        for k in np.flatnonzero(only)
    ]


def _expected(frame: Frame, stretch: dict[tuple[int, int], float]) -> tuple[np.ndarray, np.ndarray] | None:
    items = [(atom, unit, length - stretch[kind]) for kind, atom, unit, length in _terminal(frame) if kind in stretch]
    if not items:
        return None
    forces = frame.structure.labels["forces"][[atom for atom, _, _ in items]]
    return forces, np.array([unit * change for _, unit, change in items])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two arrays as vectors."""
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b) + 1e-300))


def misplaced_in_crystals(sample: LevelSample, comparison: Comparison) -> ForceAssignment | None:
    """Check by work: over short steps, forces that belong to the geometry close around loops of frames and agree with the energies."""
    if sum(frame.structure.pbc.any() for frame in sample.frames()) < 0.5 * len(sample.frames()):
        return None  # of molecules the torque says it, exactly
    fixed = [pair for pair in comparison.pairs if pair.work.strained < 1e-4]
    slope = comparison.energy_forces()
    if len(fixed) < 12:
        return _misordered(sample) or _against_bonds(sample)
    figures: dict[str, float | int | str] = {"fit": slope.fit, "closure": comparison.closure, "pairs": len(fixed)}
    near = comparison.closure > 0.9 or slope.fit > 0.65 or comparison.signs > SAME_SIGNS
    flat = len(fixed) >= 20 and not near and comparison.curvature > FLAT
    if slope.fit > 0.45 and not flat:
        return None
    for words, fit in _tried(sample, lambda changed: compare(changed).energy_forces().fit):
        if fit > max(0.4, slope.fit + 0.15):
            return ForceAssignment(
                "forces-atom-order",
                f"energies follow the forces once their rows, {words}, are put in the order of the atoms",
                figures | {"fit_corrected": fit},
            )
    if flat:
        words = "forces do not pull back atoms that have moved: they belong to other frames, or to other atoms"
        return ForceAssignment("forces-misplaced", words, figures | {"curvature": comparison.curvature})
    if slope.fit > 0.2:
        return None
    ordered = _misordered(sample)
    if ordered is not None:
        return ordered
    short = [pair for pair in fixed if pair.work.step < 0.35]
    open_loops = len(short) > 0.6 * len(fixed) and len(short) >= 16 and comparison.closure < 0.72
    explained = explained_forces([frame.structure for frame in sample.frames()]) if not open_loops else None
    if open_loops or (explained is not None and explained < UNRELATED):
        words = "forces of near frames contradict each other: they belong to other geometries, or to other atoms"
        return ForceAssignment("forces-misplaced", words, figures)
    return _against_bonds(sample)


def _against_bonds(sample: LevelSample) -> ForceAssignment | None:
    """Do forces on hydrogen follow the length of its only bond, to a nonmetal, each atom against its own mean over the frames of its family?"""
    stretch, pull = [], []
    for _, frames in sample.with_labels("forces"):
        per_atom: dict[int, list[tuple[float, float]]] = {}
        for frame in subsample(frames, 24) if len(frames) >= 8 else []:
            unknown = unknown_forces(frame.structure)
            for kind, atom, unit, length in _terminal(frame):
                if kind[0] == 1 and kind[1] in NONMETALS and not unknown[atom]:
                    per_atom.setdefault(atom, []).append((length, float(frame.structure.labels["forces"][atom] @ unit)))
        for values in per_atom.values():
            if len(values) >= 8:
                table = np.array(values) - np.mean(values, axis=0)
                stretch.append(table[:, 0])
                pull.append(table[:, 1])
    x, y = (np.concatenate(parts) if parts else np.zeros(0) for parts in (stretch, pull))
    if len(x) < 60 or x.std() < 0.015 or not np.any(y):
        return None
    correlation = float(x @ y / np.sqrt((x @ x) * (y @ y)))
    if abs(correlation) > 0.3:
        return None
    words = "forces on hydrogen have nothing to do with its bonds: they belong to other geometries, or to other atoms"
    return ForceAssignment("forces-misplaced", words, {"correlation": correlation, "bonds": len(x)})


def _misordered(sample: LevelSample) -> ForceAssignment | None:
    """Without near frames: does a potential explain the forces only in another order of rows?"""

    def explained(changed: LevelSample) -> float:
        frames = [frame for frame in changed.frames() if frame.structure.pbc.any()]
        return explained_forces([frame.structure for frame in frames]) or 0.0

    now = explained(sample)
    if now > 0.5 or now == 0.0 or _repeats(sample):
        return None
    for words, quality in _tried(sample, explained):
        if quality > max(0.7, now + 0.3):
            return ForceAssignment(
                "forces-atom-order",
                f"forces follow from the geometry once their rows, {words}, are put in the order of the atoms",
                {"explained": now, "explained_corrected": quality},
            )
    return None


def _repeats(sample: LevelSample) -> bool:
    """Return whether most of the forces is the same in all frames, as of molecules moved as a whole: a fit knows them by heart, in any order."""
    change = size = 0.0
    for _, frames in sample.with_labels("forces"):
        forces = np.stack([frame.structure.labels["forces"] for frame in frames])
        change += float(np.sum((forces - forces.mean(axis=0)) ** 2)) if len(frames) > 1 else np.inf
        size += float(np.sum(forces**2))
    return change < REPEATED * size


def _tried(sample: LevelSample, judge: Callable[[LevelSample], float]) -> Iterator[tuple[str, float]]:
    words_of: dict[str, None] = {}
    for key in sample.families:
        words_of |= dict.fromkeys(words for words, _ in orders(np.frombuffer(key[1], dtype=np.int64)))
    for words in words_of:
        yield words, judge(_changed(sample, lambda numbers, wanted=words: dict(orders(numbers)).get(wanted)))  # type: ignore[misc]


def _changed(sample: LevelSample, index_of: Callable[[np.ndarray], np.ndarray | None]) -> LevelSample:
    """Return the sample with the rows of forces in another order."""
    other = LevelSample()
    for frame in sample.frames():
        s = frame.structure
        index = index_of(s.atomic_numbers)
        if "forces" in s.labels:
            other.add(frame.index, s if index is None else with_forces(s, s.labels["forces"][index]))
    return other
