"""The ASE calculator: values, units and signs, cache on everything that is used, nothing written to the user's Atoms."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import BFGS
from mlipfm_interfaces.checkpoint import build, save_potential
from mlipfm_interfaces.errors import ImplausibleStructureWarning, InvalidStructureError, LevelError, UnknownElementError
from mlipfm_md import MlipfmCalculator


def charged_painn(levels=("gfn2-xtb",)):
    return build(
        "painn",
        {
            "elements": ["H", "C", "O"],
            "levels": list(levels),
            "conditions": ["total_charge", "spin_multiplicity"],
            "dtype": "float64",
            "backbone": {"channels": 8, "layers": 2},
        },
    )


@pytest.fixture(scope="module")
def potential():
    return charged_painn()


def water(**info):
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


def test_forces_are_minus_the_numerical_gradient(potential):
    atoms = water()
    atoms.calc = MlipfmCalculator(potential)
    assert atoms.get_forces() == pytest.approx(calculate_numerical_forces(atoms, eps=1e-4), abs=1e-6)


def test_stress_has_ases_order_and_sign(potential):
    atoms = bulk("C", "diamond", 3.5, cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = MlipfmCalculator(potential)
    assert atoms.get_stress() == pytest.approx(calculate_numerical_stress(atoms, eps=1e-5), abs=1e-7)


def test_changing_the_charge_changes_energy_and_invalidates_the_cache(potential):
    atoms = water(charge=0, spin=1)
    atoms.calc = MlipfmCalculator(potential)
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    atoms.info["spin"] = 2
    cation = atoms.get_potential_energy()
    assert cation != neutral
    atoms.info.update(charge=0, spin=1)
    assert atoms.get_potential_energy() == neutral


def test_charge_and_multiplicity_of_the_atoms_come_before_those_of_the_calculator(potential):
    calculator = MlipfmCalculator(potential, charge=0, multiplicity=1)
    seen = [calculator.to_structure(water(**info)) for info in ({}, {"charge": 1, "spin": 2})]
    assert [(s.total_charge, s.spin_multiplicity) for s in seen] == [(0, 1), (1, 2)]


def test_same_atoms_are_not_computed_twice_and_moved_atoms_are(potential):
    atoms = water()
    atoms.calc = MlipfmCalculator(potential)
    first = atoms.get_potential_energy()
    assert not atoms.calc.calculation_required(atoms, ["energy", "forces"])
    atoms.positions[0, 0] += 0.1
    assert atoms.calc.calculation_required(atoms, ["energy"])
    assert atoms.get_potential_energy() != first


def test_results_cannot_be_changed_through_the_returned_array(potential):
    atoms = water()
    atoms.calc = MlipfmCalculator(potential)
    forces = atoms.get_forces()
    kept = forces.copy()
    forces[:] = 0
    assert atoms.get_forces() == pytest.approx(kept)


def test_the_users_atoms_are_never_written_to(potential):
    atoms = water(charge=0)
    before = (atoms.positions.copy(), dict(atoms.info), dict(atoms.arrays).keys())
    atoms.calc = MlipfmCalculator(potential)
    atoms.get_forces()
    assert np.array_equal(atoms.positions, before[0])
    assert atoms.info == before[1]
    assert dict(atoms.arrays).keys() == before[2]


def test_contradicting_charge_keys_are_refused(potential):
    atoms = water(charge=0, total_charge=1)
    atoms.calc = MlipfmCalculator(potential)
    with pytest.raises(InvalidStructureError, match="contradict each other: total_charge=1, charge=0"):
        atoms.get_potential_energy()


def test_stress_of_a_molecule_is_not_available(potential):
    atoms = water()
    atoms.calc = MlipfmCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match="three periodic directions"):
        atoms.get_stress()


def test_untrained_element_is_refused_by_name(potential):
    atoms = Atoms("Po", positions=[[0, 0, 0]], calculator=MlipfmCalculator(potential))
    with pytest.raises(UnknownElementError, match="not trained on Po"):
        atoms.get_potential_energy()


def test_charge_that_the_model_does_not_know_is_told():
    config = {"elements": ["H", "O"], "levels": ["any"], "conditions": [], "backbone": {"channels": 8, "layers": 1}}
    atoms = water()
    atoms.calc = MlipfmCalculator(build("painn", config), charge=1, multiplicity=2)
    with pytest.warns(ImplausibleStructureWarning) as told:
        atoms.get_potential_energy()
    said = ["the model does not support total_charge: 1 changes nothing", "the model does not support spin_multiplicity: 2 changes nothing"]
    assert [str(w.message).removesuffix(" in its prediction") for w in told] == said
    atoms.calc = MlipfmCalculator(build("painn", config), charge=1, strict=True)
    with pytest.raises(InvalidStructureError, match="does not support total_charge"):
        atoms.get_potential_energy()


def test_several_levels_and_none_asked_is_an_error_that_lists_them():
    atoms = water()
    model = charged_painn(["gfn1-xtb", "gfn2-xtb"])
    atoms.calc = MlipfmCalculator(model)
    with pytest.raises(LevelError, match="gfn1-xtb, gfn2-xtb"):
        atoms.get_potential_energy()
    atoms.calc = MlipfmCalculator(model, level="gfn1-xtb")
    assert np.isfinite(atoms.get_potential_energy())


def test_changing_level_or_charge_of_the_calculator_invalidates_the_cache():
    atoms = water()
    atoms.calc = MlipfmCalculator(charged_painn(["gfn1-xtb", "gfn2-xtb"]), level="gfn1-xtb", charge=0)
    first = atoms.get_potential_energy()
    atoms.calc.charge = 2
    second = atoms.get_potential_energy()
    atoms.calc.charge, atoms.calc.level = 0, "gfn2-xtb"
    assert len({first, second, atoms.get_potential_energy()}) == 3


def test_relaxation_with_ase_reaches_zero_force(potential, tmp_path):
    path = tmp_path / "model.safetensors"
    save_potential(path, potential)
    atoms = water()
    atoms.calc = MlipfmCalculator(path)
    start = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=5)
    assert atoms.get_potential_energy() <= start


def test_uncertainty_of_a_file_beside_the_model_is_among_the_results(tmp_path):
    from mlipfm_interfaces.errors import RefusedFileError
    from mlipfm_interfaces.structure import Structure
    from mlipfm_models import Llpr

    rng, model = np.random.default_rng(0), tmp_path / "model.safetensors"
    potential = build("density", {"elements": ["H", "O"], "levels": ["any"], "backbone": {"channels": 8}})
    digest = save_potential(model, potential)
    base = molecule("H2O")
    labels = {"energy": np.array(0.0), "forces": np.zeros((3, 3))}
    some = [Structure(base.numbers, base.positions + 0.05 * rng.normal(size=(3, 3)), labels=labels) for _ in range(8)]
    fitted = Llpr.fit(potential, digest, some[:4], some[4:])
    atoms = molecule("H2O")
    atoms.calc = MlipfmCalculator(model)
    with pytest.raises(PropertyNotImplementedError, match="energy_uncertainty is not predicted"):
        atoms.calc.get_property("energy_uncertainty", atoms)
    fitted.save(model.with_suffix(".uncertainty.safetensors"))
    (expected,) = fitted.predict(potential, [Structure(atoms.numbers, atoms.positions)])
    plain = MlipfmCalculator(potential, uncertainty=fitted, engine="torch")
    for calculator in (MlipfmCalculator(model), MlipfmCalculator(potential, uncertainty=fitted), plain):
        atoms.calc = calculator
        assert calculator.get_property("energy_uncertainty", atoms) == pytest.approx(3 * expected.energy_sigma, rel=1e-4)
        assert calculator.get_property("forces_uncertainty", atoms) == pytest.approx(expected.force_sigma, rel=1e-3)
        before = calculator.get_property("energy_uncertainty", atoms)
        atoms.positions[0, 2] += 0.2
        assert calculator.get_property("energy_uncertainty", atoms) != before
        atoms.positions[0, 2] -= 0.2
    other = save_potential(tmp_path / "other.safetensors", build("density", {"elements": ["H", "O"], "levels": ["any"], "seed": 1}))
    assert other != digest
    with pytest.raises(RefusedFileError, match="not of"):
        MlipfmCalculator(tmp_path / "other.safetensors", uncertainty=model.with_suffix(".uncertainty.safetensors"))


def test_a_calculator_that_was_used_can_be_copied_and_pickled():
    atoms = molecule("H2O")
    atoms.info.update(charge=0, spin=1)
    atoms.calc = MlipfmCalculator()
    energy = atoms.get_potential_energy()
    for other in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        assert other.get_potential_energy() == pytest.approx(energy, abs=1e-9)
        other.rattle(0.01, seed=0)
        assert other.get_potential_energy() != pytest.approx(energy, abs=1e-6)
    assert atoms.get_potential_energy() == energy
