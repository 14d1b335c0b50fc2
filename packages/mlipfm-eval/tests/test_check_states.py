"""The rule on charges and multiplicities that are not given, and models that it has to tell apart."""

from __future__ import annotations

import pytest
from mlipfm_eval.check import check_model
from mlipfm_interfaces.checkpoint import build
from mlipfm_interfaces.potential import evaluate
from mlipfm_interfaces.structure import Structure

STATED = {"total_charge": (0, 1), "spin_multiplicity": (1, 2)}
NONE = {"total_charge": (None,), "spin_multiplicity": (None,)}
MIXED = {"total_charge": (None, 0), "spin_multiplicity": (None, 1)}


def model(states, *, settled: bool):
    """A model with random weights, the states that its training showed, and whether what they leave open was settled."""
    config = {
        "elements": ["H", "O"],
        "levels": ["pbe"],
        "conditions": list(STATED),
        "backbone": {"channels": 8, "layers": 1, "cutoff": 4.0},
    }
    made = build("density", config)
    made.trained_states = states
    if settled:
        made.settle_states(states)
    return made


def verdict(model):
    (outcome,) = check_model(model, rules=["unstated-state"])
    return outcome.status


@pytest.mark.parametrize("states", [STATED, NONE], ids=["stated", "none stated"])
def test_random_weights_of_a_state_that_was_never_trained_are_refused_and_settled_ones_hold(states):
    assert verdict(model(states, settled=False)) == "broken"
    assert verdict(model(states, settled=True)) == "held"


def test_a_model_that_has_seen_both_is_not_judged():
    assert verdict(model(MIXED, settled=False)) == "skipped"


def test_without_a_record_the_structures_in_the_checkpoint_tell():
    silent = model(None, settled=False)
    assert verdict(silent) == "skipped"
    silent.examples = (
        Structure([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], total_charge=0, spin_multiplicity=1, level="pbe"),
    )
    assert verdict(silent) == "broken"
    silent.settle_states(STATED)
    assert verdict(silent) == "held"


def test_settling_changes_no_answer_to_the_states_that_were_trained():
    silent = Structure([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], level="pbe")
    stated = silent.replace(total_charge=1, spin_multiplicity=2)
    for states, trained in ((STATED, stated), (NONE, silent)):
        before, after = (evaluate(model(states, settled=settled), [trained])[0]["energy"] for settled in (False, True))
        assert after == pytest.approx(before, abs=1e-6)
