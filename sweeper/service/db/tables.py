"""The service's tables, in SQLite or PostgreSQL. Times are seconds since 1970, UTC."""

from __future__ import annotations

import secrets

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)  # fmt: skip
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from sweeper.errors import SpecError
from sweeper.service.db.connections import create_service_engine, finish_opening

VERSION = 3
NAME = "name"
"""Key of the service's random name; it keeps session cookies of two services on one host apart."""
DAY_SECONDS = 86400.0
_metadata = MetaData()
_serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite auto-increments INTEGER only

meta = Table("service", _metadata, Column("key", String(40), primary_key=True), Column("value", Text, nullable=False))

sweeps = Table(
    "sweeps", _metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("owner", String(80), nullable=False, index=True),
    Column("shared", Boolean, nullable=False),
    Column("space", String(200), nullable=False, index=True),
    Column("spec", JSON, nullable=False),
    Column("budget", Integer, nullable=False),  # configurations
    Column("trials", Integer, nullable=False),  # configurations x repeats
    Column("priority", Integer, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("task", JSON, nullable=False),  # what the next process does: run, or extend with options
    Column("created", Float, nullable=False),
    Column("queued", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("wall_seconds", Float, nullable=False),
    Column("gpu_hours", Float, nullable=False),
    Column("summary", JSON),  # results at the end
    Column("deaths", Integer, nullable=False),  # of its process since the last finished trial
    Column("webhook", Text),
    Column("key", String(255)),  # Idempotency-Key
    Column("fingerprint", String(64)),  # of the request with that key
    # accepted but not yet used; counts while the sweep waits or runs
    Column("due", Integer, nullable=False, server_default="0"),  # trials
    Column("due_gpu_seconds", Float, nullable=False, server_default="0"),  # of its max_gpu_hours
    UniqueConstraint("owner", "key"),
)  # fmt: skip

transitions = Table(
    "transitions", _metadata,
    Column("id", _serial, primary_key=True),
    Column("sweep", ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("state", String(20), nullable=False),
    Column("time", Float, nullable=False),
    Column("cause", Text, nullable=False),
)  # fmt: skip

landed = Table(
    "landed", _metadata,
    Column("sweep", ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("number", Integer, nullable=False),  # order in which the trials landed
    Column("mark", String(80), nullable=False),  # tells a repeated run of a trial from its first
    Index("landed_order", "sweep", "number"),
)  # fmt: skip

usage = Table(
    "usage", _metadata,
    Column("sweep", String(80), primary_key=True),  # no foreign key: usage of a deleted sweep still counts
    Column("day", Integer, primary_key=True),  # since 1970
    Column("user", String(80), nullable=False),
    Column("trials", Integer, nullable=False),
    Column("gpu_seconds", Float, nullable=False),
    Index("usage_of_user", "user", "day"),
)  # fmt: skip

users = Table(
    "users", _metadata,
    Column("name", String(80), primary_key=True),
    Column("quota", JSON, nullable=False),
    Column("created", Float, nullable=False),
)  # fmt: skip

tokens = Table(
    "tokens", _metadata,
    Column("id", String(16), primary_key=True),
    Column("user", ForeignKey("users.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("role", String(20), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
)  # fmt: skip

# signed-in browsers; a session ends with its token
sessions = Table(
    "sessions", _metadata,
    Column("hash", String(64), primary_key=True),  # of the cookie's value
    Column("token", ForeignKey("tokens.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
)  # fmt: skip

audit = Table(
    "audit", _metadata,
    Column("id", _serial, primary_key=True),
    Column("time", Float, nullable=False, index=True),
    Column("user", String(80), nullable=False),
    Column("action", String(80), nullable=False),
    Column("target", String(200), nullable=False),
    Column("detail", Text, nullable=False),
    Column("status", Integer, nullable=False),
)  # fmt: skip

deliveries = Table(
    "deliveries", _metadata,
    Column("id", String(32), primary_key=True),
    Column("sweep", String(80), nullable=False),
    Column("url", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("due", Float, nullable=False, index=True),
    Column("tries", Integer, nullable=False),
    Column("ended", Float),
    Column("error", Text, nullable=False),
)  # fmt: skip


def open_database(url: str) -> Engine:
    """Return the engine of a database; create the tables of an empty one and upgrade old tables.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`.

    Raises:
        SpecError: The database cannot be opened, or another version of the service wrote it.
    """
    try:
        engine = create_service_engine(url)
        with engine.begin() as connection:
            if not inspect(connection).has_table(meta.name):
                _metadata.create_all(connection)
                connection.execute(insert(meta).values(key="version", value=str(VERSION)))
                _store_name(connection)
            # the row lock lets only one of two servers upgrade
            query = select(meta.c.value).where(meta.c.key == "version").with_for_update()
            version = connection.execute(query).scalar_one()
            for old, upgrade in (("1", _upgrade_1), ("2", _upgrade_2)):
                if version == old:
                    upgrade(connection)
                    version = str(int(old) + 1)
                    connection.execute(update(meta).where(meta.c.key == "version").values(value=version))
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise SpecError(
            f"--database must be sqlite:///FILE or postgresql://USER@HOST/NAME: {_first_line(error)}"
        ) from None
    except (SQLAlchemyError, OSError) as error:
        raise SpecError(f"cannot open the database: {_first_line(error)}") from None
    finish_opening(engine)
    if int(version) != VERSION:
        engine.dispose()
        age = "a newer" if int(version) > VERSION else "an older"
        raise SpecError(f"{age} version of the service wrote the database (format {version}, expected {VERSION})")
    return engine


def _upgrade_1(connection: Connection) -> None:
    # an upgrade that was killed may have added some columns
    existing = {column["name"] for column in inspect(connection).get_columns(sweeps.name)}
    for column, kind in ((sweeps.c.due, "INTEGER"), (sweeps.c.due_gpu_seconds, "FLOAT")):
        if column.name not in existing:
            connection.execute(text(f"ALTER TABLE sweeps ADD COLUMN {column.name} {kind} DEFAULT 0 NOT NULL"))
    usage.create(connection, checkfirst=True)
    connection.execute(delete(usage))
    count = func.count(landed.c.digest)
    columns = sweeps.c.id, sweeps.c.owner, sweeps.c.created, sweeps.c.trials, sweeps.c.spec, sweeps.c.gpu_hours
    query = select(*columns, count)
    for sweep, owner, created, trials, spec, hours, run in connection.execute(
        query.outerjoin(landed, landed.c.sweep == sweeps.c.id).group_by(sweeps.c.id)
    ).all():
        used = {"day": int(created // DAY_SECONDS), "trials": run, "gpu_seconds": 3600 * hours}
        connection.execute(insert(usage).values(sweep=sweep, user=owner, **used))
        due = {
            "due": max(0, trials - run),
            "due_gpu_seconds": 3600 * max(0.0, (spec.get("max_gpu_hours") or 0.0) - hours),
        }
        connection.execute(update(sweeps).where(sweeps.c.id == sweep).values(**due))


def _upgrade_2(connection: Connection) -> None:
    sessions.create(connection, checkfirst=True)
    _store_name(connection)


def _store_name(connection: Connection) -> None:
    connection.execute(insert(meta).values(key=NAME, value=secrets.token_hex(4)))


def _first_line(error: Exception) -> str:
    message = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error).strip()
    return message.splitlines()[0] if message else type(error).__name__
