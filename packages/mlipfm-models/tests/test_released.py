"""The models in the wheel: unchanged files, a licence, a card with their figures, physics of small molecules."""

import json
import warnings

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import load_model, load_potential, resolve
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import DamagedFileError, MlipfmWarning, UnreadableFileError, UntrainedStateWarning
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure
from mlipfm_models.released import catalogue as module, released

pytestmark = pytest.mark.filterwarnings("ignore:mlipfm-mol-.* is a preview")
NAMES = sorted(released())


@pytest.mark.parametrize("name", NAMES)
def test_a_released_model_is_small_licensed_and_trained_on_licensed_data(name: str) -> None:
    path = resolve(name)
    assert path == released()[name].path
    assert path.stat().st_size < 3 * 2**20
    potential, manifest = load_model(path)
    assert released()[name].licence == "MIT"
    assert manifest["extra"]["licences"] == ["MIT"]
    assert potential.default_level == released()[name].default_level
    assert not any(place in json.dumps(manifest) for place in ("/root/", "/home/", "/work/"))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_a_user_must_know(name: str) -> None:
    card = released()[name].card
    for heading in ("## Data", "## Levels of theory", "## Licence", "## Errors", "## Range", "## Speed", "## Limits", "## How it was made"):
        assert heading in card
    assert all(level in card for level in load_model(resolve(name))[0].spec.levels)


def test_a_changed_file_is_refused(tmp_path, monkeypatch) -> None:
    for file in module._FOLDER.glob("*.[sj]*"):
        data = bytearray(file.read_bytes())
        if file.suffix == ".safetensors":
            data[-1] ^= 1
        (tmp_path / file.name).write_bytes(data)
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    with pytest.raises(DamagedFileError, match="SHA-256"):
        _ = released()["mlipfm-mol-small"].path


def test_a_preview_warns_once() -> None:
    if released()["mlipfm-mol-small"].preview is None:
        pytest.skip("not a preview any more")
    module.mol_small.cache_clear()
    with pytest.warns(MlipfmWarning, match="is a preview"):
        resolve("mlipfm-mol-small")


def water(stretch: float) -> Structure:
    """Gas-phase water (experiment: 0.9572 Å, 104.5 degrees), one O-H bond longer by `stretch` Å."""
    angle = np.deg2rad(104.5)
    bonds = np.array([[0.9572 + stretch, 0, 0], [0.9572 * np.cos(angle), 0.9572 * np.sin(angle), 0]])
    return Structure([8, 1, 1], np.vstack([np.zeros(3), bonds]), total_charge=0, spin_multiplicity=1)


def test_the_bond_of_water_pulls_back_where_it_is_stretched_or_compressed() -> None:
    potential, _ = load_model(resolve("mlipfm-mol-small"))
    short, right, long = (evaluate(potential, [water(x)])[0] for x in (-0.15, 0.0, 0.25))
    assert right["energy"] < min(short["energy"], long["energy"])
    assert short["forces"][1, 0] > 1
    assert long["forces"][1, 0] < -1


def test_a_molecule_that_states_no_charge_and_multiplicity_is_a_neutral_singlet() -> None:
    potential, plain = load_potential("mlipfm-mol-small"), water(0.1)
    stated = plain.replace(total_charge=0, spin_multiplicity=1)
    unstated = plain.replace(total_charge=None, spin_multiplicity=None)
    charged = plain.replace(total_charge=1, spin_multiplicity=2)
    with pytest.warns(UntrainedStateWarning, match=r"are taken as (neutral|a singlet)"):
        neutral, silent, ion = (row["forces"] for row in evaluate(potential, [stated, unstated, charged], ("forces",)))
    assert silent == pytest.approx(neutral, abs=1e-6)
    assert np.abs(ion - neutral).max() > 0.1
    with pytest.warns(UntrainedStateWarning, match=r"charge \+4 was not trained"):
        evaluate(potential, [plain.replace(total_charge=4, spin_multiplicity=1)], ("energy",))


def test_a_crystal_gets_a_warning_from_a_model_of_molecules() -> None:
    potential = load_potential("mlipfm-mol-medium")
    crystal = Structure([6, 6], [[0, 0, 0], [0.89, 0.89, 0.89]], 1.785 * (np.ones((3, 3)) - np.eye(3)), (True,) * 3, 0, 1)
    molecule = Structure([8, 1], [[0, 0, 0], [0, 0, 0.97]], total_charge=-1, spin_multiplicity=1)
    with pytest.warns(UntrainedStateWarning, match="trained on free molecules"):
        evaluate(potential, [crystal], ("energy",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxed = molecule.replace(cell=20 * np.eye(3), pbc=(True, True, True))
        evaluate(load_potential("mlipfm-mol-medium"), [molecule, boxed], ("energy",))


def test_a_slab_without_a_lattice_vector_along_its_open_axis_is_computed() -> None:
    """As ASE's `graphene()` is: the third vector is zero. In a long box nothing changes."""
    potential = load_potential("mlipfm-mol-medium")
    sheet = np.array([[2.46, 0, 0], [-1.23, 2.1304, 0], [0, 0, 0]])
    flat = Structure([6, 6], [[0, 0, 0], [0, 1.4203, 0]], sheet, (True, True, False), 0, 1)
    boxed = flat.replace(cell=sheet + np.diag([0, 0, 30.0]))
    with pytest.warns(UntrainedStateWarning, match="trained on free molecules"):
        first, second = evaluate(potential, [flat, boxed], ("energy",))
    assert float(first["energy"]) == pytest.approx(float(second["energy"]), abs=1e-5)


def test_commands_list_and_show_installed_models(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["models", "show", "mlipfm-mol-medium"])
    assert end.value.code == 0
    assert "## Errors" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["models", "list", "--registry", "http://127.0.0.1:9"])  # nothing listens there
    assert "mlipfm-mol-medium              installed" in capsys.readouterr().out
    with pytest.raises(UnreadableFileError, match="installed: mlipfm-mol-medium, mlipfm-mol-small"):
        load_potential("mlipfm-mol-larg")
