"""Tables of the hub, their migrations, and transactions: sqlite in the folder or PostgreSQL.

All writers take turns: a writing transaction first touches one row, which both databases lock until its end. So what a transaction has read holds
until it commits, and two pushes of one content, or two promotions to one alias, come one after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from mlipfm_interfaces.errors import FormatVersionError, RegistryError

from .settings import Settings

VERSION = 3
meta = sa.MetaData()

facts = sa.Table("facts", meta, sa.Column("key", sa.String(40), primary_key=True), sa.Column("value", sa.Integer, nullable=False))

users = sa.Table(
    "users", meta,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(10), nullable=False),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("disabled", sa.Integer, nullable=False, server_default="0"),
)  # fmt: skip

#: Of a token the SHA-256 is kept, and never the token.
tokens = sa.Table(
    "tokens", meta,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("user", sa.String(64), sa.ForeignKey("users.name"), nullable=False, index=True),
    sa.Column("label", sa.String(100), nullable=False),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("expires", sa.String(40)),
    sa.Column("revoked", sa.String(40)),
)  # fmt: skip

sessions = sa.Table(
    "sessions", meta,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("token", sa.String(64), nullable=False),
    sa.Column("expires", sa.String(40), nullable=False),
)  # fmt: skip

models = sa.Table(
    "models", meta,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
)  # fmt: skip

#: `run` names the version in MLflow's dialect: 32 hex digits.
versions = sa.Table(
    "versions", meta,
    sa.Column("name", sa.String(100), sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("file", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("card", sa.String(64), nullable=False),
    sa.Column("card_size", sa.Integer, nullable=False),
    sa.Column("run", sa.String(32), nullable=False, unique=True),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.UniqueConstraint("name", "digest"),
)  # fmt: skip

records = sa.Table(
    "records", meta,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("blob", sa.String(64), nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("passed", sa.Integer, nullable=False),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
)  # fmt: skip

#: One row per promotion, rollback or revocation; the row of the highest sequence says what an alias means.
promotions = sa.Table(
    "promotions", meta,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("alias", sa.String(63), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer),
    sa.Column("promotion", sa.Text, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("reason", sa.String(300), nullable=False, server_default=""),
    sa.ForeignKeyConstraint(["name"], ["models.name"]),
)  # fmt: skip

#: Sweeps of training runs with their scaling laws; see `sweeps`.
sweeps = sa.Table(
    "sweeps", meta,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("blob", sa.String(64), nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
)  # fmt: skip

#: Signatures of checkpoints by keys of those who made them (`mlipfm push --sign-key`), as JSON; who pulls verifies them.
signatures = sa.Table(
    "signatures", meta,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
)  # fmt: skip

#: Who did what; every row carries the hash of the row before, so that a row cannot be taken out unseen.
audit = sa.Table(
    "audit", meta,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("time", sa.String(40), nullable=False),
    sa.Column("user", sa.String(64), nullable=False),
    sa.Column("what", sa.String(40), nullable=False),
    sa.Column("target", sa.String(300), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)  # fmt: skip


def _to_2(connection: sa.Connection) -> None:
    """Version 1 kept no reason of a promotion."""
    connection.exec_driver_sql("ALTER TABLE promotions ADD COLUMN reason VARCHAR(300) NOT NULL DEFAULT ''")


def _to_3(connection: sa.Connection) -> None:
    """Version 2 kept no sweeps and no signatures."""
    sweeps.create(connection, checkfirst=True)
    signatures.create(connection, checkfirst=True)


#: From version n to n + 1.
MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {1: _to_2, 2: _to_3}


class Database:
    """Connections to the tables; `migrate` makes them what this program wants, and is called once at the start."""

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url
        try:
            self.engine = sa.create_engine(
                url, **({"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {"pool_pre_ping": True})
            )
        except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
            hint = "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME, for which pip install 'mlipfm-hub[postgresql]'"
            raise RegistryError(f"the database cannot be used: {error}", where="MLIPFM_HUB_DATABASE", hint=hint) from None
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that changes nothing, and in which all queries see one state of the tables."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":  # sqlite does so anyway
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writing one runs beside; all of it is kept, or nothing."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(facts).where(facts.c.key == "writes").values(value=facts.c.value + 1))
            yield connection

    def migrate(self) -> tuple[int, int]:
        """Create or upgrade the tables; returns the version found (0: none) and the one it is now.

        Raises:
            FormatVersionError: a newer hub wrote them. RegistryError: the database does not answer.
        """
        try:
            with self.engine.begin() as connection:
                found = self._version(connection)
                if found == 0:
                    meta.create_all(connection)
                    connection.execute(sa.insert(facts), [{"key": "version", "value": VERSION}, {"key": "writes", "value": 0}])
                for version in range(found or VERSION, VERSION):
                    MIGRATIONS[version](connection)
                    connection.execute(sa.update(facts).where(facts.c.key == "version").values(value=version + 1))
        except sa.exc.OperationalError as error:
            told = str(error.orig).split("\n")[0]
            raise RegistryError(f"the database does not answer: {told}", where="MLIPFM_HUB_DATABASE") from None
        return found, VERSION

    def _version(self, connection: sa.Connection) -> int:
        if not sa.inspect(connection).has_table("facts"):
            return 0
        found = int(connection.execute(sa.select(facts.c.value).where(facts.c.key == "version")).scalar_one())
        if found > VERSION:
            raise FormatVersionError(f"tables of version {found}, this hub knows up to {VERSION}", hint="upgrade mlipfm-hub")
        return found


def rows(connection: sa.Connection, query: Any) -> list[dict[str, Any]]:
    """All rows as plain dicts."""
    return [dict(row) for row in connection.execute(query).mappings()]


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Written ahead (readers do not wait), on disk at every commit, with foreign keys, and a transaction begins when we say so."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        for line in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"):
            connection.execute(line)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")
