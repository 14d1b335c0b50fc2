"""Statistics of training data: exact for what the table of structures has, and no element of a level without references however rare it is."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.errors import LevelError, RecipeError, RefusedFileError
from mlipfm_interfaces.structure import Structure
from mlipfm_train import data_statistics
from mlipfm_train.data_statistics import collect_statistics
from mlipfm_train.frames import Frames
from mlipfm_train.loop import fit
from mlipfm_train.open_run import open_run
from mlipfm_train.preflight import BLOCK, INSPECTED, Report, _blocks, check_labels
from mlipfm_train.recipe import make_recipe


@pytest.fixture
def rare(tmp_path, write_store, morse_structures):
    """120 molecules, of which three at the end are different: an ion with helium, and two of another level, one of them a triplet."""
    common = morse_structures(117, 0)
    ion = Structure([2, 1], [[0, 0, 0], [0, 0, 0.8]], total_charge=1, spin_multiplicity=1, level="morse", labels={"energy": -3.0})
    others = morse_structures(2, 7, level="other")
    return write_store(tmp_path / "rare", [*common, ion, others[0].replace(total_charge=0, spin_multiplicity=3), others[1]])


def test_counts_are_of_all_structures_however_few_are_decoded(rare, monkeypatch):
    frames = Frames([rare])
    whole = collect_statistics(frames, frames.structure_table(), seed=0)
    monkeypatch.setattr(data_statistics, "SAMPLE", 10)
    monkeypatch.setattr(data_statistics, "RARE", 2)
    found = collect_statistics(frames, frames.structure_table(), seed=0)
    assert (whole.n, whole.sampled, found.n) == (120, 120, 120)
    assert 10 < found.sampled < 30
    for name in (
        "levels",
        "labels",
        "licences",
        "elements",
        "atoms",
        "charge_stated",
        "charged",
        "multiplicity_stated",
        "open_shell",
        "periodic",
    ):
        assert getattr(found, name) == getattr(whole, name), name
    assert (found.levels, found.elements) == ({"morse": 118, "other": 2}, (1, 2, 6, 8))
    assert (found.charge_stated, found.charged, found.multiplicity_stated, found.open_shell) == (2, 1, 2, 1)
    assert found.licences == {"CC0-1.0": 119, "": 1}


def test_rare_elements_and_levels_are_decoded_and_have_references(rare, monkeypatch):
    frames = Frames([rare])
    monkeypatch.setattr(data_statistics, "SAMPLE", 5)
    for seed in range(5):
        references = collect_statistics(frames, frames.structure_table(), seed).references
        assert set(references) == {"morse", "other"}
        assert set(references["morse"].energies) == {1, 2, 6, 8}


def test_the_survey_of_one_level_does_not_count_the_others(rare):
    frames = Frames([rare], ["other"])
    found = collect_statistics(frames, frames.structure_table(), seed=0)
    assert (found.n, found.levels, found.elements, found.open_shell) == (2, {"other": 2}, (1, 6, 8), 1)


def test_a_structure_without_a_level_is_found_wherever_it_is(tmp_path, write_store, morse_structures, monkeypatch):
    monkeypatch.setattr(data_statistics, "SAMPLE", 5)
    structures = morse_structures(30, 0)
    frames = Frames([write_store(tmp_path / "s", [*structures[:-1], structures[-1].replace(level=None)])])
    with pytest.raises(LevelError, match="structure 29 of morse: has no level of theory"):
        collect_statistics(frames, frames.structure_table(), seed=0)


def test_a_model_trained_on_a_large_set_knows_its_rarest_element(rare, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(data_statistics, "SAMPLE", 5)
    document = {**tiny, "data": {**tiny["data"], "train": [str(rare)]}}
    lines: list[str] = []
    with open_run(make_recipe(document), tmp_path / "run", say=lines.append) as run:
        assert run.exported.spec.elements == (1, 2, 6, 8)
        assert run.exported.spec.levels == ("morse", "other")
    text = "\n".join(lines)
    assert "120 structures, 4.0 atoms on average, elements H He C O" in text
    assert "reference energies and the size of forces are those of" in text
    assert "1 of 120 structures are charged, which this potential does not see" in text


def test_fields_that_the_model_does_not_have_are_told(tiny, tmp_path, morse_structures, write_store):
    first, *others = morse_structures(24, 0)
    store = write_store(tmp_path / "field", [first.replace(external_field=[0, 0, 0.1]), *others])
    lines: list[str] = []
    with open_run(make_recipe({**tiny, "data": {**tiny["data"], "train": [str(store)]}}), tmp_path / "run", say=lines.append):
        pass
    assert any("1 of 24 structures are in an external field, which this potential does not see" in line for line in lines)


def test_validation_structures_that_are_trained_on_are_counted_and_told(tiny, tmp_path, morse_structures, write_store):
    mixed = [*morse_structures(24, 0)[:2], *morse_structures(6, 1), *(s.replace(level="other") for s in morse_structures(24, 0)[2:4])]
    store, train = write_store(tmp_path / "mixed", mixed), write_store(tmp_path / "more", morse_structures(2, 9, level="other"))
    data = {**tiny["data"], "train": [*tiny["data"]["train"], str(train)], "valid": [str(store)]}
    lines: list[str] = []
    with open_run(make_recipe({**tiny, "data": data}), tmp_path / "run", say=lines.append):
        pass
    (line,) = [line for line in lines if "validation structures are training structures" in line]
    assert "2 of 10 validation structures are training structures (same geometry and level)" in line
    assert "`mlipfm data split" in line


def test_validation_on_nothing_but_training_structures_is_refused(tiny, tmp_path, morse_structures, write_store):
    store = write_store(tmp_path / "part", morse_structures(24, 0)[3:9])
    recipe = make_recipe({**tiny, "data": {**tiny["data"], "valid": [str(store)]}})
    words = r"data\.valid: every validation structure is a training structure \(6 of 6, same geometry and level\).*`mlipfm data split"
    with pytest.raises(RecipeError, match=words), open_run(recipe, tmp_path / "run"):
        pass
    assert np.all([not (tmp_path / "run" / name).exists() for name in ("recipe.yaml", "initial.safetensors")])


def test_energies_of_two_kinds_under_one_level_are_told_with_the_likely_cause(tiny, tmp_path, morse_structures, write_store):
    """Total energies of all electrons and of valence electrons differ by about 1 keV for each atom of carbon or oxygen."""
    mixed = [
        s.replace(labels={**s.labels, "energy": s.labels["energy"] - (20.0 * float(s.atomic_numbers.sum()) ** 2) * (k % 2)})
        for k, s in enumerate(morse_structures(24, 0))
    ]
    lines: list[str] = []
    document = {**tiny, "data": {"train": [str(write_store(tmp_path / "mixed", mixed))], "budget": 40}, "steps": 1}
    fit(make_recipe(document), tmp_path / "run", say=lines.append)
    (line,) = [line for line in lines if "from the sums of their atoms" in line]
    assert line.startswith("warning: energies of level morse differ by ")
    assert "mixed levels of theory under one name, or a wrong unit" in line
    assert line.endswith(f"`mlipfm data check-labels {tmp_path / 'mixed'}` looks for the cause")


def test_ordinary_energies_are_not_warned_of(tiny, tmp_path):
    lines: list[str] = []
    fit(make_recipe({**tiny, "steps": 1}), tmp_path, say=lines.append)
    assert not any("from the sums of their atoms" in line for line in lines)


def _interrupted(path, structures):
    with StoreWriter(path, name=path.name) as writer:
        for s in structures:
            writer.add(s)
        raise KeyboardInterrupt


@pytest.mark.parametrize("role", ["train", "valid"])
def test_a_store_whose_writer_was_killed_is_refused(tiny, tmp_path, morse_structures, role):
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "part", morse_structures(3, 7))
    document = {**tiny, "data": {**tiny["data"], role: [str(tmp_path / "part")]}}
    with pytest.raises(RefusedFileError, match="part: is not complete: a writer is at work or was killed"):
        fit(make_recipe(document), tmp_path / "run")


def test_faults_of_labels_are_one_line_for_each_store_with_the_command_that_shows_them(tiny, tmp_path, morse_structures, write_store):
    turned = [s.replace(labels={**s.labels, "forces": -s.labels["forces"]}) for s in morse_structures(24, 0)]
    store, lines = write_store(tmp_path / "gradients", turned), []
    document = {**tiny, "data": {"train": [str(store)], "budget": 40}, "steps": 1}
    fit(make_recipe(document), tmp_path / "run", say=lines.append)
    (line,) = [line for line in lines if line.startswith("warning: labels of")]
    assert line.startswith(f"warning: labels of {store}: fault ")
    assert "fault forces-sign" in line
    assert line.endswith(f"`mlipfm data check-labels {store}` says what and what to do")


def test_labels_of_a_level_that_is_not_used_are_not_judged(tmp_path, morse_structures, write_store):
    bad = [s.replace(labels={**s.labels, "forces": -s.labels["forces"]}) for s in morse_structures(24, 1, level="bad")]
    path = write_store(tmp_path / "both", [*morse_structures(24, 0, level="good"), *bad])
    said = {}
    for level in ("good", "bad"):
        report = Report()
        check_labels([Frames([path], [level])], report)
        said[level] = " ".join(report.lines)
    assert "forces-sign" not in said["good"]  # of Morse atoms other things are said: their energies are of no chemistry
    assert "fault forces-sign" in said["bad"]


def test_places_to_inspect_are_blocks_over_the_whole_store():
    assert list(_blocks(5)) == [0, 1, 2, 3, 4]
    places = _blocks(1_000_000)
    assert len(places) == INSPECTED
    assert (places[0], places[-1]) == (0, 999_999)
    assert np.array_equal(places.reshape(-1, BLOCK) - places[::BLOCK, None], np.tile(np.arange(BLOCK), (INSPECTED // BLOCK, 1)))
