"""Judging models: direct forces are held to what dynamics need, the best is chosen by its record, records are used again only for the same model."""

from __future__ import annotations

import pytest
from mlipfm.judging_stage import _earlier, held_to_conservation
from mlipfm.registry_stage import best_of, missing
from mlipfm_eval.check import Outcome, broken
from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import make_record, write_record


def test_direct_forces_fail_what_they_never_promised_and_turning_is_not_asked_of_them():
    outcomes = [
        Outcome("behaviour", "forces-are-gradient", "measured", 0.2, 0.005, "eV/Å"),
        Outcome("behaviour", "jacobian-symmetric", "measured", 0.002, 0.01),
        Outcome("behaviour", "rotation", "measured", 1.0, 0.1),
        Outcome("contract", "net-force", "measured"),
    ]
    judged = held_to_conservation(outcomes)
    assert broken(judged) == ["forces-are-gradient"]
    assert [o.status for o in judged] == ["broken", "held", "measured", "measured"]
    assert judged[0].remark == "not promised by direct forces, needed by dynamics"


def pair(error: float, passed: bool = True):
    figure = Metric("force MAE", "meV/Å", error, None, 3, 3).as_dict()
    other = figure | {"value": 0.1, "set": "test", "key": "force_mae", "element": "H"}
    evaluation = make_record("evaluation", "0" * 64, passed=True, metrics=[other, figure | {"set": "test", "key": "force_mae"}])
    return [evaluation, make_record("check", "0" * 64, passed=passed, metrics=[])]


def test_best_is_the_lowest_error_of_those_that_passed():
    records = {"broken": pair(1.0, passed=False), "good": pair(2.0), "fair": pair(3.0)}
    assert best_of(records, "test") == "good"
    with pytest.raises(RegistryError, match="no model has passed its check"):
        best_of({"broken": pair(1.0, passed=False)}, "test")


def test_a_record_is_used_again_for_the_same_model_only(tmp_path):
    path = tmp_path / "check.json"
    assert _earlier(path, "0" * 64, []) is None
    write_record(path, pair(1.0)[1])
    assert _earlier(path, "0" * 64, []) is not None
    assert _earlier(path, "1" * 64, []) is None
    path.write_bytes(b"{}")
    assert _earlier(path, "0" * 64, []) is None


def test_registry_is_left_out_visibly_without_mlflow(monkeypatch):
    assert missing() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing() == "mlflow is not installed (pip install 'mlipfm-train[mlflow]')"
