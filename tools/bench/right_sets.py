"""Labelled sets that are right by construction: EMT, Lennard-Jones, Morse and Tersoff potentials of ASE, and GFN2-xTB (tblite).

`SETS` holds the kinds; a set is made from its kind and a seed, which draws elements, sizes, displacements and the number of frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc100, fcc110, fcc111, molecule, nanotube
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.calculators.tersoff import Tersoff, TersoffParameters
from ase.cluster import Octahedron
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from mlipfm_interfaces.structure import Structure

METALS = ("Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt")
MOLECULES = ("CH3CH2OH", "H2O", "CH3COOH", "C6H6", "NH3", "CH3SH", "HCN", "CH3CHO", "trans-butane", "CH3NO2", "C2H4", "H2CO")
#: Tersoff 1989 (Phys. Rev. B 39, 5566) for silicon.
SILICON = TersoffParameters(A=1830.8, B=471.18, lambda1=2.4799, lambda2=1.7322, lambda3=0.0, beta=1.1e-6, gamma=1.0, m=3.0, n=0.78734,
                            c=1.0039e5, d=16.217, h=-0.59825, R=2.85, D=0.15)  # fmt: skip

Rng = np.random.Generator


def labelled(atoms: Atoms, calculator: Any, stress: bool = True, hide: np.ndarray | None = None) -> Structure:
    """Structure with the labels of a calculator; `hide`: atoms whose forces are written as zero."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.calc = calculator
    forces = copy.get_forces()
    labels: dict[str, Any] = {"energy": copy.get_potential_energy(), "forces": forces}
    if stress and copy.pbc.all():
        labels["stress"] = copy.get_stress(voigt=False)
    if hide is not None:
        labels["forces"] = forces * ~hide[:, None]
    return Structure(copy.numbers, copy.positions, cell=np.asarray(copy.cell), pbc=copy.pbc, labels=labels, level="reference")


def crystal(rng: Rng, element: str | None = None) -> Atoms:
    """A supercell of a metal, 4 to 64 atoms, of the lattice constant of the potential or a little off."""
    element = element or str(rng.choice(METALS))
    cell = bulk(element, cubic=True) * tuple(int(n) for n in rng.choice([[1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2], [3, 2, 2]]))
    cell.set_cell(cell.cell * rng.choice([0.97, 0.99, 1.0, 1.0, 1.02]), scale_atoms=True)
    return cell


def slab(rng: Rng) -> tuple[Atoms, np.ndarray]:
    """A metal slab with vacuum, perhaps an adsorbate, and which atoms are held: the lowest layers."""
    build = [fcc111, fcc100, fcc110][int(rng.integers(3))]
    atoms = build(str(rng.choice(METALS)), size=(2, 2, int(rng.integers(3, 5))), vacuum=6.0)
    if rng.random() < 0.5:
        add_adsorbate(atoms, str(rng.choice(["O", "H", "N", "C"])), 1.5, position=(0.5, 0.5))
    held = atoms.positions[:, 2] < np.unique(atoms.positions[:, 2].round(3))[int(rng.integers(1, 3))] - 0.1
    return atoms, held


def rattled(atoms: Atoms, rng: Rng, size: float, count: int) -> Iterator[Atoms]:
    for _ in range(count):
        copy = atoms.copy()
        copy.positions += rng.normal(scale=size, size=copy.positions.shape)
        yield copy


def frames_of(rng: Rng) -> int:
    return int(rng.choice([6, 12, 20, 30, 45, 60]))


def displacement(rng: Rng) -> float:
    """Å."""
    return float(rng.choice([0.02, 0.05, 0.08, 0.1, 0.15, 0.2]))


def dynamics(atoms: Atoms, calculator: Any, rng: Rng, kelvin: float, stride: int, count: int, femtoseconds: float = 2.0) -> list[Atoms]:
    """Frames of Langevin or constant-energy dynamics, every `stride` steps."""
    atoms.calc = calculator
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * 2 * kelvin * units.kB)[:, None])
    runner: Any
    if rng.random() < 0.5:
        runner = Langevin(atoms, femtoseconds * units.fs, temperature_K=kelvin, friction=0.02, rng=rng, fixcm=False)
    else:
        runner = VelocityVerlet(atoms, femtoseconds * units.fs)
    out = []
    for _ in range(count):
        runner.run(stride)
        out.append(atoms.copy())
    return out


def relaxation(atoms: Atoms, calculator: Any, rng: Rng, steps: int = 40) -> list[Atoms]:
    out: list[Atoms] = []
    atoms.calc = calculator
    optimizer = (BFGS if rng.random() < 0.5 else FIRE)(atoms, logfile=None)
    for _ in optimizer.irun(fmax=0.01, steps=steps):
        out.append(atoms.copy())
    return out


# Every function below makes one set.


def rattled_crystals(rng: Rng) -> list[Structure]:
    stress = bool(rng.random() < 0.7)
    return [labelled(a, EMT(), stress) for a in rattled(crystal(rng), rng, displacement(rng), frames_of(rng))]


def rattled_by_mixed_sizes(rng: Rng) -> list[Structure]:
    """Displacements of 0.01 to 0.2 Å in one set."""
    atoms = crystal(rng)
    return [labelled(next(rattled(atoms, rng, float(rng.uniform(0.01, 0.2)), 1)), EMT()) for _ in range(frames_of(rng))]


def strained_crystals(rng: Rng) -> list[Structure]:
    atoms, size, strain = crystal(rng), displacement(rng), float(rng.choice([0.005, 0.02, 0.05]))
    out = []
    for copy in rattled(atoms, rng, size, frames_of(rng)):
        copy.set_cell(copy.cell @ (np.eye(3) + rng.normal(scale=strain, size=(3, 3))), scale_atoms=True)
        out.append(labelled(copy, EMT()))
    return out


def supercells_of_several_sizes(rng: Rng) -> list[Structure]:
    element = str(rng.choice(METALS))
    return [labelled(a, EMT()) for _ in range(4) for a in rattled(crystal(rng, element), rng, displacement(rng), frames_of(rng) // 2)]


def alloys_of_one_order(rng: Rng) -> list[Structure]:
    atoms = crystal(rng)
    atoms.symbols[:] = rng.choice(rng.choice(METALS, 2, replace=False), len(atoms))
    return [labelled(a, EMT()) for a in rattled(atoms, rng, displacement(rng), frames_of(rng))]


def alloys_of_many_compositions(rng: Rng) -> list[Structure]:
    atoms, two = crystal(rng), rng.choice(METALS, int(rng.integers(2, 4)), replace=False)
    out = []
    for copy in rattled(atoms, rng, displacement(rng), 2 * frames_of(rng)):
        copy.symbols[:] = rng.choice(two, len(copy))
        out.append(labelled(copy, EMT()))
    return out


def vacancies(rng: Rng) -> list[Structure]:
    atoms = bulk(str(rng.choice(METALS)), cubic=True) * (2, 2, 2)
    out = []
    for copy in rattled(atoms, rng, displacement(rng), frames_of(rng)):
        del copy[int(rng.integers(len(copy)))]
        out.append(labelled(copy, EMT()))
    return out


def slabs(rng: Rng) -> list[Structure]:
    """All atoms displaced, all forces kept."""
    atoms, _ = slab(rng)
    return [labelled(a, EMT()) for a in rattled(atoms, rng, displacement(rng), frames_of(rng))]


def slabs_with_resting_atoms(rng: Rng) -> list[Structure]:
    """Held atoms rest; their forces are written as they are, or as zero."""
    atoms, held = slab(rng)
    hide = held if rng.random() < 0.6 else None
    out = []
    for copy in rattled(atoms, rng, displacement(rng), frames_of(rng)):
        copy.positions[held] = atoms.positions[held]
        out.append(labelled(copy, EMT(), hide=hide))
    return out


def slabs_with_displaced_held_atoms(rng: Rng) -> list[Structure]:
    """Held atoms are displaced from frame to frame, their forces written as zero."""
    atoms, held = slab(rng)
    return [labelled(a, EMT(), hide=held) for a in rattled(atoms, rng, displacement(rng), frames_of(rng))]


def crystals_with_held_atoms(rng: Rng) -> list[Structure]:
    """Atoms in a crystal with forces of zero: displaced, or at rest."""
    atoms = crystal(rng)
    held = np.arange(len(atoms)) < max(1, len(atoms) // int(rng.choice([2, 4, 8])))
    rests = rng.random() < 0.5
    out = []
    for copy in rattled(atoms, rng, displacement(rng), frames_of(rng)):
        if rests:
            copy.positions[held] = atoms.positions[held]
        out.append(labelled(copy, EMT(), hide=held))
    return out


def slab_dynamics(rng: Rng) -> list[Structure]:
    atoms, held = slab(rng)
    atoms.set_constraint(FixAtoms(mask=held))
    hide = held if rng.random() < 0.5 else None
    frames = dynamics(atoms, EMT(), rng, float(rng.choice([300, 800])), int(rng.choice([2, 20])), min(30, frames_of(rng)), 1.0)
    return [labelled(a, EMT(), hide=hide) for a in frames]


def slab_relaxations(rng: Rng) -> list[Structure]:
    out = []
    for _ in range(int(rng.integers(1, 5))):
        atoms, held = slab(rng)
        atoms.positions[~held] += rng.normal(scale=0.15, size=(int((~held).sum()), 3))
        atoms.set_constraint(FixAtoms(mask=held))
        hide = held if rng.random() < 0.7 else None
        out += [labelled(a, EMT(), hide=hide) for a in relaxation(atoms, EMT(), rng)]
    return out


def crystal_dynamics(rng: Rng) -> list[Structure]:
    """Solids and melts, near and far frames."""
    atoms = bulk(str(rng.choice(METALS)), cubic=True) * (2, 2, 2)
    frames = dynamics(atoms, EMT(), rng, float(rng.choice([300, 900, 2500])), int(rng.choice([1, 10, 40])), min(30, frames_of(rng)))
    return [labelled(a, EMT()) for a in frames]


def crystal_relaxations(rng: Rng) -> list[Structure]:
    out = []
    for _ in range(int(rng.integers(1, 4))):
        atoms = next(rattled(crystal(rng), rng, 0.15, 1))
        out += [labelled(a, EMT()) for a in relaxation(atoms, EMT(), rng)]
    return out


def equations_of_state(rng: Rng) -> list[Structure]:
    """Perfect lattices, each at many volumes: forces of zero by symmetry."""
    out = []
    for element in rng.choice(METALS, int(rng.integers(1, 5)), replace=False):
        lattice = str(rng.choice(["fcc", "bcc", "hcp"]))
        a = {"fcc": 1.0, "bcc": 0.8, "hcp": 0.71}[lattice] * bulk(str(element), cubic=True).cell[0, 0]
        for scale in np.linspace(0.92, 1.1, int(rng.choice([7, 11, 15]))):
            out.append(labelled(bulk(str(element), lattice, a=a * scale), EMT()))
    return out


def elastic_deformations(rng: Rng) -> list[Structure]:
    atoms = bulk(str(rng.choice(METALS)), cubic=True)
    out = []
    for axis in range(3):
        for other in range(3):
            for size in (-0.02, -0.01, 0.01, 0.02):
                strain = np.eye(3)
                strain[axis, other] += size
                copy = atoms.copy()
                copy.set_cell(copy.cell @ strain, scale_atoms=True)
                out.append(labelled(copy, EMT()))
    return out


def phonon_displacements(rng: Rng) -> list[Structure]:
    """One atom displaced at a time, as finite differences ask for."""
    atoms, size = crystal(rng), float(rng.choice([0.01, 0.03]))
    out = []
    for _ in range(frames_of(rng)):
        copy = atoms.copy()
        copy.positions[int(rng.integers(len(copy)))] += size * np.eye(3)[int(rng.integers(3))] * rng.choice([-1, 1])
        out.append(labelled(copy, EMT()))
    return out


def diffusion_paths(rng: Rng) -> list[Structure]:
    """Images of nudged elastic bands of an atom on a surface, all iterations."""
    start = fcc100(str(rng.choice(METALS)), size=(2, 2, 3), vacuum=6.0)
    add_adsorbate(start, str(rng.choice(["Al", "Cu", "Au"])), 1.7, "hollow")
    held = start.get_tags() > 1
    start.set_constraint(FixAtoms(mask=held))
    end = start.copy()
    end.positions[-1, 0] += start.cell[0, 0] / 2
    images = [start] + [start.copy() for _ in range(5)] + [end]
    band = NEB(images, method="improvedtangent")
    band.interpolate()
    for image in images:
        image.calc = EMT()
    hide = held if rng.random() < 0.5 else None
    out: list[Structure] = []
    optimized: Any = band  # what ASE optimizes has positions and forces, as Atoms do
    for _ in BFGS(optimized, logfile=None).irun(fmax=0.05, steps=5):
        out += [labelled(image, EMT(), hide=hide) for image in images]
    return out


def clusters(rng: Rng) -> list[Structure]:
    atoms = Octahedron(str(rng.choice(METALS)), 3, cutoff=int(rng.integers(0, 2)))
    if rng.random() < 0.5:
        return [labelled(a, EMT()) for a in rattled(atoms, rng, displacement(rng), frames_of(rng))]
    return [labelled(a, EMT()) for a in dynamics(atoms, EMT(), rng, 600.0, int(rng.choice([3, 30])), min(30, frames_of(rng)))]


def argon(rng: Rng) -> list[Structure]:
    """Solid, liquid and dense argon."""
    atoms = bulk("Ar", "fcc", a=float(rng.choice([5.0, 5.3, 5.8])), cubic=True) * (2, 2, 2)
    calculator = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.5, smooth=True)
    if rng.random() < 0.5:
        return [labelled(a, calculator) for a in rattled(atoms, rng, displacement(rng), frames_of(rng))]
    frames = dynamics(atoms, calculator, rng, float(rng.choice([40, 200])), int(rng.choice([5, 50])), min(20, frames_of(rng)), 5.0)
    return [labelled(a, calculator) for a in frames]


def morse_crystals(rng: Rng) -> list[Structure]:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    calculator = MorsePotential(epsilon=0.34, r0=2.87, rho0=float(rng.choice([3.9, 5.5])), rcut1=1.4, rcut2=2.0)
    return [labelled(a, calculator) for a in rattled(atoms, rng, displacement(rng), frames_of(rng))]


def silicon(rng: Rng) -> list[Structure]:
    atoms = bulk("Si", cubic=True) * (int(rng.integers(1, 3)), 1, 1)
    calculator = Tersoff({("Si", "Si", "Si"): SILICON})
    return [labelled(a, calculator, stress=False) for a in rattled(atoms, rng, displacement(rng), min(30, frames_of(rng)))]


def gfn2(structure: Structure) -> dict[str, Any]:
    from ase.units import Bohr, Hartree
    from tblite.interface import Calculator

    lattice = structure.cell / Bohr if structure.pbc.all() else None
    periodic = np.array(structure.pbc) if structure.pbc.all() else None
    run = Calculator("GFN2-xTB", structure.atomic_numbers, structure.positions / Bohr, lattice=lattice, periodic=periodic)
    run.set("verbosity", 0)
    found = run.singlepoint()
    labels: dict[str, Any] = {"energy": float(found["energy"]) * Hartree, "forces": -found["gradient"] * Hartree / Bohr}
    if lattice is not None:
        labels["stress"] = found["virial"] * Hartree / abs(np.linalg.det(structure.cell))
    return labels


def with_gfn2(frames: list[Atoms], hide: np.ndarray | None = None) -> list[Structure]:
    out = []
    for atoms in frames:
        bare = Structure(atoms.numbers, atoms.positions, cell=np.asarray(atoms.cell), pbc=atoms.pbc, level="reference")
        labels = gfn2(bare)
        if hide is not None:
            labels["forces"] = labels["forces"] * ~hide[:, None]
        out.append(bare.replace(labels=labels))
    return out


def rattled_molecules(rng: Rng) -> list[Structure]:
    """One molecule, or several in one set."""
    out = []
    for name in rng.choice(MOLECULES, int(rng.integers(1, 4)), replace=False):
        out += with_gfn2(list(rattled(molecule(str(name)), rng, min(0.1, displacement(rng)), frames_of(rng) // 2)))
    return out


def molecules_of_many_kinds(rng: Rng) -> list[Structure]:
    """A few frames of each of many molecules."""
    return [s for name in MOLECULES for s in with_gfn2(list(rattled(molecule(name), rng, 0.05, int(rng.integers(1, 4)))))]


def molecules_with_held_atoms(rng: Rng) -> list[Structure]:
    atoms = molecule(str(rng.choice(["CH3CH2OH", "CH3COOH", "trans-butane", "C6H6"])))
    held = np.arange(len(atoms)) < int(rng.integers(1, 4))
    return with_gfn2(list(rattled(atoms, rng, min(0.1, displacement(rng)), min(30, frames_of(rng)))), hide=held)


def stretched_bonds(rng: Rng) -> list[Structure]:
    """A bond from 0.8 to 2.5 of its length: diatomics, or hydrogen leaving a molecule."""
    name = str(rng.choice(["H2O", "NH3", "N2", "CO", "CH4", "HCl"]))
    atoms = molecule(name)
    out = []
    for scale in np.linspace(0.8, 2.2, 25):
        copy = atoms.copy()
        copy.positions[1] = atoms.positions[0] + scale * (atoms.positions[1] - atoms.positions[0])
        out.append(copy)
    return with_gfn2(out)


def methyl_rotation(rng: Rng) -> list[Structure]:
    """A torsion around a bond in steps of ten degrees, with rattles of 0 or 0.03 Å."""
    atoms = molecule("CH3CH2OH")
    out = []
    noise = float(rng.choice([0.0, 0.03]))
    for angle in range(0, 360, 10):
        copy = atoms.copy()
        copy.rotate_dihedral(2, 1, 0, 3, angle, mask=[0, 0, 0, 1, 0, 0, 0, 0, 0])
        copy.positions += rng.normal(scale=noise or 1e-9, size=copy.positions.shape)
        out.append(copy)
    return with_gfn2(out)


def proton_transfer(rng: Rng) -> list[Structure]:
    """Linear interpolation of a proton between two water molecules, at several distances of the oxygen atoms, with rattles."""
    water = molecule("H2O")
    out = []
    for distance in (2.4, 2.6):
        for part in np.linspace(0.35, 0.65, 12):
            other = water.copy()
            other.positions += [distance, 0, 0]
            pair = water + other + Atoms("H", positions=[water.positions[0] + np.array([distance * part, 0.0, 0.0])])
            pair.positions += rng.normal(scale=0.02, size=pair.positions.shape)
            out.append(pair)
    return with_gfn2(out[:: int(rng.integers(1, 3))])


def water_clusters(rng: Rng) -> list[Structure]:
    out = []
    count = int(rng.integers(2, 5))
    for _ in range(min(30, frames_of(rng))):
        pair = Atoms()
        for k in range(count):
            water = molecule("H2O")
            water.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
            water.positions += [3.1 * (k % 2), 3.1 * (k // 2), 0.0] + rng.normal(scale=0.05, size=3) + rng.normal(scale=0.03, size=(3, 3))
            pair += water
        out.append(pair)
    return with_gfn2(out)


def liquid_water(rng: Rng) -> list[Structure]:
    """Eight molecules in a periodic box, turned and displaced at random, or rattled."""
    base = Atoms(cell=[6.4] * 3, pbc=True)
    for k in range(8):
        water = molecule("H2O")
        water.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        water.positions += 3.2 * np.array([k % 2, k // 2 % 2, k // 4])
        base += water
    return with_gfn2(list(rattled(base, rng, min(0.1, displacement(rng)), 12)))


def ethanol_dynamics(rng: Rng) -> list[Structure]:
    """Short rattles that follow each other as a random walk: neighbours are near, ends far."""
    atoms = molecule(str(rng.choice(["CH3CH2OH", "CH3OH", "H2O", "C2H6"])))
    out = []
    home = atoms.positions.copy()
    for _ in range(40):
        atoms.positions += 0.3 * (home - atoms.positions) + rng.normal(scale=0.03, size=atoms.positions.shape)
        out.append(atoms.copy())
    return with_gfn2(out)


def carbon_tubes(rng: Rng) -> list[Structure]:
    """Periodic in one direction."""
    atoms = nanotube(3, 0, length=1)
    atoms.pbc = [False, False, True]
    calculator = MorsePotential(epsilon=3.0, r0=1.42, rho0=3.0, rcut1=1.5, rcut2=1.9)
    return [labelled(a, calculator) for a in rattled(atoms, rng, displacement(rng), frames_of(rng))]


def mixed(rng: Rng) -> list[Structure]:
    """Several of the other sets of metals in one, as users join files."""
    parts = (rattled_crystals, strained_crystals, slabs, slab_relaxations, equations_of_state, clusters, vacancies)
    return [s for k in rng.choice(len(parts), 3, replace=False) for s in parts[int(k)](rng)]


def few(rng: Rng) -> list[Structure]:
    """One to five frames."""
    parts = (rattled_crystals, strained_crystals, slabs, crystals_with_held_atoms, crystal_dynamics, rattled_molecules)
    made = parts[int(rng.integers(len(parts)))](rng)
    return made[: int(rng.integers(1, 6))]


SETS: dict[str, Callable[[Rng], list[Structure]]] = {
    f.__name__.replace("_", " "): f
    for f in (rattled_crystals, rattled_by_mixed_sizes, strained_crystals, supercells_of_several_sizes, alloys_of_one_order,
              alloys_of_many_compositions, vacancies, slabs, slabs_with_resting_atoms, slabs_with_displaced_held_atoms, crystals_with_held_atoms,
              slab_dynamics, slab_relaxations, crystal_dynamics, crystal_relaxations, equations_of_state, elastic_deformations,
              phonon_displacements, diffusion_paths, clusters, argon, morse_crystals, silicon, rattled_molecules, molecules_of_many_kinds,
              molecules_with_held_atoms, stretched_bonds, methyl_rotation, proton_transfer, water_clusters, liquid_water, ethanol_dynamics,
              carbon_tubes, mixed, few)
}  # fmt: skip


def made(kind: str, seed: int) -> list[Structure]:
    """One set: the same for the same kind and seed."""
    return SETS[kind](np.random.default_rng([zlib.crc32(kind.encode()), seed]))
