from __future__ import annotations

import ase.data
import numpy as np
import pytest
from mlipfm_interfaces.elements import COVALENT_RADII, ISOTOPES, MASSES, N_ELEMENTS, number, symbol
from mlipfm_interfaces.errors import UnknownElementError


def test_symbols_masses_and_radii_are_those_of_ase():
    assert [symbol(z) for z in range(1, N_ELEMENTS + 1)] == ase.data.chemical_symbols[1:]
    np.testing.assert_allclose(MASSES[1:], ase.data.atomic_masses_iupac2016[1:], atol=1e-4)
    np.testing.assert_allclose(COVALENT_RADII[1:97], ase.data.covalent_radii[1:97])


def test_number_and_symbol_are_inverse():
    assert [number(symbol(z)) for z in range(1, 119)] == list(range(1, 119))


def test_tables_cannot_be_changed():
    for table in (MASSES, COVALENT_RADII):
        with pytest.raises(ValueError, match="read-only"):
            table[1] = 2.0


def test_what_is_no_element_is_refused():
    with pytest.raises(UnknownElementError, match="atomic number 119 does not exist"):
        symbol(119)
    with pytest.raises(UnknownElementError, match="no element is named 'cu'; did you mean 'Cu'"):
        number("cu")
    with pytest.raises(UnknownElementError, match="use symbols such as H"):
        number("Water")


def test_an_isotope_of_hydrogen_is_no_element_and_the_message_says_what_to_write():
    with pytest.raises(UnknownElementError, match="isotope of hydrogen has its energies: write H"):
        number("D")
    assert ISOTOPES["D"][1] / MASSES[1] == pytest.approx(2, rel=2e-3)
