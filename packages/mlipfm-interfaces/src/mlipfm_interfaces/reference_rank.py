"""Combinations of elements whose energies the training data of a level leave open, and the doubt they bring into the energy of a composition.

Data that contain Al and Cu only as AlCu3 fix the sum of one Al and three Cu. How much of it belongs to Al is a convention: the energy of AlCu3 is
a prediction, that of Al4 contains a part that was never determined. Forces, and energy differences between structures of one composition, do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .elements import formula, number, symbol
from .errors import UndeterminedEnergyWarning, UntrainedStateWarning

if TYPE_CHECKING:
    from .potential import Potential
    from .structure import Structure

Floats = NDArray[np.float64]

#: Part of a composition's length that may lie outside of what was determined: rounding.
TOLERANCE = 1e-6
#: Elements named of which nothing is known.
UNKNOWN = 8
#: Compositions named in one warning.
NAMED = 3


@dataclass(frozen=True)
class UndeterminedReferences:
    """Of one level.

    Attributes:
        combinations: of atomic numbers with coefficients, linearly independent: adding any multiple of them to the reference energies changes the
            energy of no training structure.
        size: eV, root-mean-square length of the determined part of the references per determined combination: what an open one may be off by.
            None if no energy determines anything.
    """

    combinations: tuple[Mapping[int, float], ...]
    size: float | None = None

    @cached_property
    def _basis(self) -> tuple[dict[int, int], Floats]:
        """Column of each element, and [elements, combinations] orthonormal directions."""
        elements = sorted({z for some in self.combinations for z in some})
        rows = np.array([[some.get(z, 0.0) for z in elements] for some in self.combinations]).reshape(-1, len(elements))
        return {z: k for k, z in enumerate(elements)}, np.linalg.qr(rows.T)[0]

    def open_part(self, atomic_numbers: Sequence[int] | NDArray[Any]) -> float:
        """Length per atom of the part of the composition that was not determined; 0 if all of it was."""
        column, basis = self._basis
        counts = np.zeros(len(column))
        numbers, n = np.unique(np.asarray(atomic_numbers), return_counts=True)
        for z, count in zip(numbers.tolist(), n.tolist(), strict=True):
            if z in column:
                counts[column[z]] = count
        length = float(np.linalg.norm(basis.T @ counts))
        return length / float(n.sum()) if length > TOLERANCE * float(np.linalg.norm(n)) else 0.0

    def words(self) -> list[str]:
        """What is open, one clause for each set of elements that hang together (`Al and Cu are only determined in the ratio 1:3`), and one for all
        elements of which nothing is known."""
        column, basis = self._basis
        sets = [([z for z in column if column[z] in some], basis[sorted(some)]) for some in _connected(basis)]
        alone = [symbol(some[0]) for some, _ in sets if len(some) == 1]
        shown = alone[:UNKNOWN] + ([f"{len(alone) - UNKNOWN} others"] if len(alone) > UNKNOWN else [])
        return [_clause(some, rows) for some, rows in sets if len(some) > 1] + ([f"no energy determines {_listed(shown)}"] if shown else [])

    def as_json(self) -> dict[str, Any]:
        return {"combinations": [{symbol(z): c for z, c in some.items()} for some in self.combinations], "size": self.size}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> UndeterminedReferences:
        return cls(tuple({number(name): float(c) for name, c in some.items()} for some in values["combinations"]), values.get("size"))


def independent_combinations(directions: Floats, elements: Sequence[int]) -> tuple[dict[int, float], ...]:
    """Return the space of `directions` [elements, d] as combinations with few elements each: reduced row echelon form, smallest coefficient 1."""
    rows = directions.T.copy()
    for k in range(len(rows)):
        i, j = divmod(int(np.abs(rows[k:]).argmax()), rows.shape[1])
        rows[[k, k + i]] = rows[[k + i, k]]
        rows[k] /= rows[k, j]
        others = [m for m in range(len(rows)) if m != k]
        rows[others] -= rows[others, j][:, None] * rows[k]
    rows[np.abs(rows) < 1e-9] = 0.0
    rows = np.array([row / np.abs(row[row != 0]).min() for row in rows]).reshape(rows.shape)
    rows = np.where(np.abs(rows - np.round(rows)) < 1e-7, np.round(rows), rows)
    return tuple({z: float(c) for z, c in zip(elements, row, strict=True) if c} for row in rows)


def _undetermined_of(potential: Potential, level: str | None) -> UndeterminedReferences | None:
    """Return what the training data left open at a level of a potential, as its configuration gives it; None if nothing."""
    stated, levels = potential.config.get("undetermined") or {}, potential.spec.levels
    if level not in levels and len(levels) == 1:
        level = levels[0]
    return UndeterminedReferences.from_json(stated[level]) if level in stated else None


def undetermined_energies(potential: Potential, asked: Iterable[tuple[str | None, NDArray[Any]]]) -> list[str]:
    """Sentences on compositions whose energies the training data leave open, each composition once in the life of a potential and its copies.

    Args:
        asked: level and atomic numbers of each structure.
    """
    if not potential.config.get("undetermined"):
        return []
    said: set[tuple[str, str]] = vars(potential).setdefault("_undetermined_said", set())
    doubtful: dict[str, dict[str, float]] = {}
    for level, numbers in asked:
        found, name = _undetermined_of(potential, level), formula(numbers)
        if found is None or (str(level), name) in said:
            continue
        said.add((str(level), name))
        part = found.open_part(numbers)
        if part > 0:
            doubtful.setdefault(str(level), {})[name] = part
    return [_sentence(names, _undetermined_of(potential, level), level) for level, names in doubtful.items()]


def energy_remarks(potential: Potential, level: str | None, numbers: NDArray[Any]) -> list[str]:
    """Return what `undetermined_energies` says of one composition, every time that it is asked."""
    found = _undetermined_of(potential, level)
    part = 0.0 if found is None else found.open_part(numbers)
    return [_sentence({formula(numbers): part}, found, str(level))] if part > 0 else []


def warn_if_undetermined(potential: Potential, structures: Sequence[Structure], level: str | None = None, *, stacklevel: int = 2) -> None:
    """Warn of what `undetermined_energies` finds.

    Args:
        level: that is asked, whatever the structures state.
    """
    for text in undetermined_energies(potential, ((level or s.level, s.atomic_numbers) for s in structures)):
        warnings.warn(text, UndeterminedEnergyWarning, stacklevel=stacklevel + 1)


@contextmanager
def without_warning() -> Iterator[None]:
    """For checks of properties that hold whatever the energies of atoms are, and for crystals of a model of molecules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndeterminedEnergyWarning)
        warnings.filterwarnings("ignore", "the model was trained on free molecules", UntrainedStateWarning)
        yield


def _sentence(doubtful: Mapping[str, float], found: UndeterminedReferences | None, level: str) -> str:
    assert found is not None  # a level with doubtful compositions
    shown = [f"{name}{_doubt(part, found.size)}" for name, part in list(doubtful.items())[:NAMED]]
    more = f" and {len(doubtful) - NAMED} other compositions" if len(doubtful) > NAMED else ""
    at = f" at level {level!r}" if level != "None" else ""
    return (
        f"the energy of {', '.join(shown)}{more} is not determined by the training data{at}: {'; '.join(found.words())}. Forces, and energy "
        "differences at fixed composition, are not affected; isolated atoms or other compositions in the training data determine it"
    )


def _doubt(part: float, size: float | None) -> str:
    return "" if size is None else f" (by {part * size:.2g} eV/atom, if the open part is as large as the determined one)"


def _connected(basis: Floats) -> list[set[int]]:
    """Sets of rows that some direction couples, each row that is not zero in one of them."""
    projector = np.abs(basis @ basis.T) > 1e-7
    left, sets = {k for k in range(len(basis)) if projector[k, k]}, []
    while left:
        some, new = set[int](), {min(left)}
        while new:
            some |= new
            new = {j for k in new for j in np.flatnonzero(projector[k]).tolist()} - some
        sets.append(some)
        left -= some
    return sets


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _clause(elements: Sequence[int], rows: Floats) -> str:
    """Return what is known of elements whose open directions are `rows` [elements, d]."""
    listed = _listed([symbol(z) for z in elements])
    u, values, _ = np.linalg.svd(rows)
    known = u[:, int((values > 1e-9).sum()) :]
    if known.shape[1] == 1:
        return f"{listed} are only determined in the ratio {_ratio(known[:, 0])}"
    return f"of {listed} only {known.shape[1]} combinations are determined"


def _ratio(values: Floats) -> str:
    """`1:3`, in small whole numbers where there are such."""
    scaled = values / np.abs(values).min() if np.abs(values).min() > 1e-9 else values
    for factor in range(1, 25):
        if np.abs(factor * scaled - np.round(factor * scaled)).max() < 1e-6:
            whole = (
                np.abs(np.round(factor * scaled)).astype(int) if (scaled * scaled[0] > 0).all() else np.round(factor * scaled).astype(int)
            )
            return ":".join(map(str, whole.tolist()))
    return ":".join(f"{abs(value):.3g}" for value in scaled)
