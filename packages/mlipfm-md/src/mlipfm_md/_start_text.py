"""What ASE does not read of the text of a starting file, or reads wrongly: isotopes of hydrogen, columns without a name, headers in lower case,
velocities of a POSCAR in lattice coordinates. `_other_programs` has the same of files of other programs.

The text goes to ASE as it can read it; the rest is said beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mlipfm_interfaces.elements import ISOTOPES
from mlipfm_interfaces.errors import SimulationError

#: Keys of extended XYZ that ASE knows in this spelling only.
_KEYS = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}


@dataclass
class Beside:
    """What one frame says that its Atoms will not.

    Attributes:
        isotopes: index of an atom -> symbol of its isotope (`D`, `T`).
        unread: what is dropped, in words.
        velocities: whether ASE makes momenta of velocities of this file, with the masses that it supports.
        charge, multiplicity: of the molecule, as far as the file tells. elements: index of an atom -> symbol that ASE misreads.
    """

    isotopes: dict[int, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    velocities: bool = False
    charge: int | None = None
    multiplicity: int | None = None
    elements: dict[int, str] = field(default_factory=dict)


def readable_xyz(text: str) -> tuple[str, list[Beside]]:
    """XYZ or extended XYZ as ASE reads it, and what stands beside it, frame by frame.

    A text that is not made of frames is given back as it is: ASE says what is wrong.
    """
    lines, at, frames = text.splitlines(), 0, []
    while at < len(lines) and lines[at].strip():
        try:
            n = int(lines[at])
        except ValueError:
            return text, []
        if n < 1 or at + 2 + n > len(lines):
            return text, []
        lines[at + 1] = _canonical_keys(lines[at + 1])
        names = _columns(lines[at + 1])
        lines[at + 1] = lines[at + 1].replace(":move_mask:S:", ":moves:S:")  # ASE takes the text F for true
        lines[at + 2 : at + 2 + n], beside = _xyz_atoms(lines[at + 2 : at + 2 + n], names)
        frames.append(beside)
        at += 2 + n
        while at < len(lines) and lines[at].startswith("VEC"):
            at += 1
    return "\n".join(lines) + "\n", frames


def _canonical_keys(comment: str) -> str:
    for lower, right in _KEYS.items():
        if not re.search(rf"\b{right}\s*=", comment):
            comment = re.sub(rf"(?i)(^|\s){lower}(\s*=)", rf"\g<1>{right}\g<2>", comment)
    return comment


def _columns(comment: str) -> list[str]:
    """Name of each column; species and positions where the comment names none."""
    found = re.search(r'\bProperties\s*=\s*"?([^\s"]+)', comment)
    parts = found[1].split(":") if found else ["species", "S", "1", "pos", "R", "3"]
    try:
        return [name for name, count in zip(parts[::3], parts[2::3], strict=True) for _ in range(int(count))]
    except ValueError:
        return []


def _xyz_atoms(rows: list[str], names: list[str]) -> tuple[list[str], Beside]:
    beside, out = Beside(), []
    column = next((names.index(name) for name in ("species", "symbols", "symbol", "element") if name in names), None)
    widest = max(len(row.split()) for row in rows)
    if names and widest > len(names):
        several = widest > len(names) + 1
        beside.unread.append(
            f"columns {len(names) + 1} to {widest}, which have no name" if several else f"column {widest}, which has no name"
        )
    for k, row in enumerate(rows):
        words = row.split()
        if column is not None and column < len(words) and words[column].capitalize() in ISOTOPES:
            beside.isotopes[k] = words[column].capitalize()
            words[column] = "H"
            row = " ".join(words)
        out.append(row)
    return out, beside


def readable_poscar(text: str, where: str) -> tuple[str, list[Beside]]:
    """POSCAR or CONTCAR as ASE reads it, and what stands beside it.

    Raises:
        SimulationError: velocities in lattice coordinates, which ASE takes for Cartesian ones.
    """
    lines, beside = text.splitlines(), Beside(velocities=True)
    if len(lines) < 8 or lines[5].split()[:1] == [] or lines[5].split()[0].isdigit():
        return text, []  # VASP 4 has no line of symbols
    symbols, counts = lines[5].split(), [int(word) for word in lines[6].split() if word.isdigit()]
    names = [re.split("[_/]", word)[0] for word in symbols]
    first = 0
    for name, count in zip(names, counts, strict=False):
        if name in ISOTOPES:
            beside.isotopes |= dict.fromkeys(range(first, first + count), name)
        first += count
    lines[5] = " ".join("H" if name in ISOTOPES else word for name, word in zip(names, symbols, strict=True))
    end = 8 + first + (lines[7].strip()[:1].lower() == "s")  # of the positions
    after = lines[end : end + 2]
    if len(after) == 2 and after[0].strip()[:1].lower() == "d" and len(after[1].split()) >= 3:
        raise SimulationError(
            "the velocities are in lattice coordinates, which are not read", where=where, hint="write them in Cartesian coordinates, Å/fs"
        )
    if after and after[0].strip()[:1].lower() == "l":
        beside.unread.append("the velocities of the lattice")
    return "\n".join(lines) + "\n", [beside]
