"""What a model starts from: size of forces, references of its data, and the references that a fine-tuned model keeps."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.structure import Structure
from mlipfm_train.data_statistics import collect_statistics, shortest_distances
from mlipfm_train.frames import Frames
from mlipfm_train.head_scales import with_scales
from mlipfm_train.loop import fit
from mlipfm_train.recipe import make_recipe


def test_sizes_of_forces_are_those_of_their_components(tmp_path, write_store):
    """Components 3, 4, 0, 0, 0, 0 and 0, 0, 5: root mean square sqrt(50 / 9), mean 12 / 9."""
    first = Structure([1, 1], [[0, 0, 0], [0, 0, 1.0]], level="x", labels={"energy": 0.0, "forces": np.array([[3.0, -4, 0], [0, 0, 0]])})
    second = Structure([1], [[0, 0, 0]], level="x", labels={"energy": 0.0, "forces": np.array([[0, 0, 5.0]])})
    frames = Frames([write_store(tmp_path / "two", [first, second])])
    found = collect_statistics(frames, frames.structure_table(), 0)
    assert found.rms_force == pytest.approx((50 / 9) ** 0.5)
    assert found.mean_force == pytest.approx(12 / 9)


def test_a_model_has_the_scale_and_references_of_its_data_and_a_fine_tuned_one_keeps_them(tiny, tmp_path, morse_structures, write_store):
    steps = ["steps=1", "evaluate_every=1", "checkpoint_every=1"]
    result = fit(make_recipe(tiny, steps), tmp_path / "first")
    frames = Frames(tiny["data"]["train"])
    found = collect_statistics(frames, frames.structure_table(), 0)
    first = load_model(result.last)[1]["config"]
    assert first["scale"] == pytest.approx(found.rms_force, rel=1e-3)
    assert first["references"]["morse"]["H"] == pytest.approx(found.references["morse"].energies[1], abs=1e-6)

    shifted = [
        s.replace(labels={"energy": s.labels["energy"] + 2.0 * len(s), "forces": 3 * s.labels["forces"]}) for s in morse_structures(12, 5)
    ]
    store = write_store(tmp_path / "shifted", shifted)
    document = {**tiny, "init_from": str(result.last), "data": {**tiny["data"], "train": [str(store)]}}
    document["potential"] = {}
    second = load_model(fit(make_recipe(document, steps), tmp_path / "second").last)[1]["config"]
    assert second["references"] == first["references"]
    assert second["scale"] == first["scale"]


def test_shortest_distances_are_those_of_the_data_and_fine_tuning_lowers_them_only(tiny, tmp_path, morse_structures, write_store):
    steps = ["steps=1", "evaluate_every=1", "checkpoint_every=1"]
    result = fit(make_recipe(tiny, steps), tmp_path / "first")
    first = load_model(result.last)[1]["config"]["backbone"]["shortest_distances"]
    assert first == shortest_distances(Frames(tiny["data"]["train"]), 3.0, seed=0)
    for factor in (0.9, 1.1):
        moved = [s.replace(positions=factor * s.positions) for s in morse_structures(12, 5)]
        store = write_store(tmp_path / f"moved-{factor}", moved)
        document = {**tiny, "init_from": str(result.last), "data": {**tiny["data"], "train": [str(store)]}, "potential": {}}
        second = load_model(fit(make_recipe(document, steps), tmp_path / f"second-{factor}").last)[1]["config"]["backbone"][
            "shortest_distances"
        ]
        new = shortest_distances(moved, 3.0, seed=0)
        assert second == {pair: min(first[pair], new.get(pair, first[pair])) for pair in first}
        assert (second != first) == (factor == 0.9)
    own = make_recipe(tiny, [*steps, "potential.backbone.shortest_distances={}"])
    assert load_model(fit(own, tmp_path / "own").last)[1]["config"]["backbone"]["shortest_distances"] == {}


def test_a_model_of_two_levels_predicts_that_of_its_data_where_none_is_requested(tiny, tmp_path, morse_structures, write_store):
    steps = ["steps=1", "evaluate_every=1", "checkpoint_every=1"]
    other = [s.replace(level="other") for s in morse_structures(12, 5)]
    both = {**tiny["data"], "train": [*tiny["data"]["train"], str(write_store(tmp_path / "other", other))]}
    first = fit(make_recipe({**tiny, "data": both}, steps), tmp_path / "first").last
    assert load_model(first)[0].default_level is None  # it was trained on both

    document = {**tiny, "init_from": str(first), "data": {**tiny["data"], "train": [str(tmp_path / "other")]}, "potential": {}}
    second = fit(make_recipe(document, steps), tmp_path / "second").last
    model = load_model(second)[0]
    assert (sorted(model.spec.levels), model.default_level) == (["morse", "other"], "other")
    third = fit(make_recipe({**document, "init_from": str(second), "data": both}, steps), tmp_path / "third").last
    assert load_model(third)[0].default_level == "other"  # as the model that it comes from


def test_heads_start_at_the_mean_of_each_element_and_the_spread_about_it():
    """Charges have no shift; shieldings 30 and 32 of H, 100 of O: means 31 and 100, deviations 1, 1 and 0."""
    s = Structure(
        [1, 1, 8], np.eye(3), level="x", labels={"shieldings": np.array([30.0, 32.0, 100.0]), "charges": np.array([0.4, 0.4, -0.8])}
    )
    gap = [s.replace(labels={**s.labels, "band_gap": value}) for value in (1.0, 5.0)]
    found = with_scales({"shieldings": {}, "charges": {}, "band_gap": {}}, gap, ["H", "O"], 0)
    assert found["shieldings"]["shift"] == {"H": 31.0, "O": 100.0}
    assert found["shieldings"]["scale"] == pytest.approx((2 / 3) ** 0.5)
    assert found["charges"] == {"scale": pytest.approx((0.96 / 3) ** 0.5)}
    assert found["band_gap"] == {"shift": 3.0, "scale": 2.0}
