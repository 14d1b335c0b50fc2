"""Bodies of requests end at their limit, and their JSON is plain."""

from __future__ import annotations

import asyncio
import json

import pytest
from mlipfm_interfaces.asgi import DEEPEST, Refused, containers, plain_json, read_body, replay_body


def receiver(*parts: bytes):
    """A client that sends these parts and goes away."""
    messages = [{"type": "http.request", "body": part, "more_body": k < len(parts) - 1} for k, part in enumerate(parts)]
    messages.append({"type": "http.disconnect"})

    async def receive():
        return messages.pop(0)

    return receive


def test_a_body_is_read_whole_up_to_its_limit():
    assert asyncio.run(read_body(receiver(b"ab", b"", b"cd"), 4, b"4")) == b"abcd"
    assert asyncio.run(read_body(receiver(b""), 0)) == b""
    with pytest.raises(Refused, match="up to 3 bytes") as caught:
        asyncio.run(read_body(receiver(b"ab", b"cd"), 3))
    assert (caught.value.status, caught.value.code) == (413, "TOO_LARGE")


@pytest.mark.parametrize("length", [b"5", b"-1", b"", b"1e3", b"\xb2", b"9" * 5000])
def test_a_length_that_is_too_large_or_no_number_is_refused_before_anything_is_read(length):
    with pytest.raises(Refused, match="up to 4 bytes"):
        asyncio.run(read_body(receiver(), 4, length))


def test_a_client_that_goes_away_gets_no_answer_for_half_a_body():
    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(Refused, match="broke off"):
        asyncio.run(read_body(receive, 4))


def test_a_replayed_body_is_received_once_and_then_the_client_decides():
    async def twice():
        receive = replay_body(b"body", receiver())
        return [await receive(), await receive()]

    assert asyncio.run(twice()) == [{"type": "http.request", "body": b"body", "more_body": False}, {"type": "http.disconnect"}]


@pytest.mark.parametrize(
    "text", [b"{", b"\xff", b'{"a": 1, "a": 2}', b"[NaN]", b"[" * 100_000, b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1)]
)
def test_json_that_is_not_plain_is_refused_in_one_short_line(text):
    with pytest.raises(Refused) as caught:
        plain_json(text)
    assert caught.value.status == 400
    assert len(caught.value.message) < 200
    assert "\n" not in caught.value.message


def test_plain_json_may_have_as_many_levels_as_the_limit_says():
    value = plain_json(b"[" * DEEPEST + b"1" + b"]" * DEEPEST)
    assert max(depth for depth, _ in containers(value)) == DEEPEST
    assert plain_json(b"7") == 7
    assert sorted((depth, json.dumps(here)) for depth, here in containers({"a": [1], "b": {}})) == [
        (1, '{"a": [1], "b": {}}'),
        (2, "[1]"),
        (2, "{}"),
    ]
