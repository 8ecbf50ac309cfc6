"""Whose a database is: its sweeps have their processes under one state folder, so only that one's server runs them.

The folder's id lies in it and, from its first server on, in the database. A lock excludes a second server whose folder
has that id, because it is a copy or shared with another host: with SQLite a file lock beside the database, with
PostgreSQL the lock of a session, which ends with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from sweeper.errors import SpecError
from sweeper.service.db.tables import meta
from trainables.io.atomic import write_atomic

FILE = "id"
_KEY = "folder"
_CLASS = 0x73776570
_ALIVE = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")
# a server that was killed a moment ago may still be known to PostgreSQL
_PATIENCE_SECONDS, _AGAIN_SECONDS = 2.0, 0.1
# one that was silent takes longer to notice that this server's own lost session has ended
_RENEWAL_SECONDS = 20.0


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
        self._file: int | None = None
        self._held = False  # a session of this server had the lock before
        own = {"id": identity(folder), "host": socket.gethostname(), "folder": str(folder)}
        self._claim(own)
        self._lock()
        try:
            self._write(own)
        except BaseException:
            self.close()
            raise

    def renew(self) -> None:
        """Take the lock again where the connection that held it is lost.

        Raises:
            TakenError: Another server has taken it meanwhile.
            SQLAlchemyError: The database does not answer.
        """
        if self._file is not None:
            return  # as long as this process lives
        if self._session is None:
            self._lock()
            return
        try:
            self._session.execute(text("SELECT 1"))
        except DBAPIError:
            self.close()
            self._lock()  # where the database does not answer, the next look tries again

    def close(self) -> None:
        """Let another server have the database."""
        session, file = self._session, self._file
        self._session = self._file = None
        if session is not None:
            session.close()
        if file is not None:
            os.close(file)

    def _claim(self, own: Mapping[str, str]) -> None:
        try:
            with self.engine.begin() as connection:
                found = _owner(connection)
                if found is None:
                    connection.execute(insert(meta).values(key=_KEY, value=json.dumps(own)))
        except IntegrityError:  # another server a moment ago
            with self.engine.connect() as connection:
                found = _owner(connection)
        if found is not None and found["id"] != own["id"]:
            raise SpecError(
                f"the database is that of the server with the folder {found['folder']} on {found['host']}, this one's "
                f"is {self.folder}: give another --database, or --state {found['folder']} there; if that folder is "
                f"gone for good, write {found['id']} into {self.folder / FILE}"
            )

    def _write(self, own: Mapping[str, str]) -> None:
        with self.engine.begin() as connection:  # the folder may have been moved, or its host have another name
            connection.execute(update(meta).where(meta.c.key == _KEY).values(value=json.dumps(own)))

    def _lock(self) -> None:
        if self.engine.dialect.name == "sqlite":
            self._file = self._locked_file()
        else:
            self._session = self._locked_session()

    def _locked_file(self) -> int:
        file = os.open(f"{self.engine.url.database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise self._taken() from None
        return file

    def _locked_session(self) -> Connection:
        # a connection of its own: the pool would lend it, and with it the lock
        session = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.detach()
        try:
            for setting in _ALIVE:  # a host that loses its power lets go in a minute
                session.execute(text(f"SET {setting}"))
            taken = text(f"SELECT pg_try_advisory_lock({_CLASS}, '{meta.name}'::regclass::oid::int)")
            tries = round((_RENEWAL_SECONDS if self._held else _PATIENCE_SECONDS) / _AGAIN_SECONDS)
            while not session.execute(taken).scalar_one():
                if not tries:
                    raise self._taken()
                tries -= 1
                self.sleep(_AGAIN_SECONDS)
        except BaseException:
            session.close()
            raise
        self._held = True
        return session

    def _taken(self) -> TakenError:
        return TakenError(
            f"another server uses the database, with the folder {self.folder} on another host or a copy of it; stop "
            "it, or give another --database"
        )


def identity(folder: Path) -> str:
    """Return the id of a state folder; it gets one where it has none."""
    file = folder / FILE
    found = file.read_text(errors="replace").strip() if file.exists() else ""
    if re.fullmatch(r"[0-9a-f]{32}", found):
        return found
    made = uuid.uuid4().hex
    write_atomic(file, f"{made}\n")
    return made


def _owner(connection: Connection) -> dict[str, str] | None:
    found = connection.execute(select(meta.c.value).where(meta.c.key == _KEY)).scalar_one_or_none()
    return None if found is None else json.loads(found)
