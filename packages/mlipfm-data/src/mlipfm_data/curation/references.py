"""Reference energies of each level, and how far they are determined: which elements the compositions cannot tell apart, and what is left over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import LevelError, MissingLabelsError, MlipfmError
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import AtomicReferences
from numpy.typing import NDArray

from .duplicates import clusters

Floats = NDArray[np.float64]

#: Compositions named as the worst.
WORST = 3


@dataclass(frozen=True)
class ReferenceReport:
    """Of one level.

    Attributes:
        references: energies, rank, root-mean-square residual. structures, compositions: how many the fit used.
        given: atomic numbers whose energies were not fitted, and why (`isolated atom`, `given`).
        together: sets of elements of which only combinations are determined.
        worst: (formula, structures, mean residual in eV per atom) of the compositions that fit worst.
    """

    references: AtomicReferences
    structures: int
    compositions: int
    given: Mapping[int, str]
    together: Sequence[Sequence[int]]
    worst: Sequence[tuple[str, int, float]]

    def as_json(self) -> dict[str, Any]:
        found = self.references
        return {
            "level": found.level,
            "structures": self.structures,
            "compositions": self.compositions,
            "rank": found.rank,
            "elements": found.n_elements,
            "residual_eV_per_atom": found.residual,
            "references_eV": {symbol(z): energy for z, energy in found.energies.items()},
            "not_fitted": {symbol(z): why for z, why in self.given.items()},
            "not_separated": [[symbol(z) for z in some] for some in self.together],
            "worst": [{"composition": name, "structures": n, "residual_eV_per_atom": off} for name, n, off in self.worst],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        found = self.references
        yield f"{found.level}: {self.structures} structures of {self.compositions} compositions, {found.n_elements} elements, rank {found.rank}"
        yield f"  residual {1000 * (found.residual or 0.0):.1f} meV/atom (root mean square)"
        for some in self.together:
            yield f"  cannot be separated: {' '.join(symbol(z) for z in some)} (always together; only combinations are determined)"
        cells = [f"{symbol(z)} {energy:.4f}{'*' if z in self.given else ''}" for z, energy in sorted(found.energies.items())]
        for k in range(0, len(cells), 8):
            yield "  " + "  ".join(f"{cell:>15s}" for cell in cells[k : k + 8])
        if self.given:
            yield "  * not fitted: " + ", ".join(f"{symbol(z)} ({why})" for z, why in sorted(self.given.items()))
        for name, n, off in self.worst:
            yield f"  worst: {name} ({n} structures) off by {1000 * off:+.1f} meV/atom"


@dataclass
class _Level:
    """Sums over structures of equal composition."""

    counts: dict[tuple[tuple[int, int], ...], list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0, 0.0]))
    isolated: dict[int, float] = field(default_factory=dict)


def report_references(
    structures: Iterable[Structure], *, given: Mapping[str, float] | None = None, isolated: bool = True
) -> dict[str, ReferenceReport]:
    """Least-squares references of every level, min ||X e - E|| over structures, with a report.

    Args:
        structures: of any number of levels; those without an energy are left out.
        given: element symbol -> eV, kept as they are at every level. isolated: lone atoms in the data (not periodic; the lowest energy of each
            element) are kept as they are too.

    Raises:
        MissingLabelsError: no structure has an energy. LevelError: one with an energy states no level. UnknownElementError: in `given`.
    """
    fixed = {number(name): float(energy) for name, energy in (given or {}).items()}
    levels: dict[str, _Level] = defaultdict(_Level)
    for s in structures:
        if "energy" in s.labels:
            _add(levels, s)
    if not levels:
        raise MissingLabelsError("no structure has an energy")
    return {name: _report(name, level, fixed, isolated) for name, level in sorted(levels.items())}


def _add(levels: dict[str, _Level], s: Structure) -> None:
    if s.level is None:
        where = f"structure {s.provenance.index} of {s.provenance.source}"
        raise LevelError("states no level of theory", where=where, mend="set `level` on import")
    energy = float(s.labels["energy"])
    numbers, counts = np.unique(s.atomic_numbers, return_counts=True)
    sums = levels[s.level].counts[tuple(zip(numbers.tolist(), counts.tolist(), strict=True))]
    for k, value in enumerate((1.0, energy, energy * energy)):
        sums[k] += value
    if len(s) == 1 and not s.pbc.any():
        lone = levels[s.level].isolated
        lone[int(numbers[0])] = min(energy, lone.get(int(numbers[0]), np.inf))


def _report(name: str, level: _Level, fixed: Mapping[int, float], isolated: bool) -> ReferenceReport:
    elements = sorted({z for composition in level.counts for z, _ in composition})
    column = {z: k for k, z in enumerate(elements)}
    x = np.zeros((len(level.counts), len(elements)))
    for row, composition in enumerate(level.counts):
        for z, n in composition:
            x[row, column[z]] = n
    n, total, squares = np.array(list(level.counts.values())).T
    energies = dict(level.isolated) if isolated else {}
    why = dict.fromkeys(energies, "isolated atom")
    energies |= {z: e for z, e in fixed.items() if z in column}
    why |= {z: "given" for z in fixed if z in column}
    solution, rank, together = _solve(x, total / n, n, elements, energies)
    atoms, off = x.sum(axis=1), total / n - x @ solution
    spread = squares - total**2 / n  # of energies within a composition
    residual = float(np.sqrt(np.maximum((n * off**2 + spread) / atoms**2, 0.0).sum() / n.sum()))
    order = np.argsort(-np.abs(off / atoms))[:WORST]
    names = list(level.counts)
    worst = [("".join(f"{symbol(z)}{c if c > 1 else ''}" for z, c in names[k]), int(n[k]), float(off[k] / atoms[k])) for k in order]
    values = {z: float(e) for z, e in zip(elements, solution, strict=True)}
    references = AtomicReferences(name, values, rank, len(elements), residual)
    return ReferenceReport(references, int(n.sum()), len(n), why, together, worst)


def _solve(
    x: Floats, energies: Floats, n: Floats, elements: Sequence[int], fixed: Mapping[int, float]
) -> tuple[Floats, int, list[list[int]]]:
    """Weighted least squares with some unknowns fixed: all unknowns, rank (fixed ones count), elements that are not determined alone."""
    known = np.array([z in fixed for z in elements], dtype=bool)
    solution = np.array([fixed.get(z, 0.0) for z in elements])
    free = x[:, ~known] * np.sqrt(n)[:, None]
    if not known.all():
        part, _, rank, _ = np.linalg.lstsq(free, (energies - x @ solution) * np.sqrt(n), rcond=1e-10)
        solution[~known] = part
        null = _null_space(free)
        unknown = [k for k in range(len(elements)) if not known[k]]
        coupled = np.abs(null @ null.T) > 1e-6
        pairs = [(unknown[a], unknown[b]) for a, b in np.argwhere(coupled).tolist() if a != b]
        sets = clusters(len(elements), pairs)
        return solution, int(rank + known.sum()), [[elements[k] for k in some] for some in sets]
    return solution, len(elements), []


def _null_space(matrix: Floats) -> Floats:
    """[columns, d] orthonormal directions that the matrix does not see."""
    _, values, vectors = np.linalg.svd(matrix, full_matrices=True)
    rank = int((values > 1e-10 * values.max(initial=0.0)).sum()) if len(values) else 0
    return vectors[rank:].T


def parse_given(text: str) -> dict[str, float]:
    """`H=-13.6,O=-2041.3` -> a dict. Raises `MlipfmError` for anything else."""
    given: dict[str, float] = {}
    for part in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = part.partition("=")
        try:
            given[name.strip()] = float(value)
        except ValueError:
            raise MlipfmError(f"{part!r} is not ELEMENT=ENERGY in eV", mend="H=-13.6,O=-2041.3") from None
    return given
