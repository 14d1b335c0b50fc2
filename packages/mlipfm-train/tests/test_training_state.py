"""Training states: exact, verified, and never mistaken for a model."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from mlipfm_interfaces.checkpoint import load_potential
from mlipfm_interfaces.errors import DamagedFileError, RefusedFileError
from mlipfm_train.training_state import load_newest_state, load_state, save_state, states


def state(step: int) -> dict:
    return {
        "next_step": step,
        "nested": {"a.b/c": torch.arange(step + 1), "list": [torch.ones(2, dtype=torch.float64) / 3, None, "text", 0.1 + 0.2]},
        "array": np.array([[1.5, -2.0]]),
        "counts": (1, np.int64(2)),
    }


def test_a_state_comes_back_to_the_bit(tmp_path):
    found = load_state(save_state(tmp_path, 3, state(3)))
    assert found["next_step"] == 3
    assert torch.equal(found["nested"]["a.b/c"], torch.arange(4))
    assert torch.equal(found["nested"]["list"][0], torch.ones(2, dtype=torch.float64) / 3)
    assert found["nested"]["list"][1:] == [None, "text", 0.1 + 0.2]
    assert isinstance(found["array"], np.ndarray)
    assert found["array"].tolist() == [[1.5, -2.0]]
    assert found["counts"] == [1, 2]


def test_the_two_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        save_state(tmp_path, step, state(step))
    assert [path.name for path in states(tmp_path)] == ["step-000000011.safetensors", "step-000000010.safetensors"]


def test_no_state_at_all_is_no_state(tmp_path):
    assert load_newest_state(tmp_path / "missing") is None


def test_three_hundred_bit_flips_fall_back_to_the_state_before(tmp_path, caplog):
    save_state(tmp_path, 1, state(1))
    newest = save_state(tmp_path, 2, state(2))
    whole = newest.read_bytes()
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.CRITICAL, logger="mlipfm.train"):
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            newest.write_bytes(damaged)
            assert load_newest_state(tmp_path)["next_step"] == 1
    newest.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING, logger="mlipfm.train"):
        assert load_newest_state(tmp_path)["next_step"] == 1
    assert "step-000000002.safetensors cannot be used, falling back" in caplog.text


def test_no_usable_state_is_an_error_and_not_a_fresh_start(tmp_path, caplog):
    path = save_state(tmp_path, 1, state(1))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="no training state is usable"), caplog.at_level(logging.CRITICAL, logger="mlipfm.train"):
        load_newest_state(tmp_path)


def test_a_training_state_is_refused_as_a_model_by_name(tmp_path):
    path = save_state(tmp_path, 1, state(1))
    with pytest.raises(RefusedFileError, match="kind 'mlipfm-training-state'.*a training state belongs to its run folder"):
        load_potential(path)
