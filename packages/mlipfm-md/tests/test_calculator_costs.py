"""What an ASE simulation pays for: one call of the model for each geometry, whatever is asked of it and in what order, and few neighbour lists."""

from __future__ import annotations

import mlipfm_interfaces.neighbors
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.structure import Structure
from mlipfm_md import MlipfmCalculator


class Costs:
    """Counts model calls, neighbour lists and hashed structures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calculator: MlipfmCalculator) -> None:
        self.calls = self.lists = self.hashes = 0
        calculator.potential.register_forward_hook(lambda *_: self.add("calls"))
        pairs, key = mlipfm_interfaces.neighbors._pairs, Structure.key.func
        monkeypatch.setattr(mlipfm_interfaces.neighbors, "_pairs", lambda *words: (self.add("lists"), pairs(*words))[1])
        monkeypatch.setattr(Structure.key, "func", lambda s: (self.add("hashes"), key(s))[1])

    def add(self, what: str) -> None:
        setattr(self, what, getattr(self, what) + 1)

    def spent(self) -> tuple[int, int, int]:
        """Calls, lists and hashes since it was asked last."""
        now = self.calls, self.lists, self.hashes
        self.calls = self.lists = self.hashes = 0
        return now


@pytest.fixture
def diamond():
    atoms = bulk("C", "diamond", 3.6, cubic=True)
    atoms.rattle(0.03, seed=0)
    atoms.calc = MlipfmCalculator(build("painn", {"elements": ["C"], "levels": ["any"], "backbone": {"channels": 8, "layers": 1}}))
    return atoms


@pytest.fixture
def costs(diamond, monkeypatch):
    return Costs(monkeypatch, diamond.calc)


def test_a_step_of_a_simulation_is_one_call_and_neither_searches_neighbours_nor_hashes(diamond, costs):
    diamond.get_forces()
    assert costs.spent()[:2] == (1, 1)
    for _ in range(3):
        diamond.positions += 0.01 * np.random.default_rng(0).normal(size=diamond.positions.shape)
        diamond.get_forces()
        diamond.get_potential_energy()
        assert costs.spent() == (1, 0, 0)


def test_a_stress_that_is_asked_after_the_forces_is_made_with_them_from_the_second_step_on(diamond, costs):
    diamond.get_forces()
    diamond.get_stress()
    assert costs.spent() == (2, 1, 1)
    diamond.positions[0] += 0.02
    diamond.get_forces()
    diamond.get_stress()
    assert costs.spent() == (1, 0, 0)


def test_a_stress_that_is_asked_first_brings_energy_and_forces(diamond, costs):
    diamond.get_stress()
    diamond.get_forces()
    diamond.get_potential_energy()
    assert costs.spent()[:2] == (1, 1)


def test_a_change_of_info_that_the_model_does_not_read_costs_nothing(diamond, costs):
    before = diamond.get_forces()
    costs.spent()
    diamond.info["note"] = "of mine"
    assert np.array_equal(diamond.get_forces(), before)
    assert costs.spent() == (0, 0, 0)


def test_relaxing_a_cell_takes_one_call_for_each_geometry(diamond, costs):
    optimizer = BFGS(FrechetCellFilter(diamond), logfile=None)
    optimizer.run(fmax=1e-9, steps=3)
    calls, lists, _ = costs.spent()
    assert 3 <= calls <= 4
    assert lists < calls


def test_a_barostat_that_asks_forces_and_then_the_stress_pays_once_for_each_cell(diamond, costs):
    diamond.get_forces()
    diamond.get_stress()
    costs.spent()
    diamond.set_cell(1.01 * diamond.cell, scale_atoms=True)
    diamond.get_forces()
    diamond.get_stress()
    assert costs.spent()[:2] == (1, 0)


def test_an_atom_that_has_moved_by_half_the_skin_costs_one_neighbour_list(diamond, costs):
    diamond.get_forces()
    costs.spent()
    diamond.positions[0] += [0.26, 0, 0]
    diamond.get_forces()
    assert costs.spent() == (1, 1, 0)


def test_what_one_system_was_asked_is_not_asked_of_another(diamond, costs):
    diamond.get_stress()
    water = molecule("CH4")
    del water[[1, 2, 3, 4]]
    water.calc = diamond.calc
    assert np.isfinite(water.get_forces()).all()


def test_positions_that_are_changed_in_place_later_do_not_change_the_answer(diamond):
    diamond.get_forces()
    diamond.positions[0] += 0.02
    diamond.get_forces()
    kept = diamond.calc.atoms.positions.copy()
    diamond.positions[0] += 0.02
    assert (diamond.calc.atoms.positions == kept).all()


def test_a_moved_atom_that_is_not_finite_is_refused_as_in_a_new_structure(diamond):
    from mlipfm_interfaces.errors import InvalidStructureError

    diamond.get_forces()
    diamond.positions[3, 1] = np.nan
    with pytest.raises(InvalidStructureError, match="atom 3"):
        diamond.get_forces()
