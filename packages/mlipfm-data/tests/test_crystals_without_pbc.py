"""Forces of crystals of which a file does not say that they are periodic."""

from __future__ import annotations

from ase.build import bulk
from ase.calculators.emt import EMT
from mlipfm_data.label_checks.checks import inspect
from mlipfm_interfaces.structure import Structure


def crystals(pbc: bool) -> list[Structure]:
    """Displaced copper by effective medium theory, which is periodic whatever the frames say."""
    frames = []
    for k in range(6):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        frames.append(Structure(atoms.numbers, atoms.positions, atoms.cell.array, [pbc] * 3, level="emt", labels=labels))
    return frames


def test_forces_of_crystals_that_are_said_not_to_be_periodic_are_told_with_the_likely_cause() -> None:
    first, *_ = [f for f in inspect(crystals(False)) if f.severity == "fault"]
    assert first.code == "forces-misplaced"
    assert "are not periodic (pbc is F F F)" in str(first)
    assert [f for f in inspect(crystals(True)) if f.severity == "fault"] == []
