"""What a store holds, counted in one pass while it is written: levels, energies, forces, elements, sizes, licences."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import N_ELEMENTS, symbol
from mlipfm_interfaces.level_names import canonical_level
from mlipfm_interfaces.structure import Structure


@dataclass
class LevelStatistics:
    """Counts and moments of one level of theory; two of them merge exactly (Chan, Golub, LeVeque 1983).

    Attributes:
        structures, atoms: how many. energies: structures with an energy label. force_components: 3 for every atom with a force.
        mean_energy: eV per atom, mean over structures. energy_m2: sum of squared deviations from it. force_squares: sum of squares, (eV/Å)².
    """

    structures: int = 0
    atoms: int = 0
    energies: int = 0
    mean_energy: float = 0.0
    energy_m2: float = 0.0
    force_components: int = 0
    force_squares: float = 0.0

    @property
    def std_energy(self) -> float:
        """Standard deviation over structures, eV per atom; NaN without energies."""
        return math.sqrt(self.energy_m2 / self.energies) if self.energies else math.nan

    @property
    def rms_force(self) -> float:
        """Root mean square of the force components, eV/Å; NaN without forces."""
        return math.sqrt(self.force_squares / self.force_components) if self.force_components else math.nan

    def add(self, structure: Structure) -> None:
        self.structures += 1
        self.atoms += len(structure)
        if "energy" in structure.labels:
            self._add_energies(1, float(structure.labels["energy"]) / len(structure), 0.0)
        if "forces" in structure.labels:
            forces = structure.labels["forces"]
            self.force_components += forces.size
            self.force_squares += float(np.vdot(forces, forces))

    def merge(self, other: LevelStatistics) -> None:
        self.structures += other.structures
        self.atoms += other.atoms
        self._add_energies(other.energies, other.mean_energy, other.energy_m2)
        self.force_components += other.force_components
        self.force_squares += other.force_squares

    def _add_energies(self, n: int, mean: float, m2: float) -> None:
        total = self.energies + n
        if n:
            step = mean - self.mean_energy
            self.energy_m2 += m2 + step * step * self.energies * n / total
            self.mean_energy += step * n / total
        self.energies = total


@dataclass
class Summary:
    """Statistics of a shard or a store.

    Attributes:
        levels: by level id; "" for structures that give none.
        elements: atoms by symbol. sizes: structures by number of atoms. licences: structures by licence; "" where none is given.
    """

    levels: dict[str, LevelStatistics] = field(default_factory=dict)
    elements: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)

    @property
    def structures(self) -> int:
        return self.sizes.total()

    def add(self, structure: Structure) -> None:
        self.levels.setdefault(structure.level or "", LevelStatistics()).add(structure)
        counts = np.bincount(structure.atomic_numbers, minlength=N_ELEMENTS + 1)
        for z in np.flatnonzero(counts).tolist():
            self.elements[symbol(z)] += int(counts[z])
        self.sizes[len(structure)] += 1
        self.licences[structure.provenance.licence or ""] += 1

    def merge(self, other: Summary) -> None:
        for level, numbers in other.levels.items():
            self.levels.setdefault(level, LevelStatistics()).merge(numbers)
        self.elements.update(other.elements)
        self.sizes.update(other.sizes)
        self.licences.update(other.licences)

    def as_json(self) -> dict[str, Any]:
        return {
            "levels": {level: asdict(numbers) for level, numbers in self.levels.items()},
            "elements": dict(self.elements),
            "sizes": {str(n): count for n, count in self.sizes.items()},
            "licences": dict(self.licences),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Summary:
        levels: dict[str, LevelStatistics] = {}
        for name, numbers in value["levels"].items():  # older stores have other spellings: wb97m-d3(bj)
            levels.setdefault(name and canonical_level(name), LevelStatistics()).merge(LevelStatistics(**numbers))
        return cls(
            levels,
            Counter(value["elements"]),
            Counter({int(n): count for n, count in value["sizes"].items()}),
            Counter(value["licences"]),
        )
