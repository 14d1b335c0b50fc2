"""Every entry of the tables of units and quantities, by numbers that stand in no other table of the project."""

from __future__ import annotations

import pytest
from mlipfm_interfaces import units
from mlipfm_interfaces.quantities import QUANTITIES

#: Published values (CODATA 2018) and definitions, to the digits given.
PUBLISHED = {
    "energy": {
        "eV": 1.0, "meV": 0.001, "Hartree": 27.211386246, "kcal/mol": 0.0433641043, "kJ/mol": 0.0103642697, "Ry": 13.605693123,
        "mRy": 0.013605693123,
        "cm^-1": 1.23984198e-4,
    },
    "length": {"Angstrom": 1.0, "bohr": 0.529177211, "nm": 10.0, "pm": 0.01},
    "forces": {
        "eV/Angstrom": 1.0, "meV/Angstrom": 0.001, "Hartree/bohr": 51.4220675, "Hartree/Angstrom": 27.211386246,
        "kcal/mol/Angstrom": 0.0433641043, "kJ/mol/nm": 0.00103642697, "kJ/mol/Angstrom": 0.0103642697,
        "Ry/bohr": 25.7110337, "mRy/bohr": 0.0257110337, "eV/bohr": 1.88972612, "eV/nm": 0.1,
    },
    "stress": {"eV/Angstrom^3": 1.0, "GPa": 0.00624150907, "kbar": 6.24150907e-4, "bar": 6.24150907e-7, "atm": 6.32420906e-7, "Pa": 6.24150907e-12,
        "Hartree/bohr^3": 183.631536, "Ry/bohr^3": 91.815768},
    "dipole": {"e Angstrom": 1.0, "Debye": 0.208194333, "e bohr": 0.529177211, "e nm": 10.0},
    "polarizability": {
        "e^2 Angstrom^2/eV": 1.0, "Angstrom^3": 0.0694461542, "bohr^3": 0.0102908583, "e^2 bohr^2/Hartree": 0.0102908583,
    },
    "time": {"fs": 1.0, "ps": 1e3, "ns": 1e6},
}  # fmt: skip


@pytest.mark.parametrize("dimension", PUBLISHED)
def test_units_have_their_published_sizes(dimension):
    for unit, size in PUBLISHED[dimension].items():
        assert units.factor(unit, dimension) == pytest.approx(size, rel=1e-8), unit
        assert units.to_internal(-2.0, unit, dimension) == pytest.approx(-2.0 * size, rel=1e-8)


def test_no_unit_is_without_a_published_size():
    assert {name: set(table) for name, table in units._FACTORS.items()} == {name: set(table) for name, table in PUBLISHED.items()}


@pytest.mark.parametrize(
    ("layout", "shape", "keys"),
    [
        ("system", (), "energy band_gap homo lumo weight"),
        ("system", (3,), "dipole"),
        ("system", (3, 3), "stress polarizability quadrupole"),
        ("atom", (), "atomic_energies charges spin_charges magnetic_moments shieldings forces_weight fixed"),
        ("atom", (3,), "forces noise"),
        ("atom", (3, 3), "born_charges"),
        ("probe", (), "hessian_rows hvp"),
        ("pair", (), "bond_orders"),
    ],
)  # fmt: skip
def test_quantities_belong_to_what_they_are_of(layout, shape, keys):
    found = {key for key, kind in QUANTITIES.items() if (kind.layout, kind.shape) == (layout, shape)}
    assert set(keys.split()) <= found
    assert not {key for key in found - set(keys.split()) if QUANTITIES[key].target}


def test_units_and_companions_of_quantities():
    expected = {
        "energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3", "atomic_energies": "eV", "dipole": "e Angstrom",
        "polarizability": "e^2 Angstrom^2/eV", "charges": "e", "spin_charges": "e", "magnetic_moments": "Bohr magneton", "born_charges": "e",
        "hessian_rows": "eV/Angstrom^2", "hvp": "eV/Angstrom^2", "quadrupole": "e Angstrom^2", "band_gap": "eV", "homo": "eV", "lumo": "eV",
        "shieldings": "ppm", "noise": "Angstrom", "bond_orders": "1",
    }  # fmt: skip
    assert {key: QUANTITIES[key].unit for key in expected} == expected
    assert (QUANTITIES["hessian_rows"].companion, QUANTITIES["hvp"].companion) == ("hessian_rows_index", "hvp_probe")
    assert {key for key, kind in QUANTITIES.items() if not kind.target} >= {"weight", "forces_weight", "fixed"}
