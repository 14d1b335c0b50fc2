"""What a set covers, counted: elements, states, levels, forces, how far from equilibrium, contacts between molecules, and the gaps of the field.

The gaps are those of figure 2 of the perspective "Foundation models for atomistic simulation of chemistry and materials": where data are missing
for a general potential. What cannot be seen in geometries and labels (interfaces, defects) is looked for in the words of the provenance only, and
the report says so.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, symbol
from mlipfm_interfaces.errors import MlipfmError
from mlipfm_interfaces.quantities import QUANTITIES
from mlipfm_interfaces.structure import Structure
from numpy.typing import NDArray

from ..duplicates.fingerprints import neighbor_vectors
from ..duplicates.report import clusters
from .classes import BOND, molecule_class

#: Edges of the force histogram, eV/Å: by decades, with the paper's 10 and 50 among them.
FORCE_EDGES = np.array([0, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 20, 50, 100, 300, np.inf])
#: Edges of contacts, Å.
CONTACT_EDGES = np.arange(1.0, 6.01, 0.25)
#: Structures whose bonds and contacts are looked at, spread evenly over the set.
SAMPLED = 2000
#: Elements of organic chemistry: others in molecules are gap a.
ORGANIC = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53))
#: eV/Å, largest force of an atom: below the first at equilibrium, above the second far from it.
NEAR, FAR = 0.05, 1.0


@dataclass
class Coverage:
    """Counts over all structures; `contacts`, `clusters` and `bonds` over `sampled` of them.

    Attributes:
        elements, molecular_elements: structures with each atomic number, of all and of those without periodicity. atoms: number of atoms.
        states: structures by (charge, multiplicity), None where not given. levels, labels: structures by each. periodic: by periodic directions.
        forces: [bins] atoms by |F| over `FORCE_EDGES`. largest: structures by the largest force: at, near, far from equilibrium, not labelled.
        contacts: [bins] structures of several molecules by their nearest contact over `CONTACT_EDGES`; the last bin is farther.
        several: sampled structures of several bonded units. reactive: molecules (formula and group) seen with more than one set of bonds.
        large: structures of at least 100 atoms or 15 Å. fields: with an external field. words: structures by gap named in their provenance.
    """

    structures: int = 0
    atoms: int = 0
    sampled: int = 0
    elements: Counter[int] = field(default_factory=Counter)
    molecular_elements: Counter[int] = field(default_factory=Counter)
    states: Counter[tuple[int | None, int | None]] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    periodic: Counter[int] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    forces: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FORCE_EDGES) - 1, np.int64))
    largest: Counter[str] = field(default_factory=Counter)
    contacts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CONTACT_EDGES), np.int64))
    several: int = 0
    reactive: int = 0
    large: int = 0
    fields: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def force_share(self, low: float, high: float) -> float:
        """Share of the labelled atoms with |F| in [low, high) eV/Å, both edges of the histogram; NaN without forces."""
        inside = (FORCE_EDGES[:-1] >= low) & (FORCE_EDGES[1:] <= high)
        total = self.forces.sum()
        return float(self.forces[inside].sum() / total) if total else float("nan")


@dataclass(frozen=True)
class Gap:
    """One area of figure 2: `letter`, `name`, `seen` (what was counted), `count` of structures; `told` is False if the geometry does not show it."""

    letter: str
    name: str
    seen: str
    count: int
    told: bool = True


_WORDS = {
    "interface": r"solid.?solid|heterostructure|grain.?boundar",
    "liquid": r"solid.?liquid|electrolyte.?interface|water.?on|wet",
    "defect": r"defect|vacanc|interstitial|dislocation|adatom",
}


def cover(structures: Sequence[Structure]) -> Coverage:
    """Count everything in one pass.

    Raises:
        MlipfmError: if there are no structures.
    """
    if not len(structures):
        raise MlipfmError("there are no structures to report on")
    found = Coverage()
    bonds: dict[tuple[str, str], set[str]] = defaultdict(set)
    step = max(1, len(structures) // SAMPLED)
    for k, s in enumerate(structures):
        _count(found, s)
        if k % step == 0:
            found.sampled += 1
            _look(found, s, bonds)
    found.reactive = sum(len(graphs) > 1 for graphs in bonds.values())
    return found


def gaps(found: Coverage) -> list[Gap]:
    """Return the ten areas of figure 2 with what this set has of each."""
    beyond = {z: n for z, n in found.molecular_elements.items() if z not in ORGANIC}
    charged = sum(n for (q, _), n in found.states.items() if q)
    open_shell = sum(n for (_, m), n in found.states.items() if m is not None and m > 1)
    unusual = sum(n for (q, m), n in found.states.items() if q or (m or 1) > 1)
    common = ("energy", "forces", "stress", "noise")
    rich = {key: n for key, n in found.labels.items() if key not in common and (key not in QUANTITIES or QUANTITIES[key].target)}
    shown = ", ".join(symbol(z) for z in sorted(beyond, key=lambda z: -beyond[z])[:12])
    scaled = round(found.several * found.structures / max(found.sampled, 1))
    words = "by words of the provenance only"
    return [
        Gap("a", "Beyond organic elements (molecules)", f"{len(beyond)} elements: {shown}" if beyond else "none", sum(beyond.values())),
        Gap("b", "Non-covalent interactions", f"about {scaled} structures of several molecules" if scaled else "none", scaled),
        Gap("c", "Charge and spin states", f"{charged} charged, {open_shell} open-shell", unusual),
        Gap("d", "Reactivity", f"{found.reactive} molecules with changing bonds in the sample", found.reactive),
        Gap("e", "Long range", f"{found.large} structures of 100 atoms or 15 Å and more", found.large),
        Gap("f", "Solid-solid interfaces", words, found.words["interface"], told=False),
        Gap("g", "Surfaces under potential, fields", f"{found.fields} with an external field", found.fields),
        Gap("h", "Defects", words, found.words["defect"], told=False),
        Gap("i", "Solid-liquid interfaces", words, found.words["liquid"], told=False),
        Gap("j", "Rich quantum information", ", ".join(sorted(rich)) or "none", max(rich.values(), default=0)),
    ]


def _count(found: Coverage, s: Structure) -> None:
    numbers = set(s.atomic_numbers.tolist())
    found.structures += 1
    found.atoms += len(s)
    found.elements.update(numbers)
    found.states[s.total_charge, s.spin_multiplicity] += 1
    found.levels[s.level or "not given"] += 1
    found.labels.update(s.labels.keys())
    found.periodic[int(s.pbc.sum())] += 1
    found.sizes[len(s)] += 1
    found.fields += s.external_field is not None and bool(np.any(s.external_field))
    if not s.pbc.any():
        found.molecular_elements.update(numbers)
    found.large += len(s) >= 100 or (not s.pbc.any() and bool(np.ptp(s.positions, axis=0).max() >= 15.0))
    text = " ".join(word for word in (s.provenance.source, s.provenance.group, s.provenance.sampling) if word).lower()
    found.words.update(name for name, pattern in _WORDS.items() if re.search(pattern, text))
    if "forces" not in s.labels:
        found.largest["no forces"] += 1
        return
    sizes = np.linalg.norm(s.labels["forces"], axis=1)
    found.forces += np.histogram(sizes, FORCE_EDGES)[0]
    largest = float(sizes.max())
    found.largest["at equilibrium" if largest < NEAR else "near" if largest < FAR else "far"] += 1


def _look(found: Coverage, s: Structure, bonds: dict[tuple[str, str], set[str]]) -> None:
    graph = molecule_class(s) if s.provenance.group is not None else None
    if graph is not None:
        bonds[s.formula, f"{s.provenance.source}/{s.provenance.group}"].add(graph)
    contact = nearest_contact(s)
    if contact is not None:
        found.several += 1
        found.contacts[max(0, int(np.searchsorted(CONTACT_EDGES, contact, "right")) - 1)] += 1


def nearest_contact(s: Structure, reach: float = 6.0) -> float | None:
    """Å between the nearest atoms of two bonded units; `reach` if none are nearer, None if all atoms are one unit (or a metal or salt is: bonds by
    covalent radii)."""
    try:
        i, vectors, j = neighbor_vectors(s, reach)
    except MlipfmError:
        return None
    distances = np.linalg.norm(vectors, axis=1)
    radii = COVALENT_RADII[s.atomic_numbers]
    bonded = distances < BOND * (radii[i] + radii[j])
    unit = np.arange(len(s))
    for n, members in enumerate(clusters(len(s), zip(i[bonded].tolist(), j[bonded].tolist(), strict=True))):
        unit[members] = -1 - n
    apart = unit[i] != unit[j]
    if len(np.unique(unit)) < 2:
        return None
    return float(distances[apart].min()) if apart.any() else reach
