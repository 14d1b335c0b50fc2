"""From measured ratios to units: which energies and forces of which units explain the slope, the stiffness of bonds and the absolute energies?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from mlipfm_interfaces.units import BAR, BOHR, GPA, HARTREE, KCAL_MOL, KJ_MOL

from .comparison import Agreement

# Absolute energies: totals of all electrons are known to a percent for every element, so their unit shows without forces or neighbours.

#: How far energies may lie from the estimate: below, and above for light and for heavy elements (relativity).
WINDOW, LIGHT, HEAVY = 0.985, 1.035, 1.15
#: Times the estimate, below which no energy in eV lies: relativity adds 0.15 at most, the bond of H2 0.1.
LOWEST = 1.5


def atom_energy(numbers: np.ndarray) -> np.ndarray:
    """Energy of free atoms with all electrons, eV: -0.768745 Z^(7/3) + Z²/2 - 0.2699 Z^(5/3) Hartree, from Thomas and Fermi with the corrections of
    Scott and of Schwinger (Englert, Semiclassical Theory of Atoms, 1988). Within 1 % from C to Ar (C: -37.6, exact -37.8 Hartree)."""
    z = np.asarray(numbers, dtype=np.float64)
    return HARTREE * (-0.768745 * z ** (7 / 3) + z**2 / 2 - 0.2699 * z ** (5 / 3))


def absolute_unit(energies: np.ndarray, atoms: np.ndarray, expected: np.ndarray, heavy: bool) -> str | None:
    """Unit that makes energies those of all electrons; None if no unit does (pseudopotentials, energies relative to atoms).

    Args:
        energies: [structures], numbers as read. atoms: [structures], how many. expected: [structures] eV, sums of `atom_energy`.
        heavy: whether elements beyond Ar are there. Where two units explain the numbers, both, joined by `|`.
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


#: eV in one unit, and how unusual it is (added to the cost of a hypothesis).
ENERGY = {
    "eV": (1.0, 0),
    "Hartree": (HARTREE, 4),
    "kcal/mol": (KCAL_MOL, 4),
    "kJ/mol": (KJ_MOL, 5),
    "Ry": (HARTREE / 2, 5),
    "meV": (1e-3, 6),
}
#: eV/Å in one unit.
FORCES = {
    "eV/Angstrom": (1.0, 0),
    "Hartree/bohr": (HARTREE / BOHR, 4),
    "kcal/mol/Angstrom": (KCAL_MOL, 4),
    "kJ/mol/nm": (KJ_MOL / 10, 6),
    "kJ/mol/Angstrom": (KJ_MOL, 6),
    "Ry/bohr": (HARTREE / 2 / BOHR, 5),
    "Hartree/Angstrom": (HARTREE, 6),
    "eV/bohr": (1 / BOHR, 6),
    "meV/Angstrom": (1e-3, 6),
}
#: Pairs that codes write together: one fault, not two.
PARTNERS = {"Hartree": ("Hartree/bohr", "Hartree/Angstrom"), "kcal/mol": ("kcal/mol/Angstrom",), "kJ/mol": ("kJ/mol/nm", "kJ/mol/Angstrom"),
            "Ry": ("Ry/bohr",), "meV": ("meV/Angstrom",)}  # fmt: skip
#: eV/Å³ in one unit.
STRESS = {"eV/Angstrom^3": (1.0, 0), "kbar": (GPA / 10, 3), "GPa": (GPA, 3), "bar": (BAR, 5), "Hartree/bohr^3": (HARTREE / BOHR**3, 5)}

PER_ATOM = "eV per atom"
#: Relative uncertainty of a slope that is never beaten, and of the stiffness of bonds.
SLOPE_FLOOR, STIFFNESS_ERROR = 0.05, 0.22
#: Relative uncertainty of a slope for each unit of `Agreement.bending`, and at most (right sets of long steps have slopes of 0.5 to 1.6).
BENDING_ERROR, MOST_BENT = 0.3, 0.35
#: eV/Å; sets whose median force is larger than this are rare, which decides where slopes leave two units.
ORDINARY = 2.0
#: Cost of another unit than that of the absolute energies: of three compositions and more; of fewer, whose valence energies may lie there by chance
#: (each unit's window is 5 % wide).
ABSOLUTE, CHANCE = 60.0, 6.0
#: Cost (squared deviations) above which no hypothesis explains the figures.
UNEXPLAINED = 20.0


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Attributes:
        slope: dE against work. slope_per_atom: the same with N dE. atoms: sizes, if all pairs have one.
        stiffness: forces over what bonds of hydrogen ask for. absolute: unit of the energies by their absolute values (`scale.absolute_unit`).
        compositions: different ratios of elements among them. size: eV/Å, median force.
    """

    slope: Agreement
    slope_per_atom: Agreement
    stiffness: float | None = None
    absolute: str | None = None
    compositions: int = 0
    size: float | None = None


@dataclass(frozen=True)
class UnitGuess:
    """One explanation: units of the numbers, sign of the forces, its cost."""

    energy: str
    forces: str
    sign: int
    cost: float
    misfit: float

    @property
    def clean(self) -> bool:
        return self.energy == "eV" and self.forces == "eV/Angstrom" and self.sign == 1


def unit_guesses(evidence: Evidence) -> list[UnitGuess]:
    """Return all explanations, the cheapest first."""
    out = []
    for energy, forces, sign in itertools.product((*ENERGY, PER_ATOM), FORCES, (1, -1)):
        misfit = _misfit(evidence, energy, forces, sign)
        rarity = _rarity(energy, forces) + (0 if sign == 1 else 4)
        out.append(UnitGuess(energy, forces, sign, misfit + rarity, misfit))
    return sorted(out, key=lambda item: item.cost)


def _rarity(energy: str, forces: str) -> float:
    first = ENERGY[energy][1] if energy in ENERGY else 4
    second = FORCES[forces][1]
    return max(first, second) + 0.6 if forces in PARTNERS.get(energy, ()) else first + second


def _misfit(evidence: Evidence, energy: str, forces: str, sign: int) -> float:
    per_atom = energy == PER_ATOM
    unit_e, unit_f = ENERGY.get(energy, (1.0, 0))[0], FORCES[forces][0]
    total = 0.0
    used, other = (evidence.slope_per_atom, evidence.slope) if per_atom else (evidence.slope, evidence.slope_per_atom)
    if used.tells:
        total += log_deviation(used, sign * unit_f / unit_e)
        total += (max(0.0, other.fit - used.fit) / 0.03) ** 2
    elif other.tells:
        total += 100.0
    if evidence.size is not None and evidence.size * unit_f > ORDINARY:
        total += min(3.0, math.log(evidence.size * unit_f / ORDINARY) ** 2)
    if evidence.stiffness is not None:
        total += _squared(evidence.stiffness * sign, 1 / unit_f, STIFFNESS_ERROR)
    if evidence.absolute is not None and energy not in evidence.absolute.split("|"):
        total += ABSOLUTE if evidence.compositions >= 3 else CHANCE
    return total


def log_deviation(slope: Agreement, expected: float) -> float:
    """Squared deviation of a slope, in its uncertainties."""
    return _squared(slope.slope, expected, _slope_error(slope))


def _slope_error(slope: Agreement) -> float:
    """Relative uncertainty, of scatter and of the trapezoid."""
    return max(SLOPE_FLOOR, 2 * slope.error, min(MOST_BENT, BENDING_ERROR * slope.bending))


def _squared(measured: float, predicted: float, error: float) -> float:
    """Squared deviation of the logarithms; the wrong sign costs more than any factor."""
    if measured * predicted <= 0 or not math.isfinite(measured):
        return 400.0
    return min(400.0, (math.log(measured / predicted) / error) ** 2)


@dataclass(frozen=True)
class StressUnitGuess:
    """Unit of stress numbers (`virial`: energy, not divided by the volume), sign, and how well it fits."""

    unit: str
    sign: int
    cost: float

    @property
    def clean(self) -> bool:
        return self.unit == "eV/Angstrom^3" and self.sign == 1


def stress_unit_guesses(ratio: float, volume: np.ndarray | None, error: float) -> list[StressUnitGuess]:
    """Explanations of `ratio` = true stress over the numbers; `volume`: of the cells, Å³."""
    out = []
    for unit, (size, rarity) in STRESS.items():
        out += [
            StressUnitGuess(unit, sign, _squared(ratio * sign, size, error) + rarity + (0 if sign == 1 or unit == "kbar" else 3))
            for sign in (1, -1)
        ]
    if volume is not None and len(volume):
        size = float(1 / np.median(volume))
        out += [
            StressUnitGuess("virial", sign, _squared(ratio * sign, size, max(error, 0.3)) + 3 + (0 if sign == -1 else 1))
            for sign in (1, -1)
        ]
    return sorted(out, key=lambda item: item.cost)
