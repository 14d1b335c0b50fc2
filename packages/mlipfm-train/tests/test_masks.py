"""Atoms whose forces do not count, and stress of crystals beside molecules: in losses, validation and starting scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.batch import collate
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.errors import MissingLabelsError
from mlipfm_interfaces.potential import Prediction, evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_train.data_statistics import collect_statistics
from mlipfm_train.frames import Frames
from mlipfm_train.loop import fit
from mlipfm_train.objectives.energy_force import EnergyForce
from mlipfm_train.objectives.quantities import Quantities
from mlipfm_train.open_run import open_run
from mlipfm_train.recipe import make_recipe
from mlipfm_train.step import Step
from mlipfm_train.validation import validation_errors, validation_metrics
from mlipfm_train.views import collate_step

BOX = np.diag([3.9, 4.0, 4.1])


def pair(k: int = 0, crystal: bool = False, **labels) -> Structure:
    positions = [[0.0, 0, 0], [0.9 + 0.01 * k, 0.1, 0]]
    options = {"cell": BOX, "pbc": True} if crystal else {}
    return Structure([1, 1], positions, level="x", labels={"energy": -1.0 * k, "forces": np.full((2, 3), 0.5), **labels}, **options)


def forces_term(structures, predicted):
    zero = torch.zeros(len(structures), dtype=torch.float64)
    objective = EnergyForce(energy_weight=1.0, forces_weight=1.0, forces_loss="mse")
    return objective.terms(Prediction({"energy": zero, "forces": predicted}, "direct"), collate(structures, []))["forces"]


def test_forces_of_weight_zero_enter_neither_sum_nor_count_nor_gradient():
    structures = [pair(0, forces_weight=[0.0, 1.0]), pair(1, forces_weight=[0.5, 0.0]), pair(2)]
    predicted = torch.full((6, 3), 1.5, dtype=torch.float64, requires_grad=True)
    poisoned = predicted + torch.tensor([np.nan, 0, 0, np.inf, 0, 0])[:, None]
    total, count = forces_term(structures, poisoned)
    assert (float(total.detach()), float(count)) == (3 * (1.0 + 0.5 + 1.0 + 1.0), 12.0)
    total.backward()
    assert predicted.grad[:, 0].tolist() == [0.0, 2.0, 1.0, 0.0, 2.0, 2.0]


def test_forces_weights_of_one_change_no_bit():
    predicted = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3)))
    plain, ones = [pair(0), pair(1)], [pair(0, forces_weight=[1.0, 1.0]), pair(1)]
    assert torch.equal(forces_term(plain, predicted)[0], forces_term(ones, predicted)[0])


def test_quantities_of_atoms_know_the_weight_of_their_structure_only():
    structures = [pair(0, charges=[0.1, -0.1], weight=0.5, forces_weight=[0.0, 1.0]), pair(1, charges=[0.2, -0.2])]
    prediction = Prediction({"charges": torch.zeros(4, dtype=torch.float64)}, "conservative")
    total, count = Quantities({"charges": 1.0}).terms(prediction, collate(structures, []))["charges"]
    assert (float(total), float(count)) == (pytest.approx(0.5 * 0.2 + 0.4), 4.0)


def stress_step(structures):
    potential = build(
        "painn", {"elements": ["H"], "levels": ["x"], "dtype": "float64", "backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}}
    )
    step = Step(potential, {"energy-force": EnergyForce(stress_weight=1.0, stress_loss="mse")})
    batch = collate_step(step.objectives, structures, potential.spec.graphs, torch.float64, torch.device("cpu"), 0, 0)
    terms = step(batch)
    sum(value for value, _ in terms.values()).backward()
    return (
        [value.detach() for value in terms["energy-force/stress"]],
        torch.cat([p.grad.flatten() for p in potential.parameters()]),
        potential,
    )


def test_stress_of_crystals_beside_molecules_is_that_of_the_crystals_alone():
    crystals = [pair(k, crystal=True, stress=np.eye(3) * 0.01 * k) for k in range(2)]
    slab = pair(3, stress=np.eye(3)).replace(cell=BOX, pbc=[True, True, False])
    (alone, n), _, potential = stress_step(crystals)
    (mixed, m), gradient, _ = stress_step([crystals[0], pair(2), slab, crystals[1]])
    assert (float(mixed), float(m), float(n)) == (pytest.approx(float(alone), rel=1e-12), 18.0, 18.0)
    assert torch.isfinite(gradient).all()
    rows = evaluate(potential, crystals, ("stress",))
    expected = sum(float(np.square(row["stress"] - s.labels["stress"]).sum()) for row, s in zip(rows, crystals, strict=True))
    assert float(alone) == pytest.approx(expected, rel=1e-9)


def test_dipoles_of_molecules_beside_crystals_are_those_of_the_molecules_alone():
    config = {"elements": ["H"], "levels": ["x"], "dtype": "float64", "conditions": ["total_charge"], "heads": {"dipole": {}}}
    potential = build("painn", config | {"backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}})
    step = Step(potential, {"quantities": Quantities({"dipole": 1.0, "born_charges": 1.0})})
    molecules = [pair(k, dipole=[0.1 * k, 0, 0], born_charges=np.zeros((2, 3, 3))).replace(total_charge=0) for k in range(2)]
    crystal = pair(3, crystal=True, born_charges=np.ones((2, 3, 3))).replace(total_charge=0)
    found = []
    for structures in (molecules, [molecules[0], crystal, molecules[1]]):
        batch = collate_step(step.objectives, structures, potential.spec.graphs, torch.float64, torch.device("cpu"), 0, 0)
        found.append({key: (float(value.detach()), float(count)) for key, (value, count) in step(batch).items()})
    for key, alone in found[0].items():
        assert found[1][key] == pytest.approx(alone, rel=1e-12)
    assert found[1]["quantities/dipole"][1] == 6


@pytest.fixture
def mixed(tmp_path):
    """Store of eight crystals with stress and eight molecules, and one of two each."""
    paths, rng = [], np.random.default_rng(0)
    for name, n in (("train", 8), ("valid", 2)):
        some = lambda: rng.normal(size=(2, 3))  # noqa: E731
        structures = [pair(k + n, crystal=True, stress=0.01 * rng.normal(size=(3, 3)), forces=some()) for k in range(n)]
        structures += [pair(k + n, forces=some()) for k in range(n)]
        with StoreWriter(tmp_path / name, name=name) as writer:
            for s in structures:
                writer.add(s)
        paths.append(str(tmp_path / name))
    return paths


def test_a_run_trains_and_validates_the_stress_of_crystals_beside_molecules(tiny, tmp_path, mixed):
    document = tiny | {"data": {"train": mixed[:1], "valid": mixed[1:], "budget": 40}, "steps": 4, "evaluate_every": 4}
    lines: list[str] = []
    result = fit(make_recipe(document, ["objectives.0.stress_weight=1"]), tmp_path / "run", say=lines.append)
    figures = {m.name: m for m in result.metrics}
    assert (figures["stress MAE"].n_total, figures["force MAE"].n_total) == (2, 4)
    assert any("8 of 16 structures have no 'stress': they do not enter that term" in line for line in lines)


def test_stress_of_molecules_alone_is_refused(tiny, tmp_path, write_store):
    store = write_store(tmp_path / "s", [pair(k, stress=np.eye(3)) for k in range(4)])
    recipe = make_recipe(tiny, [f"data.train=[{store}]", "data.valid=[]", "objectives.0.stress_weight=1"])
    with pytest.raises(MissingLabelsError, match="all 4 structures with a label 'stress'.*are not periodic in three directions"):
        fit(recipe, tmp_path / "run")


def test_dipoles_of_crystals_alone_are_refused(tiny, tmp_path, write_store):
    store = write_store(tmp_path / "s", [pair(k, crystal=True, dipole=np.ones(3)).replace(total_charge=0) for k in range(4)])
    potential = {**tiny["potential"], "heads": {"dipole": {}}, "conditions": ["total_charge"]}
    document = tiny | {"potential": potential, "objectives": [{"name": "quantities", "weights": {"dipole": 1.0}}]}
    with pytest.raises(MissingLabelsError, match="all 4 structures with a label 'dipole'.*are periodic"):
        fit(make_recipe(document, [f"data.train=[{store}]", "data.valid=[]"]), tmp_path / "run")


def test_validation_weighs_as_the_loss_does():
    frames = [pair(0, weight=3.0), pair(1, forces_weight=[0.0, 1.0]), pair(2, forces_weight=[0.0, 0.0])]
    potential = build(
        "painn", {"elements": ["H"], "levels": ["x"], "dtype": "float64", "backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}}
    )
    figures = {m.name: m for m in validation_metrics(validation_errors(potential, frames, [slice(0, 3)], ("energy", "forces")), [0, 1, 2])}
    wrong = [np.abs(row["forces"] - s.labels["forces"]) for row, s in zip(evaluate(potential, frames), frames, strict=True)]
    assert figures["force MAE"].value == pytest.approx(1000 * (3 * wrong[0].sum() + wrong[1][1].sum()) / (3 * 6 + 3), rel=1e-12)
    assert (figures["force MAE"].n_total, figures["energy MAE"].n_total) == (2, 3)


def test_frames_of_weight_zero_change_nothing_at_all(tiny, tmp_path, write_store, morse_structures):
    """Not even the numbers of atoms or the elements: the two runs start from the same bits and end with them."""
    good = morse_structures(12, 3)
    gold = Structure(
        [79, 1], [[0, 0, 0], [1.5, 0, 0]], level="morse", labels={"energy": 1e4, "forces": np.full((2, 3), 99.0), "weight": 0.0}
    )
    bad = [gold, gold.replace(level="other")]
    runs = {}
    for name, structures in (("good", good), ("both", [*bad, *good])):
        train, valid = (
            write_store(tmp_path / name, structures),
            write_store(tmp_path / f"{name}-valid", [*structures[:-12], *morse_structures(3, 4)]),
        )
        document = tiny | {"data": {"train": [str(train)], "valid": [str(valid)], "budget": 40}, "steps": 4, "evaluate_every": 2}
        lines: list[str] = []
        with open_run(make_recipe(document), tmp_path / f"run-{name}", say=lines.append) as run:
            runs[name] = run.exported.config, collect_statistics(run.train, run.train.structure_table(), 0).rms_force
        runs[name] = (*runs[name], fit(make_recipe(document), tmp_path / f"run-{name}").metrics)
        assert any("2 training structures have weight 0" in line for line in lines) == (name == "both")
    assert runs["good"] == runs["both"]
    with pytest.raises(MissingLabelsError, match="all structures have weight 0"):
        Frames([write_store(tmp_path / "bad", bad)])


def test_the_scale_of_forces_is_that_of_the_atoms_that_count(tmp_path, write_store):
    forces = np.array([[3.0, 0, 0], [1e3, 0, 0]])
    frames = Frames([write_store(tmp_path / "s", [pair(0, forces=forces, forces_weight=[1.0, 0.0]), pair(1, forces=np.zeros((2, 3)))])])
    assert collect_statistics(frames, frames.structure_table(), 0).rms_force == pytest.approx(np.sqrt(9.0 / 9))
