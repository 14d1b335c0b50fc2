"""Faults to plant into right data, as they happen in practice, with the codes that must then be found: the measure of `inspect`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlipfm_data.label_checks.geometry import NONMETALS
from mlipfm_interfaces.structure import Structure
from mlipfm_interfaces.units import BOHR, GPA, HARTREE, KCAL_MOL

Structures = list[Structure]
#: Frames of one group and composition that make a path or a trajectory, so that energies can be compared with forces.
ENOUGH = 20


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: of the case. codes: that must all be found, as faults, among the first `TOP` codes found (any of those joined by `|`).
        plant: makes the faulty structures. fits: whether a set has what the fault is about.
        says: words that the mends of these findings must hold: the unit, the order.
    """

    name: str
    codes: tuple[str, ...]
    plant: Callable[[Structures, np.random.Generator], Structures]
    fits: Callable[[Facts], bool]
    says: tuple[str, ...] = ()


#: Different codes of a faulty set that are looked at.
TOP = 3


@dataclass(frozen=True)
class Facts:
    """What a set has: counts that decide which faults can be planted, read from the data and from nothing that `inspect` computes."""

    frames: int
    energies: int
    forces: int
    stresses: int
    largest_family: int
    molecules: int
    crystals: int
    dense: int
    skewed: int
    hydrogens: int
    multiplicities: int
    mixed_sizes: bool
    atoms: float
    elements: float
    pull: float

    @property
    def path(self) -> bool:
        """Energies and forces (of 0.03 eV/Å and more) along at least `ENOUGH` frames of one family."""
        return self.largest_family >= ENOUGH and self.pull > 0.03


def facts(structures: Structures) -> Facts:
    """Of one set."""
    both = [s for s in structures if {"energy", "forces"} <= set(s.labels) and len(s) > 1]
    families = Counter((s.level, s.provenance.group, s.atomic_numbers.tobytes()) for s in both)
    molecules = [s for s in structures if not s.pbc.any() and len(s) > 2 and np.isin(s.atomic_numbers, list(NONMETALS)).all()]
    crystals = [s for s in structures if s.pbc.all() and len(s) >= 8]
    return Facts(
        frames=len(structures),
        energies=sum("energy" in s.labels for s in structures),
        forces=sum("forces" in s.labels for s in structures),
        stresses=sum("stress" in s.labels for s in structures),
        largest_family=max(families.values(), default=0),
        molecules=len(molecules),
        crystals=len(crystals),
        dense=sum(abs(np.linalg.det(s.cell)) < 40 * len(s) for s in crystals),
        skewed=sum(not np.allclose(s.cell, s.cell.T, atol=0.3) for s in crystals),
        hydrogens=sum(bool((s.atomic_numbers == 1).any()) and "forces" in s.labels for s in structures),
        multiplicities=sum(s.spin_multiplicity is not None and s.total_charge is not None for s in structures),
        mixed_sizes=len({len(s) for s in structures}) > 3,
        atoms=float(np.median([len(s) for s in structures])) if structures else 0.0,
        elements=float(np.median([len(set(s.atomic_numbers.tolist())) for s in structures])) if structures else 0.0,
        pull=float(np.median([np.sqrt(np.mean(s.labels["forces"] ** 2)) for s in both])) if both else 0.0,
    )


def changed(structure: Structure, **changes: Any) -> Structure:
    """A copy with other fields, unchecked: faulty structures are what is wanted."""
    return Structure.trusted(**({name: getattr(structure, name) for name in structure.__dataclass_fields__} | changes))


def relabelled(structure: Structure, **labels: Any) -> Structure:
    """A copy with other labels (those it has only)."""
    own = {name: np.asarray(value, dtype=np.float64) for name, value in labels.items() if name in structure.labels}
    return changed(structure, labels={**structure.labels, **own})


def _each(change: Callable[[Structure], Structure]) -> Callable[[Structures, np.random.Generator], Structures]:
    return lambda structures, rng: [change(s) for s in structures]


def _scaled(energy: float = 1.0, forces: float = 1.0, stress: float = 1.0) -> Callable[[Structures, np.random.Generator], Structures]:
    """Numbers as they would be in another unit: divided by its size."""
    size = {"energy": energy, "forces": forces, "stress": stress}
    return _each(lambda s: relabelled(s, **{name: s.labels[name] / size[name] for name in size if name in s.labels}))


def _longer(positions: float, cell: float) -> Callable[[Structures, np.random.Generator], Structures]:
    return _each(lambda s: changed(s, positions=s.positions * positions, cell=s.cell * cell))


def _swapped(structures: Structures, rng: np.random.Generator) -> Structures:
    """The two most abundant elements exchanged."""
    counts = Counter(z for s in structures for z in s.atomic_numbers.tolist())
    (a, _), (b, _) = counts.most_common(2)
    return [
        changed(s, atomic_numbers=np.where(s.atomic_numbers == a, b, np.where(s.atomic_numbers == b, a, s.atomic_numbers)))
        for s in structures
    ]


def _order(structure: Structure) -> np.ndarray:
    """Sorted by element, as POTCAR and POSCAR need it; reversed where it is sorted already."""
    order = np.argsort(structure.atomic_numbers, kind="stable")
    return order if not np.array_equal(order, np.arange(len(order))) else order[::-1]


def _part(structures: Structures, rng: np.random.Generator, part: float, label: str = "energy") -> set[int]:
    """Indices of a random part of the frames that have a label, at least four."""
    having = [k for k, s in enumerate(structures) if label in s.labels and len(s) > 1]
    return set(rng.choice(having, size=min(len(having), max(4, round(part * len(having)))), replace=False).tolist())


def _copied(label: str) -> Callable[[Structures, np.random.Generator], Structures]:
    """A tenth of the frames carry the label of the frame before (of the same size): a calculation that was not run again."""

    def plant(structures: Structures, rng: np.random.Generator) -> Structures:
        chosen = _part(structures, rng, 0.1, label)
        out: Structures = []
        for k, s in enumerate(structures):
            before = out[-1] if out else None
            fits = k in chosen and before is not None and label in before.labels and len(before) == len(s)
            out.append(relabelled(s, **{label: before.labels[label]}) if fits and before is not None else s)
        return out

    return plant


def _doubled(structures: Structures, rng: np.random.Generator) -> Structures:
    """One frame in twenty a second time, with the labels of another calculation."""
    chosen = _part(structures, rng, 0.05)
    out: Structures = []
    for k, s in enumerate(structures):
        out.append(s)
        if k in chosen:
            energy = float(s.labels["energy"]) + 0.02 * len(s) * rng.normal()
            forces = s.labels["forces"] + rng.normal(scale=0.1, size=(len(s), 3)) if "forces" in s.labels else 0.0
            out.append(relabelled(s, energy=energy, forces=forces))
    return out


def _permuted_atoms(structures: Structures, rng: np.random.Generator) -> Structures:
    return [relabelled(s, forces=rng.permutation(s.labels["forces"])) if "forces" in s.labels else s for s in structures]


def _of_others(label: str, anywhere: bool) -> Callable[[Structures, np.random.Generator], Structures]:
    """Labels permuted among frames: of the same atoms, or of the whole level."""

    def plant(structures: Structures, rng: np.random.Generator) -> Structures:
        heaps: dict[Any, list[int]] = {}
        for k, s in enumerate(structures):
            if label in s.labels:
                heaps.setdefault((s.level, None if anywhere else s.atomic_numbers.tobytes()), []).append(k)
        out = list(structures)
        for mine in heaps.values():
            for k, other in zip(mine, rng.permutation(mine), strict=True):
                out[k] = relabelled(structures[k], **{label: structures[other].labels[label]})
        return out

    return plant


def _rotated(structures: Structures, rng: np.random.Generator) -> Structures:
    """Positions brought into a standard orientation, forces left as they were: each frame by its own rotation."""
    out = []
    for s in structures:
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        out.append(changed(s, positions=s.positions @ (q * np.sign(np.linalg.det(q)))))
    return out


def _two_levels(structures: Structures, rng: np.random.Generator) -> Structures:
    """Half of the frames from a code with other pseudopotentials: another zero for each element, 1 to 4 eV away."""
    offsets = rng.uniform(1, 4, size=119) * rng.choice([-1.0, 1.0])
    chosen = _part(structures, rng, 0.5)
    return [
        relabelled(s, energy=float(s.labels["energy"]) + offsets[s.atomic_numbers].sum()) if k in chosen else s
        for k, s in enumerate(structures)
    ]


def _unconverged(structures: Structures, rng: np.random.Generator) -> Structures:
    """Two frames in a hundred whose electrons did not converge: 0.3 to 1 eV per atom off, at least 5 eV."""
    chosen = _part(structures, rng, 0.02)

    def off(s: Structure) -> float:
        return float(s.labels["energy"]) + max(5.0, rng.uniform(0.3, 1.0) * len(s)) * float(rng.choice([-1.0, 1.0]))

    return [relabelled(s, energy=off(s)) if k in chosen else s for k, s in enumerate(structures)]


def _wild_forces(structures: Structures, rng: np.random.Generator) -> Structures:
    """Two frames in a hundred with forces of an unconverged density: 3 eV/Å of noise."""
    chosen = _part(structures, rng, 0.02, "forces")
    return [
        relabelled(s, forces=s.labels["forces"] + rng.normal(scale=3.0, size=(len(s), 3))) if k in chosen else s
        for k, s in enumerate(structures)
    ]


def _drifting(structures: Structures, rng: np.random.Generator) -> Structures:
    """A constant force on every atom, a third of the root mean square force."""
    rms = np.sqrt(np.mean(np.concatenate([s.labels["forces"].ravel() ** 2 for s in structures if "forces" in s.labels])))
    push = rng.normal(size=3)
    push *= rms / np.linalg.norm(push)
    return [relabelled(s, forces=s.labels["forces"] + push) if "forces" in s.labels else s for s in structures]


def _virials(s: Structure) -> Structure:
    return relabelled(s, stress=-s.labels["stress"] * abs(np.linalg.det(s.cell))) if "stress" in s.labels else s


def _other_order(s: Structure) -> Structure:
    """Six numbers in the order of VASP (xy, yz, xz), read in that of ASE (yz, xz, xy)."""
    if "stress" not in s.labels:
        return s
    m = np.array(s.labels["stress"])
    yz, xz, xy = m[1, 2], m[0, 2], m[0, 1]
    m[1, 2] = m[2, 1] = xy
    m[0, 2] = m[2, 0] = yz
    m[0, 1] = m[1, 0] = xz
    return relabelled(s, stress=m)


def _one_sided(s: Structure) -> Structure:
    """Nine numbers of which the upper triangle was filled."""
    return relabelled(s, stress=np.triu(s.labels["stress"])) if "stress" in s.labels else s


def _unpaired(s: Structure) -> Structure:
    return s if s.spin_multiplicity is None else changed(s, spin_multiplicity=s.spin_multiplicity - 1)


def _charged(s: Structure) -> Structure:
    return s if s.total_charge is None or s.spin_multiplicity is None else changed(s, total_charge=s.total_charge + 1)


def _lost(structures: Structures, rng: np.random.Generator) -> Structures:
    """NaN where a calculation failed."""
    chosen = _part(structures, rng, 0.02)
    return [relabelled(s, energy=np.nan) if k in chosen else s for k, s in enumerate(structures)]


def _per_atom(s: Structure) -> Structure:
    return relabelled(s, energy=s.labels["energy"] / len(s)) if "energy" in s.labels else s


def _sorted_forces(s: Structure) -> Structure:
    return relabelled(s, forces=s.labels["forces"][_order(s)]) if "forces" in s.labels else s


def _no_forces(s: Structure) -> Structure:
    return relabelled(s, forces=np.zeros((len(s), 3)))


def _no_stress(s: Structure) -> Structure:
    return relabelled(s, stress=np.zeros((3, 3)))


def _rounded(label: str, places: int) -> Callable[[Structures, np.random.Generator], Structures]:
    return _each(lambda s: relabelled(s, **{label: np.round(s.labels[label], places)}) if label in s.labels else s)


_KBAR = GPA / 10
_FORCE = HARTREE / BOHR

FAULTS: tuple[Fault, ...] = (
    Fault("gradients", ("forces-sign",), _scaled(forces=-1.0), lambda f: f.path),
    Fault("energies in Hartree", ("energy-unit",), _scaled(energy=HARTREE), lambda f: f.path, says=("--energy-unit Hartree",)),
    Fault("energies in kcal/mol", ("energy-unit",), _scaled(energy=KCAL_MOL), lambda f: f.path, says=("--energy-unit kcal/mol",)),
    Fault("energies per atom", ("energy-per-atom",), _each(_per_atom), lambda f: (f.path and f.atoms > 3) or (f.mixed_sizes and f.energies > 30)),
    Fault("forces in Hartree/bohr", ("forces-unit",), _scaled(forces=_FORCE), lambda f: f.path, says=("--forces-unit Hartree/bohr",)),
    Fault("forces in kcal/mol/Angstrom", ("forces-unit",), _scaled(forces=KCAL_MOL), lambda f: f.path, says=("--forces-unit kcal/mol/Angstrom",)),
    Fault("gradients in atomic units, energies in eV", ("forces-sign", "forces-unit"), _scaled(forces=-_FORCE), lambda f: f.path,
          says=("--forces-unit Hartree/bohr",)),
    Fault("atomic units", ("energy-unit", "forces-unit"), _scaled(energy=HARTREE, forces=_FORCE), lambda f: f.path,
          says=("--energy-unit Hartree", "--forces-unit Hartree/bohr",)),
    Fault("kcal/mol throughout", ("energy-unit", "forces-unit"), _scaled(energy=KCAL_MOL, forces=KCAL_MOL),
          lambda f: f.path and f.hydrogens >= ENOUGH, says=("--energy-unit kcal/mol", "--forces-unit kcal/mol/Angstrom",)),
    Fault("lengths in bohr", ("length-unit",), _longer(1 / BOHR, 1 / BOHR), lambda f: f.frames >= 10 and f.atoms > 1),
    Fault("cell in bohr", ("cell-in-bohr",), _longer(1.0, 1 / BOHR), lambda f: f.dense >= 10 and f.dense > 0.8 * f.frames),
    Fault("positions in bohr, cell in Angstrom", ("cell-length-unit|length-unit",), _longer(1 / BOHR, 1.0),
          lambda f: f.crystals >= 10 and f.crystals > 0.8 * f.frames),
    Fault("cell transposed", ("cell-transposed",), _each(lambda s: changed(s, cell=np.ascontiguousarray(s.cell.T))),
          lambda f: f.skewed >= 10 and f.skewed > 0.8 * f.frames),
    Fault("two elements exchanged", ("species-swapped",), _swapped, lambda f: f.molecules >= 10 and f.molecules > 0.9 * f.frames and f.elements > 1),
    Fault("atomic numbers backwards", ("species-order",), _each(lambda s: changed(s, atomic_numbers=s.atomic_numbers[::-1].copy())),
          lambda f: f.molecules >= 10 and f.molecules > 0.9 * f.frames and f.elements > 1 and f.atoms > 5),
    Fault("forces filled with zeros", ("forces-zero",), _each(_no_forces), lambda f: f.forces >= 10 and f.atoms > 2),
    Fault("forces copied", ("forces-copied",), _copied("forces"), lambda f: f.path),
    Fault("energies copied", ("energies-copied",), _copied("energy"), lambda f: f.path),
    Fault("a frame twice with other labels", ("contradictory-duplicates",), _doubled, lambda f: f.energies >= 20),
    Fault("forces sorted by element", ("forces-atom-order",), _each(_sorted_forces), lambda f: f.path and f.elements > 1 and f.atoms > 4),
    Fault("forces permuted among atoms", ("forces-misplaced",), _permuted_atoms, lambda f: f.path and f.atoms > 4),
    Fault("forces permuted among frames", ("forces-other-frame|forces-misplaced",), _of_others("forces", anywhere=False),
          lambda f: f.path and f.atoms > 4),
    Fault("molecules reoriented without forces", ("forces-rotated",), _rotated,
          lambda f: f.forces >= 20 and f.molecules > 0.9 * f.frames and f.atoms > 5 and f.hydrogens >= 20),
    Fault("energies permuted among frames", ("energies-shuffled",), _of_others("energy", anywhere=True), lambda f: f.path),
    Fault("two levels under one name", ("mixed-levels",), _two_levels, lambda f: f.path),
    Fault("unconverged energies", ("energy-outliers",), _unconverged, lambda f: f.path),
    Fault("unconverged forces", ("force-outliers",), _wild_forces, lambda f: f.forces >= 40 and f.atoms > 3),
    Fault("energies with one decimal", ("energy-rounded",), _rounded("energy", 1), lambda f: f.energies >= 20),
    Fault("forces with two decimals", ("forces-rounded",), _rounded("forces", 2), lambda f: f.forces >= 20 and f.atoms > 2),
    Fault("a drift on every atom", ("net-force",), _drifting, lambda f: f.forces >= 20 and f.atoms > 2),
    Fault("stress of the other sign", ("stress-sign",), _scaled(stress=-1.0), lambda f: f.stresses >= 20 and f.forces >= 20),
    Fault("stress in kbar", ("stress-unit",), _scaled(stress=_KBAR), lambda f: f.stresses >= 20 and f.forces >= 20, says=("--stress-unit kbar",)),
    Fault("stress in GPa", ("stress-unit",), _scaled(stress=GPA), lambda f: f.stresses >= 20 and f.forces >= 20, says=("--stress-unit GPa",)),
    Fault("pressure in kbar as VASP prints it", ("stress-sign", "stress-unit"), _scaled(stress=-_KBAR),
          lambda f: f.stresses >= 20 and f.forces >= 20, says=("--stress-unit kbar",)),
    Fault("virial in place of stress", ("stress-is-virial",), _each(_virials), lambda f: f.stresses >= 20 and f.forces >= 20),
    Fault("stress in the order of VASP", ("stress-order",), _each(_other_order), lambda f: f.stresses >= 20 and f.forces >= 20,
          says=("--stress-order xx,yy,zz,xy,yz,xz",)),
    Fault("half of the stress", ("stress-asymmetric",), _each(_one_sided), lambda f: f.stresses >= 20),
    Fault("stress filled with zeros", ("stress-zero",), _each(_no_stress), lambda f: f.stresses >= 20),
    Fault("unpaired electrons as multiplicity", ("multiplicity-counts-unpaired",), _each(_unpaired), lambda f: f.multiplicities >= 20),
    Fault("one electron too few", ("impossible-state",), _each(_charged), lambda f: f.multiplicities >= 20),
    Fault("NaN labels", ("labels-not-finite",), _lost, lambda f: f.energies >= 20),
)  # fmt: skip


def chosen_sets(fault: Fault, known: dict[str, Facts], count: int) -> list[str]:
    """The sets into which a fault is planted: those it fits, in the order of a hash of both names; nothing of the outcome enters."""
    fitting = [name for name, of in known.items() if fault.fits(of)]
    return sorted(fitting, key=lambda name: hashlib.blake2b(f"{fault.name} {name}".encode()).hexdigest())[:count]


def named(fault: Fault, findings: Sequence[Any]) -> bool:
    """Whether every code of the fault is among the first `TOP` findings, as a fault, and their mends name the unit."""
    faults = [item for item in findings if item.severity == "fault"]
    first = list(dict.fromkeys(item.code for item in faults))[:TOP]  # several levels may say the same
    mends = " ".join(item.hint for item in faults if item.code in first)
    return all(any(code in first for code in codes.split("|")) for codes in fault.codes) and all(words in mends for words in fault.says)
