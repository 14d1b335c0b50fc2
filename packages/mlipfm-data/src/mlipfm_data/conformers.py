"""Molecules from SMILES: ETKDG geometries relaxed with MMFF94 (UFF where MMFF94 has no parameters).

Riniker and Landrum, J. Chem. Inf. Model. 2015, 55, 2562 (ETKDG); Halgren, J. Comput. Chem. 1996, 17, 490 (MMFF94).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mlipfm_interfaces.errors import PluginError, SamplingError
from mlipfm_interfaces.structure import Provenance, Structure

#: Å, largest difference in sorted interatomic distances at which two geometries are the same conformer.
SAME_CONFORMER = 0.05

#: At most fifteen atoms, elements H, C, N, O only, closed shells, two ions and a radical. The last five are in no generated set (`held_out`).
QUICKSTART = {
    "water": "O",
    "methane": "C",
    "ammonia": "N",
    "hydrogen cyanide": "C#N",
    "acetylene": "C#C",
    "ethylene": "C=C",
    "ethane": "CC",
    "propene": "CC=C",
    "methanol": "CO",
    "dimethyl ether": "COC",
    "formaldehyde": "C=O",
    "formic acid": "OC=O",
    "acetic acid": "CC(=O)O",
    "methylamine": "CN",
    "formamide": "NC=O",
    "acetonitrile": "CC#N",
    "ammonium": "[NH4+]",
    "acetate": "CC(=O)[O-]",
    "methyl radical": "[CH3]",
    "ethanol": "CCO",
    "malonaldehyde": "O=CCC=O",
    "glycine": "NCC(=O)O",
    "dimethylformamide": "CN(C)C=O",
    "acetylacetone": "CC(=O)CC(C)=O",
}


def quickstart_molecules() -> dict[str, str]:
    """Name -> SMILES of 24 small molecules for a first run: 21 neutral closed shells, two ions, one radical."""
    return dict(QUICKSTART)


def conformers(smiles: str, n: int, seed: int) -> list[Structure]:
    """Return at most `n` different conformers of a molecule, lowest force-field energy first; rigid molecules have one.

    Total charge and spin multiplicity are those of the SMILES: formal charges, and unpaired electrons of radical centres taken as parallel
    (2S+1 = electrons + 1). A SMILES that hides open shells (`O=O` for triplet oxygen) gives the closed shell it describes. `provenance.group` is the
    canonical SMILES. The same `seed` gives the same geometries.

    Raises:
        SamplingError: a SMILES that is not understood or cannot be embedded. PluginError: RDKit is not installed.
    """
    if n < 1:
        raise SamplingError(f"the number of conformers must be positive, got {n}")
    molecule, group = molecule_of(smiles)
    energies = _embed(molecule, n, seed, smiles)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    charge = int(sum(atom.GetFormalCharge() for atom in molecule.GetAtoms()))
    unpaired = int(sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()))
    chosen: list[np.ndarray] = []
    for k in np.argsort(energies, kind="stable"):
        positions = np.asarray(molecule.GetConformer(int(k)).GetPositions())
        if all(np.abs(_fingerprint(numbers, positions) - _fingerprint(numbers, other)).max(initial=0) > SAME_CONFORMER for other in chosen):
            chosen.append(positions)
    return [
        Structure(numbers, positions, total_charge=charge, spin_multiplicity=unpaired + 1,
                  provenance=Provenance(source="rdkit", group=group, index=index, sampling="conformer"))
        for index, positions in enumerate(chosen)
    ]  # fmt: skip


def molecule_of(smiles: str) -> tuple[Any, str]:
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise PluginError("RDKit is not installed", hint="pip install 'mlipfm-data[rdkit]'") from None
    with rdBase.BlockLogs():
        parsed = Chem.MolFromSmiles(smiles)
    if parsed is None or parsed.GetNumAtoms() == 0:
        raise SamplingError(f"{smiles!r} is no SMILES that RDKit understands")
    return Chem.AddHs(parsed), Chem.MolToSmiles(parsed)


def has_mmff(molecule: Any, smiles: str) -> bool:
    """Return whether MMFF94 has the parameters of a molecule; False: UFF has them.

    Raises:
        SamplingError: neither has them. RDKit itself would end in a RuntimeError.
    """
    from rdkit.Chem import AllChem

    if AllChem.MMFFHasAllMoleculeParams(molecule):
        return True
    if not AllChem.UFFHasAllMoleculeParams(molecule):
        raise SamplingError(f"neither MMFF94 nor UFF has parameters for {smiles!r}")
    return False


def _embed(molecule: Any, n: int, seed: int, smiles: str) -> np.ndarray:
    """Put conformers into `molecule` and relax them; force-field energies [conformers]."""
    from rdkit import rdBase
    from rdkit.Chem import AllChem

    settings = AllChem.ETKDGv3()
    settings.randomSeed = 1 + seed % (2**31 - 2)  # RDKit multiplies seed and conformer index: 0 would make all conformers equal
    settings.numThreads = 1
    with rdBase.BlockLogs():
        if not len(AllChem.EmbedMultipleConfs(molecule, n, settings)):
            raise SamplingError(f"no geometry could be embedded for {smiles!r}")
        relax = AllChem.MMFFOptimizeMoleculeConfs if has_mmff(molecule, smiles) else AllChem.UFFOptimizeMoleculeConfs
        results = relax(molecule, numThreads=1, maxIters=2000)
    return np.array([energy for _, energy in results])


def _fingerprint(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Sorted distances of each pair of elements, one after the other: equal for rotated, reflected and relabelled geometries."""
    i, j = np.triu_indices(len(numbers), 1)
    distances = np.linalg.norm(positions[i] - positions[j], axis=1)
    low, high = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
    return distances[np.lexsort((distances, high, low))]
