"""Atomic reference energies of a level, fitted to compositions: what is known stays, and the rest moves as little as fits.

Weighted least squares, min sum_s w_s (E_s - sum_z n_sz e_z)^2 over structures s with n_sz atoms of element z, w_s the label `weight`: 0 leaves a
structure out. Given energies and isolated atoms are exact. Where the compositions leave combinations of elements open, the solution is the
one nearest to `prior` references (those of the model that is fine-tuned, or of another level that all compositions determine), or to zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .elements import number, symbol
from .errors import LevelError, MissingLabelsError
from .label_weights import structure_weight
from .reference_rank import UndeterminedReferences, independent_combinations
from .structure import Structure
from .theory import AtomicReferences

Floats = NDArray[np.float64]
Composition = tuple[tuple[int, int], ...]
#: Element symbol -> eV, of all levels; or level -> such a mapping.
Given = Mapping[str, float | Mapping[str, float]]

#: Å. An atom without a neighbour, periodic images included, within this distance is an isolated one.
LONE = 7.0
#: Compositions named as the worst.
WORST = 3
#: eV. Energies of one isolated element that differ by more are named: spin states, or mistakes.
SAME = 1e-3


@dataclass(frozen=True)
class Prior:
    """References that a fit starts from.

    Attributes:
        energies: atomic number -> eV. origin: in words, where they come from.
        fixed: whether they stay. Then only what `free` leaves open may move, and elements without an energy here.
    """

    energies: Mapping[int, float]
    origin: str
    fixed: bool = False
    free: UndeterminedReferences | None = None


@dataclass(frozen=True)
class ReferenceReport:
    """Of one level.

    Attributes:
        references: energies, rank, root-mean-square residual. structures, compositions: how many the fit used.
        given: atomic numbers whose energies were not fitted, and why (`isolated atom`, `given`).
        together: sets of elements of which only combinations are determined.
        worst: (formula, structures, mean residual in eV per atom) of the compositions that fit worst.
        scatter: eV per atom, what is left over if no energy is kept and isolated atoms are left out: without their binding energies.
        bound: eV per atom, weighted mean of what is left over: about zero in a fit, the mean binding energy beside isolated atoms.
        undetermined: what is left open, None if nothing is. shift: atomic number -> eV by which the fit moved a prior energy.
        origin: where the prior energies come from, "" without any. notes: further remarks.
    """

    references: AtomicReferences
    structures: int
    compositions: int
    given: Mapping[int, str]
    together: Sequence[Sequence[int]]
    worst: Sequence[tuple[str, int, float]]
    scatter: float | None = None
    bound: float = 0.0
    undetermined: UndeterminedReferences | None = None
    shift: Mapping[int, float] = field(default_factory=dict)
    origin: str = ""
    notes: Sequence[str] = ()

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
            "undetermined": self.undetermined.as_json() if self.undetermined else None,
            "start": {"from": self.origin, "shift_eV": {symbol(z): e for z, e in self.shift.items()}} if self.origin else None,
            "notes": list(self.notes),
            "worst": [{"composition": name, "structures": n, "residual_eV_per_atom": off} for name, n, off in self.worst],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        found = self.references
        yield f"{found.level}: {self.structures} structures of {self.compositions} compositions, {found.n_elements} elements, rank {found.rank}"
        bound = f"; {1000 * (self.scatter or 0.0):.1f} without the kept energies" if self.given else ""
        yield f"  residual {1000 * (found.residual or 0.0):.1f} meV/atom (root mean square{bound})"
        cells = [f"{symbol(z)} {energy:.4f}{'*' if z in self.given else ''}" for z, energy in sorted(found.energies.items())]
        for k in range(0, len(cells), 8):
            yield "  " + "  ".join(f"{cell:>15s}" for cell in cells[k : k + 8])
        if self.given:
            yield "  * not fitted: " + ", ".join(f"{symbol(z)} ({why})" for z, why in sorted(self.given.items()))
        for text in self.remarks():
            yield f"  {text}"
        for name, n, off in self.worst:
            yield f"  worst: {name} ({n} structures) off by {1000 * off:+.1f} meV/atom"

    def remarks(self) -> Iterator[str]:
        """Where the energies come from and what they leave open, one sentence each."""
        if self.origin:
            moved = [f"{symbol(z)} {e:+.3f}" for z, e in sorted(self.shift.items()) if abs(e) >= 5e-4]
            shown = ", ".join(moved[:12]) + (f" and {len(moved) - 12} more" if len(moved) > 12 else "")
            yield f"from {self.origin}" + (f", moved by the smallest shift that fits: {shown} eV" if moved else ", unchanged")
        for some in self.together:
            yield f"cannot be separated: {' '.join(symbol(z) for z in some)} (only combinations are determined)"
        for words in self.undetermined.words() if self.undetermined else ():
            yield f"not determined: {words}; isolated atoms in the data, or given energies of them, determine it"
        yield from self.notes


@dataclass
class LevelSums:
    """Energies of one level, summed over structures of equal composition; structures of weight 0 are left out.

    Attributes:
        rows: composition -> structures, sum of weights, of weighted energies and of their squares (eV); without isolated atoms.
        lone: atomic number -> the same of its isolated atoms. lone_energies: atomic number -> their labels, eV.
        ions: atomic number -> the same of its isolated ions, fitted only if nothing else has the element: an ionisation energy is no reference.
    """

    rows: dict[Composition, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * 4))
    lone: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * 4))
    lone_energies: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    ions: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * 4))

    @property
    def elements(self) -> list[int]:
        """Atomic numbers, ascending."""
        return sorted({z for row in self.rows for z, _ in row} | set(self.lone) | set(self.ions))

    def add(self, s: Structure, energy: float | None = None) -> None:
        """Count a structure with its label, or with `energy` instead."""
        weight = structure_weight(s)
        if weight == 0:
            return
        energy = float(s.labels["energy"]) if energy is None else energy
        numbers, counts = np.unique(s.atomic_numbers, return_counts=True)
        lone, ion = is_lone_atom(s), bool(s.total_charge) and is_lone_atom(s, charged=True)
        kind = self.lone if lone else self.ions
        sums = kind[int(numbers[0])] if lone or ion else self.rows[tuple(zip(numbers.tolist(), counts.tolist(), strict=True))]
        for k, value in enumerate((1.0, weight, weight * energy, weight * energy * energy)):
            sums[k] += value
        if lone:
            self.lone_energies[int(numbers[0])].append(float(s.labels["energy"]))


def is_lone_atom(s: Structure, charged: bool = False) -> bool:
    """Return whether a structure is one neutral (or `charged`) atom without a neighbour within `LONE` Å, images of a periodic cell included."""
    if len(s) != 1 or bool(s.total_charge) != charged or (s.external_field is not None and s.external_field.any()):
        return False
    if not s.pbc.any():
        return True
    from .neighbors import neighbor_pairs  # it brings torch, which commands that meet no periodic atom need not wait for

    return not len(neighbor_pairs(s, LONE)[0])


def sums_of_levels(structures: Iterable[Structure]) -> dict[str, LevelSums]:
    """Energies of every level, by level; structures without an energy are left out.

    Raises:
        LevelError: a structure with an energy gives no level.
    """
    levels: dict[str, LevelSums] = defaultdict(LevelSums)
    for s in structures:
        if "energy" not in s.labels:
            continue
        if s.level is None:
            where = f"structure {s.provenance.index} of {s.provenance.source}"
            raise LevelError("has no level of theory", where=where, hint="set `level` on import")
        levels[s.level].add(s)
    return {name: sums for name, sums in sorted(levels.items()) if sums.elements}


def report_references(structures: Iterable[Structure], *, given: Given | None = None, isolated: bool = True) -> dict[str, ReferenceReport]:
    """References of every level in `structures`, with a report. A level whose compositions leave something open is fitted as the smallest
    shift from another level that leaves nothing open, if there is one.

    Args:
        structures: of any number of levels; those without an energy, or of weight 0, are left out.
        given: element symbol -> eV, kept as they are at every level; or level -> such a mapping.
        isolated: isolated atoms in the data (`is_lone_atom`; the lowest energy of each element) are kept as they are too.

    Raises:
        MissingLabelsError: no structure has an energy. LevelError: one with an energy gives no level, or an unknown level in `given`.
        UnknownElementError: in `given`.
    """
    levels = sums_of_levels(structures)
    if not levels:
        raise MissingLabelsError("no structure has an energy")
    return fit_levels(levels, given=given, isolated=isolated)


def fit_levels(levels: Mapping[str, LevelSums], *, given: Given | None = None, isolated: bool = True) -> dict[str, ReferenceReport]:
    """As `report_references`, of sums."""
    exact = given_energies(given or {}, levels)
    alone = {name: fit_level(name, sums, given=exact[name], isolated=isolated) for name, sums in levels.items()}
    whole = {name: report for name, report in alone.items() if report.undetermined is None}
    for name, report in alone.items():
        if report.undetermined is None:
            continue
        left = [z for z in report.references.energies if z not in report.given]
        priors = [Prior({z: w.references.energies[z] for z in left if z in w.references.energies}, f"level {k}") for k, w in whole.items()]
        fits = [fit_level(name, levels[name], given=exact[name], prior=prior, isolated=isolated) for prior in priors if prior.energies]
        alone[name] = min(fits, key=lambda fit: float(np.linalg.norm(list(fit.shift.values()))), default=report)
    return alone


def given_energies(given: Given, levels: Iterable[str]) -> dict[str, dict[int, float]]:
    """Level -> atomic number -> eV of energies that the user gives.

    Raises:
        UnknownElementError, LevelError: as `report_references`.
    """
    exact: dict[str, dict[int, float]] = {name: {} for name in levels}
    for name, value in given.items():
        if not isinstance(value, Mapping):
            for energies in exact.values():
                energies.setdefault(number(name), float(value))
        elif name not in exact:
            raise LevelError(f"energies are given for level {name!r}, which no structure has", hint=f"there are: {', '.join(exact)}")
        else:
            exact[name] |= {number(element): float(energy) for element, energy in value.items()}
    return exact


def fit_level(
    level: str, sums: LevelSums, *, given: Mapping[int, float] | None = None, prior: Prior | None = None, isolated: bool = True
) -> ReferenceReport:
    """References of one level.

    Args:
        given: atomic number -> eV, exact. prior: what the fit starts from and stays near to. isolated: take isolated atoms of elements that have no
            prior energy as exact.
    """
    known = dict(prior.energies) if prior else {}
    data = sums.elements
    elements = sorted({*data, *known})
    lone = {z: min(sums.lone_energies[z]) for z in sums.lone if isolated and z not in known and z not in (given or {})}
    exact = {**lone, **{z: e for z, e in (given or {}).items() if z in elements}}
    base = np.array([exact.get(z, known.get(z, 0.0)) for z in elements])
    rows = _rows(sums, leave_out=lone)
    x = np.array([[dict(row).get(z, 0) for z in elements] for row, _ in rows], dtype=np.float64).reshape(-1, len(elements))
    count, weight, total, squares = np.array([values for _, values in rows]).reshape(-1, 4).T
    preferred = [[k for k, z in enumerate(elements) if (z in known) == first] for first in (True, False)]
    means = total / weight
    moved, unseen = _smallest(x, means - x @ base, weight, _directions(elements, exact, prior), preferred)
    off, atoms = means - x @ (base + moved), x.sum(axis=1)
    spread = np.maximum(weight * off**2 + squares - total * means, 0.0)  # with that of energies within a composition
    residual = float(np.sqrt((spread / atoms**2).sum() / weight.sum())) if len(x) else 0.0
    combinations = independent_combinations(unseen, elements)
    determined = len(elements) - unseen.shape[1] - len(exact)
    size = float(np.linalg.norm(moved) / np.sqrt(determined)) if determined > 0 else None
    energies = dict(zip(elements, (base + moved).tolist(), strict=True))
    return ReferenceReport(
        AtomicReferences(level, energies, len(data) - _open_in(unseen, elements, data), len(data), residual),
        int(sum(values[0] for values in (*sums.rows.values(), *sums.lone.values(), *sums.ions.values()))),
        len({*sums.rows, *(((z, 1),) for z in (*sums.lone, *sums.ions))}),
        {z: "isolated atom" if z in lone else "given" for z in sorted(exact)},
        [some for some in _together(combinations) if len(some) > 1],
        _worst([row for row, _ in rows], count, off / atoms),
        fit_level(level, LevelSums(rows=sums.rows)).references.residual if exact and sums.rows else residual,
        float((weight * off).sum() / (weight * atoms).sum()) if len(x) else 0.0,
        UndeterminedReferences(combinations, size) if combinations else None,
        {z: float(e) for z, e in zip(elements, moved, strict=True) if z in known},
        prior.origin if prior else "",
        list(_notes(sums, lone, [z for z in given or {} if z not in elements])),
    )


def _rows(sums: LevelSums, leave_out: Collection[int]) -> list[tuple[Composition, list[float]]]:
    """Compositions with their sums; isolated atoms stand apart from crystals of one atom a cell."""
    known = {z for row in sums.rows for z, _ in row} | set(sums.lone)
    single = [(z, values) for z, values in sums.lone.items() if z not in leave_out]
    single += [(z, values) for z, values in sums.ions.items() if z not in known]
    return [*sums.rows.items(), *((((z, 1),), values) for z, values in single)]


def _open_in(directions: Floats, elements: Sequence[int], data: Collection[int]) -> int:
    """Return how many of the open `directions` concern elements of the data."""
    part = directions[[k for k, z in enumerate(elements) if z in data]]
    return int(np.linalg.matrix_rank(part, tol=1e-7)) if part.size else 0


def _notes(sums: LevelSums, lone: Iterable[int], idle: Sequence[int]) -> Iterator[str]:
    for z in sorted(lone):
        found = sums.lone_energies[z]
        low, high = min(found), max(found)
        if high - low > SAME:
            yield f"{len(found)} lone {symbol(z)} atoms have energies from {low:.4f} to {high:.4f} eV (spin states?): the lowest is taken"
    if idle:
        yield f"given, but in no structure of this level: {' '.join(symbol(z) for z in sorted(idle))}"


def _directions(elements: Sequence[int], exact: Mapping[int, float], prior: Prior | None) -> Floats:
    """[elements, d] what the fit may change."""
    unit = np.eye(len(elements))
    if prior is None or not prior.fixed:
        return unit[:, [k for k, z in enumerate(elements) if z not in exact]]
    new = unit[:, [k for k, z in enumerate(elements) if z not in exact and z not in prior.energies]]
    some = prior.free.combinations if prior.free else ()
    left = np.array([[c.get(z, 0.0) for z in elements] for c in some if not set(c) & set(exact)]).reshape(-1, len(elements)).T
    return np.hstack([left, new])


def _smallest(x: Floats, y: Floats, weight: Floats, directions: Floats, preferred: Sequence[Sequence[int]]) -> tuple[Floats, Floats]:
    """Of all moves along `directions` [elements, d] that fit x move = y best (weighted), the one that is smallest in the first set of
    elements, then in the second; and [elements, k] the directions that x does not see."""
    a = x @ directions
    sizes = np.linalg.norm(x, axis=1, keepdims=True)
    _, values, vectors = np.linalg.svd(a / np.maximum(sizes, 1.0), full_matrices=True)
    scale = max(float(np.linalg.norm(directions, 2)) if directions.size else 0.0, 1e-300)  # not that of `a`, of which all may be rounding
    rank = int((values > 1e-10 * scale).sum())
    seen, unseen = vectors[:rank].T, directions @ vectors[rank:].T
    root = np.sqrt(weight / weight.max(initial=1e-300))[:, None]
    move = np.zeros(len(directions))
    for _ in range(2):  # the second pass takes up the rounding of total energies
        left = (y - x @ move) * root[:, 0]
        move = move + directions @ seen @ np.linalg.lstsq(root * (a @ seen), left, rcond=1e-14)[0]
    unseen = np.linalg.qr(unseen)[0] if unseen.size else unseen
    left_over = unseen
    for some in preferred:
        if some and left_over.shape[1]:
            part = left_over[some]
            move = move - left_over @ np.linalg.lstsq(part, move[some], rcond=1e-10)[0]
            _, values, vectors = np.linalg.svd(part, full_matrices=True)
            left_over = left_over @ vectors[int((values > 1e-10).sum()) :].T
    return move, unseen


def _together(combinations: Iterable[Mapping[int, float]]) -> list[list[int]]:
    """Elements that combinations couple, largest sets first."""
    sets: list[set[int]] = []
    for some in combinations:
        touching = [known for known in sets if known & set(some)]
        sets = [known for known in sets if known not in touching] + [set(some).union(*touching)]
    return sorted((sorted(some) for some in sets), key=lambda some: (-len(some), some))


def _worst(rows: Sequence[Composition], count: Floats, off: Floats) -> list[tuple[str, int, float]]:
    names = ["".join(f"{symbol(z)}{n if n > 1 else ''}" for z, n in row) for row in rows]
    return [(names[k], int(count[k]), float(off[k])) for k in np.argsort(-np.abs(off), kind="stable")[:WORST].tolist()]
