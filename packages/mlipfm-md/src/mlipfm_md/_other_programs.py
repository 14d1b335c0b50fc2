"""What ASE does not read of starting files of other programs, or reads wrongly: charges, radicals, isotopes and further molecules of MDL files (.mol,
.sdf), charges and models of PDB, the charge of inputs of Quantum ESPRESSO, ions of GROMACS, types of LAMMPS.
"""

from __future__ import annotations

import re

from mlipfm_interfaces.elements import ISOTOPES
from mlipfm_interfaces.errors import InvalidStructureError

from ._start_text import Beside

#: Charge of an atom by the code of the atom block of an MDL file (4 is a doublet), and multiplicity by the code of `M  RAD`.
_CHARGES = {0: 0, 1: 3, 2: 2, 3: 1, 4: 0, 5: -1, 6: -2, 7: -3}


def readable_mdl(text: str, where: str) -> list[tuple[str, Beside]]:
    """Each molecule of an MDL file (.mol, .sdf; V2000) as ASE reads it, and what stands beside it: total charge, multiplicity, isotopes.

    The total charge is the sum of the formal charges; the multiplicity is known where one atom is a radical.

    Raises:
        InvalidStructureError: V3000, which ASE reads as no atom at all; a drawing in two dimensions; hydrogen atoms that are left out.
    """
    molecules: list[tuple[str, Beside]] = []
    for block in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE):
        lines = block.splitlines()
        if len(lines) < 4:
            continue
        here = f"{where}, molecule {len(molecules)}"
        if "V3000" in lines[3]:
            raise InvalidStructureError("MDL files of version V3000 are not read", where=here, hint="write it as V2000, or as .xyz")
        if lines[1][20:22].upper() == "2D":
            raise InvalidStructureError(
                "the molecule is a drawing: its coordinates have two dimensions",
                where=here,
                hint="make a geometry first (RDKit, Open Babel)",
            )
        end = 4 + int(lines[3][:3])
        _refuse_without_hydrogen(lines[4:end], lines[end : end + int(lines[3][3:6])], here)
        beside = _mdl_state(lines[4:end], lines[end:])
        for k in beside.isotopes:
            lines[4 + k] = lines[4 + k][:31] + "H  " + lines[4 + k][34:]
        molecules.append(("\n".join(lines) + "\n", beside))
    return molecules


def _refuse_without_hydrogen(atoms: list[str], bonds: list[str], where: str) -> None:
    """Refuse a molecule without hydrogen in which carbon has free valences."""
    names = [row[31:34].strip() for row in atoms]
    if "C" not in names or {"H", *ISOTOPES} & set(names):
        return
    valence = [0.0] * len(names)
    for row in bonds:
        order = {4: 1.5}.get(int(row[6:9]), float(int(row[6:9])))
        for atom in (int(row[:3]), int(row[3:6])):
            valence[atom - 1] += order
    if any(name == "C" and bound < 4 for name, bound in zip(names, valence, strict=True)):
        raise InvalidStructureError("the hydrogen atoms are left out", where=where, hint="write the molecule with all atoms")


def _mdl_state(atoms: list[str], after: list[str]) -> Beside:
    """Charge, radicals and isotopes: of the lines `M  CHG`, `M  RAD`, `M  ISO`, which replace the codes of the atom block."""
    beside = Beside()
    names = [row[31:34].strip() for row in atoms]
    codes = [int(row[36:39] or 0) for row in atoms]
    listed = {kind: _mdl_pairs(after, kind) for kind in ("CHG", "RAD", "ISO")}
    if listed["CHG"] or listed["RAD"]:
        charges, radicals = listed["CHG"], listed["RAD"]
    else:
        charges = {k: _CHARGES.get(code, 0) for k, code in enumerate(codes) if code}
        radicals = {k: 2 for k, code in enumerate(codes) if code == 4}
    if charges:
        beside.charge = sum(charges.values())
    if len(radicals) == 1:
        beside.multiplicity = next(iter(radicals.values()))
    elif radicals:
        beside.unread.append(f"radicals at {len(radicals)} atoms, whose spins may be parallel or not (--multiplicity says it)")
    beside.isotopes = {k: name for k, name in enumerate(names) if name in ISOTOPES}
    for k, mass in listed["ISO"].items():
        if names[k] == "H" and mass in (2, 3):
            beside.isotopes[k] = "D" if mass == 2 else "T"
        elif names[k] not in ISOTOPES:
            beside.unread.append(f"the isotope {mass}{names[k]}")
    return beside


def _mdl_pairs(lines: list[str], kind: str) -> dict[int, int]:
    """Atom (from 0) -> value of the property lines `M  CHG`, `M  RAD` or `M  ISO`."""
    words = [word for line in lines if line.startswith(f"M  {kind}") for word in line.split()[3:]]
    return {int(atom) - 1: int(value) for atom, value in zip(words[::2], words[1::2], strict=True)}


def readable_pdb(text: str, where: str) -> tuple[str, list[Beside]]:
    """PDB as ASE reads it, and what stands beside each model: the sum of the formal charges (columns 79 and 80), the space group.

    Raises:
        InvalidStructureError: alternate locations, of which ASE keeps all; no elements (columns 77 and 78), which ASE guesses from names.
    """
    lines, models = text.splitlines(), [Beside()]
    group, kept, charged = "", [], False
    for line in lines:
        kind = line[:6].strip()
        if kind == "CRYST1":
            group = line[55:66].strip()
            if [float(word) for word in line[6:33].split()] == [1.0, 1.0, 1.0]:  # what the format asks for where there is no crystal
                group = ""
                continue
        elif kind in ("ATOM", "HETATM"):
            if line[16:17].strip():
                raise InvalidStructureError(
                    f"atoms have alternate locations ({line[16]})", where=where, hint="keep one location of each, and leave column 17 empty"
                )
            if not line[76:78].strip():
                raise InvalidStructureError(
                    "atoms have no element (columns 77 and 78), and their names do not tell calcium from alpha carbon",
                    where=where,
                    hint="write the elements: Open Babel, gemmi or ase do",
                )
            word = line[78:80].strip()
            if word:
                charged = True
                sign = -1 if "-" in word else 1
                models[-1].charge = (models[-1].charge or 0) + sign * int(word.strip("+-") or 1)
        elif kind == "ENDMDL":
            models.append(Beside())
        kept.append(line)
    models = models[:-1] if len(models) > 1 else models
    for beside in models:
        if charged and beside.charge is None:
            beside.charge = 0
        if group.replace(" ", "") not in ("", "P1"):
            beside.unread.append(f"the space group {group}: only the atoms that the file lists are taken")
    return "\n".join(kept) + "\n", models


def espresso_state(text: str) -> Beside:
    """Total charge of an input of Quantum ESPRESSO, and what of its masses is dropped."""
    beside = Beside()
    found = re.search(r"(?im)^[^!#]*\btot_charge\s*=\s*([-+\d.dDeE]+)", text)
    if found:
        charge = float(found[1].lower().replace("d", "e"))
        if charge != round(charge):
            raise InvalidStructureError(f"tot_charge is {found[1]}, no whole number", hint="charges of models are whole numbers")
        beside.charge = round(charge)
    for name, mass in re.findall(r"(?m)^\s*(H\w*)\s+([\d.]+)[dDeE+\d]*\s+\S+\.(?:upf|UPF)", text):
        if abs(float(mass) - 1.008) > 0.5:
            beside.unread.append(f"the mass {mass} of {name} (a column of masses in an .xyz file is used)")
    return beside


#: Names of residues that are one ion, and its element, which ASE takes from the first letter.
_IONS = {"NA": "Na", "CL": "Cl", "CA": "Ca", "ZN": "Zn", "MG": "Mg", "LI": "Li", "RB": "Rb", "CS": "Cs", "BR": "Br", "FE": "Fe", "CU": "Cu"}


def gromacs_ions(text: str) -> Beside:
    """Elements of ions in a .gro file: atoms whose name is that of their residue."""
    beside, lines = Beside(), text.splitlines()
    count = int(lines[1]) if len(lines) > 1 and lines[1].strip().isdigit() else 0
    for k, line in enumerate(lines[2 : 2 + count]):
        residue, atom = line[5:10].strip().upper().strip("+-0123456789"), line[10:15].strip().upper().strip("+-0123456789")
        if residue == atom and atom in _IONS:
            beside.elements[k] = _IONS[atom]
    return beside


def refuse_dump_without_elements(text: str, where: str) -> None:
    """Raise `InvalidStructureError` for a dump of LAMMPS without a column `element`: ASE takes types 1, 2, ... for hydrogen, helium, ..."""
    columns = next((line.split()[2:] for line in text.splitlines() if line.startswith("ITEM: ATOMS")), None)
    if columns is not None and "element" not in columns:
        raise InvalidStructureError(
            "the dump has types and no elements",
            where=where,
            hint="write them: dump 1 all custom 100 out.lammpstrj id element x y z, dump_modify 1 element C H",
        )
