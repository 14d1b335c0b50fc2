"""The calculator answers the question that is asked: no change of the atoms is too small or of the wrong kind to be noticed."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from mlipfm_interfaces.testing.closed_forms import ClosedFormConfig, Morse
from mlipfm_md import MlipfmCalculator

STATES = ("total_charge", "spin_multiplicity")


def crystal() -> Atoms:
    rng = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [0, 1.5, 1.5], [1.5, 0, 1.5], [1.5, 1.5, 0]]) + 0.1 * rng.normal(size=(4, 3))
    return Atoms("CCOO", positions, cell=[3.4, 3.5, 3.6], pbc=True, info={"charge": 0, "spin": 1})


def moved(atoms: Atoms) -> None:
    atoms.positions[2, 1] += 1e-7


def strained(atoms: Atoms) -> None:
    atoms.set_cell(np.diag([3.4, 3.5, 3.6 + 1e-6]), scale_atoms=False)


def opened(atoms: Atoms) -> None:
    atoms.pbc = (True, True, False)


def exchanged(atoms: Atoms) -> None:
    atoms.numbers[[1, 2]] = atoms.numbers[[2, 1]]


def charged(atoms: Atoms) -> None:
    atoms.info.update(charge=2)


def excited(atoms: Atoms) -> None:
    atoms.info["spin"] = 3


@pytest.mark.parametrize("change", [moved, strained, opened, exchanged, charged, excited], ids=lambda f: f.__name__)
def test_an_answer_after_a_change_is_that_of_a_fresh_calculator_and_so_is_the_one_after_going_back(change):
    potential = Morse(ClosedFormConfig(conditions=STATES))
    atoms = crystal()
    atoms.calc = MlipfmCalculator(potential)
    before = (atoms.get_potential_energy(), atoms.get_forces().copy())
    change(atoms)
    fresh = atoms.copy()
    fresh.calc = MlipfmCalculator(potential)
    assert atoms.get_potential_energy() == fresh.get_potential_energy() != before[0]
    assert np.array_equal(atoms.get_forces(), fresh.get_forces())
    back = crystal()
    back.calc = atoms.calc
    assert back.get_potential_energy() == before[0]
    assert np.array_equal(back.get_forces(), before[1])


def test_a_property_that_was_not_computed_before_belongs_to_the_atoms_as_they_are_now():
    atoms = crystal()
    atoms.calc = MlipfmCalculator(Morse())
    atoms.info.clear()
    atoms.get_potential_energy()
    moved(atoms)
    fresh = atoms.copy()
    fresh.calc = MlipfmCalculator(Morse())
    assert np.array_equal(atoms.get_stress(), fresh.get_stress())
    assert atoms.get_potential_energy() == fresh.get_potential_energy()
