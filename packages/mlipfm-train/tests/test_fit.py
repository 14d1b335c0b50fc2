"""`fit`: it learns, it continues exactly, and it refuses what cannot work before step 0."""

from __future__ import annotations

import ast
import inspect
import json
import logging
from dataclasses import replace
from pathlib import Path

import mlipfm_train.loop
import mlipfm_train.run as run_module
import numpy as np
import pytest
import torch
from mlipfm_interfaces.checkpoint import load_checkpoint, load_model, load_potential
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import (
    LockedError,
    MissingLabelsError,
    PropertyNotAvailableError,
    RecipeError,
    TrainingError,
    UnknownElementError,
)
from mlipfm_interfaces.files import lock
from mlipfm_interfaces.potential import evaluate
from mlipfm_train.events import read_events
from mlipfm_train.frames import Frames
from mlipfm_train.loop import fit
from mlipfm_train.recipe import make_recipe
from mlipfm_train.sources import StoreSource
from mlipfm_train.train_command import run
from mlipfm_train.training_state import KIND, states


class Stop(Exception):
    """The run is interrupted."""


def stop_after(step: int):
    """A listener that interrupts when the event of `step` is logged."""

    def listen(event):
        if (event["kind"], event["step"]) == ("step", step):
            raise Stop

    return listen


def outcome(folder: Path) -> dict:
    """Everything that must not depend on interruptions."""
    events = [e for e in read_events(folder / "events.jsonl") if e["kind"] != "preflight"]
    for event in events:
        event.pop("time")
        event["values"].pop("seconds", None)
    (newest, *_) = states(folder / "state")
    return {
        "last": load_checkpoint(folder / "last.safetensors")[0]["digest"],
        "best": load_checkpoint(folder / "best.safetensors")[0]["digest"],
        "state": load_checkpoint(newest, KIND)[0]["digest"],
        "events": json.dumps(sorted(events, key=lambda e: (e["kind"], e["step"]))),
    }


def force_mae(potential, structures) -> float:
    """meV/Å, over components."""
    answers = evaluate(potential, structures)
    errors = [np.abs(a["forces"] - s.labels["forces"]).ravel() for a, s in zip(answers, structures, strict=True)]
    return 1000 * float(np.mean(np.concatenate(errors)))


def test_the_loop_fits_on_a_screen_and_knows_no_model():
    source = inspect.getsource(mlipfm_train.loop)
    assert len(source.splitlines()) <= 60
    imported = {node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "pathlib", "typing", "recipe", "open_run", "run", "schedules"}


def test_training_lowers_the_error_on_held_out_structures(tiny, tmp_path):
    lines = []
    result = fit(make_recipe(tiny, ["steps=40", "evaluate_every=20", "weight_rule.decay=0.9"]), tmp_path / "run", say=lines.append)
    valid = list(Frames(tiny["data"]["valid"]))
    before, after = (force_mae(load_potential(path), valid) for path in (tmp_path / "run" / "initial.safetensors", result.last))
    assert after < 0.7 * before
    force, energy = result.metrics
    assert force.value == pytest.approx(after, rel=1e-6)
    assert (force.unit, force.n_total, energy.n_total) == ("meV/A", 6, 6)
    text = "\n".join(lines)
    assert "24 structures, 4.0 atoms on average, elements H C O" in text
    assert "level morse: 24 structures, references of rank 3 for 3 elements" in text
    assert "CC0-1.0" in text


def test_the_manifest_of_a_model_holds_the_whole_recipe_and_the_licences(tiny, tmp_path):
    result = fit(make_recipe(tiny), tmp_path / "run")
    _, manifest = load_model(result.last)
    assert manifest["extra"]["recipe"]["objectives"][0]["huber_delta"] == 0.01
    assert manifest["extra"]["recipe"]["schedule"] == {"name": "cosine", "warmup": 0, "final": 0.01, "decay": None}
    assert manifest["extra"]["licences"] == ["CC0-1.0"]
    assert manifest["extra"]["step"] == 12


def test_frames_of_one_molecule_give_no_interval(tiny, tmp_path, morse_structures, write_store):
    """Two frames of one trajectory are not two molecules: an interval over them would be too narrow."""
    water = [s.replace(provenance=replace(s.provenance, group=None)) for s in morse_structures(12, 1)[::3]]
    valid = write_store(tmp_path / "valid", water)
    result = fit(make_recipe(tiny, ["steps=2", f"data.valid=[{valid}]"]), tmp_path / "run")
    stored = load_model(result.last)[1]["extra"]["validation"]
    assert [figure["ci95"] for figure in stored] == [None, None]
    assert "[" not in str(result.metrics[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(tiny, tmp_path, dtype):
    recipe = make_recipe(tiny, [f"dtype={dtype}"])
    fit(recipe, tmp_path / "whole")
    for step in (2, 4, 7, 9):  # before the first state, in the middle of an epoch, beside saves and validations
        with pytest.raises(Stop):
            fit(recipe, tmp_path / "parts", listeners=[stop_after(step)])
    fit(recipe, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_run_that_is_continued_says_with_which_step(tiny, tmp_path):
    recipe, said = make_recipe(tiny), []
    for last in (1, 5):  # before the first state (after step 4), and after it
        with pytest.raises(Stop):
            fit(recipe, tmp_path, listeners=[stop_after(last)], say=said.append)
    fit(recipe, tmp_path, say=said.append)
    assert [line for line in said if "of 12" in line] == [
        "starts again with the first of 12 steps: no training state was saved yet",
        "goes on with step 5 of 12",
    ]


def test_a_finished_run_is_left_alone(tiny, tmp_path):
    first = fit(make_recipe(tiny), tmp_path / "run")
    digest = outcome(tmp_path / "run")
    again = fit(make_recipe(tiny), tmp_path / "run")
    assert outcome(tmp_path / "run") == digest
    assert again.metrics == first.metrics


def test_a_damaged_newest_state_is_passed_over_loudly(tiny, tmp_path, caplog):
    recipe = make_recipe(tiny)
    fit(recipe, tmp_path / "whole")
    with pytest.raises(Stop):
        fit(recipe, tmp_path / "run", listeners=[stop_after(9)])
    newest, _ = states(tmp_path / "run" / "state")
    newest.write_bytes(newest.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, logger="mlipfm.train"):
        fit(recipe, tmp_path / "run")
    assert "step-000000008.safetensors cannot be used" in caplog.text
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_folder_belongs_to_one_recipe_and_one_process(tiny, tmp_path):
    fit(make_recipe(tiny), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"another recipe: optimizer.lr: 0.005 -> 0.001; use that recipe"):
        fit(make_recipe(tiny, ["optimizer.lr=1e-3"]), tmp_path / "run")
    with lock(tmp_path / "run" / "lock"), pytest.raises(LockedError, match="is in use by"):
        fit(make_recipe(tiny), tmp_path / "run")


class Poison(StoreSource):
    """Labels of chosen steps are huge beyond float range: their gradient overflows."""

    steps: tuple[int, ...] = (3,)

    def next_batch(self, potential):
        done = sum(n for _, n in self._segments) + 100 * self.epoch
        batch = super().next_batch(potential)
        return [s.replace(labels={k: v * 0 + 1e308 for k, v in s.labels.items()}) for s in batch] if done in self.steps else batch


def test_a_poisoned_batch_is_skipped_counted_and_named(tiny, tmp_path):
    result = fit(make_recipe(tiny), tmp_path / "run", source=Poison)
    assert result.skipped == 1
    skipped = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["kind"] == "step" and e["values"]["skipped"]]
    assert [e["step"] for e in skipped] == [3]
    assert len(skipped[0]["values"]["keys"]) == skipped[0]["values"]["systems"]
    assert all(bool(torch.isfinite(p).all()) for p in load_potential(result.last).parameters())


def test_training_stops_when_every_step_is_poisoned(tiny, tmp_path):
    class Storm(Poison):
        steps = tuple(range(1000))

    with pytest.raises(
        TrainingError, match=r"step 3: loss or gradient was not finite in 4 steps in a row, the last with structures [0-9a-f]{32}"
    ):
        fit(make_recipe(tiny, ["max_skipped=3"]), tmp_path / "run", source=Storm)


def test_training_that_diverges_stops_and_keeps_its_best_model(tiny, tmp_path):
    """The learning rate grows until every step throws the model further away."""
    changes = ["optimizer.lr=20", "schedule.warmup=200", "steps=200", "evaluate_every=5", "checkpoint_every=50", "weight_rule.decay=0.5"]
    with pytest.raises(TrainingError, match=r"step \d+: training has diverged: force MAE is .* meV/A, the best was .*; lower optimizer.lr"):
        fit(make_recipe(tiny, changes), tmp_path / "run")
    events = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["kind"] == "validation"]
    errors = [e["values"]["metrics"][0]["value"] for e in events]
    assert min(errors[-3:]) > 10 * min(errors)
    assert load_model(tmp_path / "run" / "best.safetensors")[1]["extra"]["validation"][0]["value"] == min(errors)


def test_a_model_that_has_collapsed_to_the_error_before_training_stops(tiny, tmp_path, monkeypatch):
    """Its best validation may be no better, so that no multiple of the best is ever reached."""
    monkeypatch.setattr(run_module, "LEARNED", 10)
    monkeypatch.setattr(run_module, "DIVERGED", float("inf"))
    changes = ["optimizer.lr=20", "schedule.warmup=200", "steps=200", "evaluate_every=5", "checkpoint_every=50", "weight_rule.decay=0.5"]
    with pytest.raises(TrainingError, match=r"training has diverged: force MAE is \S+ meV/A, the best was \S+, before training \S+; lower"):
        fit(make_recipe(tiny, changes), tmp_path / "run")


def test_training_that_ends_without_a_finite_answer_is_no_success(tiny, tmp_path):
    changes = ["optimizer.lr=100", "optimizer.weight_decay=0", "steps=6", "evaluate_every=6", "checkpoint_every=6"]
    with pytest.raises(TrainingError, match=r"step 5: training has diverged: force MAE"):
        fit(make_recipe(tiny, changes), tmp_path / "run")


def test_labels_that_are_missing_are_named_before_step_0(tiny, tmp_path, morse_structures, write_store):
    store = write_store(tmp_path / "energies", morse_structures(6, 0, labels=("energy",)))
    recipe = make_recipe(tiny, [f"data.train=[{store}]"])
    with pytest.raises(
        MissingLabelsError, match=r"none of 6 structures has the label 'forces' that 'energy-force' needs; labels found: energy \(6\)"
    ):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_labels_that_nothing_is_trained_on_are_named(tiny, tmp_path):
    lines: list[str] = []
    fit(make_recipe(tiny, ["steps=1", "objectives.0.forces_weight=0"]), tmp_path / "energies", say=lines.append)
    assert (
        "labels that no objective uses, the model will not learn them: forces (24 of 24 structures); `forces_weight` of energy-force is 0"
        in lines
    )
    lines.clear()
    fit(make_recipe(tiny, ["steps=1"]), tmp_path / "all", say=lines.append)
    assert not any("no objective uses" in line for line in lines)


def test_a_head_that_no_objective_trains_is_refused_unless_it_was_trained_before(tiny, tmp_path):
    changes = ["steps=1", "potential.heads={charges: {}}", "potential.conditions=[total_charge]"]
    with pytest.raises(RecipeError, match="no objective trains the head 'charges': it would predict noise"):
        fit(make_recipe(tiny, changes), tmp_path / "run")
    from mlipfm_interfaces.checkpoint import build, save_potential

    options = {
        "elements": ["H", "C", "O"],
        "levels": ["morse"],
        "heads": {"charges": {}},
        "conditions": ["total_charge"],
        "backbone": tiny["potential"]["backbone"],
    }
    save_potential(tmp_path / "known.safetensors", build("painn", options))
    fit(make_recipe({**tiny, "potential": {}}, ["steps=1", f"init_from={tmp_path / 'known.safetensors'}"]), tmp_path / "kept")


def test_an_objective_that_learns_no_label_chooses_no_model_by_one(tiny, tmp_path):
    lines: list[str] = []
    done = fit(make_recipe(tiny, ["steps=2", "evaluate_every=1", "objectives=[{name: masked}]"]), tmp_path / "run", say=lines.append)
    assert done.best is None
    assert "no label is learned, so that the validation data choose no model: last.safetensors is the result" in lines
    assert any(line.startswith("labels that no objective uses, the model will not learn them: energy (24 of 24") for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "potential.references={H: -10., C: -20., O: -900.}",
            "with these reference energies, energies before training are off by .* eV/atom, more than anything binds",
        ),
        ("potential.backbone.cutoff=0.4", "no atom of the training structures has a neighbour within the cutoff of 0.4"),
        ("tracking.mlflow=file:///tmp/runs", "runs in folders are no longer kept by MLflow"),
    ],
)
def test_what_cannot_work_is_refused_before_step_0(tiny, tmp_path, change, words):
    with pytest.raises(RecipeError, match=words):
        fit(make_recipe(tiny, [change]), tmp_path / "run")


def test_processes_without_a_strategy_are_told_of_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="2 processes were started, and each would train alone"):
        run(make_recipe(tiny), tmp_path / "run", False)


def test_the_head_that_an_objective_needs_is_named_with_its_key(tiny, tmp_path):
    with pytest.raises(PropertyNotAvailableError, match=r"'denoise' needs 'noise'.*potential\.heads=\{noise: \{\}\}"):
        fit(make_recipe(tiny, ["objectives=[{name: denoise}]"]), tmp_path / "run")


def test_every_validation_structure_is_measured_though_one_batch_does_not_hold_all(tiny, tmp_path):
    result = fit(make_recipe(tiny, ["steps=1", "data.budget=12"]), tmp_path / "run")
    assert [m.n_total for m in result.metrics] == [len(Frames(tiny["data"]["valid"]))] * len(result.metrics)
    assert result.metrics


@pytest.mark.parametrize(("by", "warned"), [("random", True), ("time", False)])
def test_validation_between_training_frames_of_a_trajectory_is_told(tiny, tmp_path, morse_structures, write_store, by, warned):
    """Water that vibrates slowly: neighbouring frames are alike."""
    start = morse_structures(1, 0)[0]
    frames = [
        start.replace(
            positions=start.positions + 0.1 * np.sin(0.2 * k + np.arange(9).reshape(3, 3)),
            provenance=replace(start.provenance, group="md", index=k),
        )
        for k in range(60)
    ]
    write_store(tmp_path / "all", frames)
    words = ["--by", by, "--fractions", "train=0.8,valid=0.2", "--no-check", "--out", str(tmp_path / "parts")]
    with pytest.raises(SystemExit) as end:
        main(["data", "split", str(tmp_path / "all"), *words])
    assert not end.value.code
    lines: list[str] = []
    data = [f"data.train=[{tmp_path / 'parts/train'}]", f"data.valid=[{tmp_path / 'parts/valid'}]"]
    fit(make_recipe(tiny, ["steps=1", *data]), tmp_path / "run", say=lines.append)
    assert any("validation structures lie beside training structures of the same trajectory" in line for line in lines) == warned


def test_what_the_potential_cannot_do_is_refused_before_step_0(tiny, tmp_path):
    with pytest.raises(MissingLabelsError, match="none of 24 structures has the label 'stress' that 'energy-force' needs"):
        fit(make_recipe(tiny, ["objectives.0.stress_weight=1"]), tmp_path / "a")
    with pytest.raises(UnknownElementError, match="the training data contain C, which the potential does not support; it supports H O"):
        fit(make_recipe(tiny, ["potential.elements=[H, O]"]), tmp_path / "b")
    with pytest.raises(RecipeError, match="did you mean"):
        fit(make_recipe(tiny, ["potential.force=direct"]), tmp_path / "c")
    with pytest.raises(RecipeError, match="there are no training structures"):
        fit(make_recipe(tiny, ["data.train=[]"]), tmp_path / "d")

    class WantsCharges:
        outputs, requires, gather, module = ("charges",), (), (), None

    with pytest.raises(PropertyNotAvailableError, match="'odd' needs 'charges' from the potential; it predicts energy"):
        fit(make_recipe(tiny), tmp_path / "e", objectives={"odd": WantsCharges()})


def test_fine_tuning_turns_direct_forces_into_a_gradient_at_a_new_level(tiny, tmp_path, morse_structures, write_store):
    first = fit(make_recipe(tiny, ["potential.forces=direct"]), tmp_path / "pre")
    shifted = [s.replace(labels={**s.labels, "energy": s.labels["energy"] - 3.0 * len(s)}) for s in morse_structures(12, 5, level="better")]
    store = write_store(tmp_path / "better", shifted)
    document = {**tiny, "potential": {"forces": "conservative"}, "init_from": str(first.last)}
    held_out = write_store(tmp_path / "held-out", morse_structures(3, 6, level="better"))
    document["data"] = {**tiny["data"], "train": [str(store)], "valid": [str(held_out)]}
    lines = []
    result = fit(make_recipe(document, ["level_starts.better=morse"]), tmp_path / "tuned", say=lines.append)
    tuned = load_potential(result.last)
    assert (tuned.spec.kind, tuned.spec.levels) == ("conservative", ("morse", "better"))
    assert any("parameters copied" in line for line in lines)
    energies = evaluate(tuned, [shifted[0].replace(labels={})], ("energy",), level="better")[0]["energy"]
    assert abs(energies - shifted[0].labels["energy"]) / len(shifted[0]) < 0.5  # the new level's references are 3 eV per atom lower


def test_a_source_may_train_on_what_the_current_potential_proposes(tiny, tmp_path):
    class OnPolicy(StoreSource):
        """Moves structures along the model's own forces; the labels stay those of the start."""

        uses_potential = True

        def next_batch(self, potential):
            batch = super().next_batch(None)
            answers = evaluate(potential, batch, ("forces",))
            return [s.replace(positions=s.positions + 1e-3 * np.tanh(a["forces"])) for s, a in zip(batch, answers, strict=True)]

    recipe = make_recipe(tiny)
    fit(recipe, tmp_path / "whole", source=OnPolicy)
    with pytest.raises(Stop):
        fit(recipe, tmp_path / "parts", source=OnPolicy, listeners=[stop_after(6)])
    fit(recipe, tmp_path / "parts", source=OnPolicy)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(("log", "stays"), [(None, False), ("", False), ('{"kind": "step"}\n', True)])
def test_a_run_that_is_refused_before_it_begins_leaves_no_folder(log: str | None, stays: bool, tmp_path: Path) -> None:
    from mlipfm_train.open_run import _remove_unused

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "lock").touch()
    if log is not None:
        (folder / "events.jsonl").write_text(log)
    _remove_unused(folder)
    assert folder.exists() == stays
