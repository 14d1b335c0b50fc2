"""Licences follow the weights: a model has those of its data and of every model it starts from, and nothing unknown is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mlipfm_data.store.store import Store
from mlipfm_interfaces.checkpoint import load_model, save_potential
from mlipfm_interfaces.files import sha256
from mlipfm_interfaces.frame_hashes import encode, frame_hashes
from mlipfm_interfaces.model_card import model_card
from mlipfm_interfaces.registry_promote import licence_faults
from mlipfm_train.loop import fit
from mlipfm_train.recipe import make_recipe


@pytest.fixture
def licensed(morse_structures, write_store, tmp_path):
    """`licensed(name, licence)`: a store of six structures."""

    def make(name: str, licence: str | None) -> Path:
        seed = sum(name.encode())
        found = [s.replace(provenance=replace(s.provenance, licence=licence, source=name)) for s in morse_structures(6, seed)]
        return write_store(tmp_path / name, found)

    return make


@pytest.fixture
def train(tiny, tmp_path):
    """`train(name, store, start)`: a run of three steps; its last checkpoint and the manifest."""

    def run(name: str, store: Path, start: Path | None = None, say=None, valid: Path | None = None) -> tuple[Path, dict]:
        held_out = [] if valid is None else [str(valid)]
        document = {**tiny, "data": {**tiny["data"], "train": [str(store)], "valid": held_out}, "steps": 3}
        if start is not None:
            document |= {"init_from": str(start), "potential": {}}
        path = fit(make_recipe(document), tmp_path / name, say=say).last
        return path, load_model(path)[1]

    return run


def test_a_fine_tuned_model_has_the_licences_of_its_data_and_of_every_ancestor(licensed, train):
    first, root = train("first", licensed("large", "CC-BY-4.0"))
    second, middle = train("second", licensed("small", "MIT"), first)
    _, last = train("third", licensed("own", "CC0-1.0 OR ISC"), second)
    assert root["extra"]["licences"] == ["CC-BY-4.0"]
    assert root["extra"]["ancestors"] == []
    assert middle["extra"]["licences"] == ["CC-BY-4.0", "MIT"]
    assert last["extra"]["licences"] == ["CC-BY-4.0", "CC0-1.0 OR ISC", "MIT"]
    found = [(a["digest"], a["licences"], [d["name"] for d in a["data"]]) for a in last["extra"]["ancestors"]]
    assert found == [(middle["digest"], ["CC-BY-4.0", "MIT"], ["small"]), (root["digest"], ["CC-BY-4.0"], ["large"])]
    assert licence_faults(last) == []
    card = model_card(last)
    assert "{'" not in card  # settings stand one by one under their dotted keys
    assert f"| starts from | `{middle['digest']}` (CC-BY-4.0, MIT), which starts from `{root['digest']}` (CC-BY-4.0) |" in card


def test_the_manifest_names_stores_by_their_hash_and_sources(licensed, train):
    store = licensed("large", "CC-BY-4.0")
    _, manifest = train("run", store)
    entry = {"name": "large", "manifest": sha256(store / "manifest.json"), "structures": 6, "licences": ["CC-BY-4.0"], "sources": ["large"]}
    with Store(store) as opened:
        entry["frames"] = encode(frame_hashes(opened))
    assert manifest["extra"]["data"] == [entry]


def test_validation_data_choose_the_best_model_so_their_licences_are_its_own(licensed, train):
    store, lines = licensed("held-out", "CC-BY-NC-4.0"), []
    _, manifest = train("run", licensed("large", "MIT"), say=lines.append, valid=store)
    assert manifest["extra"]["licences"] == ["CC-BY-NC-4.0", "MIT"]
    assert [entry["name"] for entry in manifest["extra"]["data"]] == ["large"]
    (entry,) = manifest["extra"]["validation_data"]
    assert entry["manifest"] == sha256(store / "manifest.json")
    assert (entry["name"], entry["licences"]) == ("held-out", ["CC-BY-NC-4.0"])
    assert "licences of the validation data, which choose the best model: CC-BY-NC-4.0" in lines


def test_an_unknown_licence_of_an_ancestor_is_handed_down_and_named(licensed, train):
    first, root = train("first", licensed("large", None))
    second, _ = train("second", licensed("small", "MIT"), first)
    lines: list[str] = []
    _, last = train("third", licensed("own", "CC0-1.0"), second, lines.append)
    assert last["extra"]["licences"] == ["", "CC0-1.0", "MIT"]
    assert licence_faults(last) == [f"some data have no licence, among them those of the model {root['digest'][:12]} that it starts from"]
    assert f"starts from the model {root['digest'][:12]}, licences of its data: not given" in lines
    assert "licences that are not known: not given; a registry will promote neither this model nor one that starts from it" in lines


def test_a_checkpoint_that_says_nothing_of_licences_is_unknown(licensed, train, tmp_path):
    first, _ = train("first", licensed("large", "MIT"))
    silent = tmp_path / "silent.safetensors"
    digest = save_potential(silent, load_model(first)[0])
    _, manifest = train("second", licensed("small", "MIT"), silent)
    assert manifest["extra"]["ancestors"] == [{"digest": digest, "licences": [""], "data": []}]
    assert "some data have no licence" in licence_faults(manifest)[0]


def test_a_potential_from_memory_is_of_unknown_origin(licensed, train, tiny, tmp_path):
    first, _ = train("first", licensed("large", "MIT"))
    document = {**tiny, "data": {**tiny["data"], "train": [str(licensed("small", "MIT"))], "valid": []}, "steps": 3}
    result = fit(make_recipe(document), tmp_path / "run", potential=load_model(first)[0])
    manifest = load_model(result.last)[1]
    assert manifest["extra"]["licences"] == ["", "MIT"]
    assert licence_faults(manifest) == [
        "some data have no licence, among them those of the potential without a checkpoint that it starts from"
    ]
