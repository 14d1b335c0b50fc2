"""References of fine-tuned models: what was known stays, a new level moves by the smallest shift that fits the errors of the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import build, load_potential, save_potential
from mlipfm_interfaces.elements import number, symbol
from mlipfm_interfaces.errors import RecipeError, UndeterminedEnergyWarning
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_train.open_run import open_run
from mlipfm_train.recipe import make_recipe

OLD = {"H": -13.6, "C": -1029.0, "O": -2042.5}


def model(path, levels=("a",), **changes):
    """A checkpoint with random weights, whose network adds a few eV to its references."""
    config = {"elements": list(OLD), "levels": list(levels), "dtype": "float64", "scale": 3.0, "references": dict.fromkeys(levels, OLD)}
    potential = build("painn", config | {"backbone": {"channels": 8, "layers": 1, "cutoff": 3.0}} | changes)
    save_potential(path, potential)
    return load_potential(path)


def labelled(potential, bare, level, shift):
    """What the model says at its first level plus a shift for each atom, as labels of `level`; new elements are hydrogen to the model."""
    known = [s.replace(atomic_numbers=[z if symbol(z) in OLD else 1 for z in s.atomic_numbers]) for s in bare]
    found = evaluate(potential, known, level=potential.spec.levels[0])
    energies = [float(f["energy"]) + sum(shift[symbol(int(z))] for z in s.atomic_numbers) for f, s in zip(found, bare, strict=True)]
    return [s.replace(level=level, labels={"energy": e, "forces": f["forces"]}) for s, e, f in zip(bare, energies, found, strict=True)]


@pytest.fixture
def start(tiny, tmp_path, write_store):
    """`start(structures, *overrides)`: configuration of the model that a run starts from, and what preflight says."""

    def opened(structures, *overrides, **document):
        store = write_store(tmp_path / f"store-{len(list(tmp_path.iterdir()))}", structures)
        data = {"train": [str(store)], "valid": [], "budget": 40}
        first = {"init_from": str(tmp_path / "old.safetensors"), "potential": {}} if (tmp_path / "old.safetensors").exists() else {}
        recipe = make_recipe(tiny | {"data": data, "dtype": "float64"} | first | document, overrides)
        lines: list[str] = []
        with open_run(recipe, tmp_path / f"run-{len(list(tmp_path.iterdir()))}", say=lines.append) as run:
            save_potential(tmp_path / "start.safetensors", run.exported)
            return run.exported, lines

    return opened


@pytest.fixture
def waters(morse_structures):
    return [s.replace(labels={}) for s in morse_structures(12, 0) if s.formula == "H2O"]


SHIFT = {"H": 0.3, "C": 0.7, "O": -0.5}


def test_a_new_level_of_one_molecule_moves_as_little_as_fits(tmp_path, start, waters):
    old = model(tmp_path / "old.safetensors")
    tuned, lines = start(labelled(old, waters, "b", SHIFT), "level_starts.b=a")
    total = 2 * SHIFT["H"] + SHIFT["O"]  # along (2, 1)
    expected = {"H": OLD["H"] + 0.4 * total, "C": OLD["C"], "O": OLD["O"] + 0.2 * total}
    assert tuned.config["references"]["b"] == pytest.approx(expected, abs=1e-9)
    assert tuned.config["references"]["a"] == OLD
    assert [float(evaluate(tuned, [s], ("energy",), level="b")[0]["energy"]) for s in waters] == pytest.approx(
        [float(s.labels["energy"]) for s in labelled(old, waters, "b", SHIFT)], abs=1e-9
    )
    text = "\n".join(lines)
    assert "references of level b: from level a of the model, moved by the smallest shift that fits: H +0.040, O +0.020 eV" in text
    assert "H and O are only determined in the ratio 2:1" in text


def test_what_was_not_determined_is_warned_of_once_for_each_composition(tmp_path, start, waters, morse_structures):
    old = model(tmp_path / "old.safetensors")
    start(labelled(old, waters, "b", SHIFT), "level_starts.b=a")
    tuned = load_potential(tmp_path / "start.safetensors")
    others = {s.formula: s.replace(labels={}, level="b") for s in morse_structures(3, 1)}
    with pytest.warns(
        UndeterminedEnergyWarning,
        match=r"the energy of CH4 \(by .* eV/atom, if .*not determined by the training data at level 'b': H and O",
    ):
        evaluate(tuned, [others["CH4"], others["H2O"], others["CH4"]])
    evaluate(tuned, list({"H2O": others["H2O"], "CH4": others["CH4"]}.values()))
    evaluate(tuned, [others["CH2O"]], level="a")
    evaluate(tuned, [others["CH2O"]], ("forces",))


def test_without_a_named_start_the_nearest_level_is_taken(tmp_path, start, waters):
    far = {name: 0.1 * e for name, e in OLD.items()}
    old = model(tmp_path / "old.safetensors", ("far", "a"), references={"far": far, "a": OLD})
    tuned, lines = start(labelled(old, waters, "b", {name: SHIFT[name] + OLD[name] - far[name] for name in OLD}))
    assert any("references of level b: from level a of the model" in line for line in lines)
    assert abs(tuned.config["references"]["b"]["O"] - OLD["O"]) < 1.0


def test_a_level_may_be_left_behind(tmp_path, start, waters):
    old = model(tmp_path / "old.safetensors")
    tuned, _ = start(labelled(old, waters, "b", SHIFT), "level_starts.b=a", "potential.levels=[b]")
    assert (tuned.spec.levels, list(tuned.config["references"])) == (("b",), ["b"])
    assert tuned.config["references"]["b"]["H"] == pytest.approx(OLD["H"] + 0.04, abs=1e-9)


def test_references_of_a_level_that_the_model_has_not_are_refused(tmp_path, start, waters):
    old = model(tmp_path / "old.safetensors")
    with pytest.raises(RecipeError, match=r"potential\.references: 'pbe' is no level of this model; it has a, b"):
        start(labelled(old, waters, "b", SHIFT), "level_starts.b=a", "potential.references={pbe: {H: 1.0}}")


def test_a_level_that_is_known_keeps_its_references_and_learns_new_elements(tmp_path, start, waters):
    old = model(tmp_path / "old.safetensors")
    sulphides = [s.replace(atomic_numbers=np.where(s.atomic_numbers == 8, 16, s.atomic_numbers)) for s in waters]
    structures = [*labelled(old, waters, "a", dict.fromkeys(OLD, 0.0)), *labelled(old, sulphides, "a", {"H": 0.0, "S": -10000.0})]
    tuned, _ = start(structures)
    found = tuned.config["references"]["a"]
    assert {name: found[name] for name in OLD} == OLD
    errors = [float(evaluate(tuned, [s], ("energy",))[0]["energy"]) - float(s.labels["energy"]) for s in structures[len(waters) :]]
    assert np.mean(errors) == pytest.approx(0.0, abs=1e-9)
    assert "undetermined" not in tuned.config


def test_a_second_fine_tuning_determines_what_the_first_left_open(tmp_path, start, waters, morse_structures):
    old = model(tmp_path / "old.safetensors")
    start(labelled(old, waters, "b", SHIFT), "level_starts.b=a")
    (tmp_path / "start.safetensors").rename(tmp_path / "old.safetensors")
    methanes = [s.replace(labels={}) for s in morse_structures(12, 0) if s.formula == "CH4"]
    again, _ = start(labelled(old, methanes, "b", SHIFT))
    found = again.config["references"]["b"]
    assert found["H"] * 2 + found["O"] == pytest.approx(2 * (OLD["H"] + SHIFT["H"]) + OLD["O"] + SHIFT["O"], abs=1e-9)
    assert found["H"] * 4 + found["C"] == pytest.approx(4 * (OLD["H"] + SHIFT["H"]) + OLD["C"] + SHIFT["C"], abs=1e-9)
    assert len(again.config["undetermined"]["b"]["combinations"]) == 1


def test_a_level_without_energies_starts_as_the_level_it_starts_from(tmp_path, start, waters):
    old = model(tmp_path / "old.safetensors")
    forces_only = [s.replace(labels={"forces": s.labels["forces"]}) for s in labelled(old, waters, "b", SHIFT)]
    tuned, _ = start(forces_only, "level_starts.b=a", objectives=[{"name": "energy-force", "energy_weight": 0.0}])
    assert tuned.config["references"]["b"] == pytest.approx(OLD)
    assert len(tuned.config["undetermined"]["b"]["combinations"]) == 3


def lone(name, energy):
    return Structure([number(name)], [[0, 0, 0]], 14.0 * np.eye(3), True, level="a", labels={"energy": energy, "forces": np.zeros((1, 3))})


def test_training_takes_lone_atoms_and_given_energies_as_they_are(start, morse_structures):
    molecules = [s.replace(level="a") for s in morse_structures(9, 0)]
    found, lines = start([*molecules, lone("O", -5.0), lone("H", -1.0)], "potential.references={a: {C: -7.0}}")
    assert found.config["references"]["a"] == {"H": -1.0, "C": -7.0, "O": -5.0}
    assert any("not fitted: H (isolated atom), C (given), O (isolated atom)" in line for line in lines)
    flat, _ = start([*molecules, lone("O", -5.0)], "potential.references={O: -6.0}")
    assert flat.config["references"]["a"]["O"] == -6.0
    fitted, _ = start(molecules)
    assert fitted.config["references"]["a"]["O"] != pytest.approx(-5.0, abs=1e-3)


def test_references_that_are_none_are_refused(start, morse_structures):
    with pytest.raises(RecipeError, match=r"potential\.references: 'low' is no energy in eV"):
        start(morse_structures(3, 0), "potential.references={C: low}")
    with pytest.raises(RecipeError, match="references: 'pbe' is not known here; known: morse"):
        start(morse_structures(3, 0), "potential.references={pbe: {C: 1.0}}")


def test_a_full_rank_model_says_nothing_of_what_is_open(start, morse_structures):
    found, lines = start(morse_structures(12, 0))
    assert "undetermined" not in json.dumps(found.config)
    assert not any("not determined" in line for line in lines)


def test_beside_lone_atoms_the_network_starts_at_the_mean_binding_energy(start, morse_structures):
    """The labels are 3 eV/atom below the isolated atoms: a network that starts near zero would have to learn that first."""
    molecules = [s.replace(level="a", labels={**s.labels, "energy": -3.0 * len(s)}) for s in morse_structures(9, 0)]
    found, _ = start([*molecules, *(lone(name, 0.0) for name in OLD)], dtype="float64")
    energies = [float(row["energy"]) / len(s) for s, row in zip(molecules, evaluate(found, molecules, ("energy",)), strict=True)]
    assert np.mean(energies) == pytest.approx(-3.0, abs=1.0)
    assert found.config["references"]["a"] == {"H": 0.0, "C": 0.0, "O": 0.0}
