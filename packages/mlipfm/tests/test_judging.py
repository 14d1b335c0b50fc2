"""Judging models: the best is chosen by its record, and records are used again only for the same model."""

from __future__ import annotations

import pytest
from mlipfm.judging_stage import _earlier
from mlipfm.registry_stage import best_of, missing
from mlipfm_interfaces.errors import RegistryError
from mlipfm_interfaces.metrics import Metric
from mlipfm_interfaces.result_records import make_record, write_record


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
