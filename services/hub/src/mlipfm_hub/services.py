"""The parts of a running hub, made from its settings."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from fastapi import Request
from mlipfm_interfaces.hub_folder import TOKEN, secret, viewer_key, write_secret

from .blobs import Blobs, open_blobs
from .database import Database, tokens, users
from .registry import Registry
from .settings import Settings
from .signatures import Signer
from .sweeps import Sweeps
from .uploads import Uploads
from .users import Users, hashed, now

KEY = "signing.key"
OWNER, VIEWER = "owner", "viewer"


@dataclass(frozen=True)
class Services:
    """Everything that an answer may need."""

    settings: Settings
    database: Database
    blobs: Blobs
    users: Users
    uploads: Uploads
    registry: Registry
    sweeps: Sweeps


def open_services(settings: Settings) -> Services:
    """Tables migrated, folders made, key made if there is none."""
    folder = settings.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    spool = folder / "spool"
    spool.mkdir(mode=0o700, exist_ok=True)
    if not (folder / KEY).exists():
        write_secret(folder / KEY, secrets.token_urlsafe(32))
    database = Database(settings)
    database.migrate()
    blobs = open_blobs(settings)
    registry = Registry(database, blobs, spool, Signer(secret(folder / KEY)))
    uploads = Uploads(folder / "uploads", blobs, settings.largest)
    return Services(settings, database, blobs, Users(database), uploads, registry, Sweeps(database, blobs, spool))


def admit_owner(services: Services) -> str:
    """Admit the first admin, `owner`, and `viewer`, who may look. The owner's token is in the folder for its owner alone; one that was revoked is not
    admitted again: the folder gets a new one.

    Returns:
        The token of the viewer, for the address that opens the pages in a browser.
    """
    path = services.settings.folder / TOKEN
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32))
    token, of_folder = secret(path), tokens.c.label == "folder"
    with services.database.writing() as connection:
        known = connection.execute(sa.select(tokens.c.revoked).where(tokens.c.hash == hashed(token))).first()
        if known is not None and known.revoked is not None:
            token = secrets.token_urlsafe(32)
            write_secret(path, token)
        theirs = tokens.c.user.in_((OWNER, VIEWER))
        connection.execute(sa.update(tokens).where(of_folder, theirs, tokens.c.revoked.is_(None)).values(revoked=now()))
        for name, role, value in ((OWNER, "admin", token), (VIEWER, "read", viewer_key(token))):
            if not connection.execute(sa.select(users.c.name).where(users.c.name == name)).first():
                connection.execute(sa.insert(users).values(name=name, role=role, created=now(), disabled=0))
            connection.execute(sa.delete(tokens).where(tokens.c.hash == hashed(value)))
            row = {"hash": hashed(value), "user": name, "label": "folder", "created": now(), "expires": None, "revoked": None}
            connection.execute(sa.insert(tokens).values(**row))
    return viewer_key(token)


def services_of(request: Request) -> Services:
    """The parts of the hub that answers this request."""
    found: Services = request.app.state.services
    return found
