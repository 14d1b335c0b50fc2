"""Absolute energies: totals of all electrons are known to a percent for every element, so their unit shows without forces or neighbours."""

from __future__ import annotations

import numpy as np
from mlipfm_interfaces.units import HARTREE

from .naming import ENERGY, PER_ATOM

#: How far energies may lie from the estimate: below, and above for light and for heavy elements (relativity).
WINDOW, LIGHT, HEAVY = 0.985, 1.035, 1.15


def atom_energy(numbers: np.ndarray) -> np.ndarray:
    """Energy of free atoms with all electrons, eV: -0.768745 Z^(7/3) + Z²/2 - 0.2699 Z^(5/3) Hartree, from Thomas and Fermi with the corrections of
    Scott and of Schwinger (Englert, Semiclassical Theory of Atoms, 1988). Within 1 % from C to Ar (C: -37.6, exact -37.8 Hartree)."""
    z = np.asarray(numbers, dtype=np.float64)
    return HARTREE * (-0.768745 * z ** (7 / 3) + z**2 / 2 - 0.2699 * z ** (5 / 3))


def absolute_unit(energies: np.ndarray, atoms: np.ndarray, expected: np.ndarray, heavy: bool) -> str | None:
    """Unit that makes energies those of all electrons; None if no unit does (pseudopotentials, energies relative to atoms).

    Args:
        energies: [structures], numbers as read. atoms: [structures], how many. expected: [structures] eV, sums of `atom_energy`.
        heavy: whether elements beyond Ar are there. Where two readings explain the numbers, both, joined by `|`.
    """
    if len(energies) == 0 or not np.isfinite(energies).all():
        return None
    ratio = energies / expected
    fits = []
    for name, size in [(unit, size) for unit, (size, _) in ENERGY.items()] + [(PER_ATOM, None)]:
        scaled = ratio * (atoms if size is None else size)
        low, high = np.quantile(scaled, [0.1, 0.9])
        if low > WINDOW and high < (HEAVY if heavy else LIGHT) and (size is not None or atoms.max() > 1):
            fits.append((abs(float(np.median(scaled)) - 1), name))
    if not fits:
        return None
    if any(name == "eV" for _, name in fits):
        return "eV"
    return "|".join(name for _, name in sorted(fits))
