"""Charges and multiplicities that training never showed, where a user meets them: `evaluate`, `md run`, the ASE calculator, fine-tuning.

A model with the conditions `total_charge` and `spin_multiplicity` has weights for every kind of state. Those that no training structure has reached
are random, and a plain ASE molecule, which states neither, used to meet them: forces 0.5 to 0.8 eV/Å off, silently.
"""

import json
import re
import warnings

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.calculators.emt import EMT
from mlipfm_hub.predict_worker import Model
from mlipfm_interfaces.checkpoint import load_model, load_potential
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import InvalidStructureError, UntrainedStateWarning
from mlipfm_md import MlipfmCalculator

pytestmark = pytest.mark.ci

CONDITIONS = ["total_charge", "spin_multiplicity"]
STATES = {"ions": [(0, 1), (1, 2)], "none stated": [(None, None)], "cations alone": [(1, 2)]}


def run(capsys, *words):
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a shell
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code, out, re.sub(r"\s+", " ", err)


def waters(states, seed=0, n=12):
    """Rattled molecules of water, labelled by ASE's effective medium theory, with what `states` says of charge and multiplicity in turn."""
    rng, made = np.random.default_rng(seed), []
    for k in range(n):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(scale=0.05, size=(3, 3))
        atoms.calc = EMT()
        atoms.get_forces()
        charge, multiplicity = states[k % len(states)]
        atoms.info |= {} if charge is None else {"charge": charge, "spin": multiplicity}
        made.append(atoms)
    return made


def recipe(store, **changes):
    backbone = {"channels": 8, "layers": 1, "cutoff": 3.0}
    return {
        "potential": {"name": "density", "conditions": CONDITIONS, "backbone": backbone, **changes},
        "data": {"train": [str(store)], "budget": 200},
        "objectives": [{"name": "energy-force"}],
        "optimizer": {"lr": 0.01},
        "steps": 6,
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Trained by command from files: STATES -> checkpoint."""
    folder, made = tmp_path_factory.mktemp("states"), {}
    for name, states in STATES.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        ase.io.write(place / "train.xyz", waters(states))
        (place / "recipe.yaml").write_text(yaml.safe_dump(recipe(place / "store")))
        for words in (
            ("data", "import", place / "train.xyz", "--out", place / "store", "--level", "emt", "--licence", "CC0-1.0"),
            ("train", place / "recipe.yaml", "--out", place / "run"),
        ):
            with pytest.raises(SystemExit) as end:
                main(list(map(str, words)))
            assert end.value.code == 0, words
        made[name] = place / "run/last.safetensors"
    return made


def forces(model, charge=None, multiplicity=None, engine="auto"):
    """Forces on a molecule by the ASE calculator, and what it warned of."""
    atoms = waters([(charge, multiplicity)], seed=7, n=1)[0]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        atoms.calc = MlipfmCalculator(model, engine=engine)
        found = atoms.get_forces()
        atoms.positions += 0.01
        atoms.get_forces()
    return found, [str(w.message) for w in said if issubclass(w.category, UntrainedStateWarning)]


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_molecule_that_states_nothing_is_a_neutral_singlet_to_a_model_that_has_seen_stated_ones_alone(models, engine):
    plain, said = forces(models["ions"], engine=engine)
    stated, nothing = forces(models["ions"], 0, 1, engine=engine)
    assert np.array_equal(plain, stated)
    assert not nothing
    assert len(said) == 2  # charge and multiplicity, once each
    assert "structures that give no charge are taken as neutral" in said[0]
    assert "charge 0, +1" in said[0]
    assert np.abs(forces(models["ions"], 1, 2)[0] - stated).max() > 1e-3


def test_a_stated_neutral_singlet_is_an_unstated_one_to_a_model_that_has_seen_unstated_ones_alone(models):
    plain, said = forces(models["none stated"])
    stated, again = forces(models["none stated"], 0, 1)
    assert np.array_equal(plain, stated)
    assert said == again == []
    with pytest.raises(InvalidStructureError, match=r"has charge \+1, for which this model has untrained weights"):
        forces(models["none stated"], 1, 2)


def test_states_with_untrained_weights_are_refused_and_others_are_named_as_extrapolations(models):
    with pytest.raises(
        InvalidStructureError, match="has charge -1, for which this model has untrained weights: training showed it charge 0, "
    ):
        forces(models["ions"], -1, 2)
    with pytest.raises(InvalidStructureError, match="has spin multiplicity 3"):
        forces(models["none stated"], 0, 3)
    with pytest.raises(InvalidStructureError, match="gives no charge"):
        forces(models["cations alone"])
    _, said = forces(models["ions"], 2, 3)
    assert [text.split(" was")[0] for text in said] == ["charge +2", "spin multiplicity 3"]


def test_a_radical_that_states_no_multiplicity_is_not_taken_for_a_singlet(models):
    with pytest.raises(InvalidStructureError, match="number of electrons is odd"):
        forces(models["ions"], 1, None)


def test_evaluate_and_md_run_take_a_plain_file_as_neutral_singlets_and_say_so(models, tmp_path, capsys):
    for name, states in (("plain", [(None, None)]), ("stated", [(0, 1)]), ("anions", [(-1, 2)])):
        ase.io.write(tmp_path / f"{name}.xyz", waters(states, seed=7, n=2))
    figures = {}
    for name in ("plain", "stated"):
        status, _, err = run(capsys, "evaluate", models["ions"], tmp_path / f"{name}.xyz", "--record", tmp_path / f"{name}.json")
        figures[name] = [metric["value"] for metric in json.loads((tmp_path / f"{name}.json").read_text())["metrics"]]
        assert (status, "taken as neutral" in err) == (0, name == "plain")
    assert figures["plain"] == figures["stated"]
    status, _, err = run(capsys, "evaluate", models["ions"], tmp_path / "anions.xyz")
    assert (status, "untrained weights" in err) == (2, True)
    for name, ends, words in (("plain", 0, "taken as neutral"), ("anions", 2, "untrained weights")):
        start = ("md", "run", models["ions"], tmp_path / f"{name}.xyz", "--steps", 2, "--temperature", 300, "--out", tmp_path / name)
        status, _, err = run(capsys, *start)
        assert (status, words in err) == (ends, True)


def test_fine_tuning_adds_its_states_to_those_of_the_model_it_starts_from(models, tmp_path, capsys):
    ase.io.write(tmp_path / "more.xyz", waters([(-1, 2)]))
    run(capsys, "data", "import", tmp_path / "more.xyz", "--out", tmp_path / "store", "--level", "emt", "--licence", "CC0-1.0")
    tuned = recipe(tmp_path / "store") | {"init_from": str(models["ions"]), "potential": {}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tuned))
    assert run(capsys, "train", tmp_path / "recipe.yaml", "--out", tmp_path / "run")[0] == 0
    _, manifest = load_model(tmp_path / "run/last.safetensors")
    states = {"total_charge": [-1, 0, 1], "spin_multiplicity": [1, 2], "pairs": [[-1, 2], [0, 1], [1, 2]]}
    assert manifest["extra"]["trained_states"] == states
    forces(tmp_path / "run/last.safetensors", -1, 2)


def test_a_served_model_refuses_the_same_states_and_says_what_it_assumes(models):
    water = waters([(None, None)])[0]
    task = {"numbers": water.numbers.tolist(), "positions": water.positions.tolist()}
    served = Model(str(models["ions"]))
    plain, anion, stated = served.predict([task, task | {"charge": -1, "multiplicity": 2}, task | {"charge": 0, "multiplicity": 1}])
    assert [status for status, _ in (plain, anion, stated)] == [200, 422, 200]
    assert "untrained weights" in str(anion[1])
    assert plain[1].pop("warnings")[0].startswith("structures that give no charge are taken as neutral")
    assert plain[1] == stated[1]
    with pytest.warns(UntrainedStateWarning):  # in the log; the page says it, too
        moved = served.move({"text": "3\n\nO 0 0 0.1\nH 0 0.8 -0.5\nH 0 -0.8 -0.5\n", "format": "extxyz", "do": "energy"})
    assert "are taken as neutral" in moved["said"]


def test_training_the_readouts_alone_shows_the_model_no_new_state(models, tmp_path, capsys):
    for name, state in (("neutral", (0, 1)), ("anions", (-1, 2))):
        ase.io.write(tmp_path / f"{name}.xyz", waters([state]))
        run(capsys, "data", "import", tmp_path / f"{name}.xyz", "--out", tmp_path / name, "--level", "emt", "--licence", "CC0-1.0")
        tuned = recipe(tmp_path / name) | {"init_from": str(models["ions"]), "potential": {}, "adapt": {"mode": "frozen"}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tuned))
    assert run(capsys, "train", tmp_path / "neutral.yaml", "--out", tmp_path / "run")[0] == 0
    _, manifest = load_model(tmp_path / "run/last.safetensors")
    assert manifest["extra"]["trained_states"] == load_model(models["ions"])[1]["extra"]["trained_states"]
    status, _, err = run(capsys, "train", tmp_path / "anions.yaml", "--out", tmp_path / "refused")
    assert (status, "mode frozen trains readouts" in err, "charge -1" in err) == (2, True, True)


def test_a_level_that_no_training_structure_has_is_refused_like_an_element(models, tmp_path, capsys):
    store = models["ions"].parents[1] / "store"
    for changes, words in (
        ({"levels": ["emt", "pbe"]}, "no training structure is at level pbe"),
        ({"elements": ["H", "O", "C"]}, "no training structure has C"),
    ):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(store, **changes)))
        status, _, err = run(capsys, "train", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
        assert (status, words in err) == (2, True)


def test_a_model_without_a_record_of_its_states_answers_as_it_always_did(models):
    potential = load_potential(models["ions"])
    potential.trained_states = None  # as checkpoints of earlier versions
    _, said = forces(potential)
    assert said == []
