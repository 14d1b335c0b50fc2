"""The log of who did what. Each row holds a hash over itself and the row before: one that is changed or taken out is noticed by `verify`."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from mlipfm_interfaces.files import canonical_json

from .database import audit, rows


def log(connection: sa.Connection, user: str, what: str, target: str) -> None:
    """Add a row, in the transaction of what it tells of."""
    last = connection.execute(sa.select(audit.c.number, audit.c.hash).order_by(audit.c.number.desc()).limit(1)).first()
    number, before = (last.number + 1, last.hash) if last else (1, "")
    row = {"number": number, "time": datetime.now(UTC).isoformat(timespec="seconds"), "user": user, "what": what, "target": target[:300]}
    connection.execute(sa.insert(audit).values(**row, hash=_hash(row, before)))


def entries(connection: sa.Connection, limit: int = 200) -> list[dict[str, Any]]:
    """The latest rows, newest first."""
    return rows(connection, sa.select(audit).order_by(audit.c.number.desc()).limit(limit))


def verify(connection: sa.Connection) -> int | None:
    """Number of the first row that does not follow from the one before; None if all do."""
    before, expected = "", 1
    for row in rows(connection, sa.select(audit).order_by(audit.c.number)):
        found = row.pop("hash")
        if row["number"] != expected or found != _hash(row, before):
            return expected
        before, expected = found, expected + 1
    return None


def _hash(row: dict[str, Any], before: str) -> str:
    return hashlib.sha256(canonical_json([row, before])).hexdigest()
