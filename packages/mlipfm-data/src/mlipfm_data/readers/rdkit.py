"""Readers of molecules with bonds, through RDKit: SDF files (QM9, PCQM4Mv2, GDB) and CSV tables of CXSMILES with coordinates (PCQM4Mv2).

Total charge is the sum of the formal charges; the multiplicity is given by neither format and stays open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from mlipfm_interfaces.errors import InvalidStructureError, PluginError, UnreadableFileError
from mlipfm_interfaces.raw_frame import At, RawFrame

from .compressed import opened
from .tables import columns, rows

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Bytes of one molecule in an SDF file.
LARGEST_BLOCK = 1 << 24
#: Names of the columns that hold SMILES, and of properties that are labels; eV where these tables use it.
_SMILES = ("cxsmiles", "smiles", "SMILES")


class SdfReader:
    """Molecules of .sdf and .mol files, plain or compressed; those without three dimensions are refused.

    Data fields (`> <name>`) that are numbers count as values of the frame.
    """

    suffixes = (".sdf", ".sdf.gz", ".sdf.xz", ".sdf.bz2", ".mol")

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the molecules. Raises `UnreadableFileError`: it ends inside a molecule. `PluginError`: RDKit is not installed."""
        _require_rdkit()
        from rdkit import Chem

        with opened(path) as stream:
            for block in _blocks(stream):
                yield At("", _frame, Chem.MolFromMolBlock(block, sanitize=False, removeHs=False), _fields(block), None)


class CxsmilesReader:
    """Molecules of CSV tables whose column `smiles` or `cxsmiles` holds CXSMILES with coordinates (`C |(0,0,0;...)|`); others are refused.

    Other columns that are numbers count as values of the frame. Group: the SMILES.
    """

    suffixes = (".csv",)

    def recognises(self, path: Path) -> bool:
        """Return whether the table has a column of SMILES, and coordinates in its first row."""
        column = _column(path)
        first = next(rows(path, column), {}) if column in columns(path) else {}
        return "|(" in str(first.get(column))

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the rows. Raises `UnreadableFileError`: no such column. `PluginError`: RDKit is not installed."""
        _require_rdkit()
        from rdkit import Chem

        settings = Chem.SmilesParserParams()
        settings.sanitize, settings.removeHs = False, False
        column = _column(path)
        for index, row in enumerate(rows(path, column)):
            text = row.pop(column) or ""
            yield At(f"row {index + 1}", _frame, Chem.MolFromSmiles(text, settings), row, text.split(" |")[0])


def _require_rdkit() -> None:
    try:
        from rdkit import RDLogger
    except ImportError:
        raise PluginError("RDKit is not installed", hint="pip install 'mlipfm-data[rdkit]'") from None
    RDLogger.DisableLog("rdApp.*")  # it would print every refusal a second time


def _blocks(stream: BinaryIO) -> Iterator[str]:
    """Yield the molecules of an SDF file as text, between the lines `$$$$`."""
    lines: list[bytes] = []
    size = 0
    for line in stream:
        if line.startswith(b"$$$$"):
            yield b"".join(lines).decode(errors="replace")
            lines, size = [], 0
            continue
        lines.append(line)
        size += len(line)
        if size > LARGEST_BLOCK:
            raise UnreadableFileError(f"a molecule is longer than {LARGEST_BLOCK} bytes", hint="is it an SDF file?")
    rest = b"".join(lines).decode(errors="replace")
    if rest.strip() and "M  END" not in rest:
        raise UnreadableFileError("the file ends inside a molecule", hint="is it complete?")
    if rest.strip():
        yield rest


def _fields(block: str) -> dict[str, str]:
    """Data fields behind the molecule: `> <name>`, then its value."""
    lines = block[block.find("M  END") :].split("\n")
    heads = [(k, line) for k, line in enumerate(lines) if line.startswith(">") and "<" in line]
    return {
        line[line.index("<") + 1 : line.rindex(">")]: lines[k + 1].strip()
        for k, line in heads
        if k + 1 < len(lines) and line.rindex(">") > 0
    }


def _column(path: Path) -> str:
    found = columns(path)
    return next((name for name in _SMILES if name in found), _SMILES[0])


def _frame(molecule: Mol | None, values: Mapping[str, Any], group: str | None) -> RawFrame:
    if molecule is None:
        raise InvalidStructureError("RDKit cannot read this molecule", hint="check it")
    if not molecule.GetNumConformers() or not molecule.GetConformer().Is3D():
        raise InvalidStructureError("the molecule has no coordinates in three dimensions", hint="make some: mlipfm_data.conformers")
    atoms = list(molecule.GetAtoms())
    if any(atom.GetTotalNumHs() for atom in atoms if not atom.GetNoImplicit()) and not any(atom.GetAtomicNum() == 1 for atom in atoms):
        raise InvalidStructureError("the molecule has no hydrogen atoms, only their number", hint="write it with all atoms")
    info: dict[str, Any] = {"charge": sum(atom.GetFormalCharge() for atom in atoms)}
    for key, value in values.items():
        try:
            info[str(key)] = float(value)
        except (TypeError, ValueError):
            if value:
                info[str(key)] = str(value)
    numbers = np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64)
    positions = np.asarray(molecule.GetConformer().GetPositions(), dtype=np.float64)
    return RawFrame(numbers, positions, info=info, group=group)
