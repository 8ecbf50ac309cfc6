"""Which database the service's tests use: a new one of SQLite or PostgreSQL each time."""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from pathlib import Path

from sqlalchemy import Engine

from sweeper.service.db.tables import open_database
from tests.support.postgres import Postgres

POSTGRES: ContextVar[Postgres | None] = ContextVar("POSTGRES", default=None)


_OPENED: list[Engine] = []


def opened(folder: Path) -> Engine:
    """Return a new database that is open until `dispose`."""
    _OPENED.append(open_database(new_database(folder)))
    return _OPENED[-1]


def dispose() -> None:
    """Close what was opened."""
    while _OPENED:
        _OPENED.pop().dispose()


def new_database(folder: Path) -> str:
    """Return the URL of a new, empty database; a file of SQLite's in the folder, or one of the server's."""
    server = POSTGRES.get()
    return server.database() if server else f"sqlite:///{folder / uuid.uuid4().hex}.sqlite"
