"""The calculator with a compiled kernel gives what it gives with torch, and never an answer of other weights or of another system."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import OverlapError, RecipeError
from mlipfm_interfaces.potential import Potential
from mlipfm_md import MlipfmCalculator

pytest.importorskip("mlipfm_kernels", reason="mlipfm-kernels is not built here: tools/setup builds it where a C++ compiler is")


def density(**options: object) -> Potential:
    config = {"elements": ["H", "O", "Cu"], "levels": ["any"], "dtype": "float64", "backbone": {"channels": 16, "cutoff": 4.0}}
    return build("density", config | options)


def both(model: Potential, atoms: Atoms) -> tuple[Atoms, Atoms]:
    pair = atoms.copy(), atoms.copy()
    for copy, engine in zip(pair, ("kernel", "torch"), strict=True):
        copy.calc = MlipfmCalculator(model, engine=engine)  # type: ignore[arg-type]
    return pair


def test_kernel_and_torch_agree_while_atoms_and_cell_move() -> None:
    ours, theirs = both(density(), bulk("Cu", cubic=True))
    rng = np.random.default_rng(0)
    for _ in range(6):
        step, strain = rng.normal(0, 0.1, ours.positions.shape), np.eye(3) + rng.normal(0, 0.01, (3, 3))
        for atoms in (ours, theirs):
            atoms.positions += step
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        assert abs(ours.get_potential_energy() - theirs.get_potential_energy()) < 1e-10
        assert np.abs(ours.get_forces() - theirs.get_forces()).max() < 1e-10
        assert np.abs(ours.get_stress() - theirs.get_stress()).max() < 1e-12
        assert np.abs(ours.get_potential_energies() - theirs.get_potential_energies()).max() < 1e-10


def test_charge_in_info_changes_the_answer() -> None:
    ours, theirs = both(density(conditions=["total_charge"]), molecule("H2O"))
    found = []
    for charge in (0, 1, -2):
        for atoms in (ours, theirs):
            atoms.info["charge"] = charge
        found.append(ours.get_potential_energy())
        assert abs(found[-1] - theirs.get_potential_energy()) < 1e-10
    assert len({round(e, 8) for e in found}) == 3


def test_weights_that_change_are_seen() -> None:
    model, atoms = density(), molecule("H2O")
    atoms.calc = MlipfmCalculator(model, engine="kernel")
    before = atoms.get_potential_energy()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name == "heads.energy.outer.bias").add_(1.0)
    atoms.positions[0, 0] += 1e-9
    assert abs(atoms.get_potential_energy() - before - 3.0) < 1e-6


def test_other_atoms_get_answers_of_their_own() -> None:
    calculator = MlipfmCalculator(density(), engine="kernel")
    water, copper = molecule("H2O"), bulk("Cu", cubic=True)
    alone = [MlipfmCalculator(density(), engine="kernel").get_property("energy", a) for a in (water, copper)]
    assert [calculator.get_property("energy", a) for a in (water, copper, water, copper)] == alone * 2


def test_refusals_name_the_reason() -> None:
    painn = build("painn", {"elements": ["H"], "levels": ["any"], "backbone": {"channels": 8}})
    with pytest.raises(RecipeError, match="painn"):
        MlipfmCalculator(painn, engine="kernel")
    for options, fault in (
        ({"threads": 0}, "threads must be 1"),
        ({"skin": -1.0}, "skin"),
        ({"engine": "torch", "threads": 2}, "compiled kernel"),
    ):
        with pytest.raises(RecipeError, match=fault):
            MlipfmCalculator(density(), **options)
    with pytest.raises(RecipeError, match="no engine"):
        MlipfmCalculator(painn, engine="fast")  # type: ignore[arg-type]
    near = Atoms("H2", [[0, 0, 0], [0, 0, 0.05]], calculator=MlipfmCalculator(density(), engine="kernel"))
    with pytest.raises(OverlapError):
        near.get_potential_energy()


def test_energy_uncertainty_of_the_kernel_is_that_of_the_model() -> None:
    from mlipfm_interfaces.plugins import load
    from mlipfm_interfaces.structure import Structure

    model, rng, frames = density(), np.random.default_rng(0), []
    for _ in range(12):
        water = molecule("H2O")
        water.positions += rng.normal(0, 0.1, (3, 3))
        labels = {"energy": np.array(rng.normal()), "forces": rng.normal(0, 1, (3, 3))}
        frames.append(Structure(water.numbers, water.positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), level="any", labels=labels))
    fitted = load("uncertainties", "llpr").fit(model, "0" * 64, frames[:6], frames[6:])
    found = []
    for engine in ("kernel", "torch"):
        atoms = molecule("H2O")
        found.append(MlipfmCalculator(model, engine=engine, uncertainty=fitted).get_property("energy_uncertainty", atoms))  # type: ignore[arg-type]
    assert found[1] > 0
    assert abs(found[0] / found[1] - 1) < 1e-6


def test_a_left_handed_cell_and_a_slab_are_answered_as_by_the_model() -> None:
    """The volume of a cell with left-handed vectors is positive; a slab has no stress."""
    from mlipfm_interfaces.errors import PropertyNotAvailableError
    from mlipfm_interfaces.structure import Structure
    from mlipfm_md.compiled_forces import CompiledForces
    from mlipfm_md.forces import PotentialForces

    model, cell = density(), np.array([[0, 4.0, 0], [4.2, 0, 0], [0, 0.3, 4.4]])
    s = Structure([8, 1, 1], [[0, 0, 0], [0.9, 0, 0], [0, 1.0, 0.2]], cell, [True] * 3, level="any")
    assert np.linalg.det(cell) < 0
    pair = CompiledForces(model, model.compiled(), [s]), PotentialForces(model, [s])  # type: ignore[arg-type]
    ours, theirs = (forces.with_stress(s.positions, cell[None])[2] for forces in pair)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    found = []
    for engine in ("kernel", "torch"):
        atoms = Atoms("OHH", s.positions, cell=cell, pbc=True, calculator=MlipfmCalculator(model, engine=engine))  # type: ignore[arg-type]
        found.append(atoms.get_stress())
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6)
    slab = CompiledForces(model, model.compiled(), [s.replace(pbc=np.array([True, True, False]))])  # type: ignore[arg-type]
    with pytest.raises(PropertyNotAvailableError, match="three periodic directions"):
        slab.with_stress(s.positions, cell[None])
