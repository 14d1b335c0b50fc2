"""Training states: exact, verified, and never mistaken for a model."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from mlipfm_interfaces.checkpoint import load_checkpoint, load_potential
from mlipfm_interfaces.errors import DamagedFileError, RefusedFileError
from mlipfm_train.training_state import KIND, load_newest_state, load_state, save_state, states


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


class Rank:
    """One of several ranks that save one after the other, rank 0 last; `told` is what the others have collected."""

    def __init__(self, rank: int, world_size: int, told: list) -> None:
        self.rank, self.world_size, self.told = rank, world_size, told

    def collect(self, value):
        self.told.append(value)
        return [None, *self.told[:-1]] if self.rank == 0 else [None] * self.world_size


def saved_by(ranks: int, folder, step: int, run: str = ""):
    told: list = []
    for rank in [*range(1, ranks), 0]:
        path = save_state(folder, step, state(step), Rank(rank, ranks, told), run)
    return path


def test_ranks_share_a_state_and_any_number_of_them_reads_it(tmp_path):
    path = saved_by(3, tmp_path, 5)
    whole = load_state(save_state(tmp_path / "one", 5, state(5)))
    parts = sorted(tmp_path.glob("*.safetensors"))
    assert [part.name for part in parts] == [
        "step-000000005.rank-1-of-3.safetensors",
        "step-000000005.rank-2-of-3.safetensors",
        "step-000000005.safetensors",
    ]
    found = load_state(path)
    assert torch.equal(found["nested"]["a.b/c"], whole["nested"]["a.b/c"])
    assert torch.equal(found["nested"]["list"][0], whole["nested"]["list"][0])
    assert found["array"].tolist() == whole["array"].tolist()
    named = [name for part in parts for name in load_checkpoint(part, KIND)[1]]
    assert sorted(named) == ["array", "nested/a.b/c", "nested/list/0"]  # each in one file
    for step in (6, 7):
        saved_by(2, tmp_path, step)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4  # nothing is left of the state of three ranks


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda part, other: part.write_bytes(part.read_bytes()[:-8]), "rank-1-of-2.safetensors: is truncated or damaged"),
        (lambda part, other: part.unlink(), "rank-1-of-2.safetensors: the file of this rank is missing"),
        (lambda part, other: part.write_bytes(other.read_bytes()), "the file of this rank belongs to another training state"),
    ],
)
def test_a_state_with_a_truncated_missing_or_foreign_part_falls_back_to_the_one_before(tmp_path, caplog, damage, said):
    saved_by(2, tmp_path, 1)
    saved_by(2, tmp_path, 2)
    with caplog.at_level(logging.WARNING, logger="mlipfm.train"):
        damage(tmp_path / "step-000000002.rank-1-of-2.safetensors", tmp_path / "step-000000001.rank-1-of-2.safetensors")
        assert load_newest_state(tmp_path)["next_step"] == 1
    assert said in caplog.text
    assert caplog.text.count("\n") == 1


def test_a_state_of_another_run_is_refused_by_name(tmp_path):
    path = saved_by(1, tmp_path, 1, run="a" * 64)
    assert load_state(path, "a" * 64)["next_step"] == load_state(path)["next_step"] == 1
    with pytest.raises(RefusedFileError, match="is a training state of another run; a training state belongs to its run folder"):
        load_state(path, "b" * 64)


def test_a_state_of_another_torch_goes_on_and_says_that_bits_may_differ(tmp_path, caplog, monkeypatch):
    path = save_state(tmp_path, 1, state(1))
    monkeypatch.setattr(torch, "__version__", "99.1")
    with caplog.at_level(logging.WARNING, logger="mlipfm.train"):
        assert load_state(path)["next_step"] == 1
    assert "this is 99.1: the run goes on, but not to the bit" in caplog.text
