"""Whose a database is: its sweeps have their processes under one state folder, so only that one's server runs them.

The folder's id lies in it and, from its first server on, in the database. A file lock excludes a second server of the
folder on this machine; on PostgreSQL a lock of a session, which ends with it, excludes one of another host that shares
the folder.
"""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from sweeper.specfile import SpecError

from .database import meta

FILE = "id"
_KEY = "folder"
_CLASS = 0x73776570
_ALIVE = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")
# a server that was killed a moment ago may still be known to PostgreSQL
_PATIENCE_SECONDS, _AGAIN_SECONDS = 2.0, 0.1


class TakenError(SpecError):
    """Another server uses the database."""


class Ownership:
    """The right of one server to run the sweeps of a database.

    Args:
        engine: The database.
        folder: The server's state folder, which it has locked.
        sleep: Waits for seconds.

    Raises:
        SpecError: The database is another state folder's.
        TakenError: Another server uses it.
    """

    def __init__(self, engine: Engine, folder: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self.engine, self.folder, self.sleep = engine, folder, sleep
        self._session: Connection | None = None
        self._claim()
        self._lock()

    def renew(self) -> None:
        """Take the lock again where the connection that held it is lost.

        Raises:
            TakenError: Another server has taken it meanwhile.
            SQLAlchemyError: The database does not answer.
        """
        if self._session is None:
            self._lock()
            return
        try:
            self._session.execute(text("SELECT 1"))
        except DBAPIError:
            self.close()
            self._lock()

    def close(self) -> None:
        """Let another server have the database."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _claim(self) -> None:
        own = {"id": identity(self.folder), "host": socket.gethostname(), "folder": str(self.folder)}
        value = json.dumps(own)
        try:
            with self.engine.begin() as connection:
                found = _owner(connection)
                if found is None:
                    connection.execute(insert(meta).values(key=_KEY, value=value))
        except IntegrityError:  # another server a moment ago
            with self.engine.connect() as connection:
                found = _owner(connection)
        if found is None or found == own:
            return
        if found["id"] != own["id"]:
            raise SpecError(
                f"the database is that of the server with the folder {found['folder']} on {found['host']}, this one's "
                f"is {self.folder}: give another --database, or --state {found['folder']} there; if that folder is "
                f"gone for good, write {found['id']} into {self.folder / FILE}"
            )
        with self.engine.begin() as connection:  # it was moved, or its host has another name
            connection.execute(update(meta).where(meta.c.key == _KEY).values(value=value))

    def _lock(self) -> None:
        if self.engine.dialect.name != "postgresql":
            return
        # a connection of its own: the pool would lend it, and with it the lock
        session = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.detach()
        try:
            for setting in _ALIVE:  # a host that loses its power lets go in a minute
                session.execute(text(f"SET {setting}"))
            taken = text(f"SELECT pg_try_advisory_lock({_CLASS}, '{meta.name}'::regclass::oid::int)")
            tries = round(_PATIENCE_SECONDS / _AGAIN_SECONDS)
            while not session.execute(taken).scalar_one():
                if not tries:
                    raise TakenError(
                        f"another server uses the database (its folder is {self.folder}, too, on another host); stop "
                        "it, or give another --database"
                    )
                tries -= 1
                self.sleep(_AGAIN_SECONDS)
        except BaseException:
            session.close()
            raise
        self._session = session


def identity(folder: Path) -> str:
    """Return the id of a state folder; it gets one where it has none."""
    file = folder / FILE
    found = file.read_text(errors="replace").strip() if file.exists() else ""
    if re.fullmatch(r"[0-9a-f]{32}", found):
        return found
    made = uuid.uuid4().hex
    temporary = file.with_suffix(".new")
    temporary.write_text(f"{made}\n")
    temporary.replace(file)
    return made


def _owner(connection: Connection) -> dict[str, str] | None:
    found = connection.execute(select(meta.c.value).where(meta.c.key == _KEY)).scalar_one_or_none()
    return None if found is None else json.loads(found)
