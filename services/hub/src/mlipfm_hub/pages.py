"""Pages for people, made on the server."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(include_in_schema=False)


def failed(status: int, line: str) -> bytes:
    """The page of a refusal."""
    return f"{status} {line}".encode()
