"""Users, their roles and tokens. A token is shown once and kept as its SHA-256: whoever reads the database cannot sign in with it."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from mlipfm_interfaces.asgi import Refused, absent, bad, conflict

from .audit import log
from .database import Database, rows, sessions, tokens, users
from .json_fields import LINE

#: Each role may do what those before it may.
ROLES = ("read", "push", "promote", "admin")
HOURS = 12  # of a browser's session
#: Pattern of a user's name.
NAME = r"^[a-z][a-z0-9._-]{0,62}$"


@dataclass(frozen=True)
class Person:
    """Who asks. `csrf` is set in a browser's session: a form must show it. `expires`: when the token that they show ends, None: never."""

    name: str
    role: str
    csrf: str = ""
    expires: str | None = None

    def may(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Users:
    """Operations on the tables of users; all changes are in the audit log."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, name: str, role: str, by: str) -> None:
        """Refused: no such role, no name, or a name that is taken."""
        if not re.fullmatch(NAME, name):
            raise bad("a user's name has small letters, digits and . _ - and begins with a letter")
        if role not in ROLES:
            raise bad(f"a role is one of {', '.join(ROLES)}")
        with self.database.writing() as connection:
            if connection.execute(sa.select(users.c.name).where(users.c.name == name)).first():
                raise conflict(f"there is a user {name} already")
            connection.execute(sa.insert(users).values(name=name, role=role, created=now(), disabled=0))
            log(connection, by, "add-user", f"{name} as {role}")

    def change(self, name: str, by: str, role: str | None = None, disabled: bool | None = None) -> None:
        """Another role, or locked out; the last admin stays."""
        if role is not None and role not in ROLES:
            raise bad(f"a role is one of {', '.join(ROLES)}")
        with self.database.writing() as connection:
            self._present(connection, name)
            values: dict[str, Any] = ({} if role is None else {"role": role}) | ({} if disabled is None else {"disabled": int(disabled)})
            if not values:
                return
            connection.execute(sa.update(users).where(users.c.name == name).values(**values))
            admins = sa.select(sa.func.count()).where(users.c.role == "admin", users.c.disabled == 0)
            if connection.execute(admins).scalar_one() == 0:
                raise conflict("the last admin stays one")
            log(connection, by, "change-user", f"{name} {values}")

    def list(self) -> list[dict[str, Any]]:
        """Users with the labels of their tokens; the first 12 digits of a hash name a token."""
        with self.database.reading() as connection:
            found = rows(connection, sa.select(users).order_by(users.c.name))
            for user in found:
                listed = rows(connection, sa.select(tokens).where(tokens.c.user == user["name"]).order_by(tokens.c.created))
                user["tokens"] = [{**row, "hash": row["hash"][:12]} for row in listed]
        return found

    def give_token(self, name: str, label: str, by: str, days: int | None = None, until: str | None = None) -> str:
        """A new token of a user; it is not shown again. It ends after `days`, and not later than `until`: that of who asks for it."""
        if len(label) > 100 or not re.fullmatch(LINE, label):
            raise bad("a label has up to 100 characters")
        if days is not None and not 1 <= days <= 3650:
            raise bad("a token is valid for 1 to 3650 days")
        token = "mlh_" + secrets.token_urlsafe(32)
        expires = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")
        expires = min((time for time in (expires, until) if time is not None), default=None)
        with self.database.writing() as connection:
            self._present(connection, name)
            row = {"hash": hashed(token), "user": name, "label": label, "created": now(), "expires": expires, "revoked": None}
            connection.execute(sa.insert(tokens).values(**row))
            log(connection, by, "give-token", f"{name} {hashed(token)[:12]} {label}")
        return token

    def revoke_token(self, start: str, by: str) -> None:
        """End a token, named by the first digits of its hash, and the sessions that it opened."""
        if not re.fullmatch(r"[0-9a-f]{12,64}", start):
            raise bad("a token is named by the first 12 digits of its hash")
        with self.database.writing() as connection:
            found = connection.execute(sa.select(tokens.c.hash).where(tokens.c.hash.startswith(start))).scalars().all()
            if len(found) != 1:
                raise absent("no such token")
            connection.execute(sa.update(tokens).where(tokens.c.hash == found[0]).values(revoked=now()))
            connection.execute(sa.delete(sessions).where(sessions.c.token == found[0]))
            log(connection, by, "revoke-token", found[0][:12])

    def of_token(self, token: str) -> Person | None:
        """Who shows this token; None if it is none, has ended, or its user is locked out."""
        return self._of_hash(hashed(token))

    def open_session(self, token: str) -> tuple[str, Person] | None:
        """A browser's session for whoever shows a token."""
        person = self.of_token(token)
        if person is None:
            return None
        key = secrets.token_urlsafe(32)
        expires = (datetime.now(UTC) + timedelta(hours=HOURS)).isoformat(timespec="seconds")
        with self.database.writing() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.expires < now()))
            connection.execute(sa.insert(sessions).values(hash=hashed(key), token=hashed(token), expires=expires))
            log(connection, person.name, "sign-in", "browser")
        return key, replace(person, csrf=csrf_of(key))

    def of_session(self, key: str) -> Person | None:
        """Whose browser this is."""
        with self.database.reading() as connection:
            query = sa.select(sessions.c.token).where(sessions.c.hash == hashed(key), sessions.c.expires > now())
            found = connection.execute(query).scalar()
        person = self._of_hash(found) if found else None
        return person and replace(person, csrf=csrf_of(key))

    def close_session(self, key: str) -> None:
        with self.database.writing() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.hash == hashed(key)))

    def _of_hash(self, digest: str) -> Person | None:
        query = sa.select(users.c.name, users.c.role, tokens.c.expires).join_from(tokens, users, tokens.c.user == users.c.name)
        with self.database.reading() as connection:
            row = connection.execute(query.where(tokens.c.hash == digest, tokens.c.revoked.is_(None), users.c.disabled == 0)).first()
        return None if row is None or (row.expires is not None and row.expires < now()) else Person(row.name, row.role, expires=row.expires)

    def _present(self, connection: sa.Connection, name: str) -> None:
        if not connection.execute(sa.select(users.c.name).where(users.c.name == name)).first():
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"there is no user {name[:64]!r}")


def csrf_of(key: str) -> str:
    """What the forms of a session show: of no use to sign in."""
    return hashlib.sha256(b"form " + key.encode()).hexdigest()[:43]
