"""Health: whether the database answers, the state folder still exists, and the disks have free space.

One thread runs the checks, so a disk or database that hangs blocks nothing else. A request waits for the next check for
a limited time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from sweeper.service.db.connections import connect, link_of
from sweeper.storage.retry import is_full, line
from trainables.io.atomic import write_atomic

EVERY_SECONDS = 1.0
ANSWER_SECONDS = 1.5
"""How long a request waits for a check."""
PROBE_SECONDS = 5.0
ROOM_BYTES, ROOM_FILES = 32 << 20, 100
"""A disk with less free space counts as full; SQLite's log, control files and logs need it."""
PROBE = ".probe"
_log = logging.getLogger("sweeper.service")


class Health:
    """Checks of what a service depends on.

    Args:
        engine: Its database.
        state: Its state folder; a check fails when it is removed or replaced.
        runs: Folder of the run folders, if on this machine.
    """

    def __init__(self, engine: Engine, state: Path, runs: Path | None) -> None:
        self.engine, self.state, self._link = engine, state, link_of(engine)
        self._link.watch(state, "the service's state folder")
        self._places = [("state", state), *([("runs", runs)] if runs else [])]
        if engine.dialect.name == "sqlite" and (file := engine.url.database):
            self._places.append(("database", Path(file).absolute().parent))
        self.trouble = ""
        """The problem that the last check found, as a sentence without a path; empty if none."""
        self._checking = "the service"
        self._connection: Any = None
        self._probed = -PROBE_SECONDS
        self._lock, self._woken = threading.Lock(), threading.Event()
        self._waiting: list[Future[str]] = []
        self._closing, self._every = False, False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Check every second from now on."""
        self._every = True
        self._run_thread()

    def close(self) -> None:
        """Stop checking."""
        self._closing = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join(ANSWER_SECONDS)

    async def look(self, seconds: float = ANSWER_SECONDS) -> str:
        """Return the problem that a check from now on finds, also if it takes longer than `seconds`; empty if none."""
        result: Future[str] = Future()
        with self._lock:
            self._waiting.append(result)
        self._run_thread()
        self._woken.set()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(result), seconds)
        except TimeoutError:
            return f"{self._checking} does not answer within {seconds:g} s"

    def _run_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="health", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closing:
            self._woken.wait(EVERY_SECONDS if self._every else None)
            self._woken.clear()
            with self._lock:
                waiting, self._waiting = self._waiting, []
            trouble = self.check(probe=bool(waiting))
            if trouble != self.trouble:
                _log.error("readiness: %s", trouble or "ready again")
            self.trouble = trouble
            for result in waiting:
                if result.set_running_or_notify_cancel():
                    result.set_result(trouble)
        if self._connection is not None:
            self._connection.close()

    def check(self, probe: bool = True) -> str:
        """Return the present problem as a sentence without a path; empty if none.

        Args:
            probe: Whether to write a small file, at most once every few seconds.
        """
        self._checking = "the service's disk"
        try:
            if why := self._link.find_loss():
                return why
            if why := self._check_space():
                return why
            if probe and time.monotonic() - self._probed >= PROBE_SECONDS:
                write_atomic(self.state / PROBE, os.urandom(4096), self.state / f"{PROBE}.new")
                self._probed = time.monotonic()
        except OSError as error:
            problem = "is full" if is_full(error) else f"cannot be written: {line(error)}"
            return f"the disk of the service's state {problem}"
        self._checking = "the service's database"
        return self._query_database()

    def _check_space(self) -> str:
        for name, path in self._places:
            try:
                status = os.statvfs(path)
            except FileNotFoundError:
                continue  # the first run creates the folder of the runs
            free = status.f_bavail * status.f_frsize
            if free < ROOM_BYTES:
                return f"the disk of the service's {name} has {free >> 20} MB left and needs {ROOM_BYTES >> 20}"
            if status.f_files and status.f_favail < ROOM_FILES:
                return f"the disk of the service's {name} has space for only {status.f_favail} more files"
        return ""

    def _query_database(self) -> str:
        if self.engine.dialect.driver != "psycopg":
            return self._query_sqlite()
        import psycopg

        try:
            if self._connection is None:
                args, options = self._connect_arguments()
                self._connection = connect(self._link, *args, check=True, autocommit=True, **options)
            self._connection.execute(b"SELECT 1")
        except psycopg.Error as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            return f"the service's database does not answer: {line(error)}"
        return ""

    def _connect_arguments(self) -> tuple[Sequence[Any], dict[str, Any]]:
        args, options = self.engine.dialect.create_connect_args(self.engine.url)
        return args, {k: v for k, v in options.items() if k != "context"}

    def _query_sqlite(self) -> str:
        # bypasses the pool: requests may hold all of its connections
        if not (file := self.engine.url.database):
            return ""
        try:
            with closing(
                sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)
            ) as database:
                database.execute("SELECT value FROM service LIMIT 1").fetchall()
        except sqlite3.Error as error:
            return f"the service's database cannot be read: {line(error)}"
        return ""
