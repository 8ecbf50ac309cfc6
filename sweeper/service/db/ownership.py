"""Ownership of a database: only the server of one state folder may run its sweeps, whose processes use that folder.

The folder and the database both store the folder's id. A lock excludes a second server with the same id, which happens
if the folder is copied or shared between hosts. SQLite uses a file lock beside the database, PostgreSQL a session lock.
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
# PostgreSQL may still hold the session of a server that was just killed
_PATIENCE_SECONDS, _AGAIN_SECONDS = 2.0, 0.1
# after a silence PostgreSQL needs longer to end this server's lost session
_RENEWAL_SECONDS = 20.0


class TakenError(SpecError):
    """Another server uses the database."""


class Ownership:
    """The right of one server to run the sweeps of a database.

    Args:
        engine: The database.
        folder: The server's state folder, already locked.
        sleep: Waits for seconds.

    Raises:
        SpecError: The database belongs to another state folder.
        TakenError: Another server uses it.
    """

    def __init__(self, engine: Engine, folder: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self.engine, self.folder, self.sleep = engine, folder, sleep
        self._session: Connection | None = None
        self._file: int | None = None
        self._held = False  # whether an earlier session of this server had the lock
        owner = {"id": read_identity(folder), "host": socket.gethostname(), "folder": str(folder)}
        self._claim(owner)
        self._lock()
        try:
            self._write(owner)
        except BaseException:
            self.close()
            raise

    def renew(self) -> None:
        """Take the lock again if the connection that held it is lost.

        Raises:
            TakenError: Another server took it meanwhile.
            SQLAlchemyError: The database does not answer.
        """
        if self._file is not None:
            return  # a file lock lasts as long as this process
        if self._session is None:
            self._lock()
            return
        try:
            self._session.execute(text("SELECT 1"))
        except DBAPIError:
            self.close()
            self._lock()  # if the database does not answer, the next call tries again

    def close(self) -> None:
        """Release the database for another server."""
        session, file = self._session, self._file
        self._session = self._file = None
        if session is not None:
            session.close()
        if file is not None:
            os.close(file)

    def _claim(self, owner: Mapping[str, str]) -> None:
        try:
            with self.engine.begin() as connection:
                stored = _read_owner(connection)
                if stored is None:
                    connection.execute(insert(meta).values(key=_KEY, value=json.dumps(owner)))
        except IntegrityError:  # another server a moment ago
            with self.engine.connect() as connection:
                stored = _read_owner(connection)
        if stored is not None and stored["id"] != owner["id"]:
            raise SpecError(
                f"the database belongs to the state folder {stored['folder']} on {stored['host']}, not to "
                f"{self.folder}: give another --database, or run with --state {stored['folder']} on that host; if that "
                f"folder is lost, write {stored['id']} into {self.folder / FILE}"
            )

    def _write(self, owner: Mapping[str, str]) -> None:
        with self.engine.begin() as connection:  # the folder or its host may have a new name
            connection.execute(update(meta).where(meta.c.key == _KEY).values(value=json.dumps(owner)))

    def _lock(self) -> None:
        if self.engine.dialect.name == "sqlite":
            self._file = self._lock_file()
        else:
            self._session = self._lock_session()

    def _lock_file(self) -> int:
        file = os.open(f"{self.engine.url.database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise self._taken_error() from None
        return file

    def _lock_session(self) -> Connection:
        # detached: the pool would lend the connection, and the lock with it
        session = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.detach()
        try:
            for setting in _ALIVE:  # frees the lock of a host that loses power within a minute
                session.execute(text(f"SET {setting}"))
            take_lock = text(f"SELECT pg_try_advisory_lock({_CLASS}, '{meta.name}'::regclass::oid::int)")
            tries = round((_RENEWAL_SECONDS if self._held else _PATIENCE_SECONDS) / _AGAIN_SECONDS)
            while not session.execute(take_lock).scalar_one():
                if not tries:
                    raise self._taken_error()
                tries -= 1
                self.sleep(_AGAIN_SECONDS)
        except BaseException:
            session.close()
            raise
        self._held = True
        return session

    def _taken_error(self) -> TakenError:
        return TakenError(
            f"another server uses the database, from {self.folder} on another host or from a copy of that folder; "
            "stop that server, or give another --database"
        )


def read_identity(folder: Path) -> str:
    """Return the id of a state folder; create one if it has none."""
    file = folder / FILE
    stored = file.read_text(errors="replace").strip() if file.exists() else ""
    if re.fullmatch(r"[0-9a-f]{32}", stored):
        return stored
    new = uuid.uuid4().hex
    write_atomic(file, f"{new}\n")
    return new


def _read_owner(connection: Connection) -> dict[str, str] | None:
    stored = connection.execute(select(meta.c.value).where(meta.c.key == _KEY)).scalar_one_or_none()
    return None if stored is None else json.loads(stored)
