"""Elements: symbols, standard atomic weights (IUPAC 2016; longest-lived isotope where none) and covalent radii (Cordero 2008)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from .errors import UnknownElementError

_ROWS = [line.split(",") for line in (Path(__file__).parent / "elements.csv").read_text(encoding="utf-8").split()[1:]]
_SYMBOLS = tuple(symbol for symbol, _, _ in _ROWS)

N_ELEMENTS = len(_SYMBOLS)

#: Atomic masses in amu, by atomic number; entry 0 is unused.
MASSES = np.array([0.0, *(float(mass) for _, mass, _ in _ROWS)])
MASSES.setflags(write=False)

#: Covalent radii in Angstrom, by atomic number; 0.2 (entry 0 and elements without data) means unknown.
COVALENT_RADII = np.array([0.2, *(float(radius) for _, _, radius in _ROWS)])
COVALENT_RADII.setflags(write=False)

#: Symbols of hydrogen's isotopes -> (atomic number, mass of the atom in amu; AME2020, doi:10.1088/1674-1137/abddaf).
ISOTOPES = {"D": (1, 2.014101777844), "T": (1, 3.01604928132)}

_NUMBERS = {name: z for z, name in enumerate(_SYMBOLS, start=1)}


def symbol(atomic_number: int) -> str:
    """Return the symbol of an element: 6 -> `C`. Raises `UnknownElementError` outside 1..118."""
    if not 1 <= atomic_number <= N_ELEMENTS:
        raise UnknownElementError(f"atomic number {atomic_number} does not exist", hint="use 1 (H) to 118 (Og)")
    return _SYMBOLS[atomic_number - 1]


def formula(atomic_numbers: ArrayLike) -> str:
    """Return the composition in alphabetical order: `C2H6O`."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    parts = sorted((symbol(z), n) for z, n in zip(numbers.tolist(), counts.tolist(), strict=True))
    return "".join(name + (str(n) if n > 1 else "") for name, n in parts)


def number(name: str) -> int:
    """Return atomic number of a symbol: `C` -> 6. Raises `UnknownElementError` for names that are no element."""
    if name not in _NUMBERS:
        hint = f"did you mean {name.capitalize()!r}?" if name.capitalize() in _NUMBERS else "use symbols such as H, C, Fe"
        if name.capitalize() in ISOTOPES:
            hint = "an isotope of hydrogen has its energies: write H (`mlipfm md run` reads D and T, with their masses)"
        raise UnknownElementError(f"no element is named {name!r}", hint=hint)
    return _NUMBERS[name]
