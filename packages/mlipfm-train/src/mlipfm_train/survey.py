"""`survey`: what the training data are, counted once before step 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mlipfm_interfaces.errors import LevelError
from mlipfm_interfaces.neighbors import neighbor_pairs
from mlipfm_interfaces.seeds import stream
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.theory import AtomicReferences, fit_references

#: Larger sets are surveyed on a random sample of this size.
SAMPLE = 50_000


@dataclass
class Survey:
    """Counts over `n` of `total` structures.

    Attributes:
        levels, labels, licences: structures by level, by label key, by licence ("" where none is stated).
        elements: atomic numbers, ascending. atoms: number of them.
        charge_stated, charged, multiplicity_stated, open_shell, periodic: structures; periodic in all three directions.
        rms_force: eV/Å, root mean square of the components. mean_force: eV/Å, mean absolute component: the error of predicting zero.
        references: by level, where structures have energies.
    """

    n: int
    total: int
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
    references: Mapping[str, AtomicReferences] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Survey:
        """Of no structures: a Source makes its own."""
        return cls(0, 0, Counter(), Counter(), Counter(), (), 0, 0, 0, 0, 0, 0, 0.0, 0.0)


def survey(frames: Sequence[Structure], seed: int) -> Survey:
    """Count labels, levels and elements, and fit atomic reference energies per level.

    Raises:
        LevelError: if a structure states no level of theory.
    """
    picks = (
        range(len(frames)) if len(frames) <= SAMPLE else np.sort(stream(seed, "survey").choice(len(frames), SAMPLE, replace=False)).tolist()
    )
    seen = [frames[k] for k in picks]
    for s in seen:
        if s.level is None:
            place = f"structure {s.provenance.index} of {s.provenance.source}"
            raise LevelError("states no level of theory", where=place, mend="set `level` when the data are imported")
    forces = [s.labels["forces"] for s in seen if "forces" in s.labels]
    components = np.concatenate([f.ravel() for f in forces]) if forces else np.zeros(0)
    levels = Counter(str(s.level) for s in seen)
    energetic = [s for s in seen if "energy" in s.labels]
    return Survey(
        n=len(seen),
        total=len(frames),
        levels=levels,
        labels=Counter(key for s in seen for key in s.labels),
        licences=Counter(s.provenance.licence or "" for s in seen),
        elements=tuple(sorted({int(z) for s in seen for z in s.atomic_numbers})),
        atoms=sum(len(s) for s in seen),
        charge_stated=sum(s.total_charge is not None for s in seen),
        charged=sum(bool(s.total_charge) for s in seen),
        multiplicity_stated=sum(s.spin_multiplicity is not None for s in seen),
        open_shell=sum((s.spin_multiplicity or 1) > 1 for s in seen),
        periodic=sum(bool(s.pbc.all()) for s in seen),
        rms_force=float(np.sqrt(np.mean(components**2))) if len(components) else 0.0,
        mean_force=float(np.mean(np.abs(components))) if len(components) else 0.0,
        references=fit_references(energetic) if energetic else {},
    )


def mean_neighbors(frames: Sequence[Structure], cutoff: float, seed: int, sample: int = 200) -> float:
    """Mean number of neighbours of an atom within `cutoff` Å, over a sample of structures; at least 1."""
    picks = stream(seed, "neighbors").choice(len(frames), min(sample, len(frames)), replace=False)
    seen = [frames[int(k)] for k in picks]
    return max(1.0, sum(len(neighbor_pairs(s, cutoff)[0]) for s in seen) / sum(len(s) for s in seen))
