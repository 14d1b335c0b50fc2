"""A model takes an alias by errors on data that nobody was trained on, compared group by group with the model that has it."""

from __future__ import annotations

import numpy as np
import pytest
from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.promotion_records import paired_difference, require_no_worse, require_test_set, unknown_sets
from mlipfm_interfaces.result_records import Record, make_record

TEST, OTHER = "ab" * 32, "cd" * 32
HARD = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])  # how hard each molecule is, for every model


def record(errors, data=TEST, seen=None, name="test") -> Record:
    groups = {f"m{k}": [10 * float(e), 10.0] for k, e in enumerate(errors)}
    details = {"seen": {name: seen} if seen else {}, "errors": {name: {"forces": groups}}}
    return make_record("evaluation", "ef" * 32, passed=True, metrics=[], data={name: data}, details=details)


def trained_on(digest: str, kind: str = "data") -> dict:
    entry = {"name": "x", "manifest": digest}
    return {"extra": {"ancestors": [{"digest": "", "data": [entry]}]} if kind == "ancestors" else {kind: [entry]}}


@pytest.mark.parametrize("kind", ["data", "validation_data", "ancestors"])
def test_stores_of_training_validation_and_ancestors_are_no_test_sets(kind):
    assert unknown_sets(record(HARD), trained_on(OTHER, kind)) == {"test": TEST}
    with pytest.raises(RegistryError, match="trained on, chosen by or pre-trained on: test"):
        require_test_set(record(HARD), trained_on(TEST, kind), "m/1")


def test_single_frames_of_the_training_data_spoil_a_test_set():
    with pytest.raises(RegistryError, match="trained on"):
        require_test_set(record(HARD, seen={"training": 1}), {}, "m/1")


def test_evaluation_that_does_not_say_what_was_known_is_not_enough():
    silent = make_record("evaluation", "ef" * 32, passed=True, metrics=[], data={"test": TEST})
    with pytest.raises(RegistryError, match="does not say which structures the model knew"):
        require_test_set(silent, {}, "m/1")


def test_what_is_hard_for_both_cancels_in_the_paired_difference():
    """Errors differ hundredfold between molecules, and by a tenth between models."""
    what, value, interval = paired_difference(record(1.1 * HARD), "test", record(HARD), "test")
    assert what == "force MAE (meV/Å)"
    assert value == pytest.approx(0.1 * HARD.mean())
    assert interval[0] > 0


def test_a_worse_model_is_refused_an_equal_and_a_better_one_are_not():
    def judge(errors, old=HARD, data=TEST) -> None:
        require_no_worse(record(errors, data), {"test": data}, [record(old, name="held out")], {}, "m/2", "m@production")

    judge(HARD), judge(0.9 * HARD)
    judge(HARD * np.tile([0.8, 1.3], 4), old=HARD * np.tile([1.3, 0.8], 4)[::-1])  # better here, worse there: no difference seen
    with pytest.raises(RegistryError, match="is worse than m@production on test: force MAE"):
        judge(1.1 * HARD)
    with pytest.raises(RegistryError, match="was evaluated on none of its test sets"):
        judge(HARD, data=OTHER)


def test_a_set_that_the_incumbent_was_trained_on_compares_nothing():
    with pytest.raises(RegistryError, match="nobody knows which is better"):
        require_no_worse(record(0.5 * HARD), {"test": TEST}, [record(HARD)], trained_on(TEST), "m/2", "m@production")
