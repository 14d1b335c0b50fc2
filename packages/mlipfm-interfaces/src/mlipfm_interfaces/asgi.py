"""What the web servers of mlipfm share: the types of ASGI, refusals, request bodies up to a limit, and JSON that is checked before it is used."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from .files import strict_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DEEPEST = 32  # levels of the JSON of a request


class Refused(Exception):
    """A request that is refused: HTTP status, code, and one line for the user, which never has a path or a stack of the server."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, " ".join(message.split())[:400]


def bad(message: str) -> Refused:
    return Refused(400, "INVALID_PARAMETER_VALUE", message)


def forbidden(message: str) -> Refused:
    return Refused(403, "PERMISSION_DENIED", message)


def absent(message: str) -> Refused:
    return Refused(404, "RESOURCE_DOES_NOT_EXIST", message)


def conflict(message: str) -> Refused:
    return Refused(409, "RESOURCE_CONFLICT", message)


def too_large(message: str) -> Refused:
    return Refused(413, "TOO_LARGE", message)


def check_length(length: bytes, limit: int) -> None:
    """Raise Refused if the header Content-Length is no number or more than `limit` bytes."""
    if not re.fullmatch(rb"\d{1,18}", length) or int(length) > limit:
        raise too_large(f"a body here has up to {limit} bytes")


async def read_body(receive: Receive, limit: int, length: bytes = b"0") -> bytes:
    """Return the whole body of a request.

    Args:
        length: the header Content-Length, `b"0"` if there is none; a larger one is refused before the body is read.

    Raises:
        Refused: the body has more than `limit` bytes, or the client went away.
    """
    check_length(length, limit)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise bad("the request broke off")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(f"a body here has up to {limit} bytes")
        more = bool(message.get("more_body"))
    return b"".join(parts)


def replay_body(data: bytes, then: Receive) -> Receive:
    """Return a `receive` with `data` as the whole body, and afterwards what `then` receives, which is that the client went away."""
    first = True

    async def receive() -> Message:
        nonlocal first
        if not first:
            return await then()
        first = False
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


def plain_json(data: bytes) -> Any:
    """Return the value of a JSON text in which no key stands twice, without NaN and not deep.

    Raises:
        Refused: it is no such text.
    """
    try:
        value = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise bad(f"no plain JSON: {str(error)[:100]}") from None
    if any(depth > DEEPEST for depth, _ in containers(value)):
        raise bad(f"JSON deeper than {DEEPEST} levels")
    return value


def containers(value: Any) -> Iterator[tuple[int, dict[str, Any] | list[Any]]]:
    """Yield (depth, container) of every object and list of a JSON value, without recursion; the outermost has depth 1."""
    waiting = [(1, value)] if isinstance(value, dict | list) else []
    while waiting:
        depth, here = waiting.pop()
        yield depth, here
        inner = here.values() if isinstance(here, dict) else here
        waiting += [(depth + 1, item) for item in inner if isinstance(item, dict | list)]
