from __future__ import annotations

import pytest
from mlipfm_interfaces import units
from mlipfm_interfaces.errors import UnknownQuantityError
from mlipfm_interfaces.quantities import QUANTITIES, quantity


@pytest.mark.parametrize("key", list(QUANTITIES))
def test_every_quantity_has_unit_meaning_and_shape(key):
    kind = QUANTITIES[key]
    assert kind.key == key
    assert kind.unit
    assert len(kind.meaning) > 10
    assert kind.layout in ("system", "atom", "pair", "probe")
    assert all(size == 3 for size in kind.shape)
    assert (kind.companion is not None) == (kind.layout == "probe")


def test_internal_units_of_the_table_are_those_of_the_unit_module():
    for key, dimension in (("energy", "energy"), ("forces", "forces"), ("stress", "stress"), ("dipole", "dipole")):
        assert units.factor(QUANTITIES[key].unit, dimension) == 1.0


def test_companions_are_no_quantities():
    companions = [kind.companion for kind in QUANTITIES.values() if kind.companion]
    assert len(set(companions)) == len(companions)
    assert not set(companions) & set(QUANTITIES)


def test_what_adds_up_for_two_far_systems_is_extensive():
    assert {key for key, kind in QUANTITIES.items() if kind.extensive} == {"energy", "dipole", "polarizability", "quadrupole"}


def test_a_misspelt_quantity_names_the_nearest():
    with pytest.raises(UnknownQuantityError, match="no quantity is named 'force'; did you mean 'forces'"):
        quantity("force")
    with pytest.raises(UnknownQuantityError, match="known: energy, forces"):
        quantity("zzz")


def test_weights_and_constraints_are_no_targets_of_a_model():
    assert {key for key, kind in QUANTITIES.items() if not kind.target} == {
        "weight",
        "forces_weight",
        "fixed",
        "masked",
        "original_element",
    }
