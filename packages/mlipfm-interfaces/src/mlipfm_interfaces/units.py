"""Units. Inside mlipfm: Å, eV, fs, amu, e, K, eV/Å, eV/Å³, V/Å. Other units exist only in files and options.

One set of constants: CODATA 2018, the set of scipy.constants 1.11-1.14 and of tblite's parametrisation era; the difference to CODATA 2022
is below 2e-9 relative for every figure here.
"""

from __future__ import annotations

from .errors import UnitError

HARTREE = 27.211386245988  # eV
BOHR = 0.529177210903  # Angstrom
ELEMENTARY_CHARGE = 1.602176634e-19  # C
KB = 1.380649e-23 / ELEMENTARY_CHARGE  # eV/K
AVOGADRO = 6.02214076e23  # 1/mol
AMU = 1.66053906660e-27  # kg
COULOMB = HARTREE * BOHR  # e^2/(4 pi eps0) = 14.39964... eV Angstrom
KCAL_MOL = 4184.0 / (ELEMENTARY_CHARGE * AVOGADRO)  # eV
KJ_MOL = 1000.0 / (ELEMENTARY_CHARGE * AVOGADRO)  # eV
GPA = 1e9 * 1e-30 / ELEMENTARY_CHARGE  # eV/Angstrom^3
BAR = GPA * 1e-4
DEBYE = 1e-11 / (299792458.0 * ELEMENTARY_CHARGE)  # e Angstrom
INVERSE_CM = 1.2398419843320e-4  # eV

#: Acceleration in Å/fs² caused by 1 eV/Å on 1 amu: 9.6485e-3.
ACCELERATION = ELEMENTARY_CHARGE / AMU * 1e-10

#: Energy in eV of 1 amu moving at 1 Å/fs: 103.64...
KINETIC = 1.0 / ACCELERATION

_FACTORS: dict[str, dict[str, float]] = {
    "energy": {
        "eV": 1.0,
        "meV": 1e-3,
        "Hartree": HARTREE,
        "kcal/mol": KCAL_MOL,
        "kJ/mol": KJ_MOL,
        "Ry": HARTREE / 2,
        "mRy": HARTREE / 2000,
        "cm^-1": INVERSE_CM,
    },
    "length": {"Angstrom": 1.0, "bohr": BOHR, "nm": 10.0, "pm": 0.01},
    "forces": {
        "eV/Angstrom": 1.0,
        "meV/Angstrom": 1e-3,
        "Hartree/bohr": HARTREE / BOHR,
        "Hartree/Angstrom": HARTREE,
        "kcal/mol/Angstrom": KCAL_MOL,
        "kJ/mol/Angstrom": KJ_MOL,
        "kJ/mol/nm": KJ_MOL / 10,
        "Ry/bohr": HARTREE / 2 / BOHR,
        "mRy/bohr": HARTREE / 2000 / BOHR,
        "eV/bohr": 1 / BOHR,
        "eV/nm": 0.1,
    },
    "stress": {
        "eV/Angstrom^3": 1.0,
        "GPa": GPA,
        "kbar": GPA / 10,
        "bar": BAR,
        "atm": 1.01325 * BAR,
        "Pa": BAR * 1e-5,
        "Hartree/bohr^3": HARTREE / BOHR**3,
        "Ry/bohr^3": HARTREE / 2 / BOHR**3,
    },
    "dipole": {"e Angstrom": 1.0, "Debye": DEBYE, "e bohr": BOHR, "e nm": 10.0},
    "polarizability": {
        "e^2 Angstrom^2/eV": 1.0,
        "Angstrom^3": 1 / COULOMB,
        "bohr^3": BOHR**3 / COULOMB,
        "e^2 bohr^2/Hartree": BOHR**2 / HARTREE,
    },
    "time": {"fs": 1.0, "ps": 1000.0, "ns": 1e6},
}


def to_internal(value: float, unit: str, dimension: str) -> float:
    """Return `value` given in `unit`, in the internal unit of `dimension` (energy, length, forces, stress, dipole, polarizability, time).

    Raises:
        UnitError: for a unit that is not known for this dimension; the message lists those that are.
    """
    return value * factor(unit, dimension)


def known_units(dimension: str) -> tuple[str, ...]:
    """Return names of the units of a dimension."""
    return tuple(_FACTORS[dimension])


def factor(unit: str, dimension: str) -> float:
    """Return the number of internal units in one `unit` of `dimension`. Raises `UnitError` as `to_internal` does."""
    try:
        return _FACTORS[dimension][unit]
    except KeyError:
        known = ", ".join(_FACTORS.get(dimension, _FACTORS))
        raise UnitError(f"unit {unit!r} is not known for {dimension!r}", hint=f"known: {known}") from None
