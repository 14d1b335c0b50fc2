"""A run goes on only as what it was: the same data, and the same recipe but for when it stops."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from mlipfm_data.store.writer import StoreWriter
from mlipfm_interfaces.checkpoint import load_model
from mlipfm_interfaces.errors import RecipeError, RefusedFileError, TrainingError
from mlipfm_train import fit, make_recipe
from mlipfm_train.events import read_events
from mlipfm_train.sources import StoreSource
from mlipfm_train.training_state import load_newest_state

pytestmark = pytest.mark.ci


@pytest.fixture
def own(tiny, tmp_path, morse_structures, write_store):
    """`tiny` on stores of its own, at a constant learning rate."""
    data = {
        "train": [str(write_store(tmp_path / "train", morse_structures(12, 0)))],
        "valid": [str(write_store(tmp_path / "valid", morse_structures(6, 1)))],
    }
    return {**tiny, "data": {**data, "budget": 40}, "schedule": {"name": "constant"}}


def weights(path) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in load_model(path)[0].named_parameters()}


def same_weights(first, second) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


class Overflowing(StoreSource):
    """Labels whose loss is beyond the range of float64."""

    def next_batch(self, potential):
        return [s.replace(labels={k: v * 0 + 1e308 for k, v in s.labels.items()}) for s in super().next_batch(potential)]


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_store_that_was_replaced_is_refused_by_name(own, tmp_path, morse_structures, write_store, part):
    fit(make_recipe(own, ["steps=4"]), tmp_path / "run")
    before = load_model(tmp_path / "run/last.safetensors")[1]["extra"]
    shutil.rmtree(tmp_path / part)
    write_store(tmp_path / part, [s.replace(labels={k: 2 * v for k, v in s.labels.items()}) for s in morse_structures(12, 0)])
    with pytest.raises(RefusedFileError, match=rf"{part}: the data of this run have changed.*init_from=") as caught:
        fit(make_recipe(own, ["steps=8"]), tmp_path / "run")
    assert caught.value.where == str(tmp_path / part)
    assert load_model(tmp_path / "run/last.safetensors")[1]["extra"] == before


def test_labels_laid_over_a_store_are_other_data(own, tmp_path, morse_structures):
    fit(make_recipe(own, ["steps=4"]), tmp_path / "run")
    s = morse_structures(12, 0)[0]
    with StoreWriter(tmp_path / "train") as writer:
        writer.add_overlay(s.key, "morse", {"energy": np.array(0.0)}, licence="CC-BY-4.0")
    with pytest.raises(RefusedFileError, match="the data of this run have changed"):
        fit(make_recipe(own, ["steps=4"]), tmp_path / "run")


def test_a_store_may_move(own, tmp_path):
    fit(make_recipe(own, ["steps=4"]), tmp_path / "run")
    (tmp_path / "train").rename(tmp_path / "moved")
    fit(make_recipe(own, ["steps=6", f"data.train=[{tmp_path / 'moved'}]"]), tmp_path / "run")
    assert load_newest_state(tmp_path / "run/state")["next_step"] == 6


def test_at_a_constant_rate_an_extended_run_has_the_bits_of_a_longer_one(own, tmp_path):
    fit(make_recipe(own, ["steps=6"]), tmp_path / "parts")
    said: list[str] = []
    fit(make_recipe(own, ["steps=12"]), tmp_path / "parts", say=said.append)
    fit(make_recipe(own, ["steps=12"]), tmp_path / "whole")
    assert said[0] == (
        "extended from 6 to 12 steps: weights, their average, optimiser and the order of the data go on; the constant learning rate stays"
    )
    for name in ("last.safetensors", "best.safetensors"):
        assert same_weights(tmp_path / "parts" / name, tmp_path / "whole" / name)
    extra = load_model(tmp_path / "parts/last.safetensors")[1]["extra"]
    assert (extra["recipe"]["steps"], extra["extensions"]) == (12, [{"at": 6, "steps": [6, 12]}])


def test_an_extension_says_what_becomes_of_a_cosine_and_resumes_to_the_bit(own, tmp_path):
    cosine = {**own, "schedule": {"name": "cosine"}}
    for folder in ("whole", "parts"):
        fit(make_recipe(cosine, ["steps=6"]), tmp_path / folder)
    said: list[str] = []
    fit(make_recipe(cosine, ["steps=12"]), tmp_path / "whole", say=said.append)
    assert "schedule 'cosine' is that of a run of 12 steps from here on: the learning rate goes from 0.000382 to 0.00252" in said[0]
    fit(make_recipe(cosine, ["steps=12", "time_limit=0.001"]), tmp_path / "parts")
    fit(make_recipe(cosine, ["steps=12"]), tmp_path / "parts")
    digests = {load_model(tmp_path / folder / "last.safetensors")[1]["digest"] for folder in ("whole", "parts")}
    assert len(digests) == 1


def test_anything_else_that_changes_is_named(own, tmp_path):
    fit(make_recipe(own, ["steps=4"]), tmp_path / "run")
    with pytest.raises(
        RecipeError, match=r"another recipe: seed: 0 -> 1; optimizer.lr: 0.005 -> 0.1; use that recipe.*init_from=.*last.safetensors"
    ):
        fit(make_recipe(own, ["steps=8", "seed=1", "optimizer.lr=0.1"]), tmp_path / "run")
    with pytest.raises(RecipeError, match="cannot be shortened: steps: 4 -> 2"):
        fit(make_recipe(own, ["steps=2"]), tmp_path / "run")


def test_a_time_limit_leaves_no_trace_in_the_model(own, tmp_path):
    short = ["steps=5", "evaluate_every=2"]
    fit(make_recipe(own, short), tmp_path / "whole")
    for done in range(1, 6):
        result = fit(make_recipe(own, [*short, "time_limit=0.001"]), tmp_path / "parts")
        assert result.steps == done
    assert "time limit" not in result.ended
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_training_stops_when_validation_no_longer_improves(own, tmp_path):
    """At a learning rate of 1e-12 the second validation is as good as the first but for rounding; it is better by chance at most a few times."""
    still = make_recipe(own, ["optimizer.lr=1e-30", "steps=40", "evaluate_every=2", "patience=3", "dtype=float64"])
    result = fit(still, tmp_path / "run")
    assert result.steps == 8
    assert "stopped early after step 8 of 40: 3 validations in a row were not better than the best (patience 3)" in result.ended
    said: list[str] = []
    assert fit(still, tmp_path / "run", say=said.append).steps == 8
    assert said[-1].endswith("nothing to train")
    assert fit(still.model_copy(update={"patience": 5}), tmp_path / "run").steps == 12


def test_patience_needs_validation_structures(own):
    with pytest.raises(RecipeError, match="patience needs validation structures"):
        make_recipe(own, ["patience=3", "data.valid=[]"])


def test_a_run_whose_every_step_is_skipped_is_no_success(own, tmp_path):
    with pytest.raises(TrainingError, match="every one of 4 steps was skipped"):
        fit(make_recipe(own, ["steps=4"]), tmp_path / "run", source=Overflowing)


def test_the_log_keeps_every_extension(own, tmp_path):
    for steps in (2, 3, 4):
        fit(make_recipe(own, [f"steps={steps}"]), tmp_path / "run")
    found = [json.dumps(e["values"]["steps"]) for e in read_events(tmp_path / "run/events.jsonl") if e["kind"] == "extension"]
    assert found == ["[2, 3]", "[3, 4]"]
