"""Statistics of the training data, counted once before step 0: exact where the table of structures has them, else of a sample of large sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mlipfm_data.store.structure_table import StructureTable
from mlipfm_interfaces.elements import symbol
from mlipfm_interfaces.errors import LevelError
from mlipfm_interfaces.label_weights import force_weights, structure_weight
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.reference_fit import Given, LevelSums, ReferenceReport, fit_levels, sums_of_levels
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import AtomicReferences

#: Of larger sets a random sample of this size is decoded, for reference energies and the size of forces.
SAMPLE = 50_000
#: What potentials have for systems without periodic directions only, see `Batch.defined`.
OF_MOLECULES = {"dipole", "quadrupole", "born_charges"}
#: At least so many with each element, of each level and each set of labels, are decoded, or all if there are fewer.
RARE = 20


@dataclass
class DataStatistics:
    """Counts over all `n` structures; references and sizes of forces are of `sampled` of them.

    Attributes:
        levels, labels, licences: structures by level, by label key, by licence ("" where none is given).
        undefined: structures by label key that have the label and cannot have the quantity: stress without three periodic directions, a dipole (and
            what is made from it) with them.
        elements: atomic numbers, ascending. atoms: number of them.
        charge_stated, charged, multiplicity_stated, open_shell, periodic: structures; periodic in all three directions.
        rms_force: eV/Å, root mean square of the components. mean_force: eV/Å, mean absolute component: the error of predicting zero. Both are
            weighted by `weight` and `forces_weight`, as losses are.
        sums: energies by level and composition. reports: the fit of atomic references to them, by level.
        in_field: of the sampled structures, those in an external field.
    """

    n: int
    sampled: int
    levels: Counter[str]
    labels: Counter[str]
    licences: Counter[str]
    elements: tuple[int, ...]
    atoms: int
    charge_stated: int
    charged: int
    multiplicity_stated: int
    open_shell: int
    periodic: int
    rms_force: float
    mean_force: float
    undefined: Counter[str] = field(default_factory=Counter)
    sums: Mapping[str, LevelSums] = field(default_factory=dict)
    reports: Mapping[str, ReferenceReport] = field(default_factory=dict)
    in_field: int = 0

    @property
    def references(self) -> dict[str, AtomicReferences]:
        """By level, where structures have energies."""
        return {level: report.references for level, report in self.reports.items()}

    @classmethod
    def empty(cls) -> DataStatistics:
        """Of no structures: a Source makes its own."""
        return cls(0, 0, Counter(), Counter(), Counter(), (), 0, 0, 0, 0, 0, 0, 0.0, 0.0)


def collect_statistics(frames: Sequence[Structure], table: StructureTable, seed: int, given: Given | None = None) -> DataStatistics:
    """Count labels, levels, elements and states, and fit atomic reference energies per level.

    Args:
        table: of `frames`. given: atomic energies that are not fitted, see `reference_fit.report_references`.

    Raises:
        LevelError: if a structure has no level of theory.
    """
    _refuse_no_level(frames, table)
    seen = [frames[k] for k in sample(table, seed, SAMPLE)]
    rms, mean = _size_of_forces(seen)
    sums = sums_of_levels(seen)
    fitted = {level: value for level, value in (given or {}).items() if level in sums or not isinstance(value, Mapping)}
    return DataStatistics(
        n=len(table),
        sampled=len(seen),
        levels=table.count(lambda kind: [str(kind.level)]),
        labels=table.count(lambda kind: kind.labels),
        licences=table.count(lambda kind: [kind.licence or ""]),
        elements=table.elements,
        atoms=len(table.atomic_numbers),
        charge_stated=int(np.count_nonzero(table.charge_stated)),
        charged=int(np.count_nonzero(table.total_charge)),
        multiplicity_stated=int(np.count_nonzero(table.spin_multiplicity)),
        open_shell=int(np.count_nonzero(table.spin_multiplicity > 1)),
        periodic=int(np.count_nonzero(table.of_kind(lambda kind: kind.periodic))),
        rms_force=rms,
        mean_force=mean,
        undefined=table.count(lambda kind: kind.labels & (OF_MOLECULES if kind.periodic else {"stress"})),
        sums=sums,
        reports=fit_levels(sums, given=fitted),
        in_field=sum(s.external_field is not None and bool(s.external_field.any()) for s in seen),
    )


def _size_of_forces(seen: Sequence[Structure]) -> tuple[float, float]:
    """Root mean square and mean absolute component, weighted; zero without forces."""
    labelled = [s for s in seen if "forces" in s.labels]
    if not labelled:
        return 0.0, 0.0
    forces = np.concatenate([s.labels["forces"] for s in labelled])
    weights = np.concatenate([structure_weight(s) * force_weights(s) for s in labelled])
    forces, total = forces[weights > 0], 3 * max(float(weights.sum()), 1e-300)
    weights = weights[weights > 0, None]
    return float(np.sqrt((weights * forces**2).sum() / total)), float((weights * np.abs(forces)).sum() / total)


def _refuse_no_level(frames: Sequence[Structure], table: StructureTable) -> None:
    lacking = np.flatnonzero(table.of_kind(lambda kind: kind.level is None))
    if len(lacking):
        origin = frames[int(lacking[0])].provenance
        place = f"structure {origin.index} of {origin.source}"
        raise LevelError("has no level of theory", where=place, hint="set `level` when the data are imported")


def sample(table: StructureTable, seed: int, size: int) -> list[int]:
    """Places of the structures to decode: all, or a random sample of this size and more, in which no element of a level is missing."""
    n = len(table)
    if n <= size:
        return list(range(n))
    rng = stream(seed, "survey")
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.choice(n, size, replace=False)] = True
    groups: dict[object, int] = {}
    group_of = np.array([groups.setdefault((kind.level, kind.labels), len(groups)) for kind in table.kinds])[table.kind]
    for z in table.elements:
        having = table.having(z)
        for group in range(len(groups)):
            members = having[group_of[having] == group]
            lacking = min(RARE, len(members)) - np.count_nonzero(chosen[members])
            if lacking > 0:
                chosen[rng.choice(members[~chosen[members]], lacking, replace=False)] = True
    return [int(k) for k in np.flatnonzero(chosen)]


def has_neighbors(frames: Sequence[Structure], cutoff: float, seed: int, structures: int = 200) -> bool:
    """Return whether any atom of a sample of structures has a neighbour within `cutoff` Å; True where all are single atoms without a lattice."""
    picks: Sequence[int] = (
        stream(seed, "neighbors").choice(len(frames), min(structures, len(frames)), replace=False).tolist() if len(frames) else []
    )
    seen = [s for s in (frames[int(k)] for k in picks) if len(s) > 1 or s.pbc.any()]
    return not seen or any(len(neighbor_pairs(s, cutoff)[0]) for s in seen)


def mean_neighbors(frames: Sequence[Structure], cutoff: float, seed: int, structures: int = 200) -> float:
    """Mean number of neighbours of an atom within `cutoff` Å, over a sample of structures; at least 1."""
    picks = stream(seed, "neighbors").choice(len(frames), min(structures, len(frames)), replace=False)
    seen = [frames[int(k)] for k in picks]
    return max(1.0, sum(len(neighbor_pairs(s, cutoff)[0]) for s in seen) / sum(len(s) for s in seen))


def shortest_distances(frames: Sequence[Structure], cutoff: float, seed: int, structures: int = 1000) -> dict[str, float]:
    """Shortest distance in Å of each pair of elements ("C-H", the lighter one second) that stand within `cutoff` Å, over a sample of structures."""
    picks = stream(seed, "distances").choice(len(frames), min(structures, len(frames)), replace=False)
    shortest: dict[tuple[int, int], float] = {}
    for k in picks:
        s = frames[int(k)]
        i, j, shifts = neighbor_pairs(s, cutoff)
        z = np.sort(np.stack([s.atomic_numbers[i], s.atomic_numbers[j]]), axis=0)
        r = np.linalg.norm(s.positions[j] + shifts @ s.cell - s.positions[i], axis=1)
        order = np.lexsort((r, z[0], z[1]))
        first = np.unique(z[:, order], axis=1, return_index=True)[1]
        for n in order[first]:
            pair = int(z[1, n]), int(z[0, n])
            shortest[pair] = min(float(r[n]), shortest.get(pair, np.inf))
    return {f"{symbol(a)}-{symbol(b)}": round(r, 6) for (a, b), r in sorted(shortest.items())}
