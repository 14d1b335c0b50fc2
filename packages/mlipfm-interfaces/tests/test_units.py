"""Units against scipy.constants and ase.units, quantities and elements against published tables."""

from __future__ import annotations

import pytest
from mlipfm_interfaces import units
from mlipfm_interfaces.errors import UnitError
from scipy import constants


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("HARTREE", constants.value("Hartree energy in eV")),
        ("BOHR", constants.value("Bohr radius") * 1e10),
        ("KB", constants.value("Boltzmann constant in eV/K")),
        ("AMU", constants.value("atomic mass constant")),
        ("COULOMB", constants.e / (4 * constants.pi * constants.epsilon_0) * 1e10),
        ("KCAL_MOL", 1e3 * constants.calorie / constants.N_A / constants.e),
        ("KJ_MOL", 1e3 / constants.N_A / constants.e),
        ("GPA", 1e9 / constants.e * 1e-30),
        ("BAR", 1e5 / constants.e * 1e-30),
        ("DEBYE", 1e-21 / constants.c / constants.e * 1e10),
        ("INVERSE_CM", constants.value("inverse meter-electron volt relationship") * 100),
        ("ACCELERATION", constants.e / constants.value("atomic mass constant") * 1e-10),
        ("KINETIC", constants.value("atomic mass constant") / constants.e * 1e10),
    ],
)
def test_constants_agree_with_codata(name, published):
    assert getattr(units, name) == pytest.approx(published, rel=2e-9)


@pytest.mark.parametrize(
    ("unit", "dimension", "ase_name"),
    [("Hartree", "energy", "Hartree"), ("kcal/mol", "energy", "kcal/mol"), ("kJ/mol", "energy", "kJ/mol"), ("Ry", "energy", "Rydberg"),
     ("bohr", "length", "Bohr"), ("nm", "length", "nm"), ("GPa", "stress", "GPa"), ("bar", "stress", "bar"), ("Debye", "dipole", "Debye")],
)  # fmt: skip
def test_factors_agree_with_ase(unit, dimension, ase_name):
    import ase.units

    wanted = {"kcal/mol": ase.units.kcal / ase.units.mol, "kJ/mol": ase.units.kJ / ase.units.mol}.get(ase_name)
    assert units.factor(unit, dimension) == pytest.approx(wanted or getattr(ase.units, ase_name), rel=1e-7)


def test_derived_factors_are_products_of_their_parts():
    energy, length = (lambda u: units.factor(u, "energy")), (lambda u: units.factor(u, "length"))
    assert units.factor("Hartree/bohr", "forces") == pytest.approx(energy("Hartree") / length("bohr"))
    assert units.factor("kJ/mol/nm", "forces") == pytest.approx(energy("kJ/mol") / length("nm"))
    assert units.factor("kcal/mol/Angstrom", "forces") == pytest.approx(energy("kcal/mol"))
    assert units.factor("Hartree/bohr^3", "stress") == pytest.approx(energy("Hartree") / length("bohr") ** 3)
    assert units.factor("kbar", "stress") == pytest.approx(1000 * units.factor("bar", "stress"))


def test_a_hydrogen_atom_is_half_a_hartree_and_a_chemical_bond_is_100_kcal():
    assert units.to_internal(-0.5, "Hartree", "energy") == pytest.approx(-13.6057, abs=1e-4)
    assert units.to_internal(100, "kcal/mol", "energy") == pytest.approx(4.33641, abs=1e-5)


def test_an_argon_atom_at_300_kelvin_moves_at_433_metres_a_second():
    """v = sqrt(3 kB T / m) = 432.8 m/s for m = 39.948 amu; 1 Angstrom/fs is 1e5 m/s."""
    speed = (3 * units.KB * 300 / 39.948 * units.ACCELERATION) ** 0.5
    assert speed * 1e5 == pytest.approx(432.8, abs=0.1)


def test_unknown_units_list_the_known_ones():
    with pytest.raises(UnitError, match=r"unit 'hartree' is not known for 'energy'; known: eV, meV, Hartree"):
        units.to_internal(1.0, "hartree", "energy")
    with pytest.raises(UnitError, match=r"'mass'; known: energy, length, forces"):
        units.factor("kg", "mass")
