"""What pre-training leaves behind: heads exchanged by recipe, a good parent that saves labels and a bad one that costs them."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.checkpoint import load_model, load_potential
from mlipfm_interfaces.potential import evaluate
from mlipfm_train.events import read_events
from mlipfm_train.loop import fit
from mlipfm_train.recipe import load_recipe, make_recipe


def with_rich_labels(structures, seed=0):
    """The structures with the labels of the recipe `pretrain-rich`, by rules of element and distance."""
    rng = np.random.default_rng(seed)
    out = []
    for s in structures:
        charges = np.where(s.atomic_numbers == 1, 0.1, -0.2)
        charges = charges - charges.mean()
        away = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=2)
        labels = {
            "charges": charges,
            "dipole": charges @ s.positions,
            "homo": np.float64(-12 + 0.1 * rng.normal()),
            "lumo": np.float64(2.0),
            "band_gap": np.float64(14.0),
            "bond_orders": np.exp(-away) - np.eye(len(s)),
        }
        out.append(s.replace(total_charge=0, spin_multiplicity=1, labels=labels))
    return out


@pytest.mark.full
def test_heads_of_rich_labels_are_exchanged_for_energies_and_forces_by_recipe(tmp_path, morse_structures, write_store):
    rich = write_store(tmp_path / "rich", with_rich_labels(morse_structures(12, 0)))
    few = [
        "steps=3",
        "evaluate_every=3",
        "checkpoint_every=3",
        "schedule.warmup=1",
        "data.budget=40",
        "potential.backbone={channels: 8, layers: 1}",
    ]
    before = fit(load_recipe("pretrain-rich", few, train=[rich]), tmp_path / "before")
    step = next(e for e in read_events(tmp_path / "before" / "events.jsonl") if e["kind"] == "step")
    assert {"quantities/charges", "quantities/homo", "bond-orders/bond_orders"} <= set(step["values"])
    plain = [s.replace(total_charge=0, spin_multiplicity=1) for s in morse_structures(8, 1)]
    swap = [f"init_from={before.last}", "potential.heads={}", "steps=3", "evaluate_every=3", "checkpoint_every=3", "schedule.warmup=1"]
    after = fit(load_recipe("finetune", swap, train=[write_store(tmp_path / "plain", plain)]), tmp_path / "after")
    old, new = load_potential(before.last), load_model(tmp_path / "after" / "initial.safetensors")[0]
    assert "homo" in old.spec.outputs
    assert not {"homo", "charges", "dipole"} & set(new.spec.outputs)
    weights = dict(new.named_parameters())
    assert all(bool((weights[name] == value).all()) for name, value in old.named_parameters() if name.startswith("backbone."))
    assert load_potential(after.last).spec.kind == "conservative"


def error(folder, recipe, train, test):
    """Mean error of the force components on `test` in eV/Å."""
    fitted = fit(make_recipe(recipe | {"data": recipe["data"] | {"train": [str(train)], "valid": []}}), folder)
    predicted = evaluate(load_potential(fitted.last), test, ("forces",))
    return fitted.last, float(np.mean([np.abs(p["forces"] - s.labels["forces"]).mean() for p, s in zip(predicted, test, strict=True)]))


@pytest.mark.full
def test_a_good_parent_saves_labels_one_of_the_wrong_sign_does_not_and_many_labels_need_none(tmp_path, morse_structures, write_store, tiny):
    # labels of a parent: those of the target in another proportion, or with the wrong sign (METHODS C6); then few or many labels of the target.
    # From scratch takes as many steps as both together. 4 labels, eV/Å: scratch 0.099, good 0.042, wrong sign 0.091, which is no harm here
    pool, test = morse_structures(150, 0), morse_structures(30, 1)
    parents = {"good": 0.85, "bad": -1.0}
    recipe = tiny | {"weight_rule": {"name": "ema", "decay": 0.95}, "evaluate_every": 1000, "checkpoint_every": 1000}
    starts = {"scratch": {}}
    for name, factor in parents.items():
        labelled = [s.replace(labels={key: factor * value for key, value in s.labels.items()}) for s in pool]
        model, _ = error(tmp_path / f"parent-{name}", recipe | {"steps": 250}, write_store(tmp_path / f"labels-{name}", labelled), test)
        starts[name] = {"init_from": str(model), "potential": {}}
    found = {}
    for n, steps in ((4, 60), (150, 400)):
        real = write_store(tmp_path / f"real-{n}", pool[:n])
        for name, start in starts.items():
            found[name, n] = error(
                tmp_path / f"{name}-{n}", recipe | start | {"steps": steps + 250 * (name == "scratch"), "seed": 1}, real, test
            )[1]
    assert found["good", 4] < 0.6 * found["scratch", 4]
    assert found["bad", 4] > 0.8 * found["scratch", 4]
    gain = {n: found["scratch", n] / found["good", n] for n in (4, 150)}
    assert gain[150] < 0.6 * gain[4] + 0.4  # with many labels the gain goes towards 1
