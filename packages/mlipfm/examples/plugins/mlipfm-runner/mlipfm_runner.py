"""`input.data` of RuNNer and n2p2 (J. Behler, Int. J. Quantum Chem. 115, 1032 (2015)): lines `atom x y z symbol charge 0 fx fy fz`, `energy` ..."""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.raw_frame import At, Conventions, RawFrame

suffixes = ("input.data",)
conventions = Conventions("RuNNer", {"length_unit": "bohr", "energy_unit": "Hartree", "forces_unit": "Hartree/bohr", "forces_sign": 1})


def frames(path: Path) -> Iterator[At]:
    with path.open() as file:
        words = map(str.split, file)
        for lines in iter(lambda: [line for line in takewhile(["end"].__ne__, words) if line], []):
            yield At("", _frame, [line[1:] for line in lines if line[0] == "atom"], [line for line in lines[1:] if line[0] != "atom"])


def _frame(atoms: list[list[str]], lines: list[list[str]]) -> RawFrame:
    cell, table = [line[1:] for line in lines if line[0] == "lattice"], np.array([line[:3] + line[4:] for line in atoms], dtype=float)
    info, arrays = {line[0]: " ".join(line[1:]) for line in lines if line[0] != "lattice"}, {"charges": table[:, 3], "forces": table[:, 5:]}
    return RawFrame(np.array([number(a[3]) for a in atoms]), table[:, :3], np.array(cell, float) if cell else None, None, info, arrays)
