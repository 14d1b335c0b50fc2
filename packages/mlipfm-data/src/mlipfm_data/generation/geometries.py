"""Geometries of one molecule, and of clusters of several, on and far from the minima, before labelling.

`molecule_geometries` mixes what a potential must know to run dynamics: conformers (ETKDG, relaxed with MMFF94 or UFF and not), harmonic
vibrations of the force field at several temperatures, short Langevin dynamics of the force field, random displacements, bonds stretched to
dissociation, and compressed molecules. `cluster_geometries` puts molecules beside each other at distances from contact to 8 Å, and lets the force
field make hydrogen bonds between some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mlipfm_interfaces.elements import COVALENT_RADII, MASSES
from mlipfm_interfaces.errors import SamplingError
from mlipfm_interfaces.structure import Provenance, Structure
from mlipfm_interfaces.units import ACCELERATION, KB

from ..conformers import has_mmff, molecule_of
from ..normal_modes import hessian_by_differences, normal_modes, sample_modes

KCAL_MOL = 0.0433641153  # eV
SOURCE, LICENCE = "mlipfm data generate molecules", "MIT"
#: Atoms closer than this part of the sum of their covalent radii are refused: xTB does not converge there, and forces reach 100 eV/Å.
CLOSEST = 0.6
TEMPERATURES = (300.0, 300.0, 600.0, 1000.0)  # K; 300 K twice: where most simulations are


@dataclass(frozen=True)
class Shares:
    """How many geometries of each kind a molecule gets."""

    relaxed: int = 2
    embedded: int = 2
    vibrations: int = 10
    dynamics: int = 6
    displaced: int = 3
    stretched: int = 3
    compressed: int = 2
    clusters: int = 5


@dataclass(frozen=True)
class Embedded:
    """A molecule with conformers from ETKDG, or a cluster.

    Attributes:
        structure: the relaxed conformer of lowest energy. raw, relaxed: positions [conformers, N, 3] in Å. bonds: [bonds, 2].
        forces: of the force field, eV/Å, of positions [N, 3].
    """

    structure: Structure
    raw: np.ndarray
    relaxed: np.ndarray
    bonds: np.ndarray
    forces: Callable[[np.ndarray], np.ndarray]


def embedded(smiles: str, conformers: int, seed: int) -> Embedded:
    """Embed a molecule. Raises `SamplingError` where RDKit gives no geometry or no force field."""
    from rdkit import rdBase
    from rdkit.Chem import AllChem

    molecule, group = molecule_of(smiles)
    settings = AllChem.ETKDGv3()
    settings.randomSeed, settings.numThreads, settings.maxIterations = 1 + seed % (2**31 - 2), 1, 20
    with rdBase.BlockLogs():
        if not len(AllChem.EmbedMultipleConfs(molecule, conformers, settings)):
            raise SamplingError(f"no geometry could be embedded for {smiles!r}")
        raw = np.array([c.GetPositions() for c in molecule.GetConformers()])
        mmff = has_mmff(molecule, smiles)
        properties = AllChem.MMFFGetMoleculeProperties(molecule) if mmff else None
        relax = AllChem.MMFFOptimizeMoleculeConfs if mmff else AllChem.UFFOptimizeMoleculeConfs
        results = relax(molecule, numThreads=1, maxIters=500)
        field = AllChem.MMFFGetMoleculeForceField(molecule, properties) if mmff else AllChem.UFFGetMoleculeForceField(molecule)
    relaxed = np.array([c.GetPositions() for c in molecule.GetConformers()])[np.argsort([e for _, e in results], kind="stable")]
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    charge = sum(atom.GetFormalCharge() for atom in molecule.GetAtoms())
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    structure = Structure(numbers, relaxed[0], total_charge=charge, spin_multiplicity=unpaired + 1,
                          provenance=Provenance(source=SOURCE, licence=LICENCE, group=group))  # fmt: skip
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()], dtype=int).reshape(-1, 2)
    return Embedded(structure, raw, relaxed, bonds, lambda positions: _gradient(field, positions) * -KCAL_MOL)


def _gradient(field: Any, positions: np.ndarray) -> np.ndarray:
    flat = positions.ravel().tolist()
    field.CalcEnergy(flat)  # CalcGrad alone uses the distances of the last energy (RDKit 2026.09.1)
    return np.array(field.CalcGrad(flat)).reshape(-1, 3)


def molecule_geometries(smiles: str, seed: int, shares: Shares | None = None) -> list[Structure]:
    """Unlabelled geometries of a molecule, `provenance.sampling` says the kind. Those with atoms too close are left out.

    Raises:
        SamplingError: the molecule cannot be embedded.
    """
    shares, rng = shares or Shares(), np.random.default_rng(seed)
    found = embedded(smiles, max(shares.relaxed, shares.embedded, 1), seed)
    start = found.structure
    chosen = [(f"relaxed-{k}", p) for k, p in enumerate(found.relaxed[: shares.relaxed])]
    chosen += [(f"embedded-{k}", p) for k, p in enumerate(found.raw[: shares.embedded])]
    if len(start) > 1:
        chosen += _vibrations(found, shares.vibrations, rng)
        chosen += [(f"langevin-{t:g}K", p) for t, p in _dynamics(found, shares.dynamics, rng)]
        chosen += [("displaced", _any(found, rng) + rng.normal(0, s, (len(start), 3))) for s in rng.uniform(0.02, 0.12, shares.displaced)]
        chosen += [("stretched", _stretched(found, rng)) for _ in range(shares.stretched if len(found.bonds) else 0)]
        chosen += [
            ("compressed", _any(found, rng) * s + rng.normal(0, 0.02, (len(start), 3))) for s in rng.uniform(0.88, 0.97, shares.compressed)
        ]
    usable = [_at(start, p, kind) for kind, p in chosen if not unusable(start.atomic_numbers, p)]
    return list({s.key: s for s in usable}.values())  # an atom has one geometry


def _at(start: Structure, positions: np.ndarray, kind: str) -> Structure:
    return start.replace(positions=positions, provenance=replace(start.provenance, sampling=kind))


def _any(found: Embedded, rng: np.random.Generator) -> np.ndarray:
    """Return a relaxed conformer."""
    return np.asarray(found.relaxed[rng.integers(len(found.relaxed))])


def _vibrations(found: Embedded, n: int, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Harmonic samples of the force field around one relaxed conformer, in equal parts at `TEMPERATURES`."""
    start = found.structure.replace(positions=_any(found, rng))
    modes = normal_modes(start, hessian_by_differences(start, lambda s: found.forces(s.positions)))
    if not len(modes.eigenvalues):
        return []
    drawn = rng.choice(TEMPERATURES, n)
    return [(f"normal-modes-{t:g}K", sample_modes(start, modes, float(t), 1, rng)[0].positions) for t in drawn]


def _dynamics(
    found: Embedded, n: int, rng: np.random.Generator, *, dt: float = 1.0, stride: int = 15, temperatures: Sequence[float] = TEMPERATURES
) -> list[tuple[float, np.ndarray]]:
    """Langevin dynamics (BAOAB, 20 1/ps) of the force field from a conformer as embedded; positions every `stride` steps of `dt` fs."""
    temperature = float(rng.choice(temperatures))
    masses = MASSES[found.structure.atomic_numbers][:, None]
    r = np.asarray(found.raw[rng.integers(len(found.raw))])
    width, keep = np.sqrt(KB * temperature * ACCELERATION / masses), np.exp(-0.02 * dt)
    v, a = width * rng.standard_normal(r.shape), found.forces(r) * ACCELERATION / masses
    frames = []
    for step in range(1, n * stride + 1):
        v = v + a * (dt / 2)
        r = r + v * (dt / 2)
        v = keep * v + np.sqrt(1 - keep**2) * width * rng.standard_normal(r.shape)
        r = r + v * (dt / 2)
        a = found.forces(r) * ACCELERATION / masses
        v = v + a * (dt / 2)
        if not np.isfinite(r).all():
            break
        if step % stride == 0:
            frames.append((temperature, r))
    return frames


def _stretched(found: Embedded, rng: np.random.Generator) -> np.ndarray:
    """Return one bond at 0.85 to 2.6 times its length: what hangs on its one end moves along; in a ring only the atom itself."""
    r, (i, j) = _any(found, rng).copy(), found.bonds[rng.integers(len(found.bonds))]
    moved = _behind(found.bonds, int(i), int(j), len(r))
    factor = rng.uniform(0.85, 1.5) if rng.random() < 0.6 else rng.uniform(1.5, 2.6)
    r[moved] += (factor - 1) * (r[j] - r[i])
    return np.asarray(r + rng.normal(0, 0.03, r.shape))


def _behind(bonds: np.ndarray, i: int, j: int, n: int) -> np.ndarray:
    """Atoms that stay connected to j when the bond i-j is cut: [N] bool; only j itself if they include i."""
    reached, border = {j}, [j]
    while border:
        a = border.pop()
        for one, two in bonds.tolist():
            for here, there in ((one, two), (two, one)):
                if here == a and there not in reached and {here, there} != {i, j}:
                    reached.add(there)
                    border.append(there)
    mask = np.zeros(n, dtype=bool)
    mask[[j] if i in reached else sorted(reached)] = True
    return mask


def cluster_geometries(
    parts: Sequence[Structure], n: int, rng: np.random.Generator, *, largest: int = 3, relaxed: float = 0.0
) -> list[Structure]:
    """`n` clusters of two to `largest` of `parts`, in random orientations; nearest atoms of neighbours at 0.8 to 2 times contact (van der Waals).

    Charges add up; at most one part may be charged or open-shell, others are drawn from neutral singlets.

    Args:
        relaxed: this part of the clusters is relaxed with MMFF94 for some steps and then moved at 300 K, so that its hydrogen bonds are there; what
            MMFF94 has no parameters for stays as it is.
    """
    plain = [s for s in parts if s.total_charge == 0 and s.spin_multiplicity == 1]
    made: list[Structure] = []
    for _ in range(n if plain else 0):
        first = parts[int(rng.integers(len(parts)))]
        more = int(rng.integers(1, largest)) if largest > 3 else 1 if largest < 3 or rng.random() < 0.75 else 2
        chosen = [first, *(plain[int(rng.integers(len(plain)))] for _ in range(more))]
        cluster = _packed(chosen, rng)
        made.append(_relaxed_cluster(chosen, cluster, rng) if relaxed and rng.random() < relaxed else cluster)
    return [s for s in made if not unusable(s.atomic_numbers, s.positions)]


def _relaxed_cluster(parts: Sequence[Structure], cluster: Structure, rng: np.random.Generator) -> Structure:
    """Return the cluster after 10 to 300 steps of relaxation, and in two of three cases 0.1 ps at 300 K."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import AllChem
    from rdkit.Geometry import Point3D

    with rdBase.BlockLogs():
        molecules = [molecule_of(str(part.provenance.group))[0] for part in parts]
        whole = molecules[0]
        for molecule in molecules[1:]:
            whole = Chem.CombineMols(whole, molecule)
        Chem.SanitizeMol(whole)
        numbers = [atom.GetAtomicNum() for atom in whole.GetAtoms()]
        if numbers != cluster.atomic_numbers.tolist() or not AllChem.MMFFHasAllMoleculeParams(whole):
            return cluster
        conformer = Chem.Conformer(len(numbers))
        for k, (x, y, z) in enumerate(cluster.positions.tolist()):
            conformer.SetAtomPosition(k, Point3D(x, y, z))
        whole.RemoveAllConformers()
        whole.AddConformer(conformer)
        properties = AllChem.MMFFGetMoleculeProperties(whole)
        field = AllChem.MMFFGetMoleculeForceField(whole, properties, nonBondedThresh=100.0, ignoreInterfragInteractions=False)
        field.Minimize(maxIts=int(10 ** rng.uniform(1.0, 2.5)))
        positions = whole.GetConformer().GetPositions()
    kind = f"relaxed-{cluster.provenance.sampling}"
    if rng.random() < 2 / 3:
        start = Embedded(cluster, positions[None], positions[None], np.empty((0, 2), dtype=int), lambda r: _gradient(field, r) * -KCAL_MOL)
        frames = _dynamics(start, 1, rng, stride=100, temperatures=(300.0,))
        positions, kind = (frames[0][1], f"langevin-300K-{cluster.provenance.sampling}") if frames else (positions, kind)
    return _at(cluster, positions, kind)


def electron_removed(structures: Sequence[Structure]) -> list[Structure]:
    """Return the neutral singlets among `structures` again as radical cations, at the same geometry."""
    return [
        s.replace(total_charge=1, spin_multiplicity=2)
        for s in structures
        if s.total_charge == 0 and s.spin_multiplicity == 1 and len(s) > 1
    ]


def _packed(parts: Sequence[Structure], rng: np.random.Generator) -> Structure:
    numbers, positions = parts[0].atomic_numbers, parts[0].positions - parts[0].positions.mean(axis=0)
    for part in parts[1:]:
        axis = _unit(rng)
        there = (part.positions - part.positions.mean(axis=0)) @ _rotation(rng).T
        gap = rng.uniform(0.8, 1.3) if rng.random() < 0.75 else rng.uniform(1.3, 2.2)
        contact = gap * (COVALENT_RADII[numbers][:, None] + COVALENT_RADII[part.atomic_numbers][None] + 1.5)
        positions = np.concatenate([positions, there + axis * _distance(positions, there, axis, contact)])
        numbers = np.concatenate([numbers, part.atomic_numbers])
    group = ".".join(sorted({str(s.provenance.group) for s in parts}))
    return Structure(numbers, positions, total_charge=sum(s.total_charge or 0 for s in parts),
                     spin_multiplicity=max(s.spin_multiplicity or 1 for s in parts),
                     provenance=Provenance(source=SOURCE, licence=LICENCE, group=group, sampling=f"cluster-{len(parts)}"))  # fmt: skip


def _distance(here: np.ndarray, there: np.ndarray, axis: np.ndarray, contact: np.ndarray) -> float:
    """Smallest shift of `there` along `axis` from which on no pair is closer than its `contact`: the largest root of |d + t axis| = contact."""
    d = there[None] - here[:, None]
    along = d @ axis
    root = along**2 - (d**2).sum(-1) + contact**2
    shift = np.where(root > 0, -along + np.sqrt(np.maximum(root, 0)), -np.inf).max()
    return float(shift) if np.isfinite(shift) else 0.0  # the line passes every atom at more than its contact


def _unit(rng: np.random.Generator) -> np.ndarray:
    v = rng.standard_normal(3)
    return np.asarray(v / np.linalg.norm(v))


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a random orthogonal matrix: rotations and reflections, both are geometries of some molecule."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(q * np.sign(np.diag(r)))


def unusable(numbers: np.ndarray, positions: np.ndarray) -> bool:
    """Whether the dynamics exploded (not finite, atoms beyond 40 Å) or two atoms are nearer than `CLOSEST` times the sum of their covalent radii."""
    if not (np.abs(positions) < 40).all():
        return True
    i, j = np.triu_indices(len(numbers), 1)
    limits = CLOSEST * (COVALENT_RADII[numbers[i]] + COVALENT_RADII[numbers[j]])
    return bool((np.linalg.norm(positions[i] - positions[j], axis=1) < limits).any())
