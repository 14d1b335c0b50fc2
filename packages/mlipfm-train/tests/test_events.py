"""The event log: append-only, checksummed, repaired, without duplicates."""

from __future__ import annotations

import logging
import math

import pytest
from mlipfm_train.events import EventLog, read_events, read_events_with_ends


def written(path, steps, **values):
    log = EventLog(path)
    for step in steps:
        log.emit("step", step, loss=1.0 / (step + 1), **values)
    log.close()


def test_events_come_back_as_they_were(tmp_path):
    path = tmp_path / "events.jsonl"
    written(path, range(3), words=["a", "b"], nothing=None)
    found = list(read_events(path))
    assert [e["step"] for e in found] == [0, 1, 2]
    assert found[2]["values"] == {"loss": 1 / 3, "words": ["a", "b"], "nothing": None}


def test_replayed_steps_are_not_written_twice(tmp_path):
    path = tmp_path / "events.jsonl"
    written(path, range(5))
    written(path, range(3, 8))
    assert [e["step"] for e in read_events(path)] == list(range(8))


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_cut_off_and_written_again(tmp_path, cut):
    path = tmp_path / "events.jsonl"
    written(path, range(3))
    path.write_bytes(path.read_bytes()[:-cut])
    assert [e["step"] for e in read_events(path)] == [0, 1]
    written(path, range(2, 4))
    assert [e["step"] for e in read_events(path)] == [0, 1, 2, 3]


def test_every_single_bit_flip_in_a_line_is_noticed(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    written(path, [0])
    whole = path.read_bytes()
    with caplog.at_level(logging.CRITICAL, logger="mlipfm.train"):
        for k in range(8 * (len(whole) - 1)):  # all but the newline
            damaged = bytearray(whole)
            damaged[k // 8] ^= 1 << k % 8
            path.write_bytes(damaged)
            assert list(read_events(path)) == []


def test_values_that_are_not_finite_survive(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit("step", 0, loss=math.nan, norm=math.inf, low=-math.inf)
    log.close()
    (event,) = read_events(path)
    assert math.isnan(event["values"]["loss"])
    assert (event["values"]["norm"], event["values"]["low"]) == (math.inf, -math.inf)


def test_reading_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "events.jsonl"
    written(path, range(2))
    end = [end for _, end in read_events_with_ends(path)][-1]
    written(path, range(2, 4))
    assert [e["step"] for e in read_events(path, end)] == [2, 3]


def test_ranks_without_a_file_write_nothing(tmp_path):
    heard = []
    log = EventLog(None, [heard.append])
    log.emit("step", 0, loss=1.0)
    assert heard == []
