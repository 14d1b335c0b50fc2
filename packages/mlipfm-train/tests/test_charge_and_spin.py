"""The same geometry in two states, on published data: a model that is told the state has at most a third of the force error of one that is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "charge_and_spin.py"


@pytest.fixture(scope="module")
def example():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("charge_and_spin", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.full
@pytest.mark.shared_data
def test_states_are_read_as_what_they_are_and_geometries_are_not_torn_apart(example, shared_data):
    folder = shared_data("charge_spin_spookynet")
    carbene, silver = (example.structures_of(folder / f"ase_{name}_2200.db") for name in ("carbene", "ag3"))
    assert {(s.total_charge, s.spin_multiplicity) for s in carbene} == {(0, 1), (0, 3)}
    assert {(s.total_charge, s.spin_multiplicity) for s in silver} == {(1, 1), (-1, 1)}
    parts = example.split(carbene)
    assert sum(map(len, parts)) == 2200
    geometries = [{example.geometry(s) for s in part} for part in parts]
    assert not geometries[0] & geometries[2]
    assert not geometries[1] & (geometries[0] | geometries[2])


@pytest.mark.full
@pytest.mark.shared_data
def test_conditioning_on_spin_cuts_the_force_error_of_carbene_to_a_third(example, shared_data, tmp_path):
    """Singlet and triplet of one geometry differ by 0.6 eV/Å on average. 300 steps are far from converged, and enough."""
    conditioned, without = example.compare(
        example.structures_of(shared_data("charge_spin_spookynet") / "ase_carbene_2200.db"), tmp_path, steps=300
    )
    assert conditioned.ci95[1] < without.ci95[0] / 3


@pytest.mark.full
@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["ag3", "carbene"])
def test_conditioning_cuts_the_force_error_of_silver_and_carbene_to_a_third(example, shared_data, tmp_path, name):
    conditioned, without = example.compare(
        example.structures_of(shared_data("charge_spin_spookynet") / f"ase_{name}_2200.db"), tmp_path, steps=2000
    )
    assert conditioned.ci95[1] < without.ci95[0] / 3
