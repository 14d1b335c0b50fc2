"""Random small molecules of H, C, N, O, F, S and Cl as SMILES: fragments that grow, change elements, close rings and lose or gain protons.

Every molecule starts as one of `SEEDS` and takes a random number of steps, each of which gives a molecule that RDKit accepts: a fragment on an atom
with a hydrogen, another element for a carbon, a higher bond order, a ring. One in seven then gets a charge (a proton more or less), one in twelve
loses a hydrogen atom and is a radical. Molecules are distinguished by the first block of their InChIKey (the connectivity, without protonation and
stereochemistry) and by their charge and unpaired electrons. The list is a function of the seed alone, and a longer one begins with the shorter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from mlipfm_interfaces.errors import PluginError, SamplingError

SEEDS = """
    C N O S CC C=C C#C CO CN CS C=O C=N C#N CF CCl CCC CC=O CC#N CC(=O)O CC(N)=O COC CNC CSC NC=O OC=O NC(N)=O C1CC1 C1CO1 C1CN1 C1CCC1 C1CCCC1
    C1CCCCC1 C1CCOC1 C1CCNC1 C1CCSC1 C1CNCCN1 C1COCCN1 c1ccccc1 c1ccncc1 c1cncnc1 c1cnccn1 c1ccnnc1 c1cc[nH]c1 c1ccoc1 c1ccsc1 c1c[nH]cn1 c1cn[nH]c1
    c1cocn1 c1cscn1 c1nc[nH]n1 O=C1CCCN1 O=C1CCCC1 C1=CCCC1 C1=CCCCC1 CS(C)=O CS(C)(=O)=O C[N+](=O)[O-] CC(C)C CCO
""".split()  # noqa: SIM905 (a list of 60 literals is read by nobody)
#: Substituents: their first atom binds. What is written several times is drawn more often.
FRAGMENTS = """
    C C C C C C N O N O N O F Cl S F Cl S CC C=C C#C C#N C=O C(=O)O C(=O)N OC NC N(C)C SC CO CN CS CF C(F)F C(F)(F)F CCl C(C)=O C(=O)OC C(=O)NC
    NC(C)=O OC(C)=O C(C)C C(C)(C)C [NH+](=O)[O-] [SH](C)(=O)=O [SH](N)(=O)=O [SH](C)=O OC(F)F N=C C=NO NN c1ccccc1 c1ccncc1 c1ccoc1 c1ccsc1
    c1cc[nH]c1 [nH]1cccc1 [nH]1cncc1 C1CC1 C1CCCC1 N1CCCC1 N1CCOCC1
""".split()  # noqa: SIM905 (a list of 60 literals is read by nobody)
#: See `_implausible`.
_HETERO = frozenset((7, 8, 9, 16, 17))
HELD_OUT = ("benchmarks", "judges")

Seed = int | list[int]


def held_out(*lists: str) -> dict[str, str]:
    """Name -> SMILES of molecules that no generated set contains: `benchmarks` (3BPA, acetylacetone, ethanol, MD17) and 50 `judges`, or one list."""
    lines = [line for name in lists or HELD_OUT for line in (files(__package__) / f"{name}.smi").read_text(encoding="utf-8").splitlines()]
    return {name: smiles for smiles, name in (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))}


def connectivity(smiles: str) -> str:
    """First block of the InChIKey: equal for stereoisomers, isotopologues, protonation states and mobile hydrogens.

    Raises:
        SamplingError: a SMILES that is not understood. PluginError: RDKit is not installed.
    """
    chem = _rdkit()
    with _quiet():
        molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        raise SamplingError(f"{smiles!r} is no SMILES that RDKit understands")
    return str(chem.MolToInchiKey(molecule))[:14]


def random_molecules(
    count: int, seed: Seed, *, heavy: int = 10, exclude: Collection[str] = (), known: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield `count` different molecules: canonical SMILES and identity, which is the connectivity, total charge and unpaired electrons.

    Args:
        seed: an integer or several. heavy: largest number of atoms that are not hydrogen.
        exclude: connectivities (`connectivity`) that must not occur, besides those of `held_out()`. known: identities of earlier molecules.

    Raises:
        SamplingError: that many molecules were not found.
    """
    if count < 1 or not 1 <= heavy <= 40:
        raise SamplingError(f"count must be positive and heavy between 1 and 40, got {count} and {heavy}")
    rng = np.random.default_rng(seed)
    forbidden, identities, met = held_out_connectivities() | set(exclude), set(known), set[str]()
    for _ in range(200 + 100 * count):
        with _quiet():
            smiles = _with_state(_grown(int(rng.integers(1, heavy + 1)), rng), rng)
            if smiles in met:
                continue
            met.add(smiles)
            identity = _identity(smiles, heavy)
        if identity is not None and identity not in identities and identity[:14] not in forbidden:
            identities.add(identity)
            count -= 1
            yield smiles, identity
            if not count:
                return
    raise SamplingError(f"{count} more molecules of at most {heavy} atoms besides hydrogen were not found", hint="raise --heavy")


def identified(smiles: Iterable[str], exclude: Collection[str] = ()) -> list[tuple[str, str]]:
    """Canonical SMILES of given molecules, and their identities as `random_molecules` gives them.

    Raises:
        SamplingError: a SMILES that is not understood, a molecule of `held_out()` or of the connectivities `exclude`, or the same one twice.
    """
    smiles = list(smiles)
    forbidden = held_out_connectivities() | set(exclude)
    if out := [one for one in smiles if connectivity(one) in forbidden]:
        them = "it" if len(out) == 1 else "them"
        raise SamplingError(
            f"held out, because models are measured on {them}: {', '.join(out)}",
            hint=f"take {them} out of the file; `mlipfm data sample` and `mlipfm data label` make labels of any molecule",
        )
    found: dict[str, str] = {}
    for one in smiles:
        canonical = str(_rdkit().CanonSmiles(one))
        identity = _identified(_rdkit().MolFromSmiles(canonical))
        if identity is None:
            raise SamplingError(f"{one!r} has no InChIKey")
        if identity in found:
            raise SamplingError(f"{one!r} and {found[identity]!r} are one molecule of the same charge and spin", hint="give it once")
        found[identity] = canonical
    return [(canonical, identity) for identity, canonical in found.items()]


@cache
def held_out_connectivities() -> frozenset[str]:
    """First blocks of the InChIKeys of `held_out()`."""
    return frozenset(map(connectivity, held_out().values()))


def _identity(smiles: str, heavy: int) -> str | None:
    """As `_identified`, and None for a molecule that is too large or implausible."""
    molecule = _rdkit().MolFromSmiles(smiles)
    if molecule.GetNumHeavyAtoms() > heavy or _implausible(molecule):
        return None
    return _identified(molecule)


def _identified(molecule: Any) -> str | None:
    """`INCHIKEYBLOCK:charge:unpaired`, or None where RDKit gives no InChIKey."""
    chem = _rdkit()
    block = chem.MolToInchiKey(molecule)[:14]
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    return f"{block}:{chem.GetFormalCharge(molecule):+d}:{unpaired}" if block else None


def _grown(heavy: int, rng: np.random.Generator) -> str:
    """Return a neutral closed shell of about `heavy` atoms besides hydrogen."""
    chem = _rdkit()
    smiles = SEEDS[rng.integers(len(SEEDS))]
    for _ in range(4 * heavy):
        molecule = chem.MolFromSmiles(smiles)
        if molecule.GetNumHeavyAtoms() >= heavy:
            break
        change = _CHANGES[rng.choice(len(_CHANGES), p=_ODDS)]
        changed = _checked(change(molecule, rng))
        smiles = changed if changed is not None else smiles
    return smiles


def _attach(molecule: Any, rng: np.random.Generator) -> Any:
    """Return a fragment in place of a hydrogen."""
    chem = _rdkit()
    free = _with_hydrogen(molecule)
    if not free:
        return None
    joined = chem.RWMol(chem.CombineMols(molecule, chem.MolFromSmiles(FRAGMENTS[rng.integers(len(FRAGMENTS))])))
    chosen = int(rng.choice(free))
    for index in (chosen, molecule.GetNumAtoms()):
        _take_hydrogen(joined.GetAtomWithIdx(index))
    joined.AddBond(chosen, molecule.GetNumAtoms(), chem.BondType.SINGLE)
    return joined


def _mutate(molecule: Any, rng: np.random.Generator) -> Any:
    """Another element for a carbon."""
    chem = _rdkit()
    carbons = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 6 and atom.GetDegree() > 0]
    if not carbons:
        return None
    changed = chem.RWMol(molecule)
    atom = changed.GetAtomWithIdx(int(rng.choice(carbons)))
    atom.SetAtomicNum(int(rng.choice((7, 7, 8, 16))))
    atom.SetNoImplicit(False)
    return changed


def _unsaturate(molecule: Any, rng: np.random.Generator) -> Any:
    """Return a double bond for a single one, or a triple one for a double one."""
    chem = _rdkit()
    free = set(_with_hydrogen(molecule))
    bonds = [b.GetIdx() for b in molecule.GetBonds() if {b.GetBeginAtomIdx(), b.GetEndAtomIdx()} <= free and not b.GetIsAromatic()]
    if not bonds:
        return None
    changed = chem.RWMol(molecule)
    bond = changed.GetBondWithIdx(int(rng.choice(bonds)))
    higher = {chem.BondType.SINGLE: chem.BondType.DOUBLE, chem.BondType.DOUBLE: chem.BondType.TRIPLE}.get(bond.GetBondType())
    ends = {bond.GetBeginAtom().GetAtomicNum(), bond.GetEndAtom().GetAtomicNum()}
    if higher is None or (higher == chem.BondType.TRIPLE and (bond.IsInRing() or 16 in ends)):
        return None
    bond.SetBondType(higher)
    return changed


def _close(molecule: Any, rng: np.random.Generator) -> Any:
    """Return a ring of three to seven atoms."""
    chem = _rdkit()
    free = [i for i in _with_hydrogen(molecule) if not molecule.GetAtomWithIdx(i).GetIsAromatic()]
    distances = chem.GetDistanceMatrix(molecule)
    pairs = [(i, j) for i in free for j in free if i < j and 2 <= distances[i, j] <= 6]
    if not pairs:
        return None
    weights = np.array([{2: 1, 3: 2, 4: 5, 5: 5, 6: 2}[int(distances[i, j])] for i, j in pairs], dtype=float)
    i, j = pairs[rng.choice(len(pairs), p=weights / weights.sum())]
    changed = chem.RWMol(molecule)
    changed.AddBond(i, j, chem.BondType.SINGLE)
    return changed


_CHANGES = (_attach, _mutate, _unsaturate, _close)
_ODDS = (0.6, 0.18, 0.12, 0.1)


def _with_state(smiles: str, rng: np.random.Generator) -> str:
    """Return the molecule, or an ion or a radical of it."""
    draw = rng.random()
    change = _protonated if draw < 0.07 else _deprotonated if draw < 0.14 else _radical if draw < 0.22 else None
    changed = None if change is None else _checked(change(_rdkit().MolFromSmiles(smiles), rng))
    return smiles if changed is None else changed


def _protonated(molecule: Any, rng: np.random.Generator) -> Any:
    """Return a proton on a nitrogen with a lone pair."""
    nitrogens = [
        atom.GetIdx()
        for atom in molecule.GetAtoms()
        if atom.GetAtomicNum() == 7 and atom.GetFormalCharge() == 0 and not (atom.GetIsAromatic() and atom.GetTotalDegree() == 3)
    ]
    return _charged(molecule, nitrogens, +1, rng)


def _deprotonated(molecule: Any, rng: np.random.Generator) -> Any:
    """Return a proton less on O, S or N."""
    acids = [i for i in _with_hydrogen(molecule) if molecule.GetAtomWithIdx(i).GetAtomicNum() in (7, 8, 16)]
    oxygens = [i for i in acids if molecule.GetAtomWithIdx(i).GetAtomicNum() != 7]
    return _charged(molecule, oxygens or acids, -1, rng)


def _charged(molecule: Any, where: list[int], charge: int, rng: np.random.Generator) -> Any:
    if not where:
        return None
    changed = _rdkit().RWMol(molecule)
    atom = changed.GetAtomWithIdx(int(rng.choice(where)))
    hydrogens = atom.GetTotalNumHs() + charge
    atom.SetFormalCharge(atom.GetFormalCharge() + charge)
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(hydrogens)
    return changed


def _radical(molecule: Any, rng: np.random.Generator) -> Any:
    """Return a hydrogen atom less."""
    free = _with_hydrogen(molecule)
    if not free:
        return None
    changed = _rdkit().RWMol(molecule)
    atom = changed.GetAtomWithIdx(int(rng.choice(free)))
    hydrogens = atom.GetTotalNumHs() - 1
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(hydrogens)
    atom.SetNumRadicalElectrons(1)
    return changed


def _checked(molecule: Any) -> str | None:
    """Canonical SMILES, or None for what is no molecule."""
    chem = _rdkit()
    if molecule is None or chem.SanitizeMol(molecule, catchErrors=True) != chem.SanitizeFlags.SANITIZE_NONE:
        return None
    smiles = str(chem.MolToSmiles(molecule))
    return smiles if chem.MolFromSmiles(smiles) is not None else None


def _implausible(molecule: Any) -> bool:
    """Return whether halogens bind N, O or S, or these bind each other more than once besides nitro, sulfonyl and aromatic bonds."""
    single = 0
    for bond in molecule.GetBonds():
        one, two = bond.GetBeginAtom(), bond.GetEndAtom()
        if not {one.GetAtomicNum(), two.GetAtomicNum()} <= _HETERO:
            continue
        if {one.GetAtomicNum(), two.GetAtomicNum()} & {9, 17}:
            return True
        charged = one.GetFormalCharge() and two.GetFormalCharge()
        single += bond.GetBondTypeAsDouble() == 1 and not charged
    return single > 1


def _with_hydrogen(molecule: Any) -> list[int]:
    return [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetTotalNumHs() > 0]


def _take_hydrogen(atom: Any) -> None:
    """Make room for a bond on an atom whose hydrogens are written out, such as [nH]."""
    if atom.GetNumExplicitHs():
        atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)


def _quiet() -> Any:
    """Context in which RDKit writes no messages."""
    _rdkit()
    from rdkit import rdBase

    return rdBase.BlockLogs()


def _rdkit() -> Any:
    try:
        from rdkit import Chem
    except ImportError:
        raise PluginError("RDKit is not installed", hint="pip install 'mlipfm-data[rdkit]'") from None
    return Chem
